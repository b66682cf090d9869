from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from okko_edge.journal import Entry, Journal, RunRecord, default_path

RUN = RunRecord(
    run="r1",
    started_unix_s=1.7e9,
    okko="0",
    bundle_name="marbles",
    bundle_version="3",
    bundle_digest="d" * 64,
    camera="sim:x",
    gate="sim",
    seed=0,
)


def entry(number=1, **changes):
    return replace(
        Entry(
            number=number,
            unix_s=1.7e9 + number,
            monotonic_s=float(number),
            verdict="OK",
            label="OK",
            probability={"KO": 0.25, "OK": 0.75},
            truth="OK",
            photo="OK/a.png",
            error=None,
            frame_sequence=7,
            frame_digest="e" * 64,
            frame_captured_at_s=0.5,
            inference_ms=1.5,
            path_ms=2.5,
        ),
        **changes,
    )


def write(path, entries, run=RUN, **settings):
    warnings = []
    journal = Journal(path, run, warn=warnings.append, **settings)
    for one in entries:
        journal.append(one)
    journal.close()
    return journal, warnings


def rows(path, what="*", table="marbles"):
    with sqlite3.connect(path) as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute(f"SELECT {what} FROM {table} ORDER BY rowid")]


def test_an_entry_is_found_again_as_it_was(tmp_path):
    path = tmp_path / "new" / "folders" / "journal.sqlite"
    journal, warnings = write(path, [entry(1), entry(2, verdict="KO", label=None, probability=None, error="broken")])
    first, second = rows(path)
    assert json.loads(first.pop("probability")) == {"KO": 0.25, "OK": 0.75}
    expected = {name: getattr(entry(1), name) for name in Entry.__slots__ if name != "probability"}
    assert first == {**expected, "run": "r1", "bundle_digest": "d" * 64}
    assert (second["probability"], second["error"]) == (None, "broken")
    assert rows(path, table="runs")[0] == {name: getattr(RUN, name) for name in RunRecord.__slots__}
    assert (journal.written, journal.lost, warnings) == (2, 0, [])


def test_later_runs_are_added_to_earlier_ones(tmp_path):
    path = tmp_path / "j.sqlite"
    write(path, [entry(1)])
    write(path, [entry(1), entry(2)], run=replace(RUN, run="r2"))
    assert [(row["run"], row["number"]) for row in rows(path)] == [("r1", 1), ("r2", 1), ("r2", 2)]


def test_a_row_is_never_changed(tmp_path):
    path = tmp_path / "j.sqlite"
    write(path, [entry(1)])
    with sqlite3.connect(path) as connection, pytest.raises(sqlite3.IntegrityError, match="append-only"):
        connection.execute("UPDATE marbles SET verdict = 'KO'")


def not_a_database(tmp_path):
    (tmp_path / "notes.txt").write_text("these are my notes, and not a database\n" * 100)
    return tmp_path / "notes.txt"


def under_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    return tmp_path / "file" / "journal.sqlite"


def of_a_later_format(tmp_path):
    with sqlite3.connect(tmp_path / "later.sqlite") as connection:
        connection.execute("PRAGMA user_version = 99")
    return tmp_path / "later.sqlite"


def of_another_program(tmp_path):
    with sqlite3.connect(tmp_path / "contacts.sqlite") as connection:
        connection.execute("CREATE TABLE people (name TEXT)")
    return tmp_path / "contacts.sqlite"


def a_folder(tmp_path):
    return tmp_path


@pytest.mark.parametrize("place", [not_a_database, under_a_file, of_a_later_format, of_another_program, a_folder])
def test_a_place_that_cannot_be_written_is_said_once_and_every_entry_is_counted(tmp_path, place):
    path = place(tmp_path)
    before = path.read_bytes() if path.is_file() else b""
    journal, warnings = write(path, [entry(number) for number in range(1, 51)])
    assert (journal.written, journal.lost) == (0, 50)
    assert len(warnings) == 1
    assert str(path) in warnings[0]
    assert "sorting goes on" in warnings[0]
    assert (path.read_bytes() if path.is_file() else b"") == before


