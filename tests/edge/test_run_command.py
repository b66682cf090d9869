from __future__ import annotations

import contextlib
import json
import signal
import sqlite3
import subprocess
import sys
import time

import pytest

from tests.edge.fakes import make_bundle, photo, save_photo

FAST = ("--pace", "fast")


def verdicts(path):
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        return connection.execute("SELECT number, photo, verdict, truth FROM marbles ORDER BY number").fetchall()


def test_json_stands_alone_on_standard_output_and_agrees_with_the_journal(okko, bundle, photos, tmp_path):
    journal = tmp_path / "j.sqlite"
    ran = okko("run", bundle.path, "--camera", f"sim:{photos}", "--count", 20, *FAST, "--journal", journal, "--json")
    assert (ran.returncode, ran.stderr) == (0, "")
    told = json.loads(ran.stdout)
    rows = verdicts(journal)
    assert [row[0] for row in rows] == list(range(1, 21))
    assert all(verdict == truth == photo.split("/")[0] for _, photo, verdict, truth in rows)
    assert told["verdicts"] == {
        "OK": sum(verdict == "OK" for *_, verdict, _ in rows),
        "KO": sum(verdict == "KO" for *_, verdict, _ in rows),
        "UNCERTAIN": 0,
    }
    assert (told["marbles"], told["with_truth"], told["false_ok"], told["false_ko"]) == (20, 20, 0, 0)
    assert told["journal"] == {"path": str(journal), "written": 20, "lost": 0}
    assert told["bundle"]["digest"] == bundle.digest
    assert (told["errors"], told["stale_frames"], told["skipped_photos"]) == (0, 0, 0)
    assert (told["stopped"], told["failure"]) == (False, None)
    assert 0 < told["latency_ms"]["p50"] <= told["latency_ms"]["p95"] <= told["latency_ms"]["p99"]
    assert told["marbles_per_s"] > 0


def test_without_json_a_person_reads_the_sums(okko, bundle, photos, tmp_path):
    ran = okko("run", bundle.path, "--camera", f"folder:{photos}", "--gate", "none", *FAST)
    assert ran.returncode == 0
    assert "6 marbles" in ran.stdout
    assert "OK 3   KO 3   UNCERTAIN 0" in ran.stdout
    assert "0 false OK, 0 false KO, of 6" in ran.stdout
    assert "p99" in ran.stdout
    assert str(tmp_path / "state" / "okko" / "journal.sqlite") in ran.stdout


def test_the_same_seed_sorts_the_same_marbles_in_the_same_order(okko, bundle, photos, tmp_path):
    def order(seed, name):
        okko("run", bundle.path, "--camera", f"sim:{photos}", *FAST, "--seed", seed, "--journal", tmp_path / name)
        return verdicts(tmp_path / name)

    assert order(1, "a") == order(1, "b") != order(2, "c")


def test_real_pace_takes_the_time_that_the_belt_takes(okko, bundle, photos):
    ran = okko(
        "run", bundle.path, "--camera", f"sim:{photos}", "--belt-speed", 5, "--frame-rate", 60, "--count", 5, "--json"
    )
    told = json.loads(ran.stdout)
    assert told["marbles"] == 5
    assert told["duration_s"] > 0.9  # four periods of 0.2 s, and the settling of the fifth marble


def test_mistakes_are_counted_where_the_truth_is_known(okko, bundle, tmp_path):
    for name, grey in (("OK/a", 60), ("KO/b", 200), ("KO/c", 200), ("KO/d", 60)):
        save_photo(tmp_path / "wrong" / f"{name}.png", photo(grey, seed=0))
    told = json.loads(okko("run", bundle.path, "--camera", f"sim:{tmp_path / 'wrong'}", *FAST, "--json").stdout)
    assert (told["false_ok"], told["false_ko"], told["with_truth"]) == (2, 1, 4)
    plain = okko("run", bundle.path, "--camera", f"sim:{tmp_path / 'wrong' / 'KO'}", *FAST)
    assert "unknown" in plain.stdout


def test_photos_that_cannot_be_read_are_named_and_counted_and_the_others_sorted(okko, bundle, photos):
    (photos / "OK" / "broken.jpg").write_text("hello")
    (photos / "KO" / "dark0.png").write_bytes((photos / "KO" / "dark0.png").read_bytes()[:200])
    ran = okko("run", bundle.path, "--camera", f"sim:{photos}", *FAST, "--json")
    told = json.loads(ran.stdout)
    assert ran.returncode == 0
    assert (told["marbles"], told["skipped_photos"]) == (5, 2)
    assert "OK/broken.jpg" in ran.stderr
    assert "KO/dark0.png" in ran.stderr


