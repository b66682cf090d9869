"""Counts what a run decided, and how long that took; prints and stores nothing.

Timings are kept for the latest marbles only, so that a run of a year needs no more memory than its first minute.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from okko_edge.events import Event
from okko_edge.sorter import Outcome
from okko_models.decision import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

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
        empty_slots: decisions that there was no marble.
        two_marbles: decisions that there was more than one; they count as marbles.
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
        events: what was counted beside the verdicts, by the names of `Event`.
    """

    marbles: int
    verdicts: dict[str, int]
    empty_slots: int
    two_marbles: int
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
    events: dict[str, int]


class _Latest:
    """The latest times, in memory that is taken once."""

    def __init__(self) -> None:
        self._times: NDArray[np.float32] = np.zeros(KEPT_TIMINGS, dtype=np.float32)
        self._added = 0

    def add(self, time_ms: float) -> None:
        self._times[self._added % KEPT_TIMINGS] = time_ms
        self._added += 1

    def percentiles(self) -> Percentiles | None:
        return Percentiles.of(self._times[: min(self._added, KEPT_TIMINGS)])


class Tally:
    """Adds up decisions.

    Args:
        labels: the labels that the model knows; a truth that is none of them says nothing about its mistakes.
        ok_labels: those that count as good.
    """

    def __init__(self, labels: Iterable[str], ok_labels: Iterable[str]) -> None:
        self.change_labels(labels, ok_labels)
        self._verdicts: Counter[Verdict] = Counter()
        self._outcomes: Counter[Outcome] = Counter()
        self._with_truth = self._false_ok = self._false_ko = self._errors = 0
        self._path_ms = _Latest()
        self._inference_ms = _Latest()

    def change_labels(self, labels: Iterable[str], ok_labels: Iterable[str]) -> None:
        """From now on these are the labels that the model knows, and those that count as good."""
        self._labels = frozenset(labels)
        self._ok_labels = frozenset(ok_labels)

    @property
    def decisions(self) -> int:
        """How many were added."""
        return self._outcomes.total()

    def add(self, decision: Decision) -> None:
        """Counts one decision."""
        self._outcomes[decision.outcome] += 1
        if decision.outcome is not Outcome.EMPTY:
            self._verdicts[decision.verdict] += 1
        self._errors += decision.error is not None
        self._path_ms.add(decision.path_ms)
        if decision.classification is not None:
            self._inference_ms.add(decision.inference_ms)
        truly_ok = self.truly_ok(decision)
        if truly_ok is not None:
            self._with_truth += 1
            self._false_ok += decision.verdict is Verdict.OK and not truly_ok
            self._false_ko += decision.verdict is Verdict.KO and truly_ok

    def truly_ok(self, decision: Decision) -> bool | None:
        """Whether the marble is known to be good or bad; None when it is not known."""
        truth = decision.frame.truth if decision.frame else None
        return truth in self._ok_labels if truth in self._labels else None

    def summary(self, *, frames: int, duration_s: float, events: Mapping[str, int]) -> Summary:
        """Returns the sums, with what others counted."""
        marbles = self._verdicts.total()
        return Summary(
            marbles=marbles,
            verdicts={verdict.value: self._verdicts[verdict] for verdict in Verdict},
            empty_slots=self._outcomes[Outcome.EMPTY],
            two_marbles=self._outcomes[Outcome.TWO],
            with_truth=self._with_truth,
            false_ok=self._false_ok,
            false_ko=self._false_ko,
            errors=self._errors,
            frames=frames,
            stale_frames=events[Event.STALE_FRAME],
            latency_ms=self._path_ms.percentiles(),
            inference_ms=self._inference_ms.percentiles(),
            duration_s=round(duration_s, 3),
            marbles_per_s=round(marbles / duration_s, 2) if duration_s > 0 else 0.0,
            events=dict(events),
        )
