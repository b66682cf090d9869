"""The gate: the part that moves, and turns a verdict into a place where the marble goes.

A gate only goes where it is told; when, is the sorter's decision. `SimulatedGate` keeps a record of its moves instead
of turning a servo, and is what tests and the demonstration use.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from okko_models.decision import Verdict
from okko_models.errors import OkkoError

if TYPE_CHECKING:
    from okko_edge.clock import Clock


class GateError(OkkoError):
    """The gate did not move."""


class Gate(Protocol):
    """What the sorter asks of a gate; `sort` and `rest` return at once and raise `GateError` if nothing will move."""

    def sort(self, verdict: Verdict) -> None:
        """Goes to the position of a verdict."""

    def rest(self) -> None:
        """Goes to the position of rest."""


@dataclass(frozen=True, kw_only=True)
class GateAngles:
    """The horn's calibrated positions in degrees, 0 in the middle of the servo's travel.

    Raises:
        ValueError: an angle is outside -90 to 90.
    """

    ok_deg: float = 45.0
    ko_deg: float = -45.0
    uncertain_deg: float = 0.0
    rest_deg: float = 0.0

    def __post_init__(self) -> None:
        for name in ("ok_deg", "ko_deg", "uncertain_deg", "rest_deg"):
            angle = getattr(self, name)
            if not -90 <= angle <= 90:
                raise ValueError(f"{name} must be within -90 to 90 degrees, not {angle}")

    def of(self, verdict: Verdict) -> float:
        """Returns the angle for a verdict, in degrees."""
        return {Verdict.OK: self.ok_deg, Verdict.KO: self.ko_deg, Verdict.UNCERTAIN: self.uncertain_deg}[verdict]


@dataclass(frozen=True, slots=True)
class GateMove:
    """A move that was commanded: for which verdict (None: to rest), to which angle, when on the monotonic clock."""

    verdict: Verdict | None
    angle_deg: float
    at_s: float


class SimulatedGate:
    """A gate that remembers its latest moves.

    Args:
        clock: says when a move happened.
        angles: the positions.
        keep: how many moves are remembered, so that a year of sorting fits into memory.
    """

    def __init__(self, clock: Clock, angles: GateAngles | None = None, *, keep: int = 10_000) -> None:
        self.angles = angles or GateAngles()
        self.moves: deque[GateMove] = deque(maxlen=keep)
        self._clock = clock

    def sort(self, verdict: Verdict) -> None:
        """Records the move to the position of a verdict."""
        self.moves.append(GateMove(verdict, self.angles.of(verdict), self._clock.now_s()))

    def rest(self) -> None:
        """Records the move to rest."""
        self.moves.append(GateMove(None, self.angles.rest_deg, self._clock.now_s()))


class NoGate:
    """Nothing moves: for watching what would be sorted."""

    def sort(self, verdict: Verdict) -> None:
        """Does nothing."""

    def rest(self) -> None:
        """Does nothing."""
