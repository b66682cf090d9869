from __future__ import annotations

import contextlib
import json
import random
import sqlite3
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from okko_edge.clock import SimulatedClock
from okko_edge.events import Counters, Event
from okko_edge.journal import SCHEMA_VERSION, Entry, Journal, RunRecord, default_path
from okko_edge.journal.limits import Cut, RunSpan, find_cut
from okko_edge.settings import JournalSettings
from tests.edge.journal_fakes import make_first_format

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
    with contextlib.closing(sqlite3.connect(path)) as connection:
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


def until(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def integrity(path):
    return ask(path, "PRAGMA integrity_check")


def test_every_commit_is_on_the_disk_before_it_counts(tmp_path):
    connections = []

    def connect(*arguments, **settings):
        connections.append(sqlite3.connect(*arguments, **settings, check_same_thread=False))
        return connections[-1]

    journal = Journal(tmp_path / "j.sqlite", RUN, warn=print, connect=connect)
    journal.append(entry(1))
    until(lambda: journal.written == 1)
    full = 2  # https://sqlite.org/pragma.html#pragma_synchronous
    assert connections[0].execute("PRAGMA synchronous").fetchone() == (full,)
    assert connections[0].execute("PRAGMA journal_mode").fetchone() == ("wal",)
    journal.close()


def test_an_event_is_noted_with_the_time(tmp_path):
    path = tmp_path / "j.sqlite"
    journal = Journal(path, RUN, warn=print, clock=SimulatedClock(now_s=5.0, unix_s=1.7e9))
    journal.note("camera_stalls", "no frame for 2.0 s")
    journal.note("sorting")
    journal.close()
    assert rows(path, "run, unix_s, monotonic_s, event, detail", "events") == [
        {"run": "r1", "unix_s": 1.7e9, "monotonic_s": 5.0, "event": "camera_stalls", "detail": "no frame for 2.0 s"},
        {"run": "r1", "unix_s": 1.7e9, "monotonic_s": 5.0, "event": "sorting", "detail": ""},
    ]
    assert (journal.written, journal.lost, journal.notes_lost) == (0, 0, 0)


def test_a_part_that_reports_without_end_displaces_no_marble(tmp_path):
    answers, asked = threading.Event(), threading.Event()

    def connect(*arguments, **settings):
        asked.set()
        answers.wait(30)
        return sqlite3.connect(*arguments, **settings)

    counters = Counters()
    journal = Journal(tmp_path / "j.sqlite", RUN, warn=print, counters=counters, capacity=10, connect=connect)
    journal.append(entry(1))
    assert asked.wait(10)
    for _ in range(100):
        journal.note("noise")
    for number in range(2, 6):
        journal.append(entry(number))
    answers.set()
    journal.close()
    assert (journal.written, journal.lost) == (5, 0)
    assert journal.notes_lost == 94
    assert counters[Event.JOURNAL_LOST] == 94


def test_while_another_program_locks_the_file_rows_wait_and_none_is_lost(tmp_path):
    path = tmp_path / "j.sqlite"
    write(path, [entry(1)])
    told = []
    journal = Journal(path, replace(RUN, run="r2"), warn=told.append, connect=impatient)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        for number in range(1, 21):
            journal.append(entry(number))
        until(lambda: told)
        assert journal.written == 0
        other.execute("ROLLBACK")
    journal.close()
    assert (journal.written, journal.lost) == (20, 0)
    assert len(told) == 1
    assert "locked" in told[0]


def impatient(*arguments, **settings):
    return sqlite3.connect(*arguments, **{**settings, "timeout": 0.02})


def test_a_disk_that_becomes_read_only_and_writable_again_costs_what_it_missed_and_no_more(tmp_path):
    path = tmp_path / "j.sqlite"
    write(path, [entry(1)])
    read_only = threading.Event()
    read_only.set()

    def connect(place, **settings):
        mode = "ro" if read_only.is_set() else "rwc"
        return sqlite3.connect(f"{place.as_uri()}?mode={mode}", uri=True, **settings)

    told, counters = [], Counters()
    journal = Journal(path, replace(RUN, run="r2"), warn=told.append, counters=counters, connect=connect)
    for number in range(1, 6):
        journal.append(entry(number))
    until(lambda: journal.lost == 5)
    read_only.clear()
    journal.append(entry(6))
    journal.close()
    assert [row["number"] for row in rows(path)] == [1, 6]
    assert counters[Event.JOURNAL_LOST] == 5
    assert len(told) == 1


def test_a_journal_of_the_first_format_is_brought_up_to_date(tmp_path):
    path = tmp_path / "j.sqlite"
    make_first_format(path)
    journal, told = write(path, [entry(1, outcome="two", novelty=1.5)], run=replace(RUN, run="r2"))
    assert (journal.written, told) == (1, [])
    assert [(row["run"], row["outcome"], row["novelty"]) for row in rows(path)] == [
        ("r1", "marble", None),
        ("r2", "two", 1.5),
    ]
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
        assert connection.execute("PRAGMA auto_vacuum").fetchone() == (2,)
    assert rows(path, table="events") == []


def span(run, unix_s, length_s, monotonic_s=10.0):
    return RunSpan(run, unix_s, unix_s + length_s, monotonic_s, monotonic_s + length_s)


DAY = 86400.0
NOW = 1.7e9


def test_what_is_older_than_the_limit_is_found_within_a_run_and_between_runs():
    long = span("a", NOW, 10 * DAY)
    assert find_cut([long], 11 * DAY) is None
    assert find_cut([long], 3 * DAY) == Cut("a", 10.0 + 7 * DAY)
    two = [span("a", NOW, DAY), span("b", NOW + 9 * DAY, DAY)]
    assert find_cut(two, 10 * DAY) is None
    assert find_cut(two, 9.5 * DAY) == Cut("a", 10.0 + DAY / 2)
    assert find_cut(two, 5 * DAY) == Cut("b", 10.0)
    assert find_cut(two, DAY / 2) == Cut("b", 10.0 + DAY / 2)
    assert find_cut([], DAY) is None


@pytest.mark.parametrize("wrong", [0.0, 4.1e9])
def test_a_clock_that_says_1970_or_2100_makes_no_good_row_old(wrong):
    before, after = span("a", NOW, DAY), span("c", NOW + DAY, DAY)
    assert find_cut([before, span("b", wrong, DAY), after], 30 * DAY) is None
    assert find_cut([before, span("b", wrong, DAY)], 30 * DAY) is None
    assert find_cut([span("b", wrong, DAY), after], 30 * DAY) is None
    # The clock jumps in the middle of a run: the monotonic clock knows that no time went by.
    set_right = RunSpan("b", wrong, NOW + DAY, 10.0, 10.0 + 60)
    set_wrong = RunSpan("b", NOW + DAY, wrong, 10.0, 10.0 + 60)
    assert find_cut([before, set_right, after], 30 * DAY) is None
    assert find_cut([before, set_wrong, after], 30 * DAY) is None


@pytest.mark.parametrize("wrong", [0.0, 4.1e9])
def test_rows_survive_a_clock_that_jumps(tmp_path, wrong):
    path = tmp_path / "j.sqlite"
    write(path, [entry(1), entry(2)])
    write(path, [entry(number, unix_s=wrong + number) for number in (1, 2)], run=replace(RUN, run="r2"))
    write(path, [entry(1, unix_s=1.7e9 + 60)], run=replace(RUN, run="r3"))
    write(path, [entry(2, unix_s=1.7e9 + 61)], run=replace(RUN, run="r4"))
    assert [row["run"] for row in rows(path)] == ["r1", "r1", "r2", "r2", "r3", "r4"]


def test_old_rows_go_and_so_does_the_space_that_they_took(tmp_path):
    path = tmp_path / "j.sqlite"
    write(path, [entry(number, monotonic_s=number * DAY / 300, error="x" * 1900) for number in range(1, 901)])
    before = path.stat().st_size
    settings = JournalSettings(max_days=1)
    journal = Journal(
        path, replace(RUN, run="r2"), warn=print, settings=settings, clock=SimulatedClock(1.0, unix_s=1.7e9 + 901)
    )
    journal.append(entry(1, unix_s=1.7e9 + 901))
    journal.note("began")
    until(lambda: ask(path, "SELECT count(*) FROM marbles") == 302 and ask(path, "PRAGMA page_count") < 450)
    journal.close()
    assert [row["number"] for row in rows(path)] == [*range(600, 901), 1]
    assert path.stat().st_size < before / 2
    assert [row["run"] for row in rows(path, table="runs")] == ["r1", "r2"]
    write(path, [entry(2, unix_s=1.7e9 + 3 * DAY)], run=replace(RUN, run="r3"), settings=settings)
    until_pruned(path, settings)
    assert [row["run"] for row in rows(path, table="runs")] == ["r3", "last"]


def until_pruned(path, settings):
    """Opens the journal once more, which finds what is old, and waits until it is gone."""
    journal = Journal(path, replace(RUN, run="last"), warn=print, settings=settings)
    journal.append(entry(1, unix_s=1.7e9 + 3 * DAY + 1))
    until(lambda: not {"r1", "r2"} & {row["run"] for row in rows(path)})
    journal.close()


def ask(path, question):
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return connection.execute(question).fetchone()[0]


def total(path):
    size = 0
    for file in path.parent.iterdir():
        with contextlib.suppress(FileNotFoundError):
            size += file.stat().st_size
    return size


def test_file_and_log_together_never_outgrow_the_limit_and_the_newest_stay(tmp_path):
    path = tmp_path / "j.sqlite"
    journal = Journal(path, RUN, warn=print, settings=JournalSettings(max_mb=1))
    largest = 0
    for number in range(1, 4001):
        journal.append(entry(number, error="x" * 1500 if number % 10 == 0 else None))
        if number % 100 == 0:
            journal.note("camera_stalls", "no frame for 2.0 s")
            until(lambda: journal.written > number - 300)  # noqa: B023
            largest = max(largest, total(path))
    journal.close()
    assert journal.lost == 0
    assert 600_000 < largest <= 1_000_000
    numbers = [row["number"] for row in rows(path)]
    assert numbers == list(range(numbers[0], 4001))
    assert 500 < len(numbers) < 3000
    assert integrity(path) == "ok"


def test_a_smaller_limit_makes_an_existing_file_smaller(tmp_path):
    path = tmp_path / "j.sqlite"
    write(path, [entry(number) for number in range(1, 9001)], capacity=10_000)
    assert path.stat().st_size > 1_900_000
    journal = Journal(path, replace(RUN, run="r2"), warn=print, settings=JournalSettings(max_mb=1))
    for number in range(1, 11):
        journal.append(entry(number))
    until(lambda: total(path) <= 1_000_000, 60)
    journal.close()
    assert (journal.written, journal.lost) == (10, 0)
    assert [row["number"] for row in rows(path)][-10:] == list(range(1, 11))
    assert integrity(path) == "ok"


def test_a_reader_that_never_ends_costs_rows_at_the_limit_but_not_the_disk(tmp_path):
    path = tmp_path / "j.sqlite"
    told = []
    journal = Journal(path, RUN, warn=told.append, settings=JournalSettings(max_mb=1))
    journal.append(entry(1))
    until(lambda: journal.written == 1)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM marbles").fetchone()
        number = 1
        while not journal.lost:
            number += 1
            journal.append(entry(number))
            until(lambda: journal.written + journal.lost > number - 50)  # noqa: B023
            assert total(path) <= 1_000_000
        until(lambda: journal.written + journal.lost == number)
        reader.execute("ROLLBACK")
    written = journal.written
    journal.append(entry(number + 1))
    journal.close()
    assert journal.written == written + 1
    assert len(told) == 1
    assert "close that" in told[0]
    assert integrity(path) == "ok"


KILLED = """
import sys
from pathlib import Path
sys.path[:0] = {roots!r}
from okko_edge.journal import Journal
from okko_edge.settings import JournalSettings
from tests.edge.test_journal import RUN, entry
from dataclasses import replace
journal = Journal(Path({path!r}), replace(RUN, run={run!r}), warn=print, settings=JournalSettings(max_mb=1))
for number in range(1, 10**6):
    journal.append(entry(number))
    while number > journal.written + 20:
        pass
    if number % 10 == 0:
        print(journal.written, flush=True)
"""


def test_committed_rows_survive_a_kill_at_any_moment(tmp_path):
    path = tmp_path / "j.sqlite"
    lot = random.Random(0)
    roots = [str(Path(__file__).parents[2])]
    for attempt in range(10):
        run = f"run{attempt}"
        program = KILLED.format(roots=roots, path=str(path), run=run)
        with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            committed = 0
            for _ in range(lot.randrange(1, 40)):
                committed = int(process.stdout.readline())
            time.sleep(lot.random() * 0.005)
            process.kill()
            committed = max([committed, *map(int, process.stdout.read().split("\n")[:-1])])
        numbers = [row["number"] for row in rows(path) if row["run"] == run]
        assert numbers[-1] >= committed
        assert numbers == list(range(numbers[0], numbers[-1] + 1))
        assert integrity(path) == "ok"
    journal, told = write(path, [entry(1)])
    assert (journal.written, told) == (1, [])


def one_by_one(path, numbers):
    """Writes entries, one transaction each; returns the open journal and the log's size after each."""
    journal = Journal(path, RUN, warn=print)
    sizes = []
    for number in numbers:
        journal.append(entry(number))
        until(lambda: journal.written == number)  # noqa: B023
        sizes.append(path.with_name("j.sqlite-wal").stat().st_size)
    return journal, sizes


@pytest.mark.parametrize("rest", ["missing", "zero", "noise"])
def test_a_log_that_a_power_cut_tore_still_holds_every_row_committed_before_the_tear(tmp_path, rest):
    path = tmp_path / "j.sqlite"
    journal, sizes = one_by_one(path, range(1, 41))
    database, log = path.read_bytes(), path.with_name("j.sqlite-wal").read_bytes()
    journal.close()
    lot = random.Random(1)
    copy = tmp_path / "copy.sqlite"
    for cut in sorted({*lot.sample(range(sizes[0], len(log)), 20), *sizes, *(size - 1 for size in sizes[1:])}):
        filling = {"missing": b"", "zero": bytes(len(log) - cut), "noise": lot.randbytes(len(log) - cut)}[rest]
        copy.write_bytes(database)
        copy.with_name("copy.sqlite-wal").write_bytes(log[:cut] + filling)
        copy.with_name("copy.sqlite-shm").unlink(missing_ok=True)
        committed = sum(size <= cut for size in sizes)
        numbers = [row["number"] for row in rows(copy)]
        assert numbers == list(range(1, len(numbers) + 1))
        assert committed <= len(numbers) <= committed + 1  # one more if what follows the tear happens to be right
        assert integrity(copy) == "ok"


def test_a_power_cut_while_the_log_goes_into_the_file_loses_nothing(tmp_path):
    path = tmp_path / "j.sqlite"
    journal, _ = one_by_one(path, range(1, 41))
    before, log = path.read_bytes(), path.with_name("j.sqlite-wal").read_bytes()
    journal.close()
    after = path.read_bytes()
    lot = random.Random(2)
    copy = tmp_path / "copy.sqlite"
    for _ in range(40):
        pages = [
            (after if lot.random() < 0.5 else before.ljust(len(after), b"\0"))[at : at + 4096]
            for at in range(0, len(after), 4096)
        ]
        copy.write_bytes(b"".join(pages))
        copy.with_name("copy.sqlite-wal").write_bytes(log)
        copy.with_name("copy.sqlite-shm").unlink(missing_ok=True)
        assert [row["number"] for row in rows(copy)] == list(range(1, 41))
        assert integrity(copy) == "ok"


def test_the_journal_lives_in_the_state_directory(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert default_path() == tmp_path / "okko" / "journal.sqlite"
    monkeypatch.setenv("XDG_STATE_HOME", "relative/does/not/count")
    monkeypatch.setenv("HOME", "/home/someone")
    assert default_path() == Path("/home/someone/.local/state/okko/journal.sqlite")