def small_disk(pages):
    def connect(*arguments, **settings):
        connection = sqlite3.connect(*arguments, **settings)
        connection.execute(f"PRAGMA max_page_count = {pages}")
        return connection

    return connect


def test_a_full_disk_loses_entries_counts_them_and_keeps_what_was_committed(tmp_path):
    path = tmp_path / "j.sqlite"
    warnings = []
    journal = Journal(path, RUN, warn=warnings.append, connect=small_disk(18))
    for number in range(1, 301):
        journal.append(entry(number))
        time.sleep(0.0005)
    journal.close()
    assert journal.written + journal.lost == 300
    assert journal.written > 0
    assert journal.lost > 0
    assert len(warnings) == 1
    assert "full" in warnings[0]
    assert len(rows(path)) == journal.written


def test_a_disk_that_has_space_again_is_used_again(tmp_path):
    tries = []

    def connect(*arguments, **settings):
        tries.append(1)
        return small_disk(2 if len(tries) == 1 else 10_000)(*arguments, **settings)

    warned = threading.Event()
    journal = Journal(tmp_path / "j.sqlite", RUN, warn=lambda _: warned.set(), connect=connect)
    journal.append(entry(1))
    assert warned.wait(10)
    journal.append(entry(2))
    journal.close()
    assert [row["number"] for row in rows(tmp_path / "j.sqlite")] == [2]
    assert (journal.written, journal.lost) == (1, 1)


def test_a_disk_that_hangs_blocks_nobody_and_what_does_not_fit_is_counted(tmp_path):
    answers = threading.Event()
    asked = threading.Event()

    def connect(*arguments, **settings):
        asked.set()
        answers.wait(30)
        return sqlite3.connect(*arguments, **settings)

    journal = Journal(tmp_path / "j.sqlite", RUN, warn=print, capacity=5, connect=connect)
    journal.append(entry(1))
    assert asked.wait(10)
    for number in range(2, 101):
        journal.append(entry(number))  # would never come back if it waited for the disk
    assert journal.lost == 94
    answers.set()
    journal.close()
    assert [row["number"] for row in rows(tmp_path / "j.sqlite")] == [1, 2, 3, 4, 5, 6]
    assert (journal.written, journal.lost) == (6, 94)


def test_an_entry_that_cannot_be_stored_harms_only_itself(tmp_path):
    warned = threading.Event()
    journal = Journal(tmp_path / "j.sqlite", RUN, warn=lambda _: warned.set())
    journal.append(entry(1, photo="bad \udcff name"))
    assert warned.wait(10)
    journal.append(entry(2))
    journal.close()
    assert [row["number"] for row in rows(tmp_path / "j.sqlite")] == [2]
    assert journal.lost == 1


def test_committed_rows_survive_a_kill(tmp_path):
    path = tmp_path / "j.sqlite"
    program = f"""
import sys, time
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from pathlib import Path
from okko_edge.journal import Journal
from tests.edge.test_journal import RUN, entry
journal = Journal(Path({str(path)!r}), RUN, warn=print)
for number in range(1, 10**6):
    journal.append(entry(number))
    time.sleep(0.001)
    if number % 20 == 0:
        print(journal.written, flush=True)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        committed = 0
        while committed < 50:
            committed = int(process.stdout.readline())
        process.kill()
    numbers = [row["number"] for row in rows(path)]
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) >= committed
    journal, warnings = write(path, [entry(1)], run=replace(RUN, run="r2"))
    assert (journal.written, warnings) == (1, [])


def test_the_journal_lives_in_the_state_directory(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert default_path() == tmp_path / "okko" / "journal.sqlite"
    monkeypatch.setenv("XDG_STATE_HOME", "relative/does/not/count")
    monkeypatch.setenv("HOME", "/home/someone")
    assert default_path() == Path("/home/someone/.local/state/okko/journal.sqlite")
