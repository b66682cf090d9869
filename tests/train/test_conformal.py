"""The promised error rate: the finite-sample arithmetic by simulation, and the whole way on scores like real ones."""

from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from okko_models.decision import Costs, DecisionRule, Verdict
from okko_models.errors import OkkoError
from okko_train.calibration import choose_rule, fit_calibration
from okko_train.conformal import CONFIDENCE, check_promise, keep_promise, least_error, photos_needed, strays_allowed
from okko_train.dataset import load_dataset
from okko_train.feature_graph import feature_model
from okko_train.features import embed
from okko_train.head import Head, Projection, train_network
from okko_train.looks import looks_at
from okko_train.region import Place
from okko_train.splits import stratified_folds, stratified_split
from okko_train.tuning import CrossValidation, Look

RULE = DecisionRule(("OK",), ok_threshold=0.5, ko_threshold=0.5, costs=Costs(1, 1, 5))


def of_ok(n, random, overlap=1.0):
    """Probabilities that n photos, a third of them bad, are good; their logits overlap."""
    good = np.arange(n) % 3 > 0
    return 1 / (1 + np.exp(-random.normal(np.where(good, 2, -2), overlap))), good


def true_errors(rule, random, n=20000):
    probability, good = of_ok(n, random, 2.0)
    return (probability[~good] >= rule.ok_threshold).mean(), (probability[good] < rule.ko_threshold).mean()


@pytest.mark.parametrize(("max_error", "n"), [(0.05, 150), (0.05, 400), (0.02, 400), (0.1, 90)])
def test_over_many_draws_the_promise_is_kept_on_average_and_as_often_as_it_says(max_error, n):
    random = np.random.default_rng(1)
    errors = np.array(
        [true_errors(keep_promise(RULE, *of_ok(n, random, 2.0), max_error), random, 4000) for _ in range(400)]
    )
    assert (errors.mean(axis=0) < max_error).all()
    # A measured rate is itself uncertain, so a tenth more than promised counts as kept.
    assert ((errors <= 1.1 * max_error).mean(axis=0) > CONFIDENCE - 0.03).all()


def test_without_the_correction_the_promise_would_be_broken():
    random = np.random.default_rng(1)
    errors = []
    for _ in range(400):
        probability, good = of_ok(150, random, 2.0)
        threshold = np.quantile(probability[~good], 0.95)
        errors.append((of_ok(3000, random, 2.0)[0][::3] > threshold).mean())
    assert np.mean(errors) > 0.05


def test_with_many_photos_nearly_the_whole_of_the_promised_error_is_used():
    random = np.random.default_rng(2)
    rule = keep_promise(RULE, *of_ok(30000, random, 2.0), 0.05)
    for error in true_errors(rule, random, 60000):
        assert 0.04 < error < 0.055


def test_thresholds_that_are_strict_enough_stay_where_the_costs_put_them():
    random = np.random.default_rng(3)
    strict = DecisionRule(("OK",), ok_threshold=0.999, ko_threshold=0.001, costs=Costs())
    kept = keep_promise(strict, *of_ok(300, random), 0.05)
    assert (kept.ok_threshold, kept.ko_threshold) == (0.999, 0.001)
    assert (kept.promise.max_error, kept.promise.good, kept.promise.bad) == (0.05, 200, 100)


def test_a_model_that_tells_all_apart_asks_nobody():
    good = np.arange(300) % 2 == 1
    rule = keep_promise(RULE, np.where(good, 0.99, 0.01), good, 0.02)
    assert rule.ok_threshold == rule.ko_threshold == 0.5


def test_no_photo_that_the_promise_rests_on_is_beyond_its_threshold_unless_allowed():
    random = np.random.default_rng(4)
    probability, good = of_ok(600, random, 2.5)
    rule = keep_promise(RULE, probability, good, 0.05)
    verdicts = np.array([rule.verdict(float(np.float32(each))) for each in probability])
    assert ((verdicts == Verdict.OK) & ~good).sum() == strays_allowed(200, 0.05)
    assert ((verdicts == Verdict.KO) & good).sum() == strays_allowed(400, 0.05)


@pytest.mark.parametrize("max_error", [0.005, 0.02, 0.05, 0.2, 0.4])
def test_one_photo_less_than_needed_is_too_few(max_error):
    needed = photos_needed(max_error)
    assert strays_allowed(needed, max_error) == 0
    assert least_error(needed) <= max_error < least_error(needed - 1)
    with pytest.raises(ValueError, match=f"{needed} photos or more"):
        strays_allowed(needed - 1, max_error)


