"""A gate without hardware: it keeps the time and the promises of a real one, and remembers where it went."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from okko_edge.events import Counters
from okko_edge.gates.scheduled import ScheduledGate
from okko_edge.gates.servo import PulseWidths, Servo

if TYPE_CHECKING:
    from okko_edge.clock import Clock
    from okko_edge.gate import Position


@dataclass(frozen=True, slots=True)
class GateMove:
    """A move that was made: to which position, with pulses of which width, when on the monotonic clock."""

    position: Position
    pulse_us: float
    at_s: float


class SimulatedDriver:
    """Makes no pulses, but knows of which width they would be; None without any."""

    def __init__(self) -> None:
        self.width_us: float | None = None

    def pulse(self, width_us: float, /) -> None:
        """Remembers the width."""
        self.width_us = width_us

    def detach(self) -> None:
        """Forgets it."""
        self.width_us = None

    def close(self) -> None:
        """Forgets it."""
        self.width_us = None


class SimulatedServo(Servo):
    """A servo that remembers its latest moves.

    Args:
        clock: says when a move was made.
        widths: the positions.
        move_s: how long a move takes.
        keep: how many moves are remembered, so that a year of sorting fits into memory.
    """

    def __init__(self, clock: Clock, widths: PulseWidths, *, move_s: float = 0.4, keep: int = 1000) -> None:
        self.driver = SimulatedDriver()
        super().__init__(widths, self.driver, move_s=move_s)
        self.moves: deque[GateMove] = deque(maxlen=keep)
        self._clock = clock

    def go(self, position: Position, /) -> None:
        """Moves, and remembers it."""
        super().go(position)
        self.moves.append(GateMove(position, self.widths.of(position), self._clock.now_s()))


class SimulatedGate(ScheduledGate):
    """A gate with a simulated servo.

    Args:
        clock: says when a move was made; a `SimulatedClock` makes each at its exact time.
        widths: the positions.
        counters: see `ScheduledGate`.
        travel_s: likewise.
        back_to_rest_s: likewise.
        move_s: see `Servo`.
        keep: see `SimulatedServo`.
    """

    def __init__(
        self,
        clock: Clock,
        widths: PulseWidths | None = None,
        *,
        counters: Counters | None = None,
        travel_s: float = 0.0,
        back_to_rest_s: float = 0.0,
        move_s: float = 0.4,
        keep: int = 1000,
    ) -> None:
        self.servo = SimulatedServo(clock, widths or PulseWidths(), move_s=move_s, keep=keep)
        super().__init__(
            self.servo,
            clock=clock,
            counters=counters or Counters(),
            travel_s=travel_s,
            back_to_rest_s=back_to_rest_s,
        )

    @property
    def moves(self) -> deque[GateMove]:
        """The latest moves."""
        return self.servo.moves
