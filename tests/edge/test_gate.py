from __future__ import annotations

import pytest

from okko_edge.clock import SimulatedClock
from okko_edge.gate import GateAngles, SimulatedGate
from okko_models.decision import Verdict


def test_a_simulated_gate_remembers_where_it_went_and_when():
    clock = SimulatedClock(2.0)
    gate = SimulatedGate(clock, GateAngles(ok_deg=60, ko_deg=-60, uncertain_deg=5, rest_deg=1))
    for verdict in Verdict:
        gate.sort(verdict)
        clock.sleep_until(clock.now_s() + 1)
    gate.rest()
    assert [(move.verdict, move.angle_deg, move.at_s) for move in gate.moves] == [
        (Verdict.OK, 60, 2.0),
        (Verdict.KO, -60, 3.0),
        (Verdict.UNCERTAIN, 5, 4.0),
        (None, 1, 5.0),
    ]


def test_a_simulated_gate_forgets_old_moves():
    gate = SimulatedGate(SimulatedClock(), keep=3)
    for _ in range(10):
        gate.sort(Verdict.OK)
    assert len(gate.moves) == 3


@pytest.mark.parametrize("name", ["ok_deg", "ko_deg", "uncertain_deg", "rest_deg"])
@pytest.mark.parametrize("angle", [91, -91, float("nan")])
def test_an_angle_beyond_the_servos_travel_is_refused(name, angle):
    with pytest.raises(ValueError, match=name):
        GateAngles(**{name: angle})
