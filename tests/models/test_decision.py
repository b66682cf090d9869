import math

import pytest

from okko_models.decision import Costs, DecisionRule, Verdict

RULE = DecisionRule(("OK", "FINE"), ok_threshold=0.9, ko_threshold=0.2, costs=Costs(10, 1, 0.5))


@pytest.mark.parametrize(
    ("probability", "verdict"),
    [(1.0, "OK"), (0.9, "OK"), (0.89, "UNCERTAIN"), (0.2, "UNCERTAIN"), (0.19, "KO"), (0.0, "KO")],
)
def test_thresholds_cut_the_probability_of_ok_into_three_verdicts(probability, verdict):
    assert RULE.verdict(probability) == verdict


def test_a_probability_that_is_not_a_number_goes_to_the_safe_side():
    assert RULE.verdict(math.nan) is Verdict.KO


@pytest.mark.parametrize("novelty", [1.0001, 5, math.inf, math.nan])
@pytest.mark.parametrize("probability", [1.0, 0.5, 0.0])
def test_a_frame_unlike_anything_in_training_is_uncertain_however_sure_the_model_seems(probability, novelty):
    assert RULE.verdict(probability, novelty) is Verdict.UNCERTAIN


@pytest.mark.parametrize("novelty", [0.0, 0.5, 1.0])
def test_novelty_up_to_the_limit_changes_nothing(novelty):
    assert [RULE.verdict(p, novelty) for p in (1.0, 0.5, 0.0)] == [Verdict.OK, Verdict.UNCERTAIN, Verdict.KO]


@pytest.mark.parametrize("novelty", [0.0, 5.0, math.nan])
def test_without_a_probability_novelty_saves_nothing(novelty):
    assert RULE.verdict(math.nan, novelty) is Verdict.KO


def test_the_probabilities_of_all_good_labels_are_added_up():
    assert RULE.probability_of_ok({"OK": 0.5, "FINE": 0.25, "KO": 0.25}) == 0.75


def test_a_right_verdict_costs_nothing_and_a_wrong_one_what_the_user_said():
    costs = Costs(false_ok=10, false_ko=2, uncertain=0.5)
    assert costs.of(Verdict.OK, truly_ok=True) == costs.of(Verdict.KO, truly_ok=False) == 0
    assert costs.of(Verdict.OK, truly_ok=False) == 10
    assert costs.of(Verdict.KO, truly_ok=True) == 2
    assert costs.of(Verdict.UNCERTAIN, truly_ok=True) == costs.of(Verdict.UNCERTAIN, truly_ok=False) == 0.5


@pytest.mark.parametrize("bad", [{"false_ok": -1}, {"false_ko": math.nan}, {"uncertain": math.inf}])
def test_a_cost_that_is_no_amount_is_refused_by_name(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        Costs(**bad)


@pytest.mark.parametrize(("ko", "ok"), [(0.6, 0.5), (-0.1, 0.5), (0.5, 1.1), (math.nan, 0.5)])
def test_thresholds_out_of_order_are_refused(ko, ok):
    with pytest.raises(ValueError, match="thresholds"):
        DecisionRule(("OK",), ok_threshold=ok, ko_threshold=ko, costs=Costs())
