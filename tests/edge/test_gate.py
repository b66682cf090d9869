from __future__ import annotations

import threading
import time

import pytest

from okko_edge.clock import MonotonicClock, SimulatedClock
from okko_edge.events import Counters, Event
from okko_edge.gate import GateChoice, GateError, NoGate, Position
from okko_edge.gates.opening import open_gate, why_not_available
from okko_edge.gates.scheduled import MOST_ON_THE_WAY, ScheduledGate
from okko_edge.gates.servo import PulseWidths
from okko_edge.gates.simulated import SimulatedGate
from okko_edge.settings import GateSettings
from okko_models.decision import Verdict

OK, KO, UNCERTAIN, REST = Position.OK, Position.KO, Position.UNCERTAIN, Position.REST


class Recording:
    """An actuator that writes down what it was told, and fails on demand."""

    hold_s = 0.4
    park = KO

    def __init__(self, clock):
        self.told = []
        self.broken = set()
        self._clock = clock

    def go(self, position):
        if position in self.broken:
            raise OSError(f"no pulse for {position}")
        self.told.append((position.value, round(self._clock.now_s(), 6)))

    def release(self):
        self.told.append(("release", round(self._clock.now_s(), 6)))

    def close(self):
        self.told.append(("close", round(self._clock.now_s(), 6)))


def make_gate(*, now_s=0.0, **times):
    clock = SimulatedClock(now_s)
    actuator = Recording(clock)
    gate = ScheduledGate(actuator, clock=clock, counters=Counters(), **times)
    return gate, actuator, clock, gate._counters


def moves(actuator):
    return [step for step in actuator.told if step[0] not in {"release", "close"}]


@pytest.mark.parametrize(
    ("text", "choice"),
    [("servo:18", GateChoice("servo", 18)), ("relay:0", GateChoice("relay", 0)), ("sim", GateChoice("sim"))],
)
def test_a_gate_is_named_by_its_kind_and_its_pin(text, choice):
    assert GateChoice.parse(text) == choice
    assert str(choice) == text


@pytest.mark.parametrize(
    "text", ["", "servo", "servo:", "servo:28", "servo:-1", "servo:18x", "sim:1", "arm:3", "relay:1٣"]
)
def test_what_is_no_gate_is_refused_with_what_was_expected(text):
    with pytest.raises(ValueError, match="expected"):
        GateChoice.parse(text)


def test_every_verdict_has_a_position():
    assert [Position.of(verdict) for verdict in Verdict] == [OK, KO, UNCERTAIN]


def test_a_simulated_gate_remembers_where_it_went_and_when():
    clock = SimulatedClock(2.0)
    gate = SimulatedGate(clock, PulseWidths(ok_us=1900, ko_us=1100, uncertain_us=1510, rest_us=1500))
    for position in (OK, KO, UNCERTAIN):
        gate.sort(position, clock.now_s())
        clock.sleep_until(clock.now_s() + 1)
    gate.rest()
    assert [(move.position, move.pulse_us, move.at_s) for move in gate.moves] == [
        (OK, 1900, 2.0),
        (KO, 1100, 3.0),
        (UNCERTAIN, 1510, 4.0),
        (REST, 1500, 5.0),
    ]


def test_a_simulated_gate_forgets_old_moves():
    gate = SimulatedGate(SimulatedClock(), keep=3)
    for _ in range(10):
        gate.sort(OK, 0.0)
    assert len(gate.moves) == 3


def test_several_marbles_on_their_way_are_each_sorted_when_they_are_there():
    gate, actuator, clock, counters = make_gate(travel_s=1.0)
    for at_s, position in ((0.0, OK), (0.25, KO), (0.5, UNCERTAIN)):
        clock.sleep_until(at_s)
        gate.expect(at_s)
        assert gate.sort(position, at_s)
    assert actuator.told == []
    clock.sleep_until(5.0)
    assert moves(actuator) == [("OK", 1.0), ("KO", 1.25), ("UNCERTAIN", 1.5)]
    assert counters[Event.GATE_LATE] == 0


def test_the_pulses_end_after_the_move_but_not_while_another_goes_on():
    gate, actuator, clock, _ = make_gate(travel_s=1.0)
    for at_s in (0.0, 0.3):
        gate.sort(OK, at_s)
    clock.sleep_until(5.0)
    assert actuator.told == [("OK", 1.0), ("OK", 1.3), ("release", 1.7)]


