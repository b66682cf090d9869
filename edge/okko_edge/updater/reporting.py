"""What came of updates, for people: a short file of outcomes beside the models, the counters, and the journal.

Nothing is decided by it, so nothing here ever raises: an outcome that cannot be written is lost, and the update is not.
"""

from __future__ import annotations

import contextlib
import enum
import os
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

import msgspec

from okko_edge.events import Event
from okko_models.damaged import decode_json
from okko_models.registry.files import write_durably

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from okko_edge.events import Counters

MAX_BYTES: Final = 256 << 10
"""Beyond this the older half of the file goes: some 500 outcomes stay."""
_MAX_REASON: Final = 500


class What(enum.StrEnum):
    """Something that happened to a bundle."""

    FETCHED = "fetched"
    TESTED = "tested"
    SHADOWED = "shadowed"
    SWITCHED = "switched"
    CONFIRMED = "confirmed"
    REJECTED = "rejected"
    ROLLED_BACK = "rolled back"
    FAILED = "failed"


_EVENTS: Final = {
    What.FETCHED: Event.UPDATE_FETCHED,
    What.SWITCHED: Event.UPDATE_SWITCHED,
    What.CONFIRMED: Event.UPDATE_CONFIRMED,
    What.REJECTED: Event.UPDATE_REJECTED,
    What.ROLLED_BACK: Event.UPDATE_ROLLED_BACK,
    What.FAILED: Event.UPDATE_FAILED,
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """One line of the file.

    Attributes:
        at: when, seconds since 1970.
        what: happened.
        digest: the bundle's; empty: it was about none.
        reason: why, in words; empty: as it should be.
        facts: what was measured, by name.
    """

    at: float
    what: What
    digest: str = ""
    reason: str = ""
    facts: dict[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        """Returns the outcome as a sentence without its time."""
        model = f"model {self.digest[:12]} " if self.digest else "update "
        return f"{model}{self.what}" + (f": {self.reason}" if self.reason else "")


class Reports:
    """The outcomes of one device.

    Args:
        path: the file, one JSON object a line.
        counters: count what happened; None: nobody counts.
        tell: hears of each outcome and its event, if it has one: the journal.
    """

    def __init__(
        self,
        path: Path,
        *,
        counters: Counters | None = None,
        tell: Callable[[Event, str], object] = lambda _, __: None,
    ) -> None:
        self.path = path
        self._counters = counters
        self._tell = tell

    def add(self, outcome: Outcome) -> None:
        """Writes, counts and tells an outcome; never raises."""
        outcome = replace(outcome, reason=outcome.reason[:_MAX_REASON])
        self.hear(outcome)
        with contextlib.suppress(OSError):
            self._shorten()
            self._append(msgspec.json.encode(outcome) + b"\n")

    def hear(self, outcome: Outcome) -> None:
        """Counts and tells an outcome that another process has written; never raises."""
        event = _EVENTS.get(outcome.what)
        if event is not None:
            if self._counters is not None:
                self._counters.add(event)
            with contextlib.suppress(Exception):  # whoever listens must not be able to stop an update
                self._tell(event, str(outcome))

    def latest(self, limit: int = 20) -> list[Outcome]:
        """Returns the latest outcomes, oldest first; lines that were damaged are left out."""
        outcomes = []
        for line in self._lines()[-limit:] if limit else []:
            with contextlib.suppress(msgspec.DecodeError):
                outcomes.append(decode_json(line, Outcome))
        return outcomes

    def _lines(self) -> list[bytes]:
        try:
            with self.path.open("rb") as file:
                return [line for line in file.read(2 * MAX_BYTES).splitlines() if line]
        except OSError:
            return []

    def _shorten(self) -> None:
        if self.path.is_file() and self.path.stat().st_size > MAX_BYTES:
            lines = self._lines()
            write_durably(self.path, b"".join(line + b"\n" for line in lines[len(lines) // 2 :]))

    def _append(self, line: bytes) -> None:
        # A newline first ends a line that a power cut left unfinished; empty lines mean nothing.
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(descriptor, b"\n" + line)
        finally:
            os.close(descriptor)
