"""What waits and what was done, in one SQLite file: it outlives every process, and any process may look into it.

Changes stay until a job has ended that began after them, so whoever is killed, the next one knows that there is work.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from typing import TYPE_CHECKING

import msgspec

from okko_cloud.debounce import Waiting

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class JobRecord(msgspec.Struct, frozen=True):
    """One job.

    Attributes:
        number: 1, 2, 3, ...
        began_s: seconds since 1970.
        ended_s: likewise; None while it runs.
        kind: `running`, `unchanged`, `kept`, `promoted`, `busy`, `failed` or `killed`.
        words: what came of it, for people.
        outcome: what the job printed, JSON; empty if it printed nothing.
    """

    number: int
    began_s: float
    ended_s: float | None
    kind: str
    words: str
    outcome: str


class LocalQueue:
    """The queue of a local cloud.

    Args:
        path: the file; made if it is not there.
    """

    def __init__(self, path: Path) -> None:
        self._database = sqlite3.connect(path, timeout=30, check_same_thread=False, isolation_level=None)
        self._turn = threading.Lock()
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("CREATE TABLE IF NOT EXISTS changes (id INTEGER PRIMARY KEY AUTOINCREMENT, at REAL)")
        self._database.execute("CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT)")
        self._database.execute(
            "CREATE TABLE IF NOT EXISTS jobs (number INTEGER PRIMARY KEY AUTOINCREMENT, began REAL, ended REAL,"
            " kind TEXT, words TEXT, outcome TEXT)"
        )

    def close(self) -> None:
        """Lets go of the file."""
        with self._turn:
            self._database.close()

    def heard(self, changes: int, at_s: float) -> None:
        """Takes note of so many changes; when this returns they are on the disk."""
        with self._exclusive() as database:
            database.executemany("INSERT INTO changes (at) VALUES (?)", [(at_s,)] * changes)

    def waiting(self) -> tuple[Waiting, int]:
        """Returns what waits, and the number of the last change."""
        with self._turn:
            n, first, last, number = self._database.execute(
                "SELECT count(*), min(at), max(at), max(id) FROM changes"
            ).fetchone()
        return (Waiting(n, first, last), number) if n else (Waiting(), 0)

    def covered(self, number: int) -> None:
        """Takes out the changes up to this one: a job that began after them has ended."""
        with self._exclusive() as database:
            database.execute("DELETE FROM changes WHERE id <= ?", (number,))

    def begin_job(self, at_s: float) -> int:
        """Takes note that a job begins; returns its number."""
        with self._exclusive() as database:
            number = database.execute(
                "INSERT INTO jobs (began, kind, words, outcome) VALUES (?, 'running', '', '')", (at_s,)
            ).lastrowid
        return number or 0

    def end_job(self, number: int, at_s: float, kind: str, words: str, outcome: str) -> None:
        """Takes note of what came of a job."""
        with self._exclusive() as database:
            database.execute(
                "UPDATE jobs SET ended = ?, kind = ?, words = ?, outcome = ? WHERE number = ?",
                (at_s, kind, words, outcome, number),
            )

    def give_up_running(self, at_s: float) -> None:
        """Takes note that jobs which never ended were killed."""
        with self._exclusive() as database:
            database.execute(
                "UPDATE jobs SET ended = ?, kind = 'killed', words = 'its worker was killed' WHERE kind = 'running'",
                (at_s,),
            )

    def jobs(self, most: int) -> list[JobRecord]:
        """Returns the latest jobs, newest first."""
        with self._turn:
            rows = self._database.execute(
                "SELECT number, began, ended, kind, words, outcome FROM jobs ORDER BY number DESC LIMIT ?", (most,)
            ).fetchall()
        return [JobRecord(*row) for row in rows]

    def fact(self, name: str) -> str:
        """Returns what was remembered under a name; empty: nothing."""
        with self._turn:
            row = self._database.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return str(row[0]) if row else ""

    def remember(self, name: str, value: str) -> None:
        """Remembers a text under a name."""
        with self._exclusive() as database:
            database.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[sqlite3.Connection]:
        with self._turn:
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield self._database
            except BaseException:
                self._database.execute("ROLLBACK")
                raise
            self._database.execute("COMMIT")
