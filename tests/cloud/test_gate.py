import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from okko_cloud.gate import Judged, chance, cheapest_constant, compare, measure, rule
from okko_models.bundle import Bundle
from okko_models.decision import Costs
from tests.conftest import png

COSTS = Costs()
DIFFERENCES = st.lists(st.sampled_from([-1.0, -0.75, -0.25, 0.25, 0.75, 1.0]), min_size=1, max_size=9)


@given(DIFFERENCES)
def test_the_chance_is_the_share_of_sign_combinations_that_save_as_much(differences):
    combinations = list(itertools.product([-1, 1], repeat=len(differences)))
    as_much = sum(np.dot(signs, differences) >= sum(differences) - 1e-9 for signs in combinations)
    assert chance(np.array(differences)) == pytest.approx(as_much / len(combinations))


def test_five_savings_without_a_loss_are_the_fewest_that_make_95_percent():
    assert 1 - chance(np.ones(4)) < 0.95 < 1 - chance(np.ones(5))
    assert chance(np.array([])) == 1


@settings(max_examples=20, deadline=None)
@given(st.integers(17, 60), st.integers(0, 2**32 - 1))
def test_many_differences_are_judged_nearly_as_exactly_as_few(n, seed):
    """Against the normal approximation, which is good by then."""
    differences = np.random.default_rng(seed).choice([-1.0, -0.25, 0.25, 1.0], n)
    z = differences.sum() / math.sqrt((differences**2).sum())
    assert chance(differences) == pytest.approx(0.5 * math.erfc(z / math.sqrt(2)), abs=0.08)


def test_two_equal_models_are_called_different_no_oftener_than_was_promised():
    rng = np.random.default_rng(1)
    wrong = 0
    for _ in range(200):
        new, old = (rng.choice([0, 0.25, 1], 60, p=[0.9, 0.06, 0.04]) for _ in range(2))
        wrong += compare(new, old, range(60)).confidence >= 0.95
    assert wrong <= 0.05 * 200 + 2 * math.sqrt(200 * 0.05 * 0.95)


def test_photos_of_one_burst_are_one_argument_not_many():
    new, old = [0.0] * 30, [1.0] * 5 + [0.0] * 25
    assert compare(new, old, range(30)).confidence > 0.95
    burst = compare(new, old, [0] * 5 + list(range(1, 26)))
    assert burst.differing == 1
    assert burst.confidence == 0.5
    assert burst.saving.value == pytest.approx(5 / 30)


def test_arguments_that_do_not_fit_are_named():
    for new, old, groups in (([], [], []), ([1.0], [1.0, 2.0], [0])):
        with pytest.raises(ValueError, match="equally long"):
            compare(new, old, groups)


def test_a_model_must_be_worth_more_than_the_cheapest_constant_verdict():
    truly_ok = [True] * 9 + [False]
    assert cheapest_constant(truly_ok, Costs(1, 1, 0.25)) == ("always saying OK", [0.0] * 9 + [1.0])
    assert cheapest_constant(truly_ok, Costs(20, 1, 0.25)) == ("always saying UNCERTAIN", [0.25] * 10)
    assert cheapest_constant(truly_ok, Costs(100, 0.1, 1))[0] == "always saying KO"


def ruling(new, old, **changes):
    n = len(new.costs)
    options = {
        "truly_ok": [True, False] * (n // 2),
        "groups": range(n),
        "costs": COSTS,
        "confidence": 0.95,
        "max_latency_ms": None,
    }
    return rule(new, old, "0" * 64 if old else "", **(options | changes))


def judged(*costs, latency_ms=10.0, golden=0.0):
    return Judged(costs, latency_ms, golden)


GOOD, BAD = judged(*[0.0] * 10), judged(*[1.0] * 10)


def test_what_costs_less_surely_and_is_as_fast_and_the_same_here_goes_into_service():
    passed = ruling(GOOD, BAD)
    assert passed.passed
    assert "it costs less: 0 a photo against 1 of the model in service, on 10 test photos" in passed.reason
    assert not ruling(BAD, GOOD).passed
    assert not ruling(GOOD, GOOD).passed
    assert "chance" in ruling(GOOD, judged(*[1.0] * 3, *[0.0] * 7)).reason
    assert ruling(GOOD, judged(*[1.0] * 3, *[0.0] * 7), confidence=0.8).passed


def test_what_is_slower_or_differs_here_or_cannot_be_compared_stays_a_candidate():
    slow = judged(*[0.0] * 10, latency_ms=16)
    assert "16.0 ms for a photo; at most 15.0 ms" in ruling(slow, BAD).reason
    assert ruling(judged(*[0.0] * 10, latency_ms=1.9), judged(*[1.0] * 10, latency_ms=0.1)).passed
    assert "at most 5.0 ms" in ruling(GOOD, BAD, max_latency_ms=5).reason
    assert "golden frames" in ruling(judged(*[0.0] * 10, golden=math.inf), BAD).reason
    assert "all good or all bad" in ruling(GOOD, BAD, truly_ok=[True] * 10).reason


def test_models_are_measured_by_their_verdicts_on_the_same_photos(redness_bundle, tmp_path):
    colours = {"red": (250, 0, 0), "blue": (0, 0, 250), "dim": (126, 0, 0)}
    photos = []
    for name, colour in colours.items():
        path = tmp_path / f"{name}.png"
        path.write_bytes(png(colour))
        photos.append(type("Photo", (), {"path": path})())
    bundles = [Bundle.open(redness_bundle(name)) for name in ("a.okko", "b.okko")]
    first, second = measure(bundles, photos, [True, True, True], Costs(5, 3, 0.5), workers=2)
    assert first.costs == second.costs == (0.0, 3.0, 0.5)
    assert first.latency_ms > 0
    assert first.golden_difference <= 1e-3
