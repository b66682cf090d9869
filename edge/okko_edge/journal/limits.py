"""Keeps the journal within its limits of age and size, a small step at a time.

Ages do not trust the calendar: a device without a battery-backed clock starts in 1970, and a wrong time server can
send it to 2100. Within a run the monotonic clock says how much time went by; between two runs the calendar does, as
long as it went forward by no more than a year; every other gap counts as nothing. So a clock that jumps makes rows look
younger at worst, and never deletes good ones. The age is counted back from the newest row.
"""

from __future__ import annotations

import contextlib
import sqlite3
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

STEP_ROWS = 50
"""So many rows are deleted in one transaction."""
STEP_PAGES = 64
"""So many pages are given back in one."""
LONGEST_GAP_S = 366 * 86400.0
_DAY_S = 86400.0

# The names of tables are only ever these, so putting them into statements is safe.
_TABLES = ("marbles", "events")
_INDEX = {"marbles": "sqlite_autoindex_marbles_1", "events": "events_by_run"}


@dataclass(frozen=True, slots=True)
class RunSpan:
    """From a run's first row to its last, on both clocks."""

    run: str
    first_unix_s: float
    last_unix_s: float
    first_monotonic_s: float
    last_monotonic_s: float


@dataclass(frozen=True, slots=True)
class Cut:
    """Every row of a run before `run` is too old, and of `run` what is before `monotonic_s`."""

    run: str
    monotonic_s: float


def find_cut(spans: Sequence[RunSpan], max_s: float) -> Cut | None:
    """Says what is older than `max_s` seconds, counted back from the newest row; None if nothing is.

    Args:
        spans: every run's, in the order in which the runs began.
        max_s: how old a row may be.
    """
    age_s = 0.0  # of the last row of the run in hand
    for span, before in zip(reversed(spans), reversed([None, *spans][: len(spans)]), strict=True):
        length_s = max(0.0, span.last_monotonic_s - span.first_monotonic_s)
        if age_s + length_s > max_s:
            return Cut(span.run, span.last_monotonic_s - (max_s - age_s))
        age_s += length_s
        gap_s = span.first_unix_s - before.last_unix_s if before else 0.0
        age_s += gap_s if 0 <= gap_s <= LONGEST_GAP_S else 0.0
        if age_s > max_s:
            return Cut(span.run, span.first_monotonic_s)
    return None


class Limits:
    """Deletes what is beyond the limits.

    Args:
        connection: open for writing, in autocommit.
        max_days: how old a row may be.
        max_bytes: how large the database may be, without its log.
    """

    def __init__(self, connection: sqlite3.Connection, *, max_days: float, max_bytes: int) -> None:
        self._connection = connection
        self._max_s = max_days * _DAY_S
        self._max_bytes = max_bytes
        self._page_bytes = self._number("PRAGMA page_size")
        self._cut: Cut | None = None

    def look_for_old_rows(self) -> None:
        """Finds out what is too old; `step` then deletes it."""
        self._cut = find_cut(self._spans(), self._max_s)

    def has_room(self, size: int) -> bool:
        """Whether `size` bytes of rows may be added without a page beyond the limit."""
        free = self._number("PRAGMA freelist_count") * self._page_bytes
        return self._number("PRAGMA page_count") * self._page_bytes + size <= self._max_bytes + free

    def step(self, size: int = 0) -> bool:
        """Does one small transaction's worth of deleting or giving back; returns whether there was something to do.

        Args:
            size: bytes that are about to be added.
        """
        if self._cut is not None:
            if self._delete_old(self._cut):
                return True
            self._cut = None
        free = self._number("PRAGMA freelist_count")
        pages = self._number("PRAGMA page_count")
        if (pages - free) * self._page_bytes + size > self._max_bytes:
            return self._delete_oldest()
        # A few free pages are kept for the next rows; moving pages about costs writes.
        if pages * self._page_bytes > self._max_bytes or free > max(STEP_PAGES, pages // 4):
            before = pages
            # It gives back a page at each step of the statement; only executescript goes on to the last.
            self._connection.executescript(f"PRAGMA incremental_vacuum({STEP_PAGES})")
            return self._number("PRAGMA page_count") < before
        return False

    def _number(self, statement: str) -> int:
        return int(self._connection.execute(statement).fetchone()[0])

    def _spans(self) -> list[RunSpan]:
        spans = []
        for (run,) in self._connection.execute("SELECT run FROM runs ORDER BY rowid").fetchall():
            first, last = self._ends(run, "min"), self._ends(run, "max")
            if first:
                (first_s, first_unix_s), (last_s, last_unix_s) = min(first), max(last)
                spans.append(RunSpan(run, first_unix_s, last_unix_s, first_s, last_s))
        return spans

    def _ends(self, run: str, which: str) -> list[tuple[float, float]]:
        """The first or last marble and event of a run: with the index on run a look each, however many there are."""
        return [
            end
            for table in _TABLES
            for end in self._connection.execute(
                f"SELECT monotonic_s, unix_s FROM {table} WHERE rowid = "  # noqa: S608
                f"(SELECT {which}(rowid) FROM {table} INDEXED BY {_INDEX[table]} WHERE run = ?)",
                (run,),
            )
        ]

    def _heads(self) -> dict[str, tuple[int, float]]:
        """Each table's oldest row: the place of its run among the runs, and when it was written."""
        heads = {}
        for table in _TABLES:
            head = self._connection.execute(
                f"SELECT (SELECT rowid FROM runs WHERE runs.run = {table}.run), monotonic_s FROM {table} "  # noqa: S608
                "ORDER BY rowid LIMIT 1"
            ).fetchone()
            if head is not None:
                heads[table] = head
        return heads

    def _delete_old(self, cut: Cut) -> bool:
        older = "SELECT run FROM runs WHERE rowid < (SELECT rowid FROM runs WHERE run = ?)"
        where = f"run IN ({older}) OR (run = ? AND monotonic_s < ?)"
        return any(self._delete_first(table, where, (cut.run, cut.run, cut.monotonic_s)) for table in _TABLES)

    def _delete_oldest(self) -> bool:
        heads = self._heads()
        return bool(heads) and self._delete_first(min(heads, key=lambda table: heads[table]), "TRUE", ())

    def _delete_first(self, table: str, where: str, arguments: tuple[object, ...]) -> bool:
        """Deletes what fits `where` among the first rows of a table, and the runs of which nothing is left."""
        first = f"SELECT rowid FROM {table} ORDER BY rowid LIMIT {STEP_ROWS}"  # noqa: S608
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            deleted = self._connection.execute(
                f"DELETE FROM {table} WHERE rowid IN ({first}) AND ({where})",  # noqa: S608
                arguments,
            ).rowcount
            if heads := self._heads():
                self._connection.execute("DELETE FROM runs WHERE rowid < ?", (min(heads.values())[0],))
            self._connection.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")
            raise
        return deleted > 0
