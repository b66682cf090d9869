from __future__ import annotations

import click
import numpy as np
import pytest

from okko_edge.frame import Frame
from okko_edge.output import live_line
from okko_edge.sorter import Decision
from okko_edge.summary import Percentiles, Tally
from okko_models.classifier import Classification
from okko_models.decision import Verdict
from tests.edge.fakes import LABELS, photo


def decision(verdict, truth=None, error=None, path_ms=2.0):
    frame = Frame(photo(100, seed=0), 1.0, 4, truth, "OK/a.png")
    said = Classification(verdict, "OK", np.array([0.25, 0.75], np.float32), 0.75, np.zeros(3, np.float32))
    return Decision(7, verdict, frame, None if error else said, error, 1.0, 1.5, path_ms)


@pytest.mark.parametrize(
    ("verdict", "truly_ok", "mistake"),
    [
        (Verdict.OK, False, "it is bad"),
        (Verdict.KO, True, "it is good"),
        (Verdict.OK, True, None),
        (Verdict.KO, False, None),
        (Verdict.UNCERTAIN, True, None),
        (Verdict.OK, None, None),
    ],
)
def test_a_live_line_says_what_was_decided_and_whether_it_is_wrong(verdict, truly_ok, mistake):
    line = click.unstyle(live_line(decision(verdict), truly_ok=truly_ok))
    assert line.split()[:2] == ["7", verdict.value]
    assert "0.750" in line
    assert "OK/a.png" in line
    assert ("mistake" in line) == (mistake is not None)
    assert (mistake or "") in line


def test_a_live_line_shows_what_went_wrong():
    assert "out of memory" in live_line(decision(Verdict.KO, error="out of memory"), truly_ok=None)


def test_percentiles_are_those_of_the_times():
    assert Percentiles.of(range(101)) == Percentiles(50, 95, 99)
    assert Percentiles.of([]) is None


def test_a_run_of_any_length_keeps_only_the_latest_timings():
    tally = Tally(LABELS, ["OK"])
    for path_ms in [1000.0] * 5 + [1.0] * 10_000:
        tally.add(decision(Verdict.OK, path_ms=path_ms))
    summary = tally.summary(frames=20_000, duration_s=10, events={"stale_frames": 3})
    assert summary.marbles == 10_005
    assert summary.latency_ms == Percentiles(1, 1, 1)
    assert (summary.marbles_per_s, summary.frames, summary.stale_frames) == (1000.5, 20_000, 3)


def test_a_run_without_marbles_has_no_timings():
    summary = Tally(LABELS, ["OK"]).summary(frames=0, duration_s=0, events={"stale_frames": 0})
    assert summary.latency_ms is None
    assert summary.marbles_per_s == 0
    assert summary.verdicts == {"OK": 0, "KO": 0, "UNCERTAIN": 0}
