"""What a swarm promises, for every rule: it stays in the box, repeats itself, resumes exactly, and finds the valley."""

import doctest
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import okko_train.space
import okko_train.swarm.core
from okko_train.swarm import Settings, Stop, Swarm
from okko_train.swarm.topology import neighbours

RULES = ("learning", "competitive", "inertia", "constriction", "spso2011", "informed")
WALLS = ("reflect", "absorb", "wrap", "random")
rules = st.sampled_from(RULES)
seeds = st.integers(0, 2**32)


def rastrigin(x):
    x = x.astype(np.float64) - 0.3
    return 10 * x.shape[1] + (x**2 - 10 * np.cos(2 * np.pi * x)).sum(axis=1)


def bowl(x):
    return ((x.astype(np.float64) - 1.25) ** 2).sum(axis=1)


def fly(swarm, generations, cost=rastrigin):
    asked = []
    for _ in range(generations):
        asked.append(swarm.ask())
        swarm.tell(cost(swarm.ask()))
    return asked


def make(rule="learning", dimension=4, **choices):
    return Swarm(np.full(dimension, -5.0), np.full(dimension, 5.0), rule=rule, **choices)


@settings(deadline=None, max_examples=60)
@given(rules, st.sampled_from(WALLS), seeds, st.sampled_from(["float32", "float64"]), st.data())
def test_no_particle_ever_leaves_the_box(rule, walls, seed, dtype, data):
    lower = np.array(data.draw(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=4)), dtype=dtype)
    width = data.draw(st.lists(st.floats(1, 1e6, width=32), min_size=len(lower), max_size=len(lower)))
    upper = lower + np.array(width, dtype=dtype)
    swarm = Swarm(lower, upper, rule=rule, walls=walls, seed=seed, dtype=dtype, size=9, velocity_limit=None)
    target = lower if data.draw(st.booleans()) else upper  # the best lies in a corner: everybody flies against the wall
    for x in fly(swarm, 25, lambda x: np.abs(x.astype(float) - target).sum(axis=1)):
        assert x.dtype == dtype
        assert (x >= lower).all()
        assert (x <= upper).all()


@settings(deadline=None, max_examples=30)
@given(rules, seeds)
def test_the_same_seed_flies_the_same_way_and_another_seed_another(rule, seed):
    one, same, other = make(rule, seed=seed), make(rule, seed=seed), make(rule, seed=seed + 1)
    assert all((a == b).all() for a, b in zip(fly(one, 30), fly(same, 30), strict=True))
    fly(other, 30)
    assert (other.best_position != one.best_position).any()


@settings(deadline=None, max_examples=40)
@given(rules, seeds, st.integers(0, 25), st.sampled_from(["float32", "float64"]), st.sampled_from([None, 4]))
def test_a_saved_swarm_goes_on_exactly_as_if_nothing_had_happened(rule, seed, generations, dtype, restart_after):
    swarm = make(rule, dimension=2, seed=seed, dtype=dtype, restart_after=restart_after, stop=Stop(patience=9))
    fly(swarm, generations)
    file = io.BytesIO()
    np.savez(file, **swarm.state())
    file.seek(0)
    from_npz = Swarm.from_state(dict(np.load(file)))
    from_json = Swarm.from_state(json.loads(json.dumps({key: value.tolist() for key, value in swarm.state().items()})))
    for other in (from_npz, from_json):
        assert (other.ask() == swarm.ask()).all()
    way = fly(swarm, 20)
    for other in (from_npz, from_json):
        assert all((a == b).all() for a, b in zip(way, fly(other, 20), strict=True))
        assert other.best_cost == swarm.best_cost
        assert (other.best_position == swarm.best_position).all()
        assert (other.evaluations, other.generation, other.stopped) == (
            swarm.evaluations,
            swarm.generation,
            swarm.stopped,
        )


@settings(deadline=None, max_examples=30)
@given(rules, seeds, st.randoms(use_true_random=False))
def test_a_permutation_of_particles_changes_nothing(rule, seed, shuffler):
    start = np.random.default_rng(seed).uniform(-5, 5, (12, 3))
    order = list(range(12))
    shuffler.shuffle(order)
    one = make(rule, dimension=3, size=12, start=start, seed=1)
    permuted = make(rule, dimension=3, size=12, start=start[order], seed=1)
    fly(one, 1)
    fly(permuted, 1)
    assert all((a == b).all() for a, b in zip(fly(one, 30), fly(permuted, 30), strict=True))


@settings(deadline=None, max_examples=30)
@given(rules, seeds, st.integers(-200, 200))
def test_a_cost_in_another_unit_changes_nothing(rule, seed, power):
    one, scaled = make(rule, seed=seed), make(rule, seed=seed)
    way = fly(one, 40)
    assert all((a == b).all() for a, b in zip(way, fly(scaled, 40, lambda x: rastrigin(x) * 2.0**power), strict=True))


