"""Which photos come first, and why: rules over what a model said, without files."""

from __future__ import annotations

import math

import pytest

from okko_cloud.labelling.reasons import Guess, Reason, Worth, judge, lot_of
from okko_models.decision import Costs, DecisionRule

RULE = DecisionRule(("OK",), ok_threshold=0.9, ko_threshold=0.1, costs=Costs())


def guess(ok: float, novelty: float = 0.0, rule: DecisionRule = RULE) -> Guess:
    return Guess.of({"KO": 1 - ok, "OK": ok}, ok, novelty, rule, "redness 1")


def reason(ok: float, novelty: float = 0.0, *, label: str | None = None, lot: float = 0.5) -> Reason | None:
    worth = judge(label=label, guess=guess(ok, novelty), corrected=None, problem=None, lot=lot)
    return worth and worth.reason


def test_the_order_is_uncertain_likely_wrong_near_novel_random_and_then_the_rest():
    worths = [
        judge(label=None, guess=guess(0.999), corrected=None, problem=None, lot=0.9),
        judge(label=None, guess=guess(0.999), corrected=None, problem=None, lot=0.01),
        judge(label=None, guess=guess(0.999, 1.5), corrected=None, problem=None, lot=0.9),
        judge(label=None, guess=guess(0.92), corrected=None, problem=None, lot=0.9),
        judge(label="KO", guess=guess(0.999), corrected=None, problem=None, lot=0.9),
        judge(label=None, guess=guess(0.5), corrected=None, problem=None, lot=0.9),
        judge(label=None, guess=None, corrected=None, problem="cut off", lot=0.9),
        judge(label=None, guess=None, corrected="KO", problem=None, lot=0.9),
    ]
    ordered = sorted((worth for worth in worths if worth), key=lambda worth: worth.order)
    assert [worth.reason for worth in ordered] == [
        Reason.CORRECTED,
        Reason.UNCERTAIN,
        Reason.LIKELY_WRONG,
        Reason.NEAR_THRESHOLD,
        Reason.NOVEL,
        Reason.RANDOM,
        Reason.ORDINARY,
        Reason.UNREADABLE,
    ]


def test_a_label_that_the_model_agrees_with_is_not_asked_about_again():
    assert reason(0.999, label="OK") is None
    assert reason(0.6, label="OK") is None
    assert reason(0.999, label="KO") is Reason.LIKELY_WRONG


def test_a_label_that_the_model_does_not_know_is_no_mistake():
    assert reason(0.999, label="two") is None


def test_the_most_doubted_label_comes_first_and_the_least_sure_guess():
    def order(ok: float, label: str | None) -> tuple[int, float]:
        worth = judge(label=label, guess=guess(ok), corrected=None, problem=None, lot=0.5)
        assert worth
        return worth.order

    assert order(0.999, "KO") < order(0.7, "KO")
    assert order(0.5, None) < order(0.8, None)


@pytest.mark.parametrize(("ok", "near"), [(0.91, True), (0.95, True), (0.97, False), (0.09, True), (0.03, False)])
def test_near_is_measured_in_log_odds(ok: float, near: bool):
    assert (reason(ok) is Reason.NEAR_THRESHOLD) is near


def test_thresholds_at_0_or_1_are_never_near():
    rule = DecisionRule(("OK",), ok_threshold=1.0, ko_threshold=0.0, costs=Costs())
    worth = judge(label=None, guess=guess(0.999999, rule=rule), corrected=None, problem=None, lot=0.5)
    assert worth
    assert worth.reason is Reason.UNCERTAIN  # all is, between 0 and 1
    assert guess(0.999999, rule=rule).near < 0


@pytest.mark.parametrize("ok", [0.0, 1.0, math.nan])
def test_certainty_and_what_is_no_number_are_judged_without_a_crash(ok: float):
    assert isinstance(judge(label=None, guess=guess(ok), corrected=None, problem=None, lot=0.5), Worth)


def test_novelty_alone_makes_a_photo_novel_not_uncertain():
    assert reason(0.999, 1.2) is Reason.NOVEL
    assert reason(0.999, math.nan) is Reason.NOVEL
    assert reason(0.5, 1.2) is Reason.UNCERTAIN


def test_about_one_in_twenty_is_in_the_random_sample_and_it_is_the_same_for_everybody():
    names = [f"sorter-1/{number:064x}.png" for number in range(4000)]
    share = sum(reason(0.999, lot=lot_of(name)) is Reason.RANDOM for name in names) / len(names)
    assert 0.035 < share < 0.065
    assert [lot_of(name) for name in names] == [lot_of(name) for name in names]


def test_what_a_person_said_at_the_device_goes_before_all_guesses():
    worth = judge(label=None, guess=guess(0.5), corrected="KO", problem=None, lot=0.0)
    assert worth == Worth(Reason.CORRECTED)
