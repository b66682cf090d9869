"""A marble every so many seconds: for a conveyor that pauses by its own clock, like the first LEGO sorter's."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from okko_edge.frame import Frame


class IntervalTrigger:
    """A marble lies in view at the first frame, and again after each period.

    Args:
        period_s: seconds from one marble to the next.

    Raises:
        ValueError: period_s is not positive.
    """

    def __init__(self, period_s: float) -> None:
        if not (period_s > 0 and math.isfinite(period_s)):
            raise ValueError(f"period_s must be positive, not {period_s}")
        self._period_s = period_s
        self._start_s: float | None = None
        self._told = 0

    def see(self, frame: Frame) -> Sequence[float]:
        """Returns the times that were due when the frame was taken, and were not told before."""
        return self.poll(frame.captured_at_s)

    def poll(self, now_s: float) -> Sequence[float]:
        """Returns the times that are due, and were not told before."""
        if self._start_s is None:
            self._start_s = now_s
        due = math.floor((now_s - self._start_s) / self._period_s + 1e-9) + 1
        first, self._told = self._told, max(self._told, due)
        return [self._start_s + number * self._period_s for number in range(first, due)]

    def close(self) -> None:
        """Does nothing."""
