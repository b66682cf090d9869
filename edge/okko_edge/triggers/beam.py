"""A beam sensor on a GPIO pin: the marble breaks a beam before, or in the middle of, the camera's view.

Edges are stamped by the kernel where gpiozero's pin factory passes that on, and are only collected here; what they mean
is decided by `Debounced`, which knows neither pins nor threads.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING

from okko_edge.gpio import claiming
from okko_edge.trigger import TriggerError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gpiozero.pins import Factory

    from okko_edge.clock import Clock
    from okko_edge.frame import Frame

# Edges that wait to be looked at: a few marbles make a few edges, a loose wire makes thousands.
_MOST_EDGES = 4096
# A stamp this far from now is of another clock (kernels before 5.7 stamp edges by the calendar).
_OTHER_CLOCK_S = 1.0


class Debounced:
    """Turns a sensor's edges into marbles.

    What lasts less than the debouncing time did not happen: neither a spike in a clear beam nor a glint in a broken
    one. A marble's time is that of the first edge of its burst.

    Args:
        debounce_s: how long a state must last, in seconds.
    """

    def __init__(self, debounce_s: float) -> None:
        self._debounce_s = debounce_s
        self._settled = False
        self._now = False
        self._burst_s: float | None = None
        self._last_s = 0.0

    def edge(self, at_s: float, *, broken: bool) -> list[float]:
        """Takes an edge; returns the marbles that it makes certain."""
        certain = self.until(at_s)
        if self._burst_s is None:
            self._burst_s = at_s
        self._now, self._last_s = broken, at_s
        return certain

    @property
    def doubtful_s(self) -> float:
        """When something began that may turn out to be a marble; infinity if nothing did."""
        return math.inf if self._burst_s is None or self._settled else self._burst_s

    def until(self, at_s: float) -> list[float]:
        """Returns the marbles that are certain when nothing more happens until then."""
        if self._burst_s is None or at_s - self._last_s < self._debounce_s:
            return []
        began_s, self._burst_s = self._burst_s, None
        before, self._settled = self._settled, self._now
        return [began_s] if self._settled and not before else []


class BeamTrigger:
    """Tells of each marble that breaks the beam, whether or not there are frames.

    Args:
        pin: GPIO number.
        clock: the clock of the frames.
        delay_s: from the beam to the middle of the view.
        active_high: the pin is high while the beam is broken; a pull resistor holds it the other way otherwise.
        debounce_s: see `Debounced`.
        pin_factory: gpiozero's; its default when not given.

    Raises:
        TriggerError: no GPIO, or the pin is taken.
    """

    def __init__(
        self,
        pin: int,
        *,
        clock: Clock,
        delay_s: float = 0.0,
        active_high: bool = True,
        debounce_s: float = 0.005,
        pin_factory: Factory | None = None,
    ) -> None:
        self._clock = clock
        self._delay_s = delay_s
        self._active_high = active_high
        self._beam = Debounced(debounce_s)
        self._edges: deque[tuple[float, bool]] = deque(maxlen=_MOST_EDGES)
        with claiming(pin, TriggerError):
            from gpiozero import DigitalInputDevice

            self._input = DigitalInputDevice(pin, pull_up=not active_high, pin_factory=pin_factory)
            # The device's own events carry no time, those of its pin do.
            self._input.pin.when_changed = self._changed

    def see(self, frame: Frame) -> Sequence[float]:  # noqa: ARG002
        """Returns when marbles that were not told of yet are in the middle of the view; it may be in the future."""
        return self.poll(self._clock.now_s())

    def poll(self, now_s: float) -> Sequence[float]:
        """Returns the same without a frame."""
        certain: list[float] = []
        while self._edges:
            at_s, broken = self._edges.popleft()
            certain += self._beam.edge(at_s, broken=broken)
        certain += self._beam.until(now_s)
        return [at_s + self._delay_s for at_s in certain]

    def doubtful_s(self) -> float:
        """Returns when something came that may be a marble, and may be a spike; infinity if nothing did."""
        return self._beam.doubtful_s + self._delay_s

    def close(self) -> None:
        """Gives the pin back."""
        self._input.close()

    def _changed(self, ticks: float, state: int) -> None:
        """Hears of an edge, on gpiozero's thread."""
        now_s = self._clock.now_s()
        at_s = ticks if abs(ticks - now_s) < _OTHER_CLOCK_S else now_s
        self._edges.append((at_s, bool(state) == self._active_high))
