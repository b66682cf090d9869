"""Time, as an argument: the machine's clocks, or one that a simulation turns by hand.

Everything on the sorting path takes its time from a `Clock`, so a test or a simulation can run an hour in a second.
How long the path itself takes is always measured in real time, with a stopwatch of its own.
"""

from __future__ import annotations

import heapq
import itertools
import time
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable


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
        self._calls: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def now_s(self) -> float:
        """Simulated seconds."""
        return self._now_s

    def unix_s(self) -> float:
        """Simulated seconds since 1970."""
        return self._now_s + self._ahead_s

    def sleep_until(self, at_s: float) -> None:
        """Turns the clock forward to `at_s`, never back, and makes the calls that are due on the way."""
        while self._calls and self._calls[0][0] <= at_s:
            due_s, _, call = heapq.heappop(self._calls)
            self._now_s = max(self._now_s, due_s)
            call()
        self._now_s = max(self._now_s, at_s)

    def call_at(self, at_s: float, call: Callable[[], None]) -> None:
        """Has `call` made when the clock shows `at_s`: what a thread would wait for with a real clock."""
        heapq.heappush(self._calls, (at_s, next(self._order), call))
