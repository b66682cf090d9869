"""What the evolution strategies promise: the swarm's ask and tell, exact resume, progress where swarms fall behind."""

import io
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from okko_train.evolution import EvolutionStrategy, SeparableCMA

KINDS = (SeparableCMA, EvolutionStrategy)
kinds = st.sampled_from(KINDS)
seeds = st.integers(0, 2**32)


def valley(x):
    """Ill-conditioned bowl around 0.5: the steepest direction counts a thousand times as much as the flattest."""
    return ((x.astype(np.float64) - 0.5) ** 2 * np.logspace(0, 3, x.shape[1])).sum(axis=1)


def go(optimizer, generations, cost=valley):
    asked = []
    for _ in range(generations):
        asked.append(optimizer.ask())
        optimizer.tell(cost(optimizer.ask()))
    return asked


@settings(deadline=None, max_examples=30)
@given(kinds, seeds, st.integers(0, 20), st.sampled_from(["float32", "float64"]))
def test_a_saved_optimizer_goes_on_exactly_as_if_nothing_had_happened(kind, seed, generations, dtype):
    one = kind(np.zeros(3), spread=0.3, seed=seed, lower=np.full(3, -1), upper=np.full(3, 0.8), dtype=dtype)
    go(one, generations)
    file = io.BytesIO()
    np.savez(file, **one.state())
    file.seek(0)
    from_npz = kind.from_state(dict(np.load(file)))
    from_json = kind.from_state(json.loads(json.dumps({key: value.tolist() for key, value in one.state().items()})))
    way = go(one, 25)
    for other in (from_npz, from_json):
        assert all((a == b).all() for a, b in zip(way, go(other, 25), strict=True))
        assert other.best_cost == one.best_cost
        assert (other.best_position == one.best_position).all()
        assert (other.evaluations, other.generation) == (one.evaluations, one.generation)


@settings(deadline=None, max_examples=20)
@given(kinds, seeds, st.integers(-200, 200))
def test_a_cost_in_another_unit_changes_nothing(kind, seed, power):
    one, scaled = kind(np.zeros(3), spread=0.3, seed=seed), kind(np.zeros(3), spread=0.3, seed=seed)
    way = go(one, 30)
    assert all((a == b).all() for a, b in zip(way, go(scaled, 30, lambda x: valley(x) * 2.0**power), strict=True))


@settings(deadline=None, max_examples=20)
@given(kinds, seeds)
def test_no_sample_leaves_the_bounds(kind, seed):
    lower, upper = np.array([-1.0, 0.4, -3.0]), np.array([0.2, 0.45, 9.0])
    optimizer = kind(np.zeros(3), spread=0.5, seed=seed, lower=lower, upper=upper)
    for x in go(optimizer, 60):
        assert (x >= lower).all()
        assert (x <= upper).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_separable_cma_learns_a_step_size_for_each_weight(dtype):
    optimizer = SeparableCMA(np.zeros(100), spread=0.3, seed=1, dtype=dtype)
    go(optimizer, 1000)
    assert optimizer.ask().dtype == dtype
    assert optimizer.best_cost < 1e-6


def test_the_evolution_strategy_follows_the_slope_in_a_thousand_dimensions():
    optimizer = EvolutionStrategy(np.zeros(1000), spread=0.02, seed=1)
    go(optimizer, 300, lambda x: ((x - 0.5) ** 2).sum(axis=1))
    assert optimizer.best_cost < 250 / 10


@pytest.mark.parametrize("kind", KINDS)
def test_a_cost_that_is_no_number_counts_as_worst_and_the_search_goes_on(kind):
    optimizer = kind(np.full(4, -0.2), spread=0.2, seed=2)

    def sometimes_bad(x):
        cost = ((x - 0.5) ** 2).sum(axis=1)
        cost[::3] = np.nan
        cost[1::5] = -np.inf
        return cost

    assert all(np.isfinite(x).all() for x in go(optimizer, 200, sometimes_bad))
    assert 0 <= optimizer.best_cost < 0.2
    silent = kind(np.zeros(4), spread=0.2)
    assert all(np.isfinite(x).all() for x in go(silent, 20, lambda x: np.full(len(x), np.nan)))
    assert silent.best_cost == np.inf


def test_a_cost_that_is_the_same_everywhere_does_not_move_the_mean():
    optimizer = EvolutionStrategy(np.ones(5), spread=0.1)
    go(optimizer, 10, lambda x: np.ones(len(x)))
    assert (optimizer.ask()[0] == 1).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"start": [[0.0]]}, "start"),
        ({"start": [np.nan]}, "start"),
        ({"start": []}, "start"),
        ({"spread": 0}, "spread"),
        ({"spread": np.inf}, "spread"),
        ({"size": 2}, "size"),
        ({"lower": [0, 0]}, "lower"),
        ({"lower": [1.0], "upper": [1.0]}, "lower"),
    ],
)
def test_a_bad_argument_is_named(kind, arguments, word):
    with pytest.raises(ValueError, match=word):
        kind(**({"start": [0.5], "spread": 1.0} | arguments))


def test_samples_come_in_pairs_and_a_learning_rate_is_positive():
    with pytest.raises(ValueError, match="size"):
        EvolutionStrategy([0.0], spread=1, size=7)
    with pytest.raises(ValueError, match="learning_rate"):
        EvolutionStrategy([0.0], spread=1, learning_rate=0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_of_something_else_and_a_wrong_number_of_costs_are_refused(kind):
    with pytest.raises(ValueError, match="state"):
        kind.from_state({})
    with pytest.raises(ValueError, match="costs has shape"):
        kind([0.0], spread=1).tell([1.0])
