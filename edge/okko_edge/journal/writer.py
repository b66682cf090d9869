"""Writes the journal beside the sorting path and never in its way.

The path puts a row into a bounded queue and goes on; a thread of its own writes what it finds there, one transaction
at a time. When queue or disk are full, rows are lost and counted, and sorting goes on. WAL mode with synchronous=FULL,
so what was committed survives a crash and a power cut (https://sqlite.org/wal.html).
"""

from __future__ import annotations

import contextlib
import queue
import sqlite3
import threading
import time
from typing import TYPE_CHECKING

from okko_edge.clock import MonotonicClock
from okko_edge.events import Event
from okko_edge.journal.limits import Limits
from okko_edge.journal.rows import INSERT_ENTRY, INSERT_NOTE, INSERT_RUN, Entry, Note, RunRecord, prepare
from okko_edge.settings import JournalSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from okko_edge.clock import Clock
    from okko_edge.events import Counters

_BUSY_S = 2.0
_CHECKPOINT_S = 0.1
_CLOSE_S = 10.0
_STEP_PAUSE_S = 0.05
_LOOK_FOR_OLD_EVERY_S = 3600.0
_LARGEST_LOG_BYTES = 8_000_000
_SHM_BYTES = 65_536
_ROW_BYTES = 600
_Row = tuple[RunRecord, Entry | Note]
# Rows are added at one end and deleted at the other; SQLite's usual 2 MB of pages are memory for nothing.
_CACHE_KB = 256


