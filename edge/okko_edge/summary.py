"""Counts what a run decided, and how long that took; prints and stores nothing.

Timings are kept for the latest marbles only, so that a run of a year needs no more memory than a run of an hour.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from okko_models.decision import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable

    from okko_edge.sorter import Decision

KEPT_TIMINGS = 10_000


@dataclass(frozen=True)
class Percentiles:
    """How long something took, in milliseconds: half, 95 % and 99 % of the times were at most this."""

    p50: float
    p95: float
    p99: float

    @classmethod
    def of(cls, times_ms: Iterable[float]) -> Percentiles | None:
        """Returns the percentiles, linear between neighbours; None of no times."""
        times = np.fromiter(times_ms, dtype=np.float64)
        if times.size == 0:
            return None
        return cls(*(round(float(value), 4) for value in np.percentile(times, (50, 95, 99))))


@dataclass(frozen=True)
class Summary:
    """What a run came to.

    Attributes:
        marbles: how many were sorted.
        verdicts: how many of each verdict.
        with_truth: marbles whose truth is known.
        false_ok: of those, bad ones that were let through.
        false_ko: of those, good ones that were thrown out.
        errors: marbles that went to KO, or whose gate did not move, because something failed.
        frames: frames that the camera gave.
        stale_frames: of those, refused as too old.
        latency_ms: from the frame in hand to the gate command.
        inference_ms: of that, the time in the classifier.
        duration_s: real time from first to last frame.
        marbles_per_s: marbles by real time.
    """

    marbles: int
    verdicts: dict[str, int]
    with_truth: int
    false_ok: int
    false_ko: int
    errors: int
    frames: int
    stale_frames: int
    latency_ms: Percentiles | None
    inference_ms: Percentiles | None
    duration_s: float
    marbles_per_s: float


class Tally:
    """Adds up decisions.

    Args:
        labels: the labels that the model knows; a truth that is none of them says nothing about its mistakes.
        ok_labels: those that count as good.
    """

    def __init__(self, labels: Iterable[str], ok_labels: Iterable[str]) -> None:
        self._labels = frozenset(labels)
        self._ok_labels = frozenset(ok_labels)
        self._verdicts: Counter[Verdict] = Counter()
        self._with_truth = self._false_ok = self._false_ko = self._errors = 0
        self._path_ms: deque[float] = deque(maxlen=KEPT_TIMINGS)
        self._inference_ms: deque[float] = deque(maxlen=KEPT_TIMINGS)

    @property
    def marbles(self) -> int:
        """How many were added."""
        return self._verdicts.total()

    def add(self, decision: Decision) -> None:
        """Counts one decision."""
        self._verdicts[decision.verdict] += 1
        self._errors += decision.error is not None
        self._path_ms.append(decision.path_ms)
        if decision.classification is not None:
            self._inference_ms.append(decision.inference_ms)
        truly_ok = self.truly_ok(decision)
        if truly_ok is not None:
            self._with_truth += 1
            self._false_ok += decision.verdict is Verdict.OK and not truly_ok
            self._false_ko += decision.verdict is Verdict.KO and truly_ok

    def truly_ok(self, decision: Decision) -> bool | None:
        """Whether the marble is known to be good or bad; None when it is not known."""
        truth = decision.frame.truth if decision.frame else None
        return truth in self._ok_labels if truth in self._labels else None

    def summary(self, *, frames: int, stale_frames: int, duration_s: float) -> Summary:
        """Returns the sums, with what others counted."""
        return Summary(
            marbles=self.marbles,
            verdicts={verdict.value: self._verdicts[verdict] for verdict in Verdict},
            with_truth=self._with_truth,
            false_ok=self._false_ok,
            false_ko=self._false_ko,
            errors=self._errors,
            frames=frames,
            stale_frames=stale_frames,
            latency_ms=Percentiles.of(self._path_ms),
            inference_ms=Percentiles.of(self._inference_ms),
            duration_s=round(duration_s, 3),
            marbles_per_s=round(self.marbles / duration_s, 2) if duration_s > 0 else 0.0,
        )
