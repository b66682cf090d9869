from __future__ import annotations

import pytest

from okko_edge.events import Counters, Event
from okko_edge.sorter import Decision, Outcome
from okko_edge.summary import KEPT_TIMINGS, Percentiles, Tally
from okko_models.decision import Verdict
from tests.edge.fakes import LABELS


def decision(verdict, outcome=Outcome.MARBLE, *, error=None, path_ms=1.0):
    return Decision(1, verdict, None, None, error, 0.0, 0.0, path_ms, outcome)


def summary_of(*decisions, counters=None):
    tally = Tally(LABELS, ["OK"])
    for one in decisions:
        tally.add(one)
    return tally, tally.summary(frames=100, duration_s=2.0, events=(counters or Counters()).snapshot())


def test_empty_slots_are_decisions_but_no_marbles_and_pairs_are_both():
    tally, summary = summary_of(
        decision(Verdict.OK),
        decision(Verdict.KO, Outcome.EMPTY),
        decision(Verdict.UNCERTAIN, Outcome.TWO),
        decision(Verdict.KO, error="no frame"),
    )
    assert tally.decisions == 4
    assert (summary.marbles, summary.empty_slots, summary.two_marbles) == (3, 1, 1)
    assert summary.verdicts == {"OK": 1, "KO": 1, "UNCERTAIN": 1}
    assert (summary.errors, summary.marbles_per_s) == (1, 1.5)


def test_what_was_counted_beside_the_verdicts_is_in_the_summary():
    counters = Counters()
    counters.add(Event.STALE_FRAME, 3)
    _, summary = summary_of(counters=counters)
    assert summary.stale_frames == summary.events["stale_frames"] == 3
    assert set(summary.events) == {event.value for event in Event}


def test_timings_are_of_the_latest_marbles_however_many_there_were():
    _, summary = summary_of(
        *[decision(Verdict.OK, path_ms=1000.0)] * 7, *[decision(Verdict.OK, path_ms=2.0)] * KEPT_TIMINGS
    )
    assert summary.latency_ms == Percentiles(2.0, 2.0, 2.0)
    assert summary.inference_ms is None


def test_a_run_that_took_no_time_has_no_rate():
    tally = Tally(LABELS, ["OK"])
    assert tally.summary(frames=0, duration_s=0.0, events=Counters().snapshot()).marbles_per_s == pytest.approx(0)
