"""A verdict is that of the marble's own frame, also when no frame came for longer than from one marble to the next."""

from __future__ import annotations

from gpiozero.pins.mock import MockFactory

from okko_edge.clock import SimulatedClock
from okko_edge.frame import Frame
from okko_edge.gates.simulated import SimulatedGate
from okko_edge.sorter import Outcome, Sorter
from okko_edge.triggers.beam import BeamTrigger
from okko_models.decision import Verdict
from tests.edge.fakes import photo
from tests.faults.test_black_frames import AlwaysGood


class Pin:
    """A beam that can be broken at any time of a simulated clock."""

    def __init__(self, clock):
        self.clock = clock
        self.trigger = BeamTrigger(17, clock=clock, debounce_s=0.005, pin_factory=MockFactory())

    def edge(self, at_s, *, broken):
        self.clock.sleep_until(at_s)
        self.trigger._changed(at_s, int(broken))


def sorted_by(clock, trigger):
    return Sorter(
        classifier=AlwaysGood(), trigger=trigger, gate=SimulatedGate(clock), clock=clock, two_verdict=Verdict.UNCERTAIN
    )


def test_a_marble_whose_frame_is_late_is_not_judged_by_the_frame_of_the_next():
    clock = SimulatedClock()
    pin = Pin(clock)
    sorter = sorted_by(clock, pin.trigger)
    pin.edge(1.0, broken=True)
    pin.edge(1.02, broken=False)
    clock.sleep_until(1.19)
    assert not sorter.tick()
    pin.edge(1.2, broken=True)  # the next marble; 2 ms later the beam is not sure of it yet
    clock.sleep_until(1.202)
    assert not sorter.see(Frame(photo(200, seed=0), 1.202, 0))
    clock.sleep_until(1.218)
    decisions = sorter.see(Frame(photo(200, seed=0), 1.218, 1))
    assert [decision.outcome for decision in decisions] == [Outcome.TWO, Outcome.TWO]
    assert [decision.verdict for decision in decisions] == [Verdict.UNCERTAIN, Verdict.UNCERTAIN]


def test_a_spike_in_the_beam_costs_a_waiting_marble_one_frame_and_not_its_verdict():
    clock = SimulatedClock()
    pin = Pin(clock)
    sorter = sorted_by(clock, pin.trigger)
    pin.edge(1.0, broken=True)
    pin.edge(1.02, broken=False)
    clock.sleep_until(1.1)
    sorter.tick()
    pin.edge(1.2, broken=True)
    pin.edge(1.201, broken=False)
    clock.sleep_until(1.203)
    assert not sorter.see(Frame(photo(200, seed=0), 1.203, 0))
    clock.sleep_until(1.22)
    (decision,) = sorter.see(Frame(photo(200, seed=0), 1.22, 1))
    assert decision.verdict is Verdict.OK
