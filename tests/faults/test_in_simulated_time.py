"""Faults of camera, model, calendar and SQLite in simulated time: the same on every machine, at every load."""

from __future__ import annotations

import contextlib
import sqlite3
import threading

import pytest

from okko_edge.events import Counters, Event
from okko_edge.journal import Journal
from okko_edge.journal.reading import JournalReader, Selection
from okko_edge.settings import JournalSettings
from tests.faults.rigs import Rig, a_run

COUNT = 40
# Marbles come from 0.3 s to 4.2 s, one in 0.1 s; the fault lasts from 1.5 s to 2.5 s.
BEGIN_S, LASTS_S = 1.5, 1.0


@pytest.mark.parametrize(
    ("fault", "counted"),
    [
        ("stall", Event.DEADLINE_MISSED),
        ("corrupt", Event.CORRUPT_FRAME),
        ("black", Event.BLACK_FRAME),
        ("stale", Event.STALE_FRAME),
        ("slow", Event.DEADLINE_MISSED),
        ("inference", Event.INFERENCE_FAILED),
    ],
)
def test_each_marble_has_one_verdict_and_those_that_nobody_could_judge_are_ko(bundle, tmp_path, fault, counted):
    rig = Rig(bundle, tmp_path, COUNT)
    begin_s = rig.clock.now_s() + BEGIN_S
    rig.faults.add(fault, LASTS_S, after_s=BEGIN_S)
    verdicts = rig.run(NAMES[fault])
    # The last ones that came while it lasted may have been seen when it was over, still in time.
    blind = verdicts.arrived(begin_s, begin_s + LASTS_S - 0.35)
    assert len(blind) >= 6
    assert all(row.verdict == "KO" and row.error for row in blind)
    assert rig.counters[counted] >= 1
    well = verdicts.arrived(0, begin_s - 0.25) + verdicts.arrived(begin_s + LASTS_S + 1.0, 1e9)
    assert len(well) >= 10
    assert not any(row.error for row in well), "before and after it all is well"


NAMES = {
    "stall": "camera stalls for 1 s",
    "corrupt": "corrupt frames for 1 s",
    "black": "black frames for 1 s",
    "stale": "frames that are 1 s old, for 1 s",
    "slow": "inference takes 0.7 s, for 1 s",
    "inference": "inference fails for 1 s",
}


@pytest.mark.parametrize(("year", "unix_s"), [(1970, 0.0), (2100, 4_102_444_800.0)])
def test_a_calendar_that_jumps_changes_no_verdict_and_deletes_nothing(bundle, tmp_path, year, unix_s):
    rig = Rig(bundle, tmp_path, COUNT)
    rig.clock.jumps = ((rig.clock.now_s() + BEGIN_S, unix_s), (rig.clock.now_s() + 3.0, 1.8e9))
    verdicts = rig.run(f"clock jumps to {year}, and back")
    assert not any(row.error for row in verdicts.rows)
    assert sum(abs(row.unix_s - unix_s) < 1e6 for row in verdicts.rows) >= 10
    # Nor does the next start, which looks for what is too old.
    after = Journal(rig.journal, a_run("next", unix_s), warn=print)
    after.note("started")
    after.close()
    with JournalReader(rig.journal) as reader:
        assert len(list(reader.decisions(Selection()))) == COUNT


def test_a_journal_that_another_program_locks_is_written_when_it_lets_go(bundle, tmp_path):
    rig = Rig(bundle, tmp_path, COUNT)
    rig.beside.journal.note("the file is there")
    while not (rig.journal.exists() and rig.journal.stat().st_size):
        pass
    locked, done = threading.Event(), threading.Event()

    def lock():
        with contextlib.closing(sqlite3.connect(rig.journal, timeout=10, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            locked.set()
            done.wait()
            other.execute("ROLLBACK")

    locker = threading.Thread(target=lock)
    locker.start()
    locked.wait()
    threading.Timer(0.5, done.set).start()
    rig.run("SQLite locked for the whole run", "all rows written after it")
    locker.join()
    assert rig.counters[Event.JOURNAL_LOST] == 0
    assert not any(rig.counters[event] for event in (Event.DEADLINE_MISSED, Event.LISTENER_FAILED))


@pytest.mark.parametrize("seed", range(3))
def test_all_of_it_at_once_and_in_any_order(bundle, tmp_path, seed):
    import random

    random_ = random.Random(seed)
    rig = Rig(bundle, tmp_path, 150)
    for name in NAMES:
        rig.faults.add(name, random_.uniform(0.1, 2.0), after_s=random_.uniform(0, 12))
    rig.clock.jumps = tuple((100 + 4 * n, random_.choice([0.0, 1.8e9, 4.1e9])) for n in range(4))
    verdicts = rig.run(f"mixed, all of these at random times (seed {seed})")
    assert any(row.error for row in verdicts.rows)
    assert any(row.verdict == "OK" for row in verdicts.rows)


def test_a_journal_on_a_disk_that_fails_loses_what_it_counts_and_nothing_else(tmp_path):
    """Every row is either there or counted, whichever statement the disk fails at."""
    from okko_edge.journal import Entry

    for failing in range(1, 30):
        counters = Counters()
        statements = [0]

        class Failing(sqlite3.Connection):
            def execute(self, statement, *arguments, statements=statements, failing=failing):
                statements[0] += 1
                if statements[0] == failing:
                    raise sqlite3.OperationalError("disk I/O error")
                return super().execute(statement, *arguments)

        path = tmp_path / f"{failing}.sqlite"
        journal = Journal(
            path,
            a_run("run", 0.0),
            warn=lambda _: None,
            counters=counters,
            settings=JournalSettings(),
            connect=lambda *given, kind=Failing, **named: sqlite3.connect(*given, **named, factory=kind),
        )
        for number in range(1, 6):
            journal.append(Entry(**(_ENTRY | {"number": number})))
        journal.close()
        with contextlib.closing(sqlite3.connect(path)) as connection:
            try:
                there = connection.execute("SELECT count(*) FROM marbles").fetchone()[0]
            except sqlite3.OperationalError:
                there = 0
        assert there + counters[Event.JOURNAL_LOST] == 5, failing
        assert there == journal.written


_ENTRY = {
    "unix_s": 1.0,
    "monotonic_s": 1.0,
    "verdict": "OK",
    "label": None,
    "probability": None,
    "truth": None,
    "photo": None,
    "error": None,
    "frame_sequence": None,
    "frame_digest": None,
    "frame_captured_at_s": None,
    "inference_ms": 1.0,
    "path_ms": 1.0,
    "outcome": "marble",
    "novelty": None,
}
