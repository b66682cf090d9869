"""What a run has come to, kept up to date marble by marble: for the dashboard, the metrics and MQTT.

`hear` is called on the sorting path's thread and is that thread's alone: it only adds to numbers and bounded queues and
takes no lock, so nobody who reads can make it wait. Readers get copies. Every number here is of bounded size: a year
takes no more memory than a day. Time is real time, also where marbles are simulated.
"""

from __future__ import annotations

import math
import time
from bisect import bisect_left
from collections import deque
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from okko_edge.sorter import Outcome
from okko_edge.summary import Percentiles
from okko_models.decision import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

    from okko_edge.sorter import Decision

WINDOW = 1000
"""Marbles that percentiles, histogram and shares are of."""
BINS = 20
_RATE_SPAN_S = 60.0
_LATENCY_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)


class Histogram:
    """Counts values below bounds, for ever; one thread adds, any may read.

    Args:
        bounds: upper bounds, rising; what is beyond the last is counted too.
    """

    def __init__(self, bounds: tuple[float, ...] = _LATENCY_BOUNDS_S) -> None:
        self.bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, value: float) -> None:
        """Counts a value; one that equals a bound is below it."""
        self._counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def cumulative(self) -> list[int]:
        """Returns how many values were at most each bound, and last how many there were, (n_bounds + 1,)."""
        return list(accumulate(self._counts.copy()))


@dataclass(slots=True)
class Period:
    """A stretch of time.

    Attributes:
        start_s: when it began, in seconds since the start of the run.
        marbles: how many were sorted in it.
        uncertain: of those, UNCERTAIN.
        unlike: of those, unlike anything in training (novelty beyond 1).
        novelty: summed novelty of the marbles that were classified.
        classified: how many those are.
    """

    start_s: float
    marbles: int = 0
    uncertain: int = 0
    unlike: int = 0
    novelty: float = 0.0
    classified: int = 0


class Periods:
    """Sums over periods of equal length, the latest `length` of them; one thread adds."""

    def __init__(self, step_s: float, length: int) -> None:
        self.step_s = step_s
        self._periods: deque[Period] = deque(maxlen=length)

    def add(self, now_s: float, decision: Decision) -> None:
        """Adds a decision to the period that `now_s`, seconds since the start, lies in."""
        start_s = now_s // self.step_s * self.step_s
        if not self._periods or self._periods[-1].start_s != start_s:
            self._periods.append(Period(start_s))
        period = self._periods[-1]
        period.marbles += 1
        period.uncertain += decision.verdict is Verdict.UNCERTAIN
        if decision.classification is not None and math.isfinite(decision.classification.novelty):
            period.classified += 1
            period.novelty += decision.classification.novelty
            period.unlike += decision.classification.novelty > 1

    def snapshot(self) -> list[Period]:
        """Returns the periods in which there were marbles, oldest first."""
        return list(self._periods.copy())


