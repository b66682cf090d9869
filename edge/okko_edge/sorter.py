"""The sorting path: a frame comes in, a gate command goes out, exactly one for each marble.

Whatever goes wrong with a marble (the model fails, no fresh frame comes, time is up), it goes to KO, the safe side, and
the decision says why. Nothing here waits, opens a file or talks to a network; camera, clock and gate are arguments.
"""

from __future__ import annotations

import enum
import math
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from okko_edge.events import Counters, Event
from okko_edge.gate import GateError, Position
from okko_models.decision import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from okko_edge.clock import Clock
    from okko_edge.frame import Frame
    from okko_edge.gate import Gate
    from okko_edge.trigger import Trigger
    from okko_models.bundle import Bundle
    from okko_models.classifier import Classification
    from okko_models.decision import DecisionRule


# A frame with fewer pixels than this share above this grey level shows nothing: the lamp is off, or the lens covered.
# What a model says about one is chance, and can be OK.
_DARK_LEVEL, _LIGHT_SHARE = 16, 0.01
# Every eighth pixel of every eighth row tells as much as all.
_EVERY = 8


class Classifies(Protocol):
    """What the sorter asks of a classifier; `okko_models.classifier.Classifier` is one."""

    def classify(self, image: NDArray[np.uint8], /) -> Classification:
        """Classifies an image (height, width, 3) uint8 RGB."""


class Outcome(enum.StrEnum):
    """What was in view: one marble, nothing, or more than one."""

    MARBLE = "marble"
    EMPTY = "empty"
    TWO = "two"


@dataclass(frozen=True, slots=True)
class Judge:
    """Which model decides, and what must be known of it to understand what it says.

    Attributes:
        digest: names its bundle.
        labels: what its probabilities are of, in their order.
        rule: its decision rule.
    """

    digest: str
    labels: tuple[str, ...]
    rule: DecisionRule

    @classmethod
    def of(cls, bundle: Bundle) -> Judge:
        """Returns what there is to know of a bundle's model."""
        return cls(bundle.digest, bundle.manifest.labels, bundle.manifest.decision)


@dataclass(frozen=True, slots=True, eq=False)
class Decision:
    """What was decided about one marble.

    Attributes:
        number: counts the decisions of a run from 1.
        verdict: where the gate was sent; of an empty slot KO, as of all that is not known to be good.
        frame: what was classified; None when no fresh frame came.
        classification: what the model said; None when it failed or had nothing to look at.
        error: what went wrong, None when nothing did.
        decided_at_s: time of the gate command, seconds on the monotonic clock.
        inference_ms: time in the classifier.
        path_ms: time from the frame in hand to the gate command.
        outcome: what was in view; the gate rests for an empty slot, and nothing was sorted.
        judge: which model was in service; None if the sorter was not told.
        late: whether the verdict came too late, and the model took most of the time since the marble had come.
    """

    number: int
    verdict: Verdict
    frame: Frame | None
    classification: Classification | None
    error: str | None
    decided_at_s: float
    inference_ms: float
    path_ms: float
    outcome: Outcome = Outcome.MARBLE
    judge: Judge | None = None
    late: bool = False


def is_black(image: NDArray[np.uint8]) -> bool:
    """Whether an image (height, width, 3) uint8 shows nothing but darkness and its noise."""
    sample = image[::_EVERY, ::_EVERY]
    light: int = (sample > _DARK_LEVEL).sum()
    return light < _LIGHT_SHARE * sample.size


def verdict_of_two(rule: DecisionRule) -> Verdict:
    """Where two marbles go that cannot be told apart: UNCERTAIN, or KO if the rule has no UNCERTAIN."""
    return Verdict.UNCERTAIN if rule.ko_threshold < rule.ok_threshold else Verdict.KO