@settings(deadline=None, max_examples=30)
@given(rules, seeds, st.integers(-40, 40), st.sampled_from(WALLS))
def test_a_box_in_another_unit_scales_the_positions_and_nothing_else(rule, seed, power, walls):
    unit = 2.0**power
    one = make(rule, seed=seed, walls=walls)
    scaled = Swarm(np.full(4, -5.0) * unit, np.full(4, 5.0) * unit, rule=rule, seed=seed, walls=walls)
    way = fly(one, 40)
    assert all((a * unit == b).all() for a, b in zip(way, fly(scaled, 40, lambda x: rastrigin(x / unit)), strict=True))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e308])
def test_a_cost_that_is_no_number_counts_as_worst_and_the_swarm_goes_on(rule, bad):
    swarm = make(rule, dimension=3, seed=3)

    def sometimes_bad(x):
        cost = ((x - 1) ** 2).sum(axis=1)
        cost[x[:, 0] < 0] = bad
        return cost

    asked = fly(swarm, 150, sometimes_bad)
    assert all(np.isfinite(x).all() for x in asked)
    assert swarm.best_cost < 1e-3
    assert swarm.best_position[0] >= 0


@pytest.mark.parametrize("rule", RULES)
def test_a_swarm_that_hears_nothing_but_nan_has_no_best_cost(rule):
    swarm = make(rule)
    assert all(np.isfinite(x).all() for x in fly(swarm, 20, lambda x: np.full(len(x), np.nan)))
    assert swarm.best_cost == np.inf


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_rule_finds_the_bottom_of_a_bowl(rule, dtype):
    swarm = make(rule, dimension=5, dtype=dtype, seed=1)
    while swarm.evaluations < 8000:
        swarm.tell(bowl(swarm.ask()))
    assert swarm.best_cost < 1e-6
    assert np.abs(swarm.best_position - 1.25).max() < 1e-3


@pytest.mark.parametrize("topology", ["global", "ring", "von_neumann", "random"])
@pytest.mark.parametrize("rule", ["inertia", "constriction", "spso2011", "informed"])
def test_every_topology_leads_down(rule, topology):
    if (rule, topology) == ("informed", "global"):
        with pytest.raises(ValueError, match="topology"):
            make(rule, topology=topology)
        return
    swarm = make(rule, topology=topology, size=20, seed=2)
    fly(swarm, 1)
    first = swarm.best_cost
    fly(swarm, 150)
    assert swarm.best_cost < first / 5


def test_the_default_reaches_what_a_competitive_swarm_reaches_and_follows_a_valley_where_that_stalls():
    def rosenbrock(x):
        x = x - 0.7
        return (100 * (x[:, 1:] - x[:, :-1] ** 2) ** 2 + (1 - x[:, :-1]) ** 2).sum(axis=1)

    def median(rule, cost):
        found = []
        for seed in range(5):
            swarm = Swarm(np.full(10, -30.0), np.full(10, 30.0), rule=rule, seed=seed)
            while swarm.evaluations < 20_000:
                swarm.tell(cost(swarm.ask()))
            found.append(swarm.best_cost)
        return np.median(found)

    assert median("learning", rosenbrock) < 1 < median("competitive", rosenbrock)
    assert median("learning", lambda x: ((x - 0.7) ** 2).sum(axis=1)) < 1e-24


def test_a_better_swarm_is_not_forgotten_by_a_restart():
    swarm = make(restart_after=3, seed=4, size=6)
    best = []
    for _ in range(200):
        fly(swarm, 1)
        best.append(swarm.best_cost)
    assert best == sorted(best, reverse=True)
    assert rastrigin(swarm.best_position[None])[0] == swarm.best_cost


def test_a_swarm_that_stands_still_starts_afresh():
    swarm = make(restart_after=5, seed=1)
    fly(swarm, 6, lambda x: np.zeros(len(x)))
    assert swarm.spread > 0.8
    assert len(swarm.ask()) == swarm.settings.first


def test_the_best_of_the_first_points_become_the_swarm():
    swarm = Swarm.for_tuning(3, seed=5)
    first = swarm.ask()
    assert first.shape == (12, 3)
    cost = rastrigin(first)
    swarm.tell(cost)
    assert swarm.ask().shape == (6, 3)
    assert np.abs(swarm.ask() - first[cost.argsort()[:6]]).max() <= 0.3 + 1e-12


@pytest.mark.parametrize("start", ["sobol", "latin"])
def test_an_even_start_leaves_no_slice_of_any_dimension_empty(start):
    swarm = Swarm(np.zeros(5), np.ones(5), start=start, size=16, seed=9)
    for column in swarm.ask().T:
        assert sorted((column * 16).astype(int)) == list(range(16))


def test_given_positions_begin_the_first_generation():
    start = np.array([[1.0, 2.0], [9.0, -9.0]])
    asked = Swarm([-5, -5], [5, 5], start=start).ask()
    assert asked[:2].tolist() == [[1.0, 2.0], [5.0, -5.0]]