@dataclass(frozen=True, slots=True)
class Drift:
    """Periods, and how long each is."""

    step_s: float
    periods: list[Period]


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The state at one moment; shares and percentiles are of the latest `WINDOW` marbles.

    Attributes:
        uptime_s: since the start of the run.
        since_last_s: since the latest marble; None before the first.
        marbles: all that were sorted.
        verdicts: how many of each verdict.
        errors: marbles with which something went wrong.
        marbles_per_min: in the last minute.
        share_uncertain: None before the first marble.
        share_unlike: marbles unlike anything in training; None if the model cannot tell.
        novelty: mean novelty; None if the model cannot tell.
        latency_ms: from the frame in hand to the gate command.
        inference_ms: of that, in the classifier.
        probability_of_ok: histogram over [0, 1] in `BINS` equal bins.
        hour: by the minute.
        week: by the hour.
    """

    uptime_s: float
    since_last_s: float | None
    marbles: int
    verdicts: dict[str, int]
    errors: int
    marbles_per_min: float
    share_uncertain: float | None
    share_unlike: float | None
    novelty: float | None
    latency_ms: Percentiles | None
    inference_ms: Percentiles | None
    probability_of_ok: list[int]
    hour: Drift
    week: Drift


@dataclass(frozen=True, slots=True)
class _Heard:
    verdict: Verdict
    path_ms: float
    inference_ms: float | None
    probability_of_ok: float | None
    novelty: float | None


class Statistics:
    """Hears every decision and can be asked at any time.

    Args:
        now_s: seconds on a clock that never jumps.

    Attributes:
        path_s: histogram of the time from the frame in hand to the gate command.
        inference_s: histogram of the time in the classifier.
    """

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self.path_s = Histogram()
        self.inference_s = Histogram()
        self._now_s = now_s
        self._start_s = now_s()
        self._verdicts = dict.fromkeys(Verdict, 0)
        self._errors = 0
        self._times_s: deque[float] = deque(maxlen=4096)
        self._recent: deque[_Heard] = deque(maxlen=WINDOW)
        self._minutes = Periods(60, 60)
        self._hours = Periods(3600, 168)

    def hear(self, decision: Decision) -> None:
        """Takes a decision; for the sorting path's thread only. An empty slot is no marble."""
        since_start_s = self._now_s() - self._start_s
        said = decision.classification
        self._errors += decision.error is not None
        if decision.outcome is Outcome.EMPTY:  # nothing was sorted
            return
        self._verdicts[decision.verdict] += 1
        self._times_s.append(since_start_s)
        self.path_s.add(decision.path_ms / 1000)
        if said is not None:
            self.inference_s.add(decision.inference_ms / 1000)
        self._recent.append(
            _Heard(
                decision.verdict,
                decision.path_ms,
                decision.inference_ms if said else None,
                said.probability_of_ok if said and math.isfinite(said.probability_of_ok) else None,
                said.novelty if said and math.isfinite(said.novelty) else None,
            )
        )
        self._minutes.add(since_start_s, decision)
        self._hours.add(since_start_s, decision)

    @property
    def errors(self) -> int:
        """Marbles with which something went wrong."""
        return self._errors

    @property
    def uptime_s(self) -> float:
        """Seconds since the start."""
        return self._now_s() - self._start_s

    def verdicts(self) -> dict[str, int]:
        """Returns how many of each verdict."""
        return {verdict.value: count for verdict, count in self._verdicts.items()}

    def snapshot(self) -> Snapshot:
        """Returns the state now; from any thread."""
        uptime_s, verdicts = self.uptime_s, self.verdicts()
        times_s, recent = self._times_s.copy(), self._recent.copy()
        novelties = [heard.novelty for heard in recent if heard.novelty is not None]
        can_tell = any(novelties)
        bins = [0] * BINS
        for heard in recent:
            if heard.probability_of_ok is not None:
                bins[min(max(int(heard.probability_of_ok * BINS), 0), BINS - 1)] += 1
        return Snapshot(
            uptime_s=uptime_s,
            since_last_s=uptime_s - times_s[-1] if times_s else None,
            marbles=sum(verdicts.values()),
            verdicts=verdicts,
            errors=self._errors,
            marbles_per_min=_per_minute(times_s, uptime_s),
            share_uncertain=_share(sum(heard.verdict is Verdict.UNCERTAIN for heard in recent), len(recent)),
            share_unlike=_share(sum(novelty > 1 for novelty in novelties), len(novelties)) if can_tell else None,
            novelty=_share(math.fsum(novelties), len(novelties)) if can_tell else None,
            latency_ms=Percentiles.of(heard.path_ms for heard in recent),
            inference_ms=Percentiles.of(heard.inference_ms for heard in recent if heard.inference_ms is not None),
            probability_of_ok=bins,
            hour=Drift(self._minutes.step_s, self._minutes.snapshot()),
            week=Drift(self._hours.step_s, self._hours.snapshot()),
        )


def _share(part: float, whole: int) -> float | None:
    return part / whole if whole else None


def _per_minute(times_s: deque[float], now_s: float) -> float:
    """Marbles of the last minute, or of the time since the start if that is shorter; no less than a second."""
    since_s = now_s - _RATE_SPAN_S
    if len(times_s) == times_s.maxlen and times_s[0] > since_s:
        since_s = times_s[0]  # more than are remembered: the rate is theirs
    span_s = max(min(now_s - since_s, now_s), 1.0)
    return sum(time_s >= since_s for time_s in times_s) / span_s * 60