class Sorter:
    """Takes every frame of a camera, and sends the gate somewhere once for each marble.

    A frame is stale when it is no newer than the one before, or was taken before the marble arrived: camera queues
    hand out both. A stale frame is counted and never classified. Nor is one that may show a further marble, of which
    the trigger is not sure yet (its optional method `doubtful_s` says since when): the marble before would be judged by
    it. A marble whose fresh frame has not come, or whose verdict is not there, within `deadline_s` of its arrival goes
    to KO.

    Args:
        classifier: says what a frame shows.
        trigger: says when a marble has arrived.
        gate: goes to the verdict's position.
        clock: the monotonic clock that frames are stamped with.
        deadline_s: how long a marble waits for its verdict.
        empty_labels: most probable labels that mean an empty slot.
        two_labels: most probable labels that mean several marbles.
        two_verdict: where several marbles go; see `verdict_of_two`.
        judge: which model the classifier is; every decision carries it.
        counters: count what happens beside the verdicts.
        stopwatch: seconds in real time, for the timings.

    Raises:
        ValueError: deadline_s is not positive, or several marbles would be OK.
    """

    def __init__(
        self,
        *,
        classifier: Classifies,
        trigger: Trigger,
        gate: Gate,
        clock: Clock,
        deadline_s: float = 0.5,
        empty_labels: Collection[str] = (),
        two_labels: Collection[str] = (),
        two_verdict: Verdict = Verdict.UNCERTAIN,
        judge: Judge | None = None,
        counters: Counters | None = None,
        stopwatch: Callable[[], float] = time.perf_counter,
    ) -> None:
        if not deadline_s > 0:
            raise ValueError(f"deadline_s must be positive, not {deadline_s}")
        if two_verdict is Verdict.OK:
            raise ValueError("two_verdict must be UNCERTAIN or KO: one of two marbles may be bad")
        self.counters = counters or Counters()
        self._classifier = classifier
        self._trigger = trigger
        # A sensor that needs a moment to be sure may know of a marble that it does not tell of yet.
        self._doubtful_s: Callable[[], float] = getattr(trigger, "doubtful_s", lambda: math.inf)
        self.gate = gate
        self._clock = clock
        self._deadline_s = deadline_s
        self._empty_labels = frozenset(empty_labels)
        self._two_labels = frozenset(two_labels)
        self._two_verdict: Verdict = two_verdict
        self._judging = judge
        self._stopwatch = stopwatch
        self._decided = 0
        self._newest_s = -math.inf
        self._waiting: deque[float] = deque()
        self._paused = self._rests = False

    def change_model(self, classifier: Classifies, judge: Judge) -> Classifies:
        """Lets another model decide from the next frame on; returns the one before. For the sorting thread only."""
        before = self._classifier
        self._classifier, self._judging, self._two_verdict = classifier, judge, verdict_of_two(judge.rule)
        return before

    @property
    def paused(self) -> bool:
        """Whether arriving marbles are let pass unsorted."""
        return self._paused

    @paused.setter
    def paused(self, paused: bool) -> None:
        """May be set by any thread; the gate rests from the next frame on."""
        self._paused = paused

    @property
    def deadline_s(self) -> float | None:
        """When the first marble that waits for a frame goes to KO, on the monotonic clock; None if none waits."""
        return self._waiting[0] + self._deadline_s if self._waiting else None

    def see(self, frame: Frame) -> Sequence[Decision]:
        """Takes the next frame; returns the decisions that it led to, one a marble, most often none."""
        in_hand = self._stopwatch()
        if frame.captured_at_s <= self._newest_s:
            self.counters.add(Event.STALE_FRAME)
            return self.tick()
        self._newest_s = frame.captured_at_s
        self._welcome(self._trigger.see(frame))
        if not self._waiting:
            return ()
        now_s = self._clock.now_s()
        decisions = self._expire(now_s)
        due = 0
        for arrived_s in self._waiting:
            due += arrived_s <= frame.captured_at_s
        if due and self._doubtful_s() <= frame.captured_at_s:
            return decisions  # it may show another marble than those that wait; the next frame comes soon
        if due:
            decisions += self._sort([self._waiting.popleft() for _ in range(due)], frame, in_hand)
        elif self._waiting and self._waiting[0] <= now_s:
            self.counters.add(Event.STALE_FRAME)
        return decisions

    def tick(self) -> Sequence[Decision]:
        """Asks the trigger and the clock when there is no frame; marbles whose time is up go to KO."""
        now_s = self._clock.now_s()
        self._welcome(self._trigger.poll(now_s))
        return self._expire(now_s)

    def give_up(self) -> Sequence[Decision]:
        """Sends all marbles that still wait for a frame to KO; to be called when no more frames will come."""
        self._welcome(self._trigger.poll(self._clock.now_s()))
        return [self._lose() for _ in range(len(self._waiting))]

    def _welcome(self, arrivals: Sequence[float]) -> None:
        if self._paused != self._rests:
            self._rests = self._paused
            if self._rests:
                self._command(self.gate.rest)
        for arrived_s in arrivals:
            if self._paused:
                self.counters.add(Event.PAUSED_MARBLE)
                continue
            self._waiting.append(arrived_s)
            self._command(lambda: self.gate.expect(arrived_s))  # noqa: B023 (called at once)

    def _expire(self, now_s: float) -> list[Decision]:
        decisions = []
        while self._waiting and now_s - self._waiting[0] >= self._deadline_s:
            self.counters.add(Event.DEADLINE_MISSED)
            decisions.append(self._lose())
        return decisions

    def _lose(self) -> Decision:
        """Decides about the first marble that waits, which nobody has seen."""
        in_hand = self._stopwatch()
        error = "no frame was taken after the marble arrived"
        return self._send(self._waiting.popleft(), Verdict.KO, Outcome.MARBLE, None, None, error, 0.0, in_hand)

    def _sort(self, arrivals: Sequence[float], frame: Frame, in_hand: float) -> list[Decision]:
        """Decides about the marbles that one frame shows."""
        classification, error, inference_ms = None, None, 0.0
        if is_black(frame.image):
            error = "the frame is black; is the lamp on, and the lens free?"
            self.counters.add(Event.BLACK_FRAME)
        else:
            classification, error, inference_ms = self._classify(frame)
        decisions = []
        for arrived_s in arrivals:
            verdict, outcome = Verdict.KO, Outcome.MARBLE
            said, late = error, False
            if said is None and self._clock.now_s() - arrived_s >= self._deadline_s:
                said = f"the verdict came {self._clock.now_s() - arrived_s:.2f} s after the marble"
                self.counters.add(Event.DEADLINE_MISSED)
                late = True
            elif said is None and classification is not None:
                verdict, outcome = self._judge(classification, len(arrivals))
            decisions.append(
                self._send(arrived_s, verdict, outcome, frame, classification, said, inference_ms, in_hand, late=late)
            )
        return decisions

    def _classify(self, frame: Frame) -> tuple[Classification | None, str | None, float]:
        """Asks the model; returns what it says, what went wrong, and the milliseconds that it took."""
        classification, error = None, None
        before = self._stopwatch()
        try:
            classification = self._classifier.classify(frame.image)
        except Exception as failure:  # whatever it is, the marble is there and must go somewhere
            error = f"classification failed: {type(failure).__name__}: {failure}"
        inference_ms = (self._stopwatch() - before) * 1000
        if classification is not None and not math.isfinite(classification.probability_of_ok):
            error = "classification failed: the model's probability is not a number"
        if error is not None:
            self.counters.add(Event.INFERENCE_FAILED)
        elif classification is not None and classification.novelty > 1:
            self.counters.add(Event.UNLIKE_TRAINING)
        return classification, error, inference_ms

    def _judge(self, said: Classification, marbles: int) -> tuple[Verdict, Outcome]:
        if marbles > 1 or said.label in self._two_labels:
            self.counters.add(Event.TWO_MARBLES)
            return self._two_verdict, Outcome.TWO
        if said.label in self._empty_labels:
            self.counters.add(Event.EMPTY_SLOT)
            return Verdict.KO, Outcome.EMPTY
        return said.verdict, Outcome.MARBLE

    def _send(
        self,
        arrived_s: float,
        verdict: Verdict,
        outcome: Outcome,
        frame: Frame | None,
        classification: Classification | None,
        error: str | None,
        inference_ms: float,
        in_hand: float,
        *,
        late: bool = False,
    ) -> Decision:
        """Commands the gate, and only then writes down what was decided."""
        position = Position.REST if outcome is Outcome.EMPTY else Position.of(verdict)
        try:
            in_time = self.gate.sort(position, arrived_s)
        except Exception as failure:  # the next marble comes all the same
            if not isinstance(failure, GateError):  # the gate counts what it knows of
                self.counters.add(Event.GATE_FAILED)
            moved = f"gate did not move: {type(failure).__name__}: {failure}"
            error, verdict = "; ".join(filter(None, (error, moved))), Verdict.KO
        else:
            if not in_time:
                missed = "the verdict came when the marble had reached the gate"
                error, verdict = "; ".join(filter(None, (error, missed))), Verdict.KO
                late = True
        done = self._stopwatch()
        self._decided += 1
        path_ms = (done - in_hand) * 1000
        now_s = self._clock.now_s()
        slow = classification is not None and 2 * inference_ms / 1000 >= now_s - arrived_s
        return Decision(
            self._decided,
            verdict,
            frame,
            classification,
            error,
            now_s,
            inference_ms,
            path_ms,
            outcome,
            self._judging,
            late and slow,
        )

    def _command(self, command: Callable[[], None]) -> None:
        """Gives the gate an order that belongs to no decision; it counts its own failures."""
        try:
            command()
        except Exception:  # the marble's own command will fail too, and says so
            return