def test_each_stop_rule_stops_and_says_which_it_was():
    def run(stop, cost=rastrigin):
        swarm = make(stop=stop, seed=1)
        while not swarm.stopped and swarm.generation < 2000:
            swarm.tell(cost(swarm.ask()))
        return swarm

    assert run(Stop(evaluations=500)).stopped == "evaluations"
    assert run(Stop(target=5.0)).best_cost <= 5
    assert run(Stop(patience=4), lambda x: np.ones(len(x))).generation == 5
    narrow = run(Stop(spread=0.01))
    assert narrow.stopped == "spread"
    assert narrow.spread <= 0.01


def test_asking_twice_gives_the_same_positions_and_nobody_can_change_them():
    swarm = make()
    assert swarm.ask() is swarm.ask()
    with pytest.raises(ValueError, match="read-only"):
        swarm.ask()[0] = 0
    fly(swarm, 1)
    with pytest.raises(ValueError, match="read-only"):
        swarm.ask()[0] = 0


def test_a_swarm_holds_no_more_memory_after_a_thousand_generations():
    def size(swarm):
        return sum(np.asarray(value).nbytes for value in swarm.state().values())

    for rule in RULES:
        swarm = make(rule)
        fly(swarm, 200, bowl)
        early = size(swarm)
        fly(swarm, 1000, bowl)
        assert size(swarm) <= early


def test_neighbours_are_those_of_the_topology():
    random = np.random.default_rng(0)
    assert neighbours("global", 4, random).tolist() == [[0, 1, 2, 3]]
    assert neighbours("ring", 4, random).tolist() == [[0, 3, 1], [1, 0, 2], [2, 1, 3], [3, 2, 0]]
    assert sorted(neighbours("von_neumann", 12, random)[5]) == [2, 4, 5, 6, 8]
    drawn = neighbours("random", 9, random)
    assert (drawn[:, 0] == np.arange(9)).all()
    assert (drawn[:, 1:] != drawn[:, :1]).all()


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"lower": [0, 0], "upper": [1]}, "shapes"),
        ({"lower": [0, 1], "upper": [1, 1]}, r"lower\[1\]"),
        ({"lower": [0, -np.inf], "upper": [1, 1]}, r"lower\[1\]"),
        ({"lower": [0, np.nan], "upper": [1, 1]}, r"lower\[1\]"),
        ({"size": 3}, "size"),
        ({"first": 10}, "first"),
        ({"rule": "gravity"}, "rule"),
        ({"topology": "star"}, "topology"),
        ({"walls": "bounce"}, "walls"),
        ({"start": "normal"}, "start"),
        ({"start": [[1, 2, 3]]}, "start"),
        ({"start": [[np.nan, 0.5]]}, "start"),
        ({"inertia": -1}, "inertia"),
        ({"inertia": (0.5, np.nan)}, "inertia"),
        ({"damping": np.inf}, "damping"),
        ({"attraction": -0.1}, "attraction"),
        ({"velocity_limit": 0}, "velocity_limit"),
        ({"restart_after": 0}, "restart_after"),
        ({"dtype": "int32"}, "dtype"),
        ({"speed": 3}, "speed"),
    ],
)
def test_a_bad_argument_is_named(arguments, word):
    with pytest.raises(ValueError, match=word):
        Swarm(**({"lower": [0, 0], "upper": [1, 1]} | arguments))


@pytest.mark.parametrize("field", ["evaluations", "patience", "spread"])
def test_a_stop_rule_that_could_never_hold_is_named(field):
    with pytest.raises(ValueError, match=field):
        Stop(**{field: 0})
    with pytest.raises(ValueError, match="target"):
        Stop(target=np.nan)


def test_the_wrong_number_of_costs_is_refused_and_says_how_many_were_expected():
    swarm = make(size=8)
    with pytest.raises(ValueError, match=r"costs has shape \(7,\); expected \(8,\)"):
        swarm.tell(np.zeros(7))


def test_a_state_that_no_swarm_wrote_is_refused():
    for state in ({}, {"settings": "no json"}, make().state() | {"settings": '{"stop": {}}'}):
        with pytest.raises(ValueError, match="state"):
            Swarm.from_state(state)


def test_settings_fill_in_what_suits_the_rule():
    assert Settings.choose(size=12).first == 12
    assert Settings.choose(rule="spso2011").topology == "random"
    assert Settings.choose(rule="constriction").inertia_at(0) == pytest.approx(0.7298, abs=1e-4)
    damped = Settings.choose(rule="inertia", inertia=(0.9, 0.5), damping=0.5)
    assert [damped.inertia_at(generation) for generation in range(3)] == [0.9, 0.25, 0.125]


def test_every_block_of_the_handbook_page_runs():
    page = Path(__file__).parents[2] / "docs" / "swarm.md"
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(blocks) >= 4
    shared = {}
    for block in blocks:
        exec(compile(block, str(page), "exec"), shared)


@pytest.mark.parametrize("module", [okko_train.space, okko_train.swarm.core])
def test_the_examples_in_the_docstrings_are_true(module):
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0
