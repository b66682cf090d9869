"""The agent and its sorter when things go wrong around them; what they do when all is well is in test_sorter."""

from __future__ import annotations

import gc
import math
import time
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from okko_edge.agent import Agent
from okko_edge.camera import CameraError, CameraTimeoutError, CorruptFrameError, Slot
from okko_edge.cameras.supervised import SupervisedCamera
from okko_edge.clock import MonotonicClock, SimulatedClock
from okko_edge.events import Counters, Event
from okko_edge.frame import Frame
from okko_edge.gate import GateError, NoGate, Position
from okko_edge.gates.simulated import SimulatedGate
from okko_edge.settings import CameraSettings
from okko_edge.simulator import Belt, SimulatedCamera, SimulatedConveyor
from okko_edge.sorter import Outcome, Sorter, verdict_of_two
from okko_edge.summary import Tally
from okko_edge.trigger import EveryFrame, MotionTrigger
from okko_models.classifier import Classification, Classifier
from okko_models.decision import Costs, DecisionRule, Verdict
from tests.edge.fakes import LABELS, photo

BRIGHT, DARK, GREY = photo(200, seed=0), photo(60, seed=1), photo(128, seed=2)
OK, KO, UNCERTAIN, REST = Position.OK, Position.KO, Position.UNCERTAIN, Position.REST


@pytest.fixture(scope="module")
def classifier(bundle):
    return Classifier(bundle)


class Says:
    """A classifier that says what it is told to, and takes its time."""

    def __init__(self, label="OK", *, ok=1.0, novelty=0.0, clock=None, takes_s=0.0):
        verdict = Verdict.OK if ok > 0.8 else Verdict.KO
        none = np.zeros(2, np.float32)
        self.said = Classification(verdict, label, none, ok, none, novelty)
        self.clock, self.takes_s = clock, takes_s

    def classify(self, image):
        if self.clock:
            self.clock.sleep_until(self.clock.now_s() + self.takes_s)
        return self.said


class Sensor:
    """A trigger that knows of marbles without frames: the times at which they come."""

    def __init__(self, *times):
        self.times = list(times)

    def see(self, frame):
        return self.poll(frame.captured_at_s)

    def poll(self, now_s):
        come = [at_s for at_s in self.times if at_s <= now_s]
        self.times = [at_s for at_s in self.times if at_s > now_s]
        return come

    def close(self):
        pass


class Script:
    """A camera that follows a script: frames (their time), exceptions, or None for the end; the clock goes with it."""

    def __init__(self, clock, *steps, image=BRIGHT):
        self.steps, self.clock, self.image = list(steps), clock, image
        self.asked_s = []

    def read(self, timeout_s=None):
        self.asked_s.append(timeout_s)
        if not self.steps:
            return None
        step = self.steps[0]
        if isinstance(step, float):
            if step > self.clock.now_s() + timeout_s:
                self.clock.sleep_until(self.clock.now_s() + timeout_s)
                raise CameraTimeoutError("none came in time")
            self.clock.sleep_until(step)
        self.steps.pop(0)
        if isinstance(step, Exception):
            raise step
        return None if step is None else Frame(self.image, step, len(self.asked_s))

    def close(self):
        pass


def make(classifier, *, clock=None, trigger=None, gate=None, counters=None, camera=None, tally=None, **settings):
    clock = clock or SimulatedClock()
    counters = counters or Counters()
    gate = gate or SimulatedGate(clock, counters=counters)
    sorting = {key: settings.pop(key) for key in list(settings) if key in SORTING}
    sorter = Sorter(
        classifier=classifier, trigger=trigger or EveryFrame(), gate=gate, clock=clock, counters=counters, **sorting
    )
    journal = []
    agent = Agent(
        camera=camera or Script(clock),
        sorter=sorter,
        tally=tally or Tally(LABELS, ["OK"]),
        journal=journal,
        labels=LABELS,
        clock=clock,
        **settings,
    )
    return agent, sorter, gate, counters, journal


SORTING = {"deadline_s", "empty_labels", "two_labels", "two_verdict", "stopwatch"}


def positions(gate):
    return [move.position for move in gate.moves]


