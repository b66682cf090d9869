from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

from okko_edge.commands.replay import replay
from okko_edge.frame_file import digest_of, encode
from okko_edge.kept_frames import FrameFolder, frames_folder
from okko_models.errors import OkkoError
from tests.edge.fakes import photo
from tests.edge.test_journal import RUN, entry, write

BRIGHT, DARK, MIDDLE = 200, 60, 127  # to the model of these tests: OK, KO, UNCERTAIN


def okko_replay(*arguments):
    return CliRunner().invoke(replay, list(map(str, arguments)), env={"OKKO_CONFIG": "", "XDG_STATE_HOME": "/nowhere"})


def shown(grey, seed):
    if grey != MIDDLE:
        return photo(grey, seed)
    image = np.full((36, 48, 3), 127, np.uint8)
    image[0, 0, 0] = seed
    return image


def journal_of(tmp_path, cases, *, keep=lambda number: True):
    """A journal with one decision for each (grey, verdict, changes), and the frames beside it."""
    path = tmp_path / "journal.sqlite"
    frames = FrameFolder(frames_folder(path), 10**8)
    entries = []
    for number, (grey, verdict, changes) in enumerate(cases, 1):
        image = shown(grey, number)
        if keep(number):
            frames.add(digest_of(image), encode(image))
        entries.append(entry(number, verdict=verdict, frame_digest=digest_of(image), **changes))
    write(path, entries)
    return path


def told(*arguments):
    ran = okko_replay(*arguments, "--json")
    assert ran.exit_code == 0, ran.exception
    return json.loads(ran.stdout)


def test_what_would_be_decided_differently_is_told_with_both_verdicts(bundle, tmp_path):
    path = journal_of(
        tmp_path,
        [(BRIGHT, "OK", {}), (DARK, "KO", {}), (DARK, "OK", {}), (BRIGHT, "UNCERTAIN", {}), (MIDDLE, "OK", {})],
    )
    result = told(bundle.path, "--journal", path)
    assert (result["decisions"], result["replayed"], result["without_frame"]) == (5, 5, 0)
    assert result["verdicts"] == {
        "OK": {"OK": 1, "KO": 1, "UNCERTAIN": 1},
        "KO": {"OK": 0, "KO": 1, "UNCERTAIN": 0},
        "UNCERTAIN": {"OK": 1, "KO": 0, "UNCERTAIN": 0},
    }
    changed = {change["number"]: change for change in result["changes"]}
    assert {number: (one["was"], one["would_be"]) for number, one in changed.items()} == {
        3: ("OK", "KO"),
        4: ("UNCERTAIN", "OK"),
        5: ("OK", "UNCERTAIN"),
    }
    assert changed[3]["digest"] == digest_of(shown(DARK, 3))
    assert changed[3]["probability_was"] == {"KO": 0.25, "OK": 0.75}
    assert changed[3]["probability_would_be"]["KO"] > 0.99
    assert result["bundle"]["digest"] == bundle.digest


def test_people_read_a_table(bundle, tmp_path):
    path = journal_of(tmp_path, [(BRIGHT, "OK", {}), (DARK, "OK", {"truth": "KO"})])
    lines = okko_replay(bundle.path, "--journal", path).stdout.splitlines()
    assert lines[0] == "2 of 2 decisions replayed through brightness 1; of 0 no frame was kept"
    assert lines[2].split() == ["was", "/", "would", "be", "OK", "KO", "UNCERTAIN"]
    assert lines[3].split() == ["OK", "1", "1", "0"]
    assert "1 would be decided differently" in lines[7]
    assert "OK 0.750 -> KO 1.000" in lines[9]
    assert digest_of(shown(DARK, 2))[:16] in lines[9]


def test_a_model_that_decides_the_same_changes_nothing(bundle, tmp_path):
    path = journal_of(tmp_path, [(BRIGHT, "OK", {}), (DARK, "KO", {}), (MIDDLE, "UNCERTAIN", {})])
    assert told(bundle.path, "--journal", path)["changes"] == []


def test_frames_that_were_not_kept_or_are_damaged_are_counted_and_named(bundle, tmp_path):
    path = journal_of(tmp_path, [(BRIGHT, "OK", {})] * 4, keep=lambda number: number != 2)
    shelf = frames_folder(path) / "000000001"
    damaged, another = (shelf / f"{digest_of(shown(BRIGHT, number))}.png" for number in (3, 4))
    damaged.write_bytes(damaged.read_bytes()[:300])
    another.write_bytes(encode(shown(DARK, 9)))
    ran = okko_replay(bundle.path, "--journal", path, "--json")
    result = json.loads(ran.stdout)
    assert (result["replayed"], result["without_frame"], result["changes"]) == (1, 3, [])
    assert str(damaged) in ran.stderr
    assert "another frame" in ran.stderr


def test_frames_are_found_where_one_says_and_in_the_outbox(bundle, tmp_path):
    path = journal_of(tmp_path, [(BRIGHT, "KO", {})] * 2, keep=lambda number: False)
    (tmp_path / "copied").mkdir()
    (tmp_path / "copied" / f"{digest_of(shown(BRIGHT, 1))}.png").write_bytes(encode(shown(BRIGHT, 1)))
    assert told(bundle.path, "--journal", path, "--frames", tmp_path / "copied")["replayed"] == 1
    config = tmp_path / "okko.toml"
    config.write_text('[journal]\npath = "journal.sqlite"\n[outbox]\nfolder = "copied"\n')
    assert told(bundle.path, "--config", config)["replayed"] == 1


def test_labels_for_an_empty_slot_and_two_marbles_decide_as_they_do_when_sorting(bundle, tmp_path):
    config = tmp_path / "okko.toml"
    path = journal_of(tmp_path, [(BRIGHT, "OK", {}), (DARK, "KO", {}), (BRIGHT, "UNCERTAIN", {"outcome": "two"})])
    config.write_text('[sorting]\nempty_labels = ["OK"]\ntwo_labels = ["KO"]\n')
    changes = told(bundle.path, "--journal", path, "--config", config)["changes"]
    assert {one["number"]: one["would_be"] for one in changes} == {1: "KO", 2: "UNCERTAIN"}


def test_only_the_chosen_decisions_are_replayed(bundle, tmp_path):
    path = journal_of(tmp_path, [(BRIGHT, "OK", {}), (DARK, "KO", {}), (DARK, "KO", {})])
    assert told(bundle.path, "--journal", path, "--verdict", "KO")["decisions"] == 2
    assert told(bundle.path, "--journal", path, "--limit", "1")["decisions"] == 1
    write(path, [entry(1)], run=replace(RUN, run="r2"))
    assert told(bundle.path, "--journal", path, "--run", "r1")["decisions"] == 3


@pytest.mark.parametrize("keep", [True, False])
def test_with_nothing_to_show_it_says_what_to_do(bundle, tmp_path, keep):
    path = journal_of(tmp_path, [(BRIGHT, "OK", {})], keep=lambda number: keep)
    if keep:
        path.unlink()
    failed = okko_replay(bundle.path, "--journal", path).exception
    assert isinstance(failed, OkkoError)
    assert ("does not exist" if keep else "--frames") in str(failed)
