"""A year takes no more memory than a day: what grows with the number of marbles is bounded, and small."""

from __future__ import annotations

import sqlite3

from okko_edge.events import Counters
from okko_edge.journal import Entry, Journal
from tests.faults.rigs import a_run
from tests.faults.test_in_simulated_time import _ENTRY


def test_the_journal_holds_few_pages_of_its_file_in_memory(tmp_path):
    opened = []

    def connect(*arguments, **named):
        opened.append(sqlite3.connect(*arguments, **named, check_same_thread=False))
        return opened[-1]

    journal = Journal(tmp_path / "journal.sqlite", a_run("run", 0.0), warn=print, counters=Counters(), connect=connect)
    journal.append(Entry(**_ENTRY, number=1))
    while journal.written < 1:
        pass
    pages = opened[0].execute("PRAGMA cache_size").fetchone()[0]
    journal.close()
    assert -512 <= pages < 0, "in kB; SQLite itself would take 2000"