# What lies there


def test_an_empty_slot_rests_the_gate_and_is_no_marble():
    agent, _, gate, counters, journal = make(Says("empty", ok=0.0), camera=None, empty_labels=["empty"])
    agent._camera = Script(agent._clock, 1.0, 2.0)
    summary = agent.run()
    assert positions(gate) == [REST], "it goes to rest, and stays"
    assert (summary.marbles, summary.empty_slots, summary.verdicts) == (0, 2, {"OK": 0, "KO": 0, "UNCERTAIN": 0})
    assert [entry.outcome for entry in journal] == ["empty", "empty"]
    assert counters[Event.EMPTY_SLOT] == 2


@pytest.mark.parametrize("ok", [1.0, 0.0])
def test_two_marbles_in_view_are_uncertain_whatever_the_model_thinks_of_them(ok):
    _, sorter, gate, counters, _ = make(Says("two", ok=ok), two_labels=["two"])
    (decision,) = sorter.see(Frame(BRIGHT, 1.0, 0))
    assert (decision.verdict, decision.outcome) == (Verdict.UNCERTAIN, Outcome.TWO)
    assert positions(gate) == [UNCERTAIN]
    assert counters[Event.TWO_MARBLES] == 1


def test_a_beam_that_was_broken_twice_before_the_frame_makes_both_marbles_uncertain():
    clock = SimulatedClock(1.0)
    gate = SimulatedGate(clock, travel_s=1.0)
    _, sorter, _, counters, _ = make(Says("OK"), clock=clock, gate=gate, trigger=Sensor(0.9, 0.95, 5.0))
    decisions = sorter.see(Frame(BRIGHT, 1.0, 0))
    assert [(decision.number, decision.verdict, decision.outcome) for decision in decisions] == [
        (1, Verdict.UNCERTAIN, Outcome.TWO),
        (2, Verdict.UNCERTAIN, Outcome.TWO),
    ]
    clock.sleep_until(3.0)
    assert [(move.position, round(move.at_s, 6)) for move in gate.moves] == [(UNCERTAIN, 1.9), (UNCERTAIN, 1.95)]
    assert counters[Event.TWO_MARBLES] == 2


def test_where_the_rule_knows_no_uncertain_two_marbles_are_ko():
    rule = DecisionRule(("OK",), 0.8, 0.2, Costs())
    assert verdict_of_two(rule) is Verdict.UNCERTAIN
    assert verdict_of_two(DecisionRule(("OK",), 0.5, 0.5, Costs())) is Verdict.KO
    _, sorter, gate, _, _ = make(Says("two"), two_labels=["two"], two_verdict=Verdict.KO)
    sorter.see(Frame(BRIGHT, 1.0, 0))
    assert positions(gate) == [KO]
    with pytest.raises(ValueError, match="two_verdict"):
        make(Says(), two_verdict=Verdict.OK)


def test_a_marble_unlike_any_in_training_is_counted():
    _, sorter, _, counters, _ = make(Says(novelty=1.5))
    sorter.see(Frame(BRIGHT, 1.0, 0))
    assert counters[Event.UNLIKE_TRAINING] == 1


# The order of trust


def test_an_error_of_the_model_is_counted():
    class Broken:
        def classify(self, image):
            raise RuntimeError("out of memory")

    _, sorter, gate, counters, _ = make(Broken())
    (decision,) = sorter.see(Frame(BRIGHT, 1.0, 0))
    assert (decision.verdict, positions(gate), counters[Event.INFERENCE_FAILED]) == (Verdict.KO, [KO], 1)
    said = Says(ok=math.nan)
    said.said = replace(said.said, verdict=Verdict.OK)
    _, sorter, gate, counters, _ = make(said)
    sorter.see(Frame(BRIGHT, 1.0, 0))
    assert (positions(gate), counters[Event.INFERENCE_FAILED]) == ([KO], 1)


def test_a_verdict_that_takes_longer_than_the_deadline_is_not_believed():
    clock = SimulatedClock(1.0)
    _, sorter, gate, counters, _ = make(Says("OK", clock=clock, takes_s=0.7), clock=clock, deadline_s=0.5)
    (decision,) = sorter.see(Frame(BRIGHT, 1.0, 0))
    assert decision.verdict is Verdict.KO
    assert "0.70 s after the marble" in decision.error
    assert positions(gate) == [KO]
    assert counters[Event.DEADLINE_MISSED] == 1


