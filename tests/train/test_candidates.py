"""Which of the models that were tried ships."""

import numpy as np
import pytest

from okko_train.candidates import Candidate, choose_candidate
from okko_train.variants import Measured


def candidate(name, costs, *, losses=0.0, fine_tuned=False):
    measured = Measured("float32", None, None, None, None, None, np.full(len(costs), losses), np.asarray(costs), 1.0)
    return Candidate(name, None, measured, None, {}, (), (measured,), None, fine_tuned)


def costs(mistakes, n=100, of=1.0):
    return [of] * mistakes + [0.0] * (n - mistakes)


def chosen(*candidates, groups=None):
    return choose_candidate(list(candidates), np.arange(100) if groups is None else groups).backbone


def test_what_costs_less_ships_and_of_equals_what_is_surer():
    assert chosen(candidate("dear", costs(20)), candidate("cheap", costs(5))) == "cheap"
    assert chosen(candidate("unsure", costs(5), losses=0.4), candidate("sure", costs(5), losses=0.2)) == "sure"


@pytest.mark.parametrize(
    ("mistakes", "ships"), [(0, "tuned"), (5, "tuned"), (6, "tuned"), (15, "frozen"), (60, "frozen")]
)
def test_a_fine_tuned_backbone_ships_unless_the_other_is_clearly_cheaper(mistakes, ships):
    frozen = candidate("frozen", costs(5), losses=0.1)
    elsewhere = np.roll(costs(mistakes), 30)
    assert chosen(frozen, candidate("tuned", elsewhere, losses=0.3, fine_tuned=True)) == ships


def test_what_one_rig_alone_says_is_not_clear():
    frozen, tuned = candidate("frozen", costs(5)), candidate("tuned", costs(15), fine_tuned=True)
    assert chosen(frozen, tuned) == "frozen"
    assert chosen(frozen, tuned, groups=np.arange(100) // 25) == "tuned"


def test_one_from_scratch_has_no_such_advance():
    assert chosen(candidate("frozen", costs(5)), candidate("scratch", costs(6))) == "frozen"
