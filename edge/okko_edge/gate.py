"""The gate: the part that moves, and turns a verdict into a place where the marble goes.

Here is only what the sorting path knows of it: the positions, the protocol, and what may be asked for. Servo, relay and
their schedule are in `okko_edge.gates`.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from okko_models.errors import OkkoError

if TYPE_CHECKING:
    from okko_models.decision import Verdict


class GateError(OkkoError):
    """The gate cannot be opened, or did not move."""


class Position(enum.StrEnum):
    """Where a gate can be sent: one place for each verdict, and a place of rest."""

    OK = "OK"
    KO = "KO"
    UNCERTAIN = "UNCERTAIN"
    REST = "rest"

    @classmethod
    def of(cls, verdict: Verdict) -> Position:
        """Returns the position for a verdict."""
        return cls(verdict.value)


class Gate(Protocol):
    """What the sorter asks of a gate; all of it returns at once."""

    def expect(self, arrived_at_s: float, /) -> None:
        """A marble was in view at that time: when it reaches the gate it goes to KO, unless `sort` said otherwise."""

    def sort(self, position: Position, arrived_at_s: float, /) -> bool:
        """Sends the marble that was in view at that time to a position.

        Returns:
            False when it is too late: the marble has been at the gate already, and went to KO.

        Raises:
            GateError: nothing will move.
        """

    def rest(self) -> None:
        """Goes to rest, once the marbles on their way are sorted. Raises `GateError` if nothing will move."""

    def test(self, position: Position, /) -> None:
        """Moves at once, for a person who looks. Raises `GateError` if marbles are on their way or nothing moves."""

    def close(self) -> None:
        """Lets the last marbles pass, goes to the safe side and lets go of the hardware; never raises."""


class NoGate:
    """Nothing moves: for watching what would be sorted."""

    def expect(self, arrived_at_s: float, /) -> None:
        """Does nothing."""

    def sort(self, position: Position, arrived_at_s: float, /) -> bool:  # noqa: ARG002
        """Does nothing, in time."""
        return True

    def rest(self) -> None:
        """Does nothing."""

    def test(self, position: Position, /) -> None:  # noqa: ARG002
        """Says that there is nothing to test."""
        raise GateError('there is no gate to test: gate.kind is "none"')

    def close(self) -> None:
        """Does nothing."""


_SPELLINGS = "servo:PIN, relay:PIN, sim or none"
HIGHEST_PIN = 27
"""The last GPIO number on the header of a Raspberry Pi."""


@dataclass(frozen=True)
class GateChoice:
    """Which gate was asked for: its kind, and the GPIO number (not the place on the header) if it has one."""

    kind: str
    pin: int | None = None

    @classmethod
    def parse(cls, text: str) -> GateChoice:
        """Reads what `--gate` or the key `gate.kind` says, for example "servo:18", "relay:17", "sim" or "none".

        Raises:
            ValueError: no such kind of gate, or no such pin.
        """
        if text in {"sim", "none"}:
            return cls(text)
        kind, _, number = text.partition(":")
        if kind not in {"servo", "relay"}:
            raise ValueError(f"there is no gate {text!r}; expected {_SPELLINGS}")
        if not re.fullmatch(r"[0-9]{1,2}", number) or int(number) > HIGHEST_PIN:
            raise ValueError(f"gate {text!r} names no pin; expected a GPIO number from 0 to 27, for example {kind}:18")
        return cls(kind, int(number))

    def __str__(self) -> str:
        return self.kind if self.pin is None else f"{self.kind}:{self.pin}"
