import numpy as np
import pytest

from okko_models.decision import Costs, Verdict
from okko_train.calibration import choose_rule, fit_calibration, fit_temperature, log_loss, softmax
from okko_train.calibration_error import calibration_error
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


@pytest.mark.parametrize("k", [2, 4])
def test_a_label_that_is_named_too_often_is_shifted_back(k):
    true_logits = RNG.normal(0, 2, (3000, k))
    truth = np.array([RNG.choice(k, p=row) for row in softmax(true_logits)])
    wrong = 3 * (true_logits + np.arange(k))
    calibration = fit_calibration(wrong, truth, np.arange(3000) % 5)
    assert calibration.temperature == pytest.approx(3, rel=0.1)
    np.testing.assert_allclose(calibration.shift, -np.arange(k), atol=0.3)
    np.testing.assert_allclose(calibration(wrong), softmax(true_logits), atol=0.05)


def test_labels_are_shifted_only_if_that_foretells_photos_of_other_folds():
    truth = np.arange(60) % 2
    logits = np.where(np.arange(2) == truth[:, None], 1.0, -1.0) + RNG.normal(0, 1, (60, 2))
    # Shifted one way in one half and the other way in the other half, so neither half tells about the other.
    folds = np.arange(60) // 30
    logits[:, 1] += np.where(folds == 0, 1.5, -1.5)
    assert fit_calibration(logits, truth, folds).shift == (0.0, 0.0)


def test_a_separable_set_gets_no_certainty_from_shifts_either():
    truth = np.arange(40) % 2
    logits = np.where(np.arange(2) == truth[:, None], 9.0, -9.0) + np.array([0.0, 4.0])
    probability = fit_calibration(logits, truth, np.arange(40) // 2 % 4)(logits)
    assert 0.9 < probability[np.arange(40), truth].min() < 0.999


def scores_and_truth(n, sharpness):
    random = np.random.default_rng(7)
    logit = random.normal(0, 1, n) + np.where(random.random(n) < 0.5, 2, -2)
    return 1 / (1 + np.exp(-sharpness * logit)), random.random(n) < 1 / (1 + np.exp(-logit))


def test_the_calibration_error_is_found_where_there_is_one_and_not_where_there_is_none():
    assert calibration_error(*scores_and_truth(20000, 1.0)).corrected.value < 0.005
    stated, happened = scores_and_truth(20000, 4.0)
    true = np.abs(stated - 1 / (1 + np.exp(-np.log(stated / (1 - stated)) / 4))).mean()
    assert calibration_error(stated, happened).corrected.value == pytest.approx(true, rel=0.1)
    opposite = np.repeat([0.0, 1.0], 30)
    assert calibration_error(opposite, opposite == 0).corrected.value == pytest.approx(1)
    assert calibration_error(opposite, opposite == 1).corrected.value == 0


def test_few_photos_that_are_stated_exactly_right_are_not_blamed_for_chance():
    stated, _ = scores_and_truth(100, 1.0)
    random = np.random.default_rng(8)
    errors = [calibration_error(stated, random.random(100) < stated) for _ in range(100)]
    assert np.mean([error.plain for error in errors]) == pytest.approx(errors[0].if_perfect, rel=0.1)
    assert np.mean([error.corrected.value for error in errors]) < 0.7 * errors[0].if_perfect
    assert np.mean([error.corrected.low == 0 for error in errors]) > 0.9


@pytest.mark.parametrize("n", [1, 9, 35])
def test_very_few_photos_still_have_a_calibration_error_with_an_interval(n):
    error = calibration_error(*scores_and_truth(n, 2.0))
    assert 0 <= error.corrected.low <= error.corrected.value <= error.corrected.high <= 1


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
    for interval in (
        result.accuracy,
        result.balanced_accuracy,
        result.cost_per_photo,
        result.calibration_error.corrected,
    ):
        assert interval.low <= interval.value <= interval.high


def test_intervals_hold_the_truth_as_often_as_they_say():
    hits = RNG.binomial(50, 0.9, 2000)
    held = [share_interval(int(h), 50).low <= 0.9 <= share_interval(int(h), 50).high for h in hits]
    assert 0.92 < np.mean(held) < 0.98
    assert share_interval(0, 5).low == 0
    assert share_interval(5, 5).high == pytest.approx(1)