def test_a_marble_whose_verdict_does_not_come_goes_to_the_safe_side_in_time():
    gate, actuator, clock, counters = make_gate(travel_s=0.5)
    gate.sort(OK, 0.0)
    gate.expect(0.2)
    clock.sleep_until(0.9)
    assert moves(actuator) == [("OK", 0.5), ("KO", 0.7)]
    assert not gate.sort(OK, 0.2), "the marble has passed; the gate must not pretend otherwise"
    assert moves(actuator)[-1] == ("KO", 0.7)
    assert counters[Event.GATE_LATE] == 1


def test_a_command_that_comes_too_late_for_a_marble_nobody_expected_is_carried_out_at_once_and_counted():
    gate, actuator, _, counters = make_gate(now_s=10.0, travel_s=0.5)
    assert gate.sort(KO, 9.0)
    assert moves(actuator) == [("KO", 10.0)]
    assert counters[Event.GATE_LATE] == 1


def test_without_travel_the_gate_moves_before_sort_returns():
    gate, actuator, _, _ = make_gate(now_s=3.0)
    gate.expect(3.0)
    assert gate.sort(OK, 3.0)
    assert actuator.told == [("OK", 3.0)]


def test_the_gate_goes_back_to_rest_unless_another_marble_comes_first():
    gate, actuator, clock, _ = make_gate(travel_s=1.0, back_to_rest_s=0.6)
    for at_s, position in ((0.0, OK), (0.4, KO)):
        gate.sort(position, at_s)
    clock.sleep_until(9.0)
    assert moves(actuator) == [("OK", 1.0), ("KO", 1.4), ("rest", 2.0)]


def test_rest_waits_for_the_marbles_on_their_way():
    gate, actuator, clock, _ = make_gate(travel_s=1.0)
    gate.sort(OK, 0.0)
    gate.sort(KO, 0.2)
    gate.rest()
    clock.sleep_until(9.0)
    assert moves(actuator) == [("OK", 1.0), ("KO", 1.2), ("rest", 1.6)]
    gate.rest()
    assert len(moves(actuator)) == 3, "a gate at rest stays"


def test_a_planned_move_that_fails_is_counted_tried_with_ko_and_stops_nothing():
    gate, actuator, clock, counters = make_gate(travel_s=1.0)
    actuator.broken = {OK}
    for at_s in (0.0, 0.5):
        gate.sort(OK, at_s)
    gate.sort(UNCERTAIN, 1.0)
    clock.sleep_until(9.0)
    assert moves(actuator) == [("KO", 1.0), ("KO", 1.5), ("UNCERTAIN", 2.0)]
    assert counters[Event.GATE_FAILED] == 2
    assert "no pulse for OK" in gate.failure


def test_a_failure_of_an_immediate_move_is_told_to_the_caller():
    gate, actuator, _, counters = make_gate()
    actuator.broken = {OK, KO}
    with pytest.raises(GateError, match="no pulse for OK"):
        gate.sort(OK, 0.0)
    assert actuator.told == []
    assert counters[Event.GATE_FAILED] == 1
    gate.sort(UNCERTAIN, 0.0)
    assert moves(actuator) == [("UNCERTAIN", 0.0)]


def test_more_marbles_than_can_be_on_the_way_are_refused_and_counted():
    gate, _, _, counters = make_gate(travel_s=60.0)
    for number in range(MOST_ON_THE_WAY):
        gate.sort(OK, number / 1000)
    with pytest.raises(GateError, match="chatter"):
        gate.sort(OK, 1.0)
    assert counters[Event.GATE_FAILED] == 1


def test_at_the_end_marbles_on_their_way_are_sorted_and_the_gate_stands_on_the_safe_side_without_pulses():
    gate, actuator, _, _ = make_gate(travel_s=1.0, back_to_rest_s=0.1)
    gate.sort(OK, 0.0)
    gate.sort(OK, 0.7)
    gate.close()
    assert moves(actuator) == [("OK", 1.0), ("OK", 1.7), ("KO", 1.7)]
    assert actuator.told[-2:] == [("release", 2.1), ("close", 2.1)]
    gate.close()
    assert actuator.told[-1] == ("close", 2.1)


