import numpy as np
import pytest

from okko_models.decision import Costs, Verdict
from okko_train.calibration import choose_rule, fit_temperature, log_loss, softmax
from okko_train.metrics import costs_of, evaluate, share_interval

RNG = np.random.default_rng(0)


def calibrated_photos(n=4000):
    of_ok = RNG.uniform(0, 1, n)
    return of_ok, RNG.uniform(0, 1, n) < of_ok


@pytest.mark.parametrize("sharpness", [0.3, 1.0, 4.0])
def test_the_temperature_undoes_over_and_under_confidence(sharpness):
    true_logits = RNG.normal(0, 2, (5000, 3))
    truth = np.array([RNG.choice(3, p=row) for row in softmax(true_logits)])
    assert fit_temperature(true_logits * sharpness, truth) == pytest.approx(sharpness, rel=0.1)


def test_a_set_that_is_told_apart_without_a_mistake_does_not_end_in_certainty():
    truth = np.arange(40) % 2
    logits = np.where(np.arange(2) == truth[:, None], 9.0, -9.0)
    probability = softmax(logits / fit_temperature(logits, truth))
    assert 0.9 < probability[0, 0] < 0.999
    assert log_loss(probability, truth) < 0.1


def test_on_calibrated_probabilities_the_thresholds_are_the_optimal_ones():
    of_ok, truly_ok = calibrated_photos()
    rule = choose_rule(of_ok, truly_ok, ["OK"], Costs(false_ok=10, false_ko=1, uncertain=0.3))
    assert rule.ok_threshold == pytest.approx(1 - 0.3 / 10, abs=0.05)
    assert rule.ko_threshold == pytest.approx(0.3, abs=0.1)


def test_a_dearer_false_ok_lets_fewer_bad_ones_through():
    of_ok, truly_ok = calibrated_photos()

    def false_ok(cost):
        rule = choose_rule(of_ok, truly_ok, ["OK"], Costs(cost, 1, 0.3))
        return sum(rule.verdict(p) is Verdict.OK and not ok for p, ok in zip(of_ok, truly_ok, strict=True))

    assert false_ok(50) < false_ok(5) < false_ok(1)


def test_an_uncertain_that_costs_more_than_any_mistake_is_never_said():
    of_ok, truly_ok = calibrated_photos()
    rule = choose_rule(of_ok, truly_ok, ["OK"], Costs(1, 1, 5))
    assert rule.ok_threshold == rule.ko_threshold


def test_probabilities_that_lie_are_corrected_by_the_thresholds():
    of_ok, truly_ok = calibrated_photos()
    rule = choose_rule(of_ok**3, truly_ok, ["OK"], Costs(1, 1, 5))
    naive = choose_rule(of_ok, truly_ok, ["OK"], Costs(1, 1, 5))
    assert costs_of(of_ok**3, truly_ok, rule).mean() < costs_of(of_ok**3, truly_ok, naive).mean()


@pytest.mark.parametrize(
    ("costs", "always"), [(Costs(0, 1, 1), Verdict.OK), (Costs(1, 0, 1), Verdict.KO), (Costs(1, 1, 0), None)]
)
def test_costs_of_nothing_make_sense(costs, always):
    of_ok, truly_ok = calibrated_photos(500)
    rule = choose_rule(of_ok, truly_ok, ["OK"], costs)
    assert costs_of(of_ok, truly_ok, rule).sum() == pytest.approx(0, abs=1)
    if always:
        assert {rule.verdict(p) for p in of_ok[1:]} == {always}


def test_every_figure_of_an_evaluation_follows_from_its_photos():
    probability = np.array([[0.9, 0.1], [0.1, 0.9], [0.5, 0.5], [0.2, 0.8], [0.95, 0.05]])
    truth = np.array([0, 1, 1, 0, 1])
    rule = choose_rule(np.array([0.0, 1.0]), np.array([False, True]), ["OK"], Costs(10, 2, 0.5))
    result = evaluate(probability, truth, ("KO", "OK"), rule)
    verdicts = [rule.verdict(p) for p in probability[:, 1]]
    assert result.confusion.tolist() == [[1, 1], [2, 1]]
    assert result.accuracy.value == pytest.approx(2 / 5)
    assert result.balanced_accuracy.value == pytest.approx((1 / 2 + 1 / 3) / 2)
    assert result.verdicts == {v.value: verdicts.count(v) for v in Verdict}
    assert result.cost_per_photo.value == pytest.approx(costs_of(probability[:, 1], truth == 1, rule).mean())
    for interval in (result.accuracy, result.balanced_accuracy, result.cost_per_photo):
        assert interval.low <= interval.value <= interval.high


def test_intervals_hold_the_truth_as_often_as_they_say():
    hits = RNG.binomial(50, 0.9, 2000)
    held = [share_interval(int(h), 50).low <= 0.9 <= share_interval(int(h), 50).high for h in hits]
    assert 0.92 < np.mean(held) < 0.98
    assert share_interval(0, 5).low == 0
    assert share_interval(5, 5).high == pytest.approx(1)