def test_a_marble_that_reaches_the_gate_while_the_model_still_thinks_is_on_the_safe_side():
    clock = SimulatedClock(1.0)
    counters = Counters()
    gate = SimulatedGate(clock, counters=counters, travel_s=0.2)
    gate.sort(OK, 0.5)
    _, sorter, _, _, _ = make(
        Says("OK", clock=clock, takes_s=0.3), clock=clock, gate=gate, counters=counters, deadline_s=1.0
    )
    (decision,) = sorter.see(Frame(BRIGHT, 1.0, 0))
    assert [(move.position, move.at_s) for move in gate.moves][-1] == (KO, 1.2)
    assert decision.verdict is Verdict.KO, "the decision says where the marble went"
    assert "reached the gate" in decision.error
    assert counters[Event.GATE_LATE] >= 1


def test_a_gate_that_fails_is_a_ko_and_an_error():
    class Stuck(NoGate):
        def sort(self, position, arrived_at_s):
            raise RuntimeError("a loose wire")

    _, sorter, _, counters, _ = make(Says(), gate=Stuck())
    (decision,) = sorter.see(Frame(BRIGHT, 1.0, 0))
    assert decision.verdict is Verdict.KO
    assert "a loose wire" in decision.error
    assert counters[Event.GATE_FAILED] == 1


def test_a_frame_that_comes_after_the_deadline_does_not_save_the_marble():
    clock = SimulatedClock(5.0)
    _, sorter, gate, counters, _ = make(Says(), clock=clock, trigger=Sensor(5.0), deadline_s=0.3)
    assert not sorter.tick()
    clock.sleep_until(5.4)
    (decision,) = sorter.see(Frame(BRIGHT, 5.35, 0))
    assert (decision.verdict, decision.frame) == (Verdict.KO, None)
    assert counters[Event.DEADLINE_MISSED] == 1
    assert positions(gate) == [KO]


def test_frames_before_a_marble_is_in_the_middle_are_neither_stale_nor_used():
    class Delayed(Sensor):
        def poll(self, now_s):
            come, self.times = self.times, []
            return come

    clock = SimulatedClock(1.0)
    _, sorter, _, counters, _ = make(Says(), clock=clock, trigger=Delayed(1.1))
    found = []
    for at_s in (1.0, 1.04, 1.08, 1.12):
        clock.sleep_until(at_s)
        found.append(len(sorter.see(Frame(BRIGHT, at_s, 0))))
    assert found == [0, 0, 0, 1]
    assert counters[Event.STALE_FRAME] == 0


# The camera


def test_marbles_that_wait_while_the_camera_stalls_go_to_ko_at_their_deadlines_with_no_frame_at_all():
    clock = SimulatedClock()
    camera = Script(clock, 0.0, 9.0, None)
    agent, _, _, counters, journal = make(
        Says(), clock=clock, camera=camera, trigger=Sensor(1.0, 1.3, 9.0), deadline_s=0.5
    )
    summary = agent.run()
    assert [(entry.verdict, round(entry.monotonic_s, 3)) for entry in journal] == [
        ("KO", pytest.approx(1.5, abs=0.06)),
        ("KO", pytest.approx(1.8, abs=0.06)),
        ("OK", 9.0),
    ]
    assert counters[Event.DEADLINE_MISSED] == 2
    assert summary.errors == 2
    assert agent.failure is None
    assert max(camera.asked_s) <= 0.25


def test_a_camera_that_is_late_by_an_hour_is_waited_for_and_the_watchdog_is_fed_meanwhile():
    clock = SimulatedClock()
    beats = []
    agent, _, _, _, journal = make(
        Says(), clock=clock, camera=Script(clock, 0.0, 3600.0, None), heartbeat=lambda: beats.append(clock.now_s())
    )
    assert agent.run().marbles == 2
    assert agent.failure is None
    assert len(journal) == 2
    assert max(np.diff(beats)) < 0.1


