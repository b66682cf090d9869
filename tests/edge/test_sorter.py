from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from okko_edge.agent import Agent
from okko_edge.camera import CameraError, Slot
from okko_edge.clock import SimulatedClock
from okko_edge.events import Event
from okko_edge.frame import Frame
from okko_edge.gate import GateError, Position
from okko_edge.gates.simulated import SimulatedGate
from okko_edge.simulator import Belt, SimulatedCamera, SimulatedConveyor
from okko_edge.sorter import Sorter
from okko_edge.summary import Tally
from okko_edge.trigger import EveryFrame, MotionTrigger
from okko_models.classifier import Classifier
from okko_models.decision import Verdict
from tests.edge.fakes import LABELS, photo

BRIGHT, DARK, GREY = photo(200, seed=0), photo(60, seed=1), photo(128, seed=2)


class Arrival:
    """A sensor that reports an arrival at a set time, with the first frame that comes after it in the queue."""

    def __init__(self, at_s):
        self.at_s = at_s

    def see(self, frame):
        return self.poll(frame.captured_at_s)

    def poll(self, now_s):
        at_s, self.at_s = self.at_s, None
        return () if at_s is None else (at_s,)


class Remembering:
    """A journal that keeps its entries in memory."""

    def __init__(self):
        self.entries = []

    def append(self, entry):
        self.entries.append(entry)


class Broken:
    """A classifier that fails on dark photos."""

    def __init__(self, classifier):
        self._classifier = classifier

    def classify(self, image):
        if image.mean() < 100:
            raise RuntimeError("out of memory")
        return self._classifier.classify(image)


@pytest.fixture(scope="module")
def classifier(bundle):
    return Classifier(bundle)


def make_sorter(classifier, *, trigger=None, clock=None, **settings):
    clock = clock or SimulatedClock()
    gate = settings.pop("gate", None) or SimulatedGate(clock)
    return Sorter(classifier=classifier, trigger=trigger or EveryFrame(), gate=gate, clock=clock, **settings), gate


def run_agent(classifier, slots, *, journal=None, gate=None, camera=None):
    clock = SimulatedClock(100.0, 1.7e9)
    camera = camera or SimulatedCamera(SimulatedConveyor(iter(slots), Belt()), clock=clock)
    sorter, gate = make_sorter(classifier, trigger=MotionTrigger(), clock=clock, gate=gate)
    journal = journal or Remembering()
    agent = Agent(
        camera=camera, sorter=sorter, tally=Tally(LABELS, ["OK"]), journal=journal, labels=LABELS, clock=clock
    )
    return agent, agent.run(), journal.entries, gate


def test_a_thousand_marbles_get_exactly_one_verdict_each_in_order(classifier):
    random = np.random.default_rng(3)
    slots, expected = [], []
    for number in range(1000):
        image, truth, verdict = [(BRIGHT, "OK", "OK"), (DARK, "KO", "KO"), (GREY, None, "UNCERTAIN")][random.choice(3)]
        slots.append(Slot(image, truth, f"{number}.png"))
        expected.append((number + 1, f"{number}.png", verdict))
    _, summary, entries, gate = run_agent(classifier, slots)
    assert [(entry.number, entry.photo, entry.verdict) for entry in entries] == expected
    assert [move.position for move in gate.moves] == [verdict for _, _, verdict in expected]
    assert summary.marbles == 1000
    assert summary.false_ok == summary.false_ko == summary.errors == summary.stale_frames == 0
    assert summary.with_truth == sum(slot.truth is not None for slot in slots)


@pytest.mark.parametrize(("image", "verdict"), [(BRIGHT, "OK"), (DARK, "KO"), (GREY, "UNCERTAIN")])
def test_the_gate_goes_where_the_verdict_says(classifier, image, verdict):
    sorter, gate = make_sorter(classifier)
    (decision,) = sorter.see(Frame(image, 1.0, 0))
    assert decision.verdict == verdict
    assert [(move.position, move.pulse_us) for move in gate.moves] == [
        (verdict, gate.servo.widths.of(Position(verdict)))
    ]


def test_a_marble_whose_classification_fails_goes_to_the_safe_side_and_is_counted(classifier):
    slots = [Slot(image, "OK", str(n)) for n, image in enumerate([BRIGHT, DARK, BRIGHT])]
    _, summary, entries, gate = run_agent(Broken(classifier), slots)
    assert [entry.verdict for entry in entries] == ["OK", "KO", "OK"]
    assert [entry.error for entry in entries] == [None, "classification failed: RuntimeError: out of memory", None]
    assert entries[1].probability is None
    assert entries[1].frame_digest
    assert (summary.errors, summary.false_ko) == (1, 1)
    assert len(gate.moves) == 3


def test_a_probability_that_is_not_a_number_goes_to_the_safe_side(classifier):
    class Confused:
        def classify(self, image):
            return replace(classifier.classify(image), probability_of_ok=math.nan, verdict=Verdict.OK)

    sorter, gate = make_sorter(Confused())
    (decision,) = sorter.see(Frame(BRIGHT, 1.0, 0))
    assert decision.verdict is Verdict.KO
    assert "not a number" in decision.error
    assert gate.moves[0].position is Position.KO


def test_a_gate_that_does_not_move_stops_nothing(classifier):
    class Stuck(SimulatedGate):
        def sort(self, position, arrived_at_s):
            super().sort(position, arrived_at_s)
            if len(self.moves) == 1:
                raise GateError("no pulse")
            return True

    gate = Stuck(SimulatedClock())
    _, summary, entries, _ = run_agent(classifier, [Slot(BRIGHT), Slot(DARK)], gate=gate)
    assert [entry.error for entry in entries] == ["gate did not move: GateError: no pulse", None]
    assert (summary.marbles, summary.errors) == (2, 1)


