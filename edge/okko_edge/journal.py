"""The journal: every decision, in one SQLite file, written beside the sorting path and never in its way.

The path puts an entry into a bounded queue and goes on; a thread of its own writes what it finds there, one
transaction at a time. When the queue or the disk is full, entries are lost and counted, and sorting goes on.
WAL mode with synchronous=FULL, so what was committed survives a crash and a power cut (https://sqlite.org/wal.html).
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import sqlite3
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

SCHEMA_VERSION = 2
_BUSY_S = 2.0
_CLOSE_S = 10.0

_SCHEMA = f"""
BEGIN IMMEDIATE;
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
PRAGMA user_version = {SCHEMA_VERSION};
COMMIT;
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """One start of the program: a row of the table `runs`, column by column."""

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
        number: counts the marbles of the run from 1.
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


def _insert(table: str, columns: Sequence[str]) -> str:
    return f"INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"


_INSERT_RUN = "INSERT OR IGNORE " + _insert("runs", RunRecord.__slots__)
_INSERT_MARBLE = "INSERT " + _insert("marbles", ("run", "bundle_digest", *Entry.__slots__))


def default_path() -> Path:
    """Where the journal is unless told otherwise: `okko/journal.sqlite` in the XDG state directory."""
    state = os.environ.get("XDG_STATE_HOME", "")
    base = Path(state) if state.startswith("/") else Path.home() / ".local" / "state"
    return base / "okko" / "journal.sqlite"


class Journal:
    """An append-only record that accepts entries at once and writes them when it can.

    Nothing that goes wrong here is raised. The first failure is told to `warn`, once; `lost` counts what was not
    written; after a failure the file is opened anew with the next entry, so a disk that has space again is used again.

    Args:
        path: the SQLite file; made if missing, with its folders.
        run: the run that the entries belong to.
        warn: takes one sentence for the user.
        capacity: how many entries may wait.
        connect: opens the database; `sqlite3.connect` unless a test wants a disk that misbehaves.
    """

    def __init__(
        self,
        path: Path,
        run: RunRecord,
        *,
        warn: Callable[[str], None],
        capacity: int = 4096,
        connect: Callable[..., sqlite3.Connection] = sqlite3.connect,
    ) -> None:
        self.path = path
        self.written = 0
        self._run = run
        self._warn = warn
        self._connect = connect
        self._dropped = 0
        self._failed = 0
        self._warned = False
        self._connection: sqlite3.Connection | None = None
        self._queue: queue.Queue[Entry | None] = queue.Queue(capacity)
        # A daemon, because a disk that hangs must not keep the program from ending.
        self._thread = threading.Thread(target=self._write_until_closed, name="journal", daemon=True)
        self._thread.start()

    @property
    def lost(self) -> int:
        """Entries that were accepted by nobody or could not be written."""
        return self._dropped + self._failed

    def append(self, entry: Entry) -> None:
        """Takes an entry; returns at once, whatever the disk does."""
        try:
            self._queue.put_nowait(entry)
        except queue.Full:
            self._dropped += 1

    def close(self) -> None:
        """Writes what waits, for 10 seconds at most, and closes the file."""
        with contextlib.suppress(queue.Full):
            self._queue.put(None, timeout=_CLOSE_S)
        self._thread.join(_CLOSE_S)
        if self._thread.is_alive():
            self._dropped += self._queue.qsize()
            self._tell("the disk does not answer")

    def _write_until_closed(self) -> None:
        closing = False
        while not closing:
            batch = [self._queue.get()]
            with contextlib.suppress(queue.Empty):
                while True:
                    batch.append(self._queue.get_nowait())
            closing = None in batch
            self._write([entry for entry in batch if entry is not None])
        self._disconnect()

    def _write(self, entries: Sequence[Entry]) -> None:
        if not entries:
            return
        try:
            if self._connection is None:
                self._connection = self._open()
            with self._connection as connection:
                connection.executemany(_INSERT_MARBLE, [self._row(entry) for entry in entries])
            self.written += len(entries)
        except Exception as error:  # an entry that cannot be written is lost, and nothing else
            self._failed += len(entries)
            self._tell(str(error))
            self._disconnect()

    def _open(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        connection = self._connect(self.path, timeout=_BUSY_S)
        try:
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, SCHEMA_VERSION):
                raise OSError(f"it has format {version}, this okko writes format {SCHEMA_VERSION}; name another file")
            if version == 0 and connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
                raise OSError("it is another program's database; name another file")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            if version == 0:
                connection.executescript(_SCHEMA)
            with connection:
                values = [getattr(self._run, name) for name in RunRecord.__slots__]
                connection.execute(_INSERT_RUN, values)
        except BaseException:
            connection.close()
            raise
        return connection

    def _row(self, entry: Entry) -> list[object]:
        values = {name: getattr(entry, name) for name in Entry.__slots__}
        if entry.probability is not None:
            values["probability"] = json.dumps(dict(entry.probability))
        return [self._run.run, self._run.bundle_digest, *values.values()]

    def _disconnect(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None

    def _tell(self, why: str) -> None:
        if not self._warned:
            self._warned = True
            # A terminal that went away must not end the writing.
            with contextlib.suppress(Exception):
                self._warn(f"the journal {self.path} is not written ({why}); sorting goes on without it")