def test_at_the_end_no_marble_is_waited_for_longer_than_two_seconds():
    gate, actuator, clock, counters = make_gate(travel_s=30.0)
    gate.sort(OK, 0.0)
    gate.close()
    assert moves(actuator) == [("KO", 0.0)]
    assert clock.now_s() < 2.0
    assert counters[Event.GATE_LATE] == 1


def test_a_gate_that_fails_at_the_end_is_closed_all_the_same():
    gate, actuator, _, counters = make_gate()
    actuator.broken = {KO}
    gate.close()
    assert actuator.told[-1][0] == "close"
    assert counters[Event.GATE_FAILED] == 1


def test_a_person_may_move_the_gate_only_while_no_marble_needs_it():
    gate, actuator, clock, _ = make_gate(travel_s=1.0)
    gate.sort(OK, 0.0)
    with pytest.raises(GateError, match="on their way"):
        gate.test(UNCERTAIN)
    clock.sleep_until(5.0)
    gate.test(UNCERTAIN)
    assert moves(actuator) == [("OK", 1.0), ("UNCERTAIN", 5.0)]
    with pytest.raises(GateError, match="no gate"):
        NoGate().test(OK)


def test_with_a_real_clock_a_thread_makes_the_moves_in_order_and_in_time():
    clock = MonotonicClock()
    counters = Counters()
    actuator = Recording(clock)
    actuator.hold_s = 0.02
    gate = ScheduledGate(actuator, clock=clock, counters=counters, travel_s=0.1)
    start_s = clock.now_s()
    wanted = [start_s + offset_s for offset_s in (0.0, 0.03, 0.06)]
    for at_s, position in zip(wanted, (OK, KO, OK), strict=True):
        gate.expect(at_s)
        gate.sort(position, at_s)
    gate.close()
    assert [name for name, _ in moves(actuator)] == ["OK", "KO", "OK", "KO"]
    for (_, moved_s), at_s in zip(moves(actuator), wanted, strict=False):
        assert moved_s >= round(at_s + 0.1, 6)
    assert [name for name, _ in actuator.told[-2:]] == ["release", "close"]
    assert not [thread for thread in threading.enumerate() if thread.name == "gate" and thread.is_alive()]


def test_hardware_that_hangs_does_not_hang_the_sorting_path():
    clock = MonotonicClock()
    counters = Counters()
    actuator = Recording(clock)
    stuck, free = threading.Event(), threading.Event()

    def hang(position):
        stuck.set()
        free.wait(10)

    actuator.go = hang
    gate = ScheduledGate(actuator, clock=clock, counters=counters)
    other = threading.Thread(target=gate.sort, args=(OK, 0.0))
    other.start()
    stuck.wait(10)
    before = time.monotonic()
    with pytest.raises(GateError, match="does not answer"):
        gate.sort(KO, 0.0)
    assert time.monotonic() - before < 5
    free.set()
    other.join()
    assert counters[Event.GATE_FAILED] == 1


@pytest.mark.parametrize("name", ["ok_us", "ko_us", "uncertain_us", "rest_us"])
@pytest.mark.parametrize("width", [999, 2001, float("nan")])
def test_a_position_beyond_the_stops_is_refused_and_never_driven_to(name, width):
    with pytest.raises(GateError, match=f"{name}.*1000 and 2000"):
        PulseWidths(**{name: width})


def test_stops_the_wrong_way_round_are_refused():
    with pytest.raises(GateError, match="min_us 1600 and max_us 1400"):
        PulseWidths(min_us=1600, max_us=1400, ok_us=1500, ko_us=1500)


def test_the_settings_decide_which_gate_opens():
    clock, counters = SimulatedClock(), Counters()
    assert isinstance(open_gate(GateSettings(kind="none"), clock=clock, counters=counters), NoGate)
    gate = open_gate(GateSettings(kind="sim", ok_us=1800, travel_s=0.5), clock=clock, counters=counters)
    gate.sort(OK, 0.0)
    clock.sleep_until(1.0)
    assert [(move.pulse_us, move.at_s) for move in gate.moves] == [(1800, 0.5)]
    with pytest.raises(GateError, match="ok_us is 2100"):
        open_gate(GateSettings(kind="servo:18", ok_us=2100), clock=clock, counters=counters)


def test_why_a_gate_is_not_available_is_said_without_opening_it():
    assert why_not_available(GateSettings(kind="sim")) is None
    assert why_not_available(GateSettings(kind="none")) is None
    assert "beyond the stops" in why_not_available(GateSettings(kind="servo:18", ok_us=2100))
