"""A short run of every target, the same in each run; and that the engine finds what it looks for."""

import random

import pytest

from tests.fuzz.targets import BROKEN, PLANS
from tests.fuzz.watching import HANGS_S, fuzz

SAYS = {
    "hangs": "hung for 3 s",
    "dies": "died with -6",
    "raises": "KeyError",
    "eats-memory": "64 MB of 32",
    "takes-long": "s of 0.5",
    "writes-elsewhere": "mine",
    "reads-elsewhere": "outside/secret",
    "says-much": "not printable",
}


@pytest.mark.parametrize("name", PLANS)
def test_whatever_is_read_ends_in_words_or_is_accepted(name):
    tally = fuzz(name, 20261121, range(round(1000 * PLANS[name].share)))
    assert not tally.defects
    assert tally.inputs == round(1000 * PLANS[name].share)
    assert tally.accepted
    assert tally.refused


def test_shares_are_those_of_one_whole():
    assert sum(plan.share for plan in PLANS.values()) == pytest.approx(1)


@pytest.mark.parametrize("name", BROKEN)
def test_a_reader_that_misbehaves_is_found_and_the_others_are_fed_all_the_same(name, tmp_path):
    tally = fuzz(name, 40, range(6), keep=str(tmp_path), hangs_s=3 if name == "hangs" else HANGS_S)
    expected = [n for n in range(6) if random.Random(f"40 {name} {n}").randrange(3) == 0]
    assert [number for number, _ in tally.defects] == expected != []
    assert all(SAYS[name] in why for _, why in tally.defects)
    assert (tally.inputs, tally.accepted) == (6, 6 - len(expected))
    assert {path.name for path in tmp_path.iterdir()} == {f"{name}-40-{number}" for number in expected}