def test_frames_taken_before_the_marble_arrived_are_refused_and_counted(classifier):
    sorter, gate = make_sorter(classifier, trigger=Arrival(5.0), clock=SimulatedClock(5.0))
    queued = [Frame(BRIGHT, 4.8, 0), Frame(BRIGHT, 4.9, 1), Frame(DARK, 5.02, 2)]
    decisions = [sorter.see(frame) for frame in queued]
    assert [len(found) for found in decisions] == [0, 0, 1]
    assert decisions[2][0].verdict is Verdict.KO
    assert decisions[2][0].frame.sequence == 2
    assert sorter.counters[Event.STALE_FRAME] == 2
    assert len(gate.moves) == 1


def test_a_frame_that_is_handed_out_twice_is_one_marble(classifier):
    sorter, _ = make_sorter(classifier)
    frame = Frame(BRIGHT, 1.0, 0)
    assert len(sorter.see(frame)) == 1
    assert not sorter.see(frame)
    assert not sorter.see(Frame(BRIGHT, 0.5, 1))
    assert sorter.counters[Event.STALE_FRAME] == 2


def test_a_marble_with_no_fresh_frame_goes_to_the_safe_side_when_time_is_up(classifier):
    clock = SimulatedClock(5.0)
    sorter, gate = make_sorter(classifier, trigger=Arrival(5.0), clock=clock, deadline_s=0.3)
    assert not sorter.see(Frame(BRIGHT, 4.5, 0))
    clock.sleep_until(5.2)
    assert not sorter.see(Frame(BRIGHT, 4.6, 1))
    clock.sleep_until(5.31)
    (decision,) = sorter.see(Frame(BRIGHT, 4.7, 2))
    assert decision.verdict is Verdict.KO
    assert decision.error == "no frame was taken after the marble arrived"
    assert decision.frame is None
    assert [move.position for move in gate.moves] == [Position.KO]


def test_a_marble_that_waits_when_the_camera_fails_goes_to_the_safe_side(classifier):
    class Failing:
        def __init__(self):
            self.frames = [Frame(BRIGHT, 4.0, 0)]

        def read(self, timeout_s=None):
            if self.frames:
                return self.frames.pop()
            raise CameraError("the cable is out")

    clock = SimulatedClock(5.0)
    sorter, _ = make_sorter(classifier, trigger=Arrival(5.0), clock=clock)
    journal = Remembering()
    agent = Agent(
        camera=Failing(), sorter=sorter, tally=Tally(LABELS, ["OK"]), journal=journal, labels=LABELS, clock=clock
    )
    summary = agent.run()
    assert agent.failure == "the cable is out"
    assert summary.verdicts == {"OK": 0, "KO": 1, "UNCERTAIN": 0}
    assert journal.entries[0].frame_digest is None


def test_timings_are_real_even_if_time_is_simulated(classifier):
    ticks = iter(range(100))
    sorter, _ = make_sorter(classifier, stopwatch=lambda: next(ticks) / 1000)
    (decision,) = sorter.see(Frame(BRIGHT, 1.0, 0))
    assert decision.inference_ms == pytest.approx(1)
    assert decision.path_ms == pytest.approx(3)
    assert decision.decided_at_s == 0.0


def test_a_stopped_agent_ends_after_the_marble_in_hand(classifier):
    clock = SimulatedClock()
    camera = SimulatedCamera(SimulatedConveyor(iter([Slot(BRIGHT)] * 10), Belt()), clock=clock)
    sorter, gate = make_sorter(classifier, trigger=MotionTrigger(), clock=clock)
    agent = Agent(
        camera=camera,
        sorter=sorter,
        tally=Tally(LABELS, ["OK"]),
        journal=Remembering(),
        labels=LABELS,
        clock=clock,
        listeners=[lambda decision: agent.stop() if decision.number == 3 else None],
    )
    assert agent.run().marbles == 3
    assert len(gate.moves) == 3


def test_a_marble_that_waits_when_the_agent_is_stopped_goes_to_the_safe_side(classifier):
    clock = SimulatedClock(5.0)
    sorter, gate = make_sorter(classifier, trigger=Arrival(5.0), clock=clock)

    class Stopping:
        def read(self, timeout_s=None):
            agent.stop()
            return Frame(BRIGHT, 4.0, 0)

    agent = Agent(
        camera=Stopping(), sorter=sorter, tally=Tally(LABELS, ["OK"]), journal=Remembering(), labels=LABELS, clock=clock
    )
    assert agent.run().verdicts["KO"] == 1
    assert [move.position for move in gate.moves] == [Position.KO]


def test_mistakes_are_counted_by_the_side_they_fall_on(classifier):
    slots = [Slot(BRIGHT, "KO"), Slot(BRIGHT, "KO"), Slot(DARK, "OK"), Slot(GREY, "OK"), Slot(BRIGHT, "a mystery")]
    _, summary, _, _ = run_agent(classifier, slots)
    assert (summary.false_ok, summary.false_ko, summary.with_truth) == (2, 1, 4)
    assert summary.verdicts == {"OK": 3, "KO": 1, "UNCERTAIN": 1}


def test_a_deadline_of_zero_is_refused(classifier):
    with pytest.raises(ValueError, match="deadline_s"):
        make_sorter(classifier, deadline_s=0)
