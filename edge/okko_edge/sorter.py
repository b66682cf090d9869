"""The sorting path: a frame comes in, a gate command goes out, exactly one for each marble.

Whatever goes wrong with a marble (the model fails, no fresh frame comes), it goes to KO, the safe side, and the
decision says why. Nothing here waits, opens a file or talks to a network; camera, clock and gate are arguments.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from okko_models.decision import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from okko_edge.clock import Clock
    from okko_edge.frame import Frame
    from okko_edge.gate import Gate
    from okko_edge.trigger import Trigger
    from okko_models.classifier import Classification


class Classifies(Protocol):
    """What the sorter asks of a classifier; `okko_models.classifier.Classifier` is one."""

    def classify(self, image: NDArray[np.uint8], /) -> Classification:
        """Classifies an image (height, width, 3) uint8 RGB."""


@dataclass(frozen=True, slots=True, eq=False)
class Decision:
    """What was decided about one marble.

    Attributes:
        number: counts the marbles of a run from 1.
        verdict: where the gate was sent.
        frame: what was classified; None when no fresh frame came.
        classification: what the model said; None when it failed or had nothing to look at.
        error: what went wrong, None when nothing did.
        decided_at_s: time of the gate command, seconds on the monotonic clock.
        inference_ms: time in the classifier.
        path_ms: time from the frame in hand to the gate command.
    """

    number: int
    verdict: Verdict
    frame: Frame | None
    classification: Classification | None
    error: str | None
    decided_at_s: float
    inference_ms: float
    path_ms: float


class Sorter:
    """Takes every frame of a camera, and sends the gate somewhere once for each marble.

    A frame is stale when it is no newer than the one before, or was taken before the marble arrived: camera queues
    hand out both. A stale frame is counted in `stale_frames` and never classified; when no other comes within
    `deadline_s` of the arrival, the marble goes to KO unseen.

    Args:
        classifier: says what a frame shows.
        trigger: says when a marble has arrived.
        gate: goes to the verdict's position.
        clock: the monotonic clock that frames are stamped with.
        deadline_s: how long to wait for a fresh frame.
        stopwatch: seconds in real time, for the timings.

    Raises:
        ValueError: deadline_s is not positive.
    """

    def __init__(
        self,
        *,
        classifier: Classifies,
        trigger: Trigger,
        gate: Gate,
        clock: Clock,
        deadline_s: float = 0.5,
        stopwatch: Callable[[], float] = time.perf_counter,
    ) -> None:
        if not deadline_s > 0:
            raise ValueError(f"deadline_s must be positive, not {deadline_s}")
        self.stale_frames = 0
        self._classifier = classifier
        self._trigger = trigger
        self._gate = gate
        self._clock = clock
        self._deadline_s = deadline_s
        self._stopwatch = stopwatch
        self._sorted = 0
        self._newest_s = -math.inf
        self._arrived_at_s: float | None = None

    def see(self, frame: Frame) -> Decision | None:
        """Takes the next frame; returns the decision if this frame led to one."""
        in_hand = self._stopwatch()
        if frame.captured_at_s <= self._newest_s:
            return self._refuse()
        self._newest_s = frame.captured_at_s
        if self._arrived_at_s is None:
            self._arrived_at_s = self._trigger.see(frame)
            if self._arrived_at_s is None:
                return None
        if frame.captured_at_s < self._arrived_at_s:
            return self._refuse()
        return self._decide(frame, in_hand)

    def give_up(self) -> Decision | None:
        """Sends a marble that still waits for a frame to KO; to be called when no more frames will come."""
        return None if self._arrived_at_s is None else self._decide(None, self._stopwatch())

    def _refuse(self) -> Decision | None:
        self.stale_frames += 1
        if self._arrived_at_s is None or self._clock.now_s() - self._arrived_at_s < self._deadline_s:
            return None
        return self.give_up()

    def _decide(self, frame: Frame | None, in_hand: float) -> Decision:
        self._arrived_at_s = None
        self._sorted += 1
        verdict, classification, error = Verdict.KO, None, None
        before = after = self._stopwatch()
        if frame is None:
            error = "no frame was taken after the marble arrived"
        else:
            try:
                classification = self._classifier.classify(frame.image)
            except Exception as failure:  # whatever it is, the marble is there and must go somewhere
                error = f"classification failed: {type(failure).__name__}: {failure}"
            after = self._stopwatch()
        if classification is not None:
            if math.isfinite(classification.probability_of_ok):
                verdict = classification.verdict
            else:
                error = "classification failed: the model's probability is not a number"
        try:
            self._gate.sort(verdict)
        except Exception as failure:  # the next marble comes all the same
            error = "; ".join(filter(None, (error, f"gate did not move: {type(failure).__name__}: {failure}")))
        done = self._stopwatch()
        return Decision(
            self._sorted,
            verdict,
            frame,
            classification,
            error,
            self._clock.now_s(),
            (after - before) * 1000,
            (done - in_hand) * 1000,
        )