def test_a_journal_that_cannot_be_written_is_said_once_and_stops_nothing(okko, bundle, photos, tmp_path):
    (tmp_path / "file").write_text("")
    journal = tmp_path / "file" / "j.sqlite"
    ran = okko("run", bundle.path, "--camera", f"sim:{photos}", "--count", 30, *FAST, "--journal", journal, "--json")
    told = json.loads(ran.stdout)
    assert ran.returncode == 0
    assert told["marbles"] == 30
    assert told["journal"] == {"path": str(journal), "written": 0, "lost": 30}
    assert ran.stderr.count("Warning") == 1
    assert str(journal) in ran.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_run_with_a_summary_and_a_closed_journal(bundle, photos, tmp_path, number):
    journal = tmp_path / "j.sqlite"
    command = [sys.executable, "-m", "okko.cli", "run", bundle.path, "--camera", f"sim:{photos}", "--count", 10_000]
    command += ["--belt-speed", 20, "--frame-rate", 200, "--journal", journal, "--json"]
    with subprocess.Popen(
        [str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        wait_for_rows(journal, 5)
        process.send_signal(number)
        out, err = process.communicate(timeout=20)
    told = json.loads(out)
    assert (process.returncode, err) == (0, "")
    # SQLite removes its log when the last connection is closed in an orderly way.
    assert not journal.with_name("j.sqlite-wal").exists()
    assert told["stopped"]
    assert told["marbles"] == told["journal"]["written"] == len(verdicts(journal)) >= 5


def test_what_was_committed_survives_a_kill_in_the_middle_of_sorting(okko, bundle, photos, tmp_path):
    journal = tmp_path / "j.sqlite"
    command = [sys.executable, "-m", "okko.cli", "run", bundle.path, "--camera", f"sim:{photos}", "--count", 100_000]
    command += [*FAST, "--journal", journal]
    with subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL) as process:
        seen = wait_for_rows(journal, 20)
        process.kill()
    assert verdicts(journal)[: len(seen)] == seen
    again = okko("run", bundle.path, "--camera", f"sim:{photos}", *FAST, "--journal", journal, "--json")
    assert json.loads(again.stdout)["journal"]["written"] == 6


def wait_for_rows(journal, count):
    for _ in range(2000):
        time.sleep(0.01)
        try:
            rows = verdicts(journal)
        except sqlite3.OperationalError:
            continue
        if len(rows) >= count:
            return rows
    raise AssertionError(f"the journal never held {count} rows")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--camera", "usb:0"), 2, "expected sim:DATA"),
        ((), 2, "--camera"),
        (("--camera", "sim:{photos}", "--gate", "rubber"), 2, "rubber"),
        (("--camera", "sim:{photos}", "--count", "0"), 2, "--count"),
        (("--camera", "sim:{photos}", "--belt-speed", "50"), 2, "--frame-rate"),
        (("--camera", "sim:{photos}/nowhere"), 1, "does not exist"),
        (("--camera", "folder:{photos}/empty"), 1, "holds no photos"),
        (("--camera", "folder:{photos}/broken", "--pace", "fast"), 1, "no marble was sorted"),
        (("--camera", "sim:{photos}/broken", "--pace", "fast"), 1, "none of the 1 photos can be read"),
    ],
)
def test_what_cannot_be_done_is_refused_with_a_reason(okko, bundle, photos, arguments, code, message):
    (photos / "empty").mkdir()
    (photos / "broken").mkdir()
    (photos / "broken" / "a.jpg").write_text("hello")
    ran = okko("run", bundle.path, *(argument.format(photos=photos) for argument in arguments))
    assert ran.returncode == code
    assert message in " ".join(ran.stderr.split())
    assert "Traceback" not in ran.stderr


def test_a_bundle_that_computes_something_else_here_is_not_trusted(okko, photos, tmp_path):
    bundle = make_bundle(tmp_path / "wrong.okko", golden=0.25)
    ran = okko("run", bundle.path, "--camera", f"sim:{photos}", *FAST)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert "golden frames differ" in ran.stderr


def test_a_folder_with_fewer_photos_than_asked_is_sorted_and_said(okko, bundle, photos):
    ran = okko("run", bundle.path, "--camera", f"folder:{photos}", "--count", 10, *FAST, "--json")
    assert (ran.returncode, json.loads(ran.stdout)["marbles"]) == (0, 6)
    assert "only 6 of the 10" in ran.stderr


def test_help_is_quick_because_it_imports_no_numpy():
    for command in ("run", "predict"):
        ran = subprocess.run(
            [sys.executable, "-X", "importtime", "-m", "okko.cli", command, "--help"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert "okko " + command in ran.stdout
        assert "numpy" not in ran.stderr
        assert "onnxruntime" not in ran.stderr


def test_the_configuration_says_it_all_and_a_flag_goes_first(okko, bundle, photos, tmp_path):
    config = tmp_path / "okko.toml"
    config.write_text(
        f'bundle = "{bundle.path}"\n[camera]\nsource = "sim:{photos}"\n[gate]\nkind = "none"\n'
        f'[journal]\npath = "{tmp_path / "kept.sqlite"}"\nframes = "all"\n'
        "[outbox]\nenabled = true\nrandom_share = 1.0\n"
    )
    told = json.loads(okko("run", "--config", config, *FAST, "--count", 4, "--json").stdout)
    assert (told["gate"], told["marbles"]) == ("none", 4)
    assert told["journal"]["path"] == str(tmp_path / "kept.sqlite")
    assert told["events"]["outbox_kept"] == 4
    flagged = json.loads(okko("run", "--config", config, "--gate", "sim", *FAST, "--count", 2, "--json").stdout)
    assert flagged["gate"] == "sim"


def test_a_mistake_in_the_configuration_is_bad_usage_so_that_no_service_starts_again_and_again(okko, bundle, tmp_path):
    config = tmp_path / "okko.toml"
    config.write_text('[camera]\nsorce = "pi"\n')
    ran = okko("run", bundle.path, "--config", config)
    assert ran.returncode == 2
    assert "source" in ran.stderr


def test_a_dashboard_that_cannot_open_is_told_of_and_sorting_goes_on(okko, bundle, photos):
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        ran = okko("run", bundle.path, "--camera", f"sim:{photos}", *FAST, "--dashboard", address, "--json")
    assert json.loads(ran.stdout)["marbles"] == 6
    assert "sorting goes on without it" in ran.stderr
