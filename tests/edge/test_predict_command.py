from __future__ import annotations

import json

import pytest

from tests.edge.fakes import make_bundle


def test_every_photo_is_one_json_line(okko, bundle, photos):
    files = [photos / "KO" / "dark0.png", photos / "OK" / "bright0.png"]
    ran = okko("predict", bundle.path, *files, "--json")
    answers = [json.loads(line) for line in ran.stdout.splitlines()]
    assert (ran.returncode, ran.stderr) == (0, "")
    assert [answer["file"] for answer in answers] == [str(file) for file in files]
    assert [(answer["verdict"], answer["label"]) for answer in answers] == [("KO", "KO"), ("OK", "OK")]
    for answer in answers:
        assert set(answer) == {"file", "verdict", "label", "probability", "novelty", "latency_ms"}
        assert set(answer["probability"]) == {"KO", "OK"}
        assert sum(answer["probability"].values()) == pytest.approx(1, abs=1e-5)
        assert answer["latency_ms"] > 0


def test_a_file_that_cannot_be_read_is_named_and_the_others_are_classified(okko, bundle, photos):
    (photos / "text.jpg").write_text("hello")
    files = [photos / "text.jpg", photos / "missing.png", photos / "OK", photos / "OK" / "bright0.png"]
    ran = okko("predict", bundle.path, *files, "--json")
    answers = [json.loads(line) for line in ran.stdout.splitlines()]
    assert ran.returncode == 1
    assert [set(answer) for answer in answers[:3]] == [{"file", "error"}] * 3
    assert [answer["file"] for answer in answers] == [str(file) for file in files]
    assert answers[3]["verdict"] == "OK"
    assert ran.stderr.count("Error:") == 3
    assert "a folder" in answers[2]["error"]
    assert "Traceback" not in ran.stderr


def test_people_get_aligned_lines(okko, bundle, photos):
    files = [photos / "KO" / "dark0.png", photos / "OK" / "bright0.png"]
    lines = okko("predict", bundle.path, *files).stdout.splitlines()
    assert [line.split()[0] for line in lines] == [str(file) for file in files]
    assert lines[0].index("KO 1.000") == lines[1].index("KO 0.000")


def test_without_a_photo_or_a_bundle_there_is_nothing_to_predict(okko, bundle, photos, tmp_path):
    assert okko("predict", bundle.path).returncode == 2
    missing = okko("predict", tmp_path / "nowhere", photos / "OK" / "bright0.png")
    assert missing.returncode == 1
    assert "does not exist" in missing.stderr


def test_a_bundle_that_computes_something_else_here_is_not_trusted(okko, photos, tmp_path):
    wrong = make_bundle(tmp_path / "wrong.okko", golden=0.25)
    ran = okko("predict", wrong.path, photos / "OK" / "bright0.png")
    assert (ran.returncode, ran.stdout) == (1, "")
    assert "golden frames differ" in ran.stderr