def test_a_supervised_camera_that_fails_and_comes_back_costs_no_marble_but_those_it_did_not_see():
    clock = MonotonicClock()
    opened = []

    class Failing:
        def __init__(self):
            opened.append(self)
            self.left = 3

        def read(self, timeout_s=None):
            if self.left == 0:
                raise CameraError("the cable is out")
            self.left -= 1
            time.sleep(0.02)
            return Frame(BRIGHT, clock.now_s(), 0)

        def close(self):
            pass

    counters = Counters()
    camera = SupervisedCamera(Failing, CameraSettings(stall_s=1.0), counters, clock, first_pause_s=0.01)
    agent, _, gate, _, journal = make(Says(), clock=clock, camera=camera, counters=counters)
    summary = agent.run(8)
    camera.close()
    gate.close()
    assert summary.verdicts["OK"] == len(journal) == 8
    assert len(opened) >= 3
    assert counters[Event.CAMERA_FAILED] >= 2


def test_a_camera_that_cannot_come_back_ends_the_run():
    clock = SimulatedClock()
    agent, *_ = make(Says(), clock=clock, camera=Script(clock, 0.0, CameraError("no photo can be read"), 1.0))
    assert agent.run().marbles == 1
    assert agent.failure == "no photo can be read"


def test_a_corrupt_frame_is_counted_and_the_next_one_serves():
    clock = SimulatedClock(1.0)
    agent, _, gate, counters, _ = make(
        Says(), clock=clock, camera=Script(clock, CorruptFrameError("half a picture"), 1.05), trigger=Sensor(1.0)
    )
    agent.run()
    assert positions(gate) == [OK]
    assert counters[Event.CORRUPT_FRAME] == 1


# Beside the path


def test_whoever_fails_to_listen_stops_nothing_and_is_counted():
    clock = SimulatedClock(1.0)
    heard = []

    def fail(_=None):
        raise RuntimeError("deaf")

    agent, _, _, counters, journal = make(
        Says(),
        clock=clock,
        camera=Script(clock, 1.0, 1.01, 1.02),
        listeners=[fail, lambda decision: heard.append(decision.number)],
        watchers=[fail],
        heartbeat=fail,
    )
    assert agent.run().marbles == 3
    assert heard == [1, 2, 3]
    assert len(journal) == 3
    assert counters[Event.LISTENER_FAILED] == 9


def test_the_gate_moves_before_anyone_hears_of_it():
    clock = SimulatedClock()
    seen = []
    agent, _, gate, _, _ = make(
        Says(), clock=clock, camera=Script(clock, 1.0, 2.0), listeners=[lambda _: seen.append(len(gate.moves))]
    )
    agent.run()
    assert seen == [1, 2]


def test_watchers_see_every_frame_and_the_heart_beats_with_each():
    clock = SimulatedClock()
    seen, beats = [], []
    agent, *_ = make(
        Says(),
        clock=clock,
        camera=Script(clock, 1.0, 1.01, 1.02),
        trigger=Sensor(),
        watchers=[lambda frame: seen.append(frame.captured_at_s)],
        heartbeat=lambda: beats.append(clock.now_s()),
    )
    agent.run()
    assert seen == [1.0, 1.01, 1.02]
    assert set(seen) <= set(beats)


def test_an_inference_that_hangs_starves_the_watchdog():
    clock = SimulatedClock(1.0)
    beats = []

    class Hanging:
        def classify(self, image):
            assert beats == []
            raise SystemExit

    agent, *_ = make(Hanging(), clock=clock, camera=Script(clock, 1.0), heartbeat=lambda: beats.append(1))
    with pytest.raises(SystemExit):
        agent.run()


# Pause


def test_a_pause_rests_the_gate_lets_marbles_pass_and_counts_them():
    clock = SimulatedClock()
    agent, _, gate, counters, journal = make(Says(), clock=clock, camera=Script(clock, 1.0, 2.0, 3.0, 4.0, 5.0))

    def pause_and_resume(frame):
        if frame.captured_at_s == 1.0:
            agent.pause()
        if frame.captured_at_s == 3.0:
            agent.resume()

    agent.watchers.append(pause_and_resume)
    agent.run()
    assert positions(gate) == [OK, REST, OK, OK]
    assert [entry.number for entry in journal] == [1, 2, 3]
    assert counters[Event.PAUSED_MARBLE] == 2
    assert not agent.paused