def test_too_few_photos_are_told_what_they_can_promise():
    with pytest.raises(OkkoError, match=r"50 good and 40 bad photos .* 114 of each .* --max-error 0.056") as error:
        check_promise(0.02, 50, 40)
    check_promise(float(str(error.value).split()[-1]), 50, 40)
    with pytest.raises(OkkoError, match=r"Take more photos$"):
        check_promise(0.02, 50, 1)


def test_the_promise_holds_on_new_photos_after_calibration_and_costs_have_been_at_the_same_scores():
    random = np.random.default_rng(5)
    errors = []
    for _ in range(40):
        probability, good = of_ok(800, random, 2.0)
        logits = np.stack([np.zeros(800), 3 * np.log(probability / (1 - probability)) + 1], axis=1)
        truth = good.astype(int)
        learn = random.permutation(800) < 400
        calibration = fit_calibration(logits[learn], truth[learn], random.integers(0, 2, int(learn.sum())))
        chances = calibration(logits)[:, 1]
        chosen = choose_rule(chances[learn], good[learn], ["OK"], Costs(1, 1, 0.25))
        rule = keep_promise(chosen, chances[learn], good[learn], 0.05)
        new, new_good = chances[~learn], good[~learn]
        errors.append(((new[~new_good] >= rule.ok_threshold).mean(), (new[new_good] < rule.ko_threshold).mean()))
    assert (np.mean(errors, axis=0) < 0.05).all()


ONE_RIG = Path(__file__).parents[2] / "train" / "samples" / "marbles" / "one_rig"
PARAMETERS = {"look": "region", "components": 60, "hidden_layers": 0, "learning_rate": 2e-3, "l2": 5e-3, "epochs": 15}


def test_the_promise_holds_on_held_out_photos_of_the_same_rig_however_they_are_divided(tmp_path, monkeypatch):
    """Photos, networks, calibration, costs and promise as in training; 14 divisions, 200 photos held out in each."""
    monkeypatch.setenv("OKKO_CACHE", str(tmp_path))
    dataset, recipe = load_dataset(ONE_RIG), looks_at(Place(0.4, 0.5))["region"]
    features = embed(dataset.photos, feature_model(recipe).SerializeToString(), recipe.digest, workers=2)
    truth, groups = dataset.targets, dataset.split_groups()
    mistakes, asked, judged = {0.06: [], 0.1: []}, {0.06: [], 0.1: []}, []
    for division in range(14):
        learn, test = stratified_split(truth, groups, fraction=0.4, seed=division)
        folds = stratified_folds(truth[learn], groups[learn], k=4, seed=division)
        with threadpool_limits(1):
            look = Look(features[learn], np.empty((0, *features[learn].shape), np.float32), recipe.emphasis)
            data = CrossValidation.of({"region": look}, truth[learn], folds, n_labels=2, seed=division)
            logits = data.out_of_fold(PARAMETERS)[0]
            calibration = fit_calibration(logits, truth[learn], folds)
            projection = Projection.fit(features[learn], recipe.emphasis).first(PARAMETERS["components"])
            network, _ = train_network(projection(features[learn]), truth[learn], 2, PARAMETERS, seed=division)
        known, known_good = calibration(logits)[:, 1], truth[learn] == 1
        new = Head(projection, network).calibrated(calibration).probability(features[test])[:, 1]
        good = truth[test] == 1
        judged.append(((~good).sum(), good.sum()))
        for max_error in mistakes:
            rule = keep_promise(choose_rule(known, known_good, ["OK"], Costs(1, 1, 5)), known, known_good, max_error)
            verdicts = np.array([rule.verdict(float(each)) for each in new])
            false_ok, false_ko = (verdicts == Verdict.OK) & ~good, (verdicts == Verdict.KO) & good
            mistakes[max_error].append((false_ok.sum(), false_ko.sum()))
            asked[max_error].append((verdicts == Verdict.UNCERTAIN).mean())
    for max_error, counts in mistakes.items():
        rates = np.sum(counts, axis=0) / np.sum(judged, axis=0)
        assert (rates <= max_error).all(), f"{rates} of bad and good instead of {max_error}"
    assert np.mean(asked[0.1]) < np.mean(asked[0.06]) < 0.3
