"""What the journal holds, row by row, and the tables that hold it.

The file is SQLite and for anyone to read; its format is counted in `user_version`. A file of the first format is
brought up to date when it is opened for writing. Rows are added and, at the limits of age and size, deleted; none is
ever changed, which a trigger sees to.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SCHEMA_VERSION = 2
LONGEST_TEXT = 2000
"""Longer messages are cut, so that one row can never be large."""

_EVENTS = """
CREATE TABLE IF NOT EXISTS events (
    run TEXT NOT NULL REFERENCES runs, unix_s REAL NOT NULL, monotonic_s REAL NOT NULL,
    event TEXT NOT NULL, detail TEXT NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS events_by_run ON events (run);
CREATE TRIGGER IF NOT EXISTS events_are_never_changed BEFORE UPDATE ON events
BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END;
"""
_TABLES = f"""
CREATE TABLE IF NOT EXISTS runs (
    run TEXT PRIMARY KEY, started_unix_s REAL NOT NULL, okko TEXT NOT NULL,
    bundle_name TEXT NOT NULL, bundle_version TEXT NOT NULL, bundle_digest TEXT NOT NULL,
    camera TEXT NOT NULL, gate TEXT NOT NULL, seed INTEGER NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS marbles (
    run TEXT NOT NULL REFERENCES runs, bundle_digest TEXT NOT NULL,
    number INTEGER NOT NULL, unix_s REAL NOT NULL, monotonic_s REAL NOT NULL,
    verdict TEXT NOT NULL, label TEXT, probability TEXT, truth TEXT, photo TEXT, error TEXT,
    frame_sequence INTEGER, frame_digest TEXT, frame_captured_at_s REAL,
    inference_ms REAL NOT NULL, path_ms REAL NOT NULL, outcome TEXT NOT NULL DEFAULT 'marble', novelty REAL,
    PRIMARY KEY (run, number)
) STRICT;
CREATE TRIGGER IF NOT EXISTS marbles_are_never_changed BEFORE UPDATE ON marbles
BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END;
{_EVENTS}
"""
_FROM_VERSION = {
    0: _TABLES,
    1: f"""
ALTER TABLE marbles ADD COLUMN outcome TEXT NOT NULL DEFAULT 'marble';
ALTER TABLE marbles ADD COLUMN novelty REAL;
{_EVENTS}
""",
}
_INCREMENTAL = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """Sorting with one model, from a start of the program or a change of the model on: a row of the table `runs`."""

    run: str
    started_unix_s: float
    okko: str
    bundle_name: str
    bundle_version: str
    bundle_digest: str
    camera: str
    gate: str
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One marble: a row of the table `marbles`, column by column; run and bundle are added when it is written.

    Attributes:
        number: counts the marbles from 1 since the start of the program, also where a change of the model began a run.
        unix_s: when it was sorted, seconds since 1970, as the device believed.
        monotonic_s: the same on the monotonic clock.
        verdict: OK, KO or UNCERTAIN.
        label: the most probable label; None when there was no classification.
        probability: probability of each label; None likewise.
        truth: the label that the marble is known to have.
        photo: name of the stored photo that was in view.
        error: what went wrong.
        frame_sequence: number of the camera's frame; None when there was no frame.
        frame_digest: SHA-256 of the frame's pixels (height x width x 3 bytes).
        frame_captured_at_s: when the frame was taken, monotonic clock.
        inference_ms: time in the classifier.
        path_ms: time from the frame in hand to the gate command.
        outcome: what lay there: "marble", "empty" or "two".
        novelty: how unlike the training photos the frame is, as in `Classification`; None without classification.
    """

    number: int
    unix_s: float
    monotonic_s: float
    verdict: str
    label: str | None
    probability: Mapping[str, float] | None
    truth: str | None
    photo: str | None
    error: str | None
    frame_sequence: int | None
    frame_digest: str | None
    frame_captured_at_s: float | None
    inference_ms: float
    path_ms: float
    outcome: str = "marble"
    novelty: float | None = None

    def values(self, run: RunRecord) -> Sequence[object]:
        """Returns the row, in the order of `INSERT_ENTRY`."""
        values = {name: getattr(self, name) for name in Entry.__slots__}
        if self.probability is not None:
            values["probability"] = json.dumps(dict(self.probability))
        if self.error is not None:
            values["error"] = self.error[:LONGEST_TEXT]
        return [run.run, run.bundle_digest, *values.values()]


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """Something that happened beside the verdicts: a row of the table `events`."""

    unix_s: float
    monotonic_s: float
    event: str
    detail: str

    def values(self, run: RunRecord) -> Sequence[object]:
        """Returns the row, in the order of `INSERT_NOTE`."""
        return [run.run, self.unix_s, self.monotonic_s, self.event[:LONGEST_TEXT], self.detail[:LONGEST_TEXT]]


def _insert(table: str, columns: Sequence[str]) -> str:
    return f"INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"


INSERT_RUN = "INSERT OR IGNORE " + _insert("runs", RunRecord.__slots__)
INSERT_ENTRY = "INSERT " + _insert("marbles", ("run", "bundle_digest", *Entry.__slots__))
INSERT_NOTE = "INSERT " + _insert("events", ("run", *Note.__slots__))


def prepare(connection: sqlite3.Connection) -> None:
    """Makes a new file a journal, an old one one of today's format, and sets how it is written.

    Args:
        connection: open for writing, in autocommit.

    Raises:
        OSError: the file belongs to another program, or to a later okko.
        sqlite3.Error: it cannot be written.
    """
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version not in {*_FROM_VERSION, SCHEMA_VERSION}:
        raise OSError(f"it has format {version}, this okko writes format {SCHEMA_VERSION}; name another file")
    if version == 0 and connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
        raise OSError("it is another program's database; name another file")
    # Only an empty file takes it at once, so this comes before anything is written.
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    if version != SCHEMA_VERSION:
        _migrate(connection)
    if connection.execute("PRAGMA auto_vacuum").fetchone()[0] != _INCREMENTAL:
        # Without room for a copy the file stays as it is: its free pages are used again, but not given back.
        with contextlib.suppress(sqlite3.OperationalError):
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            connection.execute("VACUUM")


def _migrate(connection: sqlite3.Connection) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        # Asked again, now that no other process can be at it.
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version != SCHEMA_VERSION:
            for statement in _statements(_FROM_VERSION[version]):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise


def _statements(script: str) -> list[str]:
    # A trigger's body holds a semicolon, so SQLite is asked where a statement ends.
    statements, begun = [], ""
    for piece in script.split(";")[:-1]:
        begun += piece + ";"
        if sqlite3.complete_statement(begun):
            statements.append(begun)
            begun = ""
    return statements