def test_while_paused_the_gate_can_be_tried():
    agent, sorter, gate, _, _ = make(Says())
    agent.pause()
    assert agent.paused
    sorter.see(Frame(BRIGHT, 1.0, 0))
    agent.test_gate(Verdict.UNCERTAIN)
    assert positions(gate) == [REST, UNCERTAIN]
    agent, *_ = make(Says(), gate=NoGate())
    with pytest.raises(GateError, match="no gate"):
        agent.test_gate(Verdict.OK)


def test_marbles_on_their_way_when_the_pause_begins_are_still_sorted():
    clock = SimulatedClock()
    gate = SimulatedGate(clock, travel_s=1.0)
    agent, sorter, _, _, _ = make(Says(), clock=clock, gate=gate)
    sorter.see(Frame(BRIGHT, 0.0, 0))
    agent.pause()
    sorter.tick()
    clock.sleep_until(5.0)
    assert [(move.position, move.at_s) for move in gate.moves] == [(OK, 1.0), (REST, 1.4)]


# A year


def test_sorting_on_and_on_takes_no_more_memory():
    clock = SimulatedClock()
    photos = [photo(200, seed=0, size=(32, 24)), photo(60, seed=1, size=(32, 24))]

    def slots():
        number = 0
        while True:
            number += 1
            yield Slot(photos[number % 2], "OK")

    camera = SimulatedCamera(SimulatedConveyor(slots(), Belt()), clock=clock, frames_per_s=15, noise_levels=0)
    gate = SimulatedGate(clock, travel_s=0.7, back_to_rest_s=0.2, keep=100)
    agent, *_ = make(Says(), clock=clock, camera=camera, trigger=MotionTrigger(), gate=gate)
    agent._journal = type("Forgetful", (), {"append": lambda self, entry: None})()
    agent.run(300)
    gc.collect()
    tracemalloc.start()
    agent.run(600)
    gc.collect()
    first, _ = tracemalloc.get_traced_memory()
    agent.run(1200)
    gc.collect()
    second, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert second - first < 20_000


def test_every_marble_has_one_verdict_and_one_move_when_many_are_on_the_way(classifier):
    clock = SimulatedClock()
    counters = Counters()
    random = np.random.default_rng(0)
    kinds = [(BRIGHT, "OK"), (DARK, "KO"), (GREY, "UNCERTAIN")]
    chosen = [kinds[random.choice(3)] for _ in range(300)]
    camera = SimulatedCamera(
        SimulatedConveyor(iter([Slot(image) for image, _ in chosen]), Belt.at(10)), clock=clock, frames_per_s=100
    )
    gate = SimulatedGate(clock, counters=counters, travel_s=0.95)
    agent, *_ = make(
        classifier, clock=clock, camera=camera, gate=gate, counters=counters, trigger=MotionTrigger(settle_s=0.02)
    )
    sorted_s = []
    agent.listeners.append(lambda decision: sorted_s.append(decision.frame.captured_at_s))
    agent.run()
    gate.close()
    moves = list(gate.moves)
    assert [move.position for move in moves[:300]] == [verdict for _, verdict in chosen]
    assert [move.at_s for move in moves[:300]] == pytest.approx([at_s + 0.95 for at_s in sorted_s])
    assert counters[Event.GATE_LATE] == counters[Event.GATE_FAILED] == 0


def test_a_stopped_agent_ends_even_if_no_frame_ever_comes():
    clock = SimulatedClock()

    class Silent:
        def read(self, timeout_s=None):
            clock.sleep_until(clock.now_s() + timeout_s)
            if clock.now_s() > 3:
                agent.stop()
            raise CameraTimeoutError("nothing")

    agent, *_ = make(Says(), clock=clock, camera=Silent())
    before = time.monotonic()
    assert agent.run().marbles == 0
    assert time.monotonic() - before < 10
    assert agent.stopped
