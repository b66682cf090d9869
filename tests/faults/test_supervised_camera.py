"""A camera that stalls, hangs, is unplugged or delivers rubbish, behind okko's supervisor, in real time.

How many marbles are lost to it depends on how busy the machine is; that each has one verdict, and which, does not.
"""

from __future__ import annotations

import pytest

from okko_edge.events import Event
from tests.faults.rigs import Rig

COUNT = 36
BEGIN_S, LASTS_S, DEADLINE_S = 0.7, 0.7, 0.15


@pytest.mark.parametrize(
    ("fault", "name", "counted"),
    [
        ("stall", "supervised camera stalls for 0.7 s", Event.CAMERA_STALLED),
        ("hang", "its driver hangs for 0.7 s", Event.CAMERA_STALLED),
        ("gone", "unplugged for 0.7 s, and back", Event.CAMERA_FAILED),
        ("corrupt", "broken pictures for 0.7 s", Event.CORRUPT_FRAME),
        ("odd", "pictures of another size for 0.7 s", Event.CORRUPT_FRAME),
    ],
)
def test_a_camera_that_fails_is_opened_again_and_its_marbles_are_on_the_safe_side(
    bundle, tmp_path, fault, name, counted
):
    rig = Rig(bundle, tmp_path, COUNT, supervised=True, period_s=0.05, deadline_s=DEADLINE_S)
    begin_s = rig.clock.now_s() + BEGIN_S
    rig.faults.add(fault, LASTS_S, after_s=BEGIN_S)
    verdicts = rig.run(name)
    # A frame from just before may still lie in the box when the fault begins.
    blind = verdicts.arrived(begin_s + 0.05, begin_s + LASTS_S - DEADLINE_S - 0.05)
    assert len(blind) >= 6
    assert all(row.verdict == "KO" and row.error for row in blind)
    assert rig.counters[counted] >= 1
    assert rig.counters[Event.CAMERA_REOPENED] >= 1
    assert any(row.verdict == "OK" for row in verdicts.arrived(begin_s + LASTS_S, 1e9)), "it sees again"


def test_two_faults_of_a_camera_at_once_and_a_model_that_fails(bundle, tmp_path):
    rig = Rig(bundle, tmp_path, COUNT, supervised=True, period_s=0.05, deadline_s=DEADLINE_S)
    for fault, at_s in (("black", 0.5), ("gone", 0.7), ("hang", 0.9), ("inference", 1.5), ("slow", 1.8)):
        rig.faults.add(fault, 0.3, after_s=at_s)
    verdicts = rig.run("black, unplugged, hanging, failing and slow, overlapping")
    assert sum(row.error is not None for row in verdicts.rows) >= 10
