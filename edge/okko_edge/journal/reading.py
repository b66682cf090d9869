"""Reads a journal without disturbing whoever writes it: a live one, a copy, or one of the first format.

Nothing here opens the file for writing, so a reader can neither damage nor lock it; what was committed when a question
is asked is in the answer.
"""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass
from typing import TYPE_CHECKING

from okko_edge.journal.rows import SCHEMA_VERSION
from okko_models.errors import OkkoError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_BUSY_S = 5.0
_COLUMNS = (
    "run, number, unix_s, monotonic_s, verdict, label, probability, truth, photo, error, frame_sequence, "
    "frame_digest, frame_captured_at_s, inference_ms, path_ms, bundle_digest"
)
_LATER_COLUMNS = {1: ", 'marble' AS outcome, NULL AS novelty", 2: ", outcome, novelty"}
_RUNS = """
SELECT runs.*, count(number) AS marbles, min(unix_s) AS first_unix_s, max(unix_s) AS last_unix_s,
    coalesce(sum(verdict = 'OK'), 0) AS ok, coalesce(sum(verdict = 'KO'), 0) AS ko,
    coalesce(sum(verdict = 'UNCERTAIN'), 0) AS uncertain, count(error) AS errors,
    coalesce(max(monotonic_s) - min(monotonic_s), 0.0) AS sorting_s, avg(path_ms) AS mean_path_ms
FROM runs LEFT JOIN marbles USING (run) GROUP BY run ORDER BY runs.rowid DESC LIMIT ?
"""


class JournalError(OkkoError):
    """A file that is no journal, or cannot be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One decision, as it is in the journal; the fields are those of `Entry`, with run and bundle."""

    run: str
    number: int
    unix_s: float
    monotonic_s: float
    verdict: str
    label: str | None
    probability: dict[str, float] | None
    truth: str | None
    photo: str | None
    error: str | None
    frame_sequence: int | None
    frame_digest: str | None
    frame_captured_at_s: float | None
    inference_ms: float
    path_ms: float
    bundle_digest: str
    outcome: str
    novelty: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """One run, and what is left of it in the journal.

    Attributes:
        marbles: decisions that the journal holds; the oldest may have been deleted.
        first_unix_s: when the first of them was made; None without any.
        last_unix_s: the last.
        ok: how many were OK; likewise `ko`, `uncertain`.
        errors: decisions with an error.
        sorting_s: from first to last, on the monotonic clock.
        mean_path_ms: from the frame in hand to the gate command, on average.
    """

    run: str
    started_unix_s: float
    okko: str
    bundle_name: str
    bundle_version: str
    bundle_digest: str
    camera: str
    gate: str
    seed: int
    marbles: int
    first_unix_s: float | None
    last_unix_s: float | None
    ok: int
    ko: int
    uncertain: int
    errors: int
    sorting_s: float
    mean_path_ms: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRow:
    """Something that happened beside the verdicts."""

    run: str
    unix_s: float
    monotonic_s: float
    event: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which decisions are wanted; None and empty mean all.

    Attributes:
        since_unix_s: not before.
        verdict: only this one.
        run: only this run, by the first digits of its name.
        limit: only the newest so many.
    """

    since_unix_s: float | None = None
    verdict: str | None = None
    run: str | None = None
    limit: int | None = None


class JournalReader:
    """A journal, open for reading; a context manager.

    Raises:
        JournalError: no such file, or not a journal.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            what = "is a folder" if path.is_dir() else "does not exist"
            raise JournalError(f"{path} {what}; expected a journal, as `okko run` writes it. Name one with --journal")
        self._connection, self._version = self._open()
        self._connection.row_factory = sqlite3.Row

    def __enter__(self) -> JournalReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file."""
        self._connection.close()

    def decisions(self, wanted: Selection) -> Iterator[Row]:
        """Yields the decisions that are wanted, oldest first."""
        where: list[str] = ["TRUE"]
        arguments: list[object] = []
        if wanted.since_unix_s is not None:
            where.append("unix_s >= ?")
            arguments.append(wanted.since_unix_s)
        if wanted.verdict is not None:
            where.append("verdict = ?")
            arguments.append(wanted.verdict)
        if wanted.run is not None:
            where.append("run = ?")
            arguments.append(self._full_name(wanted.run))
        columns = _COLUMNS + _LATER_COLUMNS[self._version]
        newest = f"SELECT rowid AS place FROM marbles WHERE {' AND '.join(where)} ORDER BY rowid DESC LIMIT ?"  # noqa: S608
        statement = f"SELECT {columns} FROM marbles JOIN ({newest}) ON marbles.rowid = place ORDER BY place"  # noqa: S608
        for row in self._ask(statement, (*arguments, -1 if wanted.limit is None else wanted.limit)):
            fields = dict(row)
            if fields["probability"] is not None:
                fields["probability"] = json.loads(fields["probability"])
            yield Row(**fields)

    def runs(self, limit: int | None = None) -> list[RunSummary]:
        """Returns the newest runs, newest first."""
        return [RunSummary(**dict(row)) for row in self._ask(_RUNS, (-1 if limit is None else limit,))]

    def events(self, *, run: str | None = None, limit: int | None = None) -> list[EventRow]:
        """Returns the newest events, oldest first."""
        if self._version == 1:
            return []
        where, arguments = ("run = ?", [self._full_name(run)]) if run is not None else ("TRUE", [])
        statement = f"SELECT * FROM events WHERE {where} ORDER BY rowid DESC LIMIT ?"  # noqa: S608
        rows = list(self._ask(statement, (*arguments, -1 if limit is None else limit)))
        return [EventRow(**dict(row)) for row in reversed(rows)]

    def _full_name(self, run: str) -> str:
        names = [row["run"] for row in self._ask("SELECT run FROM runs WHERE substr(run, 1, ?) = ?", (len(run), run))]
        if len(names) == 1 or run in names:
            return run if run in names else str(names[0])
        found = "no run begins so" if not names else f"{len(names)} runs begin so: {', '.join(names[:5])}"
        raise JournalError(f"{self.path}: run {run}: {found}; `okko journal runs` lists them")

    def _ask(self, statement: str, arguments: tuple[object, ...]) -> Iterator[sqlite3.Row]:
        try:
            yield from self._connection.execute(statement, arguments)
        except sqlite3.Error as error:
            raise JournalError(f"{self.path} cannot be read ({error}); if it is a copy, copy it again") from error

    def _open(self) -> tuple[sqlite3.Connection, int]:
        # A file on a medium that cannot be written has no log; SQLite then must be told that nobody writes it.
        problem: Exception | None = None
        log = self.path.with_name(self.path.name + "-wal")
        for mode in ("mode=ro", "immutable=1"):
            if mode == "immutable=1" and log.is_file() and log.stat().st_size:
                continue
            connection = sqlite3.connect(f"{self.path.absolute().as_uri()}?{mode}", uri=True, timeout=_BUSY_S)
            try:
                version = connection.execute("PRAGMA user_version").fetchone()[0]
                tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema")}
            except sqlite3.Error as error:
                problem = error
                connection.close()
                continue
            if version in _LATER_COLUMNS and {"runs", "marbles"} <= tables:
                return connection, version
            connection.close()
            if version > SCHEMA_VERSION and {"runs", "marbles"} <= tables:
                raise JournalError(
                    f"{self.path} has format {version}, this okko reads up to {SCHEMA_VERSION}; update it"
                )
            raise JournalError(f"{self.path} is another program's database, not a journal of okko")
        raise JournalError(f"{self.path} cannot be read as a journal ({problem})") from problem
