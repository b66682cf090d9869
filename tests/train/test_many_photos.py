"""What is computed in blocks, so that very many photos need no more memory, is what it is in one go."""

import numpy as np
import pytest

from okko_models.decision import Costs, DecisionRule
from okko_train import calibration, calibration_error, duplicates, metrics
from okko_train.report import plots


@pytest.fixture
def judged():
    random = np.random.default_rng(4)
    truly_ok = random.random(700) < 0.5
    of_ok = np.clip(0.5 + 0.8 * (truly_ok - 0.5) + random.normal(0, 0.3, 700), 0, 1)
    return of_ok, truly_ok


def evaluated(of_ok, truly_ok, rule):
    probability = np.stack([of_ok, 1 - of_ok], axis=1)
    return metrics.evaluate(probability, np.where(truly_ok, 0, 1), ("OK", "KO"), rule)


def test_thresholds_intervals_and_curves_do_not_depend_on_the_blocks(judged, monkeypatch):
    costs = Costs(5, 1, 0.3)

    def everything():
        rule = calibration.choose_rule(*judged, ("OK",), costs)
        found = evaluated(*judged, rule)
        thresholds = np.linspace(0, 1, 21)
        return rule, found.cost_per_photo, found.calibration_error, plots.costs_at(found, rule, thresholds, thresholds)

    at_once = everything()
    monkeypatch.setattr(calibration, "_COSTS_AT_A_TIME", 5000)
    monkeypatch.setattr(plots, "_COSTS_AT_A_TIME", 5000)
    monkeypatch.setattr(metrics, "_ROWS_AT_A_TIME", 9000)
    monkeypatch.setattr(calibration_error, "_DRAWN_AT_A_TIME", 90_000)
    in_blocks = everything()
    assert isinstance(at_once[0], DecisionRule)
    assert in_blocks[:2] == at_once[:2]
    assert in_blocks[2].corrected.value == at_once[2].corrected.value
    assert in_blocks[2].corrected.high == pytest.approx(at_once[2].corrected.high, abs=1e-12)
    np.testing.assert_array_equal(in_blocks[3], at_once[3])


def test_thumbnails_are_reduced_a_few_at_a_time(monkeypatch):
    thumbnails = np.random.default_rng(5).integers(0, 256, (50, 32, 32, 3), np.uint8)
    at_once = duplicates._blocks(thumbnails)
    monkeypatch.setattr(duplicates, "_THUMBNAILS_AT_A_TIME", 7)
    np.testing.assert_array_equal(duplicates._blocks(thumbnails), at_once)