class Journal:
    """An append-only record that accepts rows at once and writes them when it can.

    Nothing that goes wrong here is raised. The first failure is told to `warn`, once; what was not written is counted;
    after a failure the file is opened anew with the next row, so a disk that has space again is used again. While
    another program locks the file, rows wait, as many as `capacity` and as many again.

    Args:
        path: the SQLite file; made if missing, with its folders.
        run: the run that the rows belong to, until `begin` names another.
        warn: takes one sentence for the user.
        counters: hears of lost rows.
        settings: the limits of age and size; the file and its log together stay below the size.
        capacity: how many rows may wait.
        clock: stamps the notes.
        connect: opens the database; `sqlite3.connect` unless a test wants a disk that misbehaves.

    Attributes:
        written: entries that are in the file.
        lost: entries that could not be written or found no place in the queue.
        notes_lost: notes likewise.
    """

    def __init__(
        self,
        path: Path,
        run: RunRecord,
        *,
        warn: Callable[[str], None],
        counters: Counters | None = None,
        settings: JournalSettings | None = None,
        capacity: int = 4096,
        clock: Clock | None = None,
        connect: Callable[..., sqlite3.Connection] = sqlite3.connect,
    ) -> None:
        self.path = path
        self.written = 0
        self._run = run
        self._warn = warn
        self._counters = counters
        self._settings = settings or JournalSettings()
        self._clock = clock or MonotonicClock()
        self._connect = connect
        self._capacity = capacity
        # Each counter has one thread that adds to it.
        self._lost_by_path = {Entry: 0, Note: 0}
        self._lost_by_writer = {Entry: 0, Note: 0}
        self._warned = False
        self._max_bytes = int(self._settings.max_mb * 1_000_000)
        self._log_bytes = min(_LARGEST_LOG_BYTES, self._max_bytes // 4)
        self._connection: sqlite3.Connection | None = None
        self._limits: Limits | None = None
        self._looked_at_s = 0.0
        self._queue: queue.Queue[_Row | None] = queue.Queue(capacity)
        # A daemon, because a disk that hangs must not keep the program from ending.
        self._thread = threading.Thread(target=self._write_until_closed, name="journal", daemon=True)
        self._thread.start()

    @property
    def lost(self) -> int:
        """Entries that were accepted by nobody or could not be written."""
        return self._lost_by_path[Entry] + self._lost_by_writer[Entry]

    @property
    def notes_lost(self) -> int:
        """Notes that were accepted by nobody or could not be written."""
        return self._lost_by_path[Note] + self._lost_by_writer[Note]

    def begin(self, run: RunRecord) -> None:
        """Lets all rows that are taken from now on belong to another run; to be called where entries are appended."""
        self._run = run

    def append(self, entry: Entry) -> None:
        """Takes an entry; returns at once, whatever the disk does."""
        self._put((self._run, entry))

    def note(self, event: str, detail: str = "") -> None:
        """Takes something that happened beside the verdicts, stamped with the time now; returns at once.

        Half of the queue is kept free for entries, so a part that reports without end displaces no marble.
        """
        note = Note(unix_s=self._clock.unix_s(), monotonic_s=self._clock.now_s(), event=str(event), detail=detail)
        if self._queue.qsize() > self._capacity // 2:
            self._lose([(self._run, note)], self._lost_by_path)
        else:
            self._put((self._run, note))

    def close(self) -> None:
        """Writes what waits, for 10 seconds at most, and closes the file."""
        with contextlib.suppress(queue.Full):
            self._queue.put(None, timeout=_CLOSE_S)
        self._thread.join(_CLOSE_S)
        if self._thread.is_alive():
            self._lose([row for row in list(self._queue.queue) if row is not None], self._lost_by_path)
            self._tell("the disk does not answer")

    def _put(self, row: _Row) -> None:
        try:
            self._queue.put_nowait(row)
        except queue.Full:
            self._lose([row], self._lost_by_path)

    def _lose(self, rows: Sequence[_Row], where: dict[type, int]) -> None:
        for _, row in rows:
            where[type(row)] += 1
        if self._counters is not None and rows:
            self._counters.add(Event.JOURNAL_LOST, len(rows))

    def _write_until_closed(self) -> None:
        waiting: list[_Row] = []
        closing = more = False
        while not closing:
            closing = self._take(waiting, _STEP_PAUSE_S if more or waiting else None)
            waiting = self._write(waiting)
            more = self._keep_within_limits()
        self._lose(waiting, self._lost_by_writer)
        self._disconnect()

    def _take(self, waiting: list[_Row], timeout_s: float | None) -> bool:
        """Moves what is in the queue to `waiting`, as long as there is room; returns whether it is time to close."""
        with contextlib.suppress(queue.Empty):
            row = self._queue.get(timeout=timeout_s)
            while row is not None:
                waiting.append(row)
                if len(waiting) >= self._capacity:
                    return False
                row = self._queue.get_nowait()
            return True
        return False

    def _write(self, rows: list[_Row]) -> list[_Row]:
        """Writes rows, and returns those that must wait for another program."""
        chunks = list(self._chunks(rows))
        for index, chunk in enumerate(chunks):
            try:
                self._commit(chunk)
            except Exception as error:  # a row that cannot be written is lost, and nothing else
                if _is_busy(error):
                    self._tell(f"{error}: another program holds it")
                    return [row for later in chunks[index:] for row in later]
                self._disconnect()
                if len(chunk) > 1 and not isinstance(error, OSError | sqlite3.OperationalError):
                    self._write_singly(chunk)
                else:
                    self._lose(chunk, self._lost_by_writer)
                    self._tell(str(error))
        return []

    def _write_singly(self, rows: Sequence[_Row]) -> None:
        for row in rows:
            try:
                self._commit([row])
            except Exception as error:
                self._lose([row], self._lost_by_writer)
                self._tell(str(error))
                self._disconnect()

    def _chunks(self, rows: Sequence[_Row]) -> Iterator[list[_Row]]:
        """Cuts the rows into transactions that are small beside the log."""
        chunk: list[_Row] = []
        size = 0
        for row in rows:
            chunk.append(row)
            size += _size(row)
            if size > self._log_bytes // 8:
                yield chunk
                chunk, size = [], 0
        if chunk:
            yield chunk

    def _commit(self, rows: Sequence[_Row]) -> None:
        connection, limits = self._opened()
        size = 2 * sum(map(_size, rows))
        self._checkpoint(connection)
        while not limits.has_room(size) and limits.step(size):
            self._checkpoint(connection)
        if self._file_bytes() + size > self._max_bytes and self._log_size() > self._log_bytes:
            raise OSError("a program that reads it for a long time keeps its log from being emptied; close that")
        connection.execute("BEGIN IMMEDIATE")
        try:
            # Here, and not when the file is opened: the run may have been deleted as the oldest of all.
            for run in dict.fromkeys(run for run, _ in rows):
                connection.execute(INSERT_RUN, [getattr(run, name) for name in RunRecord.__slots__])
            entries = [row.values(run) for run, row in rows if isinstance(row, Entry)]
            connection.executemany(INSERT_ENTRY, entries)
            connection.executemany(INSERT_NOTE, [row.values(run) for run, row in rows if isinstance(row, Note)])
            connection.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            raise
        self.written += len(entries)

    def _keep_within_limits(self) -> bool:
        """Does one small step; returns whether there are more."""
        if self._connection is None or self._limits is None:
            return False
        try:
            self._checkpoint(self._connection)
            if time.monotonic() - self._looked_at_s > _LOOK_FOR_OLD_EVERY_S:
                self._looked_at_s = time.monotonic()
                self._limits.look_for_old_rows()
            return self._limits.step()
        except sqlite3.Error as error:
            if not _is_busy(error):
                self._tell(str(error))
                self._disconnect()
            return False

    def _checkpoint(self, connection: sqlite3.Connection) -> None:
        """Empties the log when it has outgrown its share; a reader can be in the way of that.

        Pages that were given back are, too, only gone from the file once the log is emptied.
        """
        log = self._log_size()
        if log > self._log_bytes // 2 or (log and self._file_bytes() > self._max_bytes):
            connection.execute(f"PRAGMA busy_timeout = {int(_CHECKPOINT_S * 1000)}")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            connection.execute(f"PRAGMA busy_timeout = {int(_BUSY_S * 1000)}")

    def _log_size(self) -> int:
        try:
            return self.path.with_name(self.path.name + "-wal").stat().st_size
        except OSError:
            return 0

    def _file_bytes(self) -> int:
        return self.path.stat().st_size + self._log_size() + _SHM_BYTES

    def _opened(self) -> tuple[sqlite3.Connection, Limits]:
        if self._connection is None or self._limits is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            connection = self._connect(self.path, timeout=_BUSY_S, isolation_level=None)
            try:
                prepare(connection)
                connection.execute(f"PRAGMA cache_size = -{_CACHE_KB}")
                connection.execute("PRAGMA wal_autocheckpoint = 0")  # `_checkpoint` does it, and keeps the log short
                limits = Limits(
                    connection,
                    max_days=self._settings.max_days,
                    max_bytes=self._max_bytes - self._log_bytes - _SHM_BYTES,
                )
                limits.look_for_old_rows()
            except BaseException:
                connection.close()
                raise
            self._looked_at_s = time.monotonic()
            self._connection, self._limits = connection, limits
        return self._connection, self._limits

    def _disconnect(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
            self._connection = self._limits = None

    def _tell(self, why: str) -> None:
        if not self._warned:
            self._warned = True
            # A terminal that went away must not end the writing.
            with contextlib.suppress(Exception):
                self._warn(f"the journal {self.path} is not written ({why}); sorting goes on without it")


def _size(of: _Row) -> int:
    """Roughly the bytes that a row takes, rather too many."""
    row = of[1]
    if isinstance(row, Note):
        return _ROW_BYTES + len(row.detail)
    return _ROW_BYTES + 40 * len(row.probability or ()) + len(row.error or "") + len(row.photo or "")


def _is_busy(error: Exception) -> bool:
    code = getattr(error, "sqlite_errorcode", None)
    return isinstance(error, sqlite3.OperationalError) and code is not None and code & 0xFF in _BUSY_CODES


_BUSY_CODES = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
