"""Time, as an argument: the machine's clocks, or one that a simulation turns by hand.

Everything on the sorting path takes its time from a `Clock`, so a test or a simulation can run an hour in a second.
How long the path itself takes is always measured in real time, with a stopwatch of its own.
"""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """What the edge asks of time."""

    def now_s(self) -> float:
        """Seconds on the monotonic clock: never jumps, has no date."""

    def unix_s(self) -> float:
        """Seconds since 1970, for people; may jump, so nothing is computed with it."""

    def sleep_until(self, at_s: float) -> None:
        """Returns when `now_s` is at least `at_s`; at once if it already is."""


class MonotonicClock:
    """The machine's own clocks."""

    def now_s(self) -> float:
        """Seconds on the monotonic clock, the one that camera sensors stamp their frames with."""
        return time.monotonic()

    def unix_s(self) -> float:
        """Seconds since 1970."""
        return time.time()

    def sleep_until(self, at_s: float) -> None:
        """Sleeps until the monotonic clock shows `at_s`."""
        remaining = at_s - time.monotonic()
        if remaining > 0:
            time.sleep(remaining)


class SimulatedClock:
    """A clock that stands still until someone waits for it, and then is there at once.

    Args:
        now_s: what the monotonic clock shows at first.
        unix_s: what the calendar clock shows at first, seconds since 1970.
    """

    def __init__(self, now_s: float = 0.0, unix_s: float = 0.0) -> None:
        self._now_s = now_s
        self._ahead_s = unix_s - now_s

    def now_s(self) -> float:
        """Simulated seconds."""
        return self._now_s

    def unix_s(self) -> float:
        """Simulated seconds since 1970."""
        return self._now_s + self._ahead_s

    def sleep_until(self, at_s: float) -> None:
        """Turns the clock forward to `at_s`; never back."""
        self._now_s = max(self._now_s, at_s)
