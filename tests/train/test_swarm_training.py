"""What training by the swarm promises: batched and exact, any cost, and never worse than where it started."""

import warnings

import numpy as np
import pytest

from okko_train import costs
from okko_train.network import Network, fit
from okko_train.population import Population
from okko_train.swarm import Swarm
from okko_train.swarm_training import SwarmSizeWarning, fit_by_swarm, initial_positions, refine

RNG = np.random.default_rng(4)
X = RNG.normal(size=(90, 4)).astype(np.float32)
CLASSES = (X[:, 0] > 0).astype(int) + (X[:, 1] > 0)
YES = (X[:, 0] + 0.5 * RNG.normal(size=90) > 0.8).astype(int)
MISSED, FALSE_ALARM = 9.0, 1.0
MONEY = costs.DecisionCost([[0.0, FALSE_ALARM], [MISSED, 0.0]])

SHAPES = [
    ((4, 3), ("softmax",)),
    ((4, 10, 3), ("relu", "softmax")),
    ((4, 8, 6, 3), ("tanh", "leaky_relu", "sigmoid")),
    ((4, 5, 1), ("sigmoid", "linear")),
]


@pytest.mark.parametrize(("sizes", "activations"), SHAPES)
@pytest.mark.parametrize("chunk_bytes", [1, 40_000, 1 << 30])
def test_each_particle_is_evaluated_as_the_network_it_is(
    sizes: tuple[int, ...], activations: tuple[str, ...], chunk_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("okko_train.population._CHUNK_BYTES", chunk_bytes)
    network = Network(sizes, activations, seed=0)
    positions = RNG.normal(size=(23, network.weights.size)).astype(np.float32)
    outputs = Population(network, X).outputs(positions)
    for position, output in zip(positions, outputs, strict=True):
        network.weights = position
        assert output == pytest.approx(network.predict(X), abs=1e-5)


@pytest.mark.parametrize(
    ("last", "cost", "k"),
    [("softmax", "cross_entropy", 3), ("sigmoid", "cross_entropy", 3), ("linear", "mse", 2), ("linear", "mape", 2)],
)
def test_the_cost_of_a_particle_is_the_cost_of_its_network(last: str, cost: str, k: int) -> None:
    network = Network((4, 6, k), ("tanh", last), seed=0)
    function = costs.resolve(cost, last)
    targets = np.eye(3, dtype=np.float32)[CLASSES].T if k == 3 else X[:, :2].T + 3
    weights = RNG.uniform(0, 2, 90).astype(np.float32)
    positions = RNG.normal(size=(7, network.weights.size)).astype(np.float32)
    found = Population(network, X).costs(positions, function, targets, weights)
    for position, value in zip(positions, found, strict=True):
        network.weights = position
        assert value == pytest.approx(float(function.value(network.predict(X).T, targets, weights)), rel=1e-4)


def test_a_permutation_of_the_particles_permutes_the_costs() -> None:
    network = Network((4, 6, 3), ("tanh", "softmax"), seed=0)
    positions = RNG.normal(size=(40, network.weights.size))
    order = RNG.permutation(40)
    population, targets = Population(network, X), np.eye(3, dtype=np.float32)[CLASSES].T
    cost = costs.resolve("cross_entropy", "softmax")
    there = population.costs(positions, cost, targets)
    assert population.costs(positions[order], cost, targets) == pytest.approx(there[order], rel=1e-6)


def test_a_swarm_learns_classes() -> None:
    network = Network((4, 10, 3), ("relu", "softmax"), seed=0)
    history = fit_by_swarm(network, X, CLASSES, generations=100)
    assert (network.predict(X).argmax(axis=1) == CLASSES).mean() > 0.9
    assert (np.diff(history.train_cost) <= 0).all()
    assert history.evaluations == 50 * 100


def test_a_swarm_learns_a_cost_that_has_no_gradient() -> None:
    network = Network((4, 4, 2), ("tanh", "softmax"), seed=0)
    history = fit_by_swarm(network, X, YES, cost=MONEY, generations=60)
    nobody_alarmed, everybody_alarmed = MISSED * YES.mean(), FALSE_ALARM * (1 - YES.mean())
    assert history.train_cost[-1] < 0.5 * min(nobody_alarmed, everybody_alarmed)
    decided = network.predict(X).argmax(axis=1)
    paid = np.where(YES == 1, MISSED * (decided == 0), FALSE_ALARM * (decided == 1)).mean()
    assert history.train_cost[-1] == pytest.approx(paid)


def test_a_cost_function_sees_all_particles_at_once_with_one_row_per_sample() -> None:
    shapes = set()

    def cost(y: np.ndarray, p: np.ndarray) -> np.ndarray:
        shapes.add((y.shape, p.shape))
        return np.mean(np.abs(p - y), axis=(-2, -1))

    fit_by_swarm(Network((4, 3), ("softmax",)), X, CLASSES, cost=cost, particles=12, generations=2)
    assert shapes == {((90, 3), (12, 90, 3))}


def test_the_same_seed_gives_the_same_weights_to_the_last_bit() -> None:
    def trained(seed: int) -> np.ndarray:
        network = Network((4, 6, 3), ("relu", "softmax"), seed=0)
        fit_by_swarm(network, X, CLASSES, generations=10, seed=seed)
        return network.weights.copy()

    assert np.array_equal(trained(1), trained(1))
    assert not np.array_equal(trained(1), trained(2))


def test_the_swarm_starts_from_the_network_it_is_given() -> None:
    network = Network((4, 6, 3), ("relu", "softmax"), seed=0)
    fit(network, X, CLASSES, epochs=100, learning_rate=0.01)
    assert np.array_equal(initial_positions(network, 5, seed=0)[0], network.weights)
    before = Population(network, X).costs(
        network.weights[None], costs.resolve("cross_entropy", "softmax"), np.eye(3, dtype=np.float32)[CLASSES].T
    )
    history = fit_by_swarm(network, X, CLASSES, generations=3)
    assert history.train_cost[0] <= before[0] * 1.0001


def test_the_best_network_on_the_validation_part_is_kept() -> None:
    noise = RNG.integers(0, 3, 90)
    network = Network((4, 12, 3), ("relu", "softmax"), seed=0)
    held_out = X[60:], noise[60:]
    history = fit_by_swarm(network, X[:60], noise[:60], generations=60, validation=held_out, patience=15)
    assert history.best_generation == np.argmin(history.validation_cost)
    assert len(history.validation_cost) <= history.best_generation + 16
    found = float(costs.resolve("cross_entropy", "softmax").value(network.predict(X[60:]).T, np.eye(3)[noise[60:]].T))
    assert found == pytest.approx(history.validation_cost[history.best_generation], rel=1e-4)


def test_l2_and_sample_weights_count() -> None:
    def trained(**settings: object) -> Network:
        network = Network((4, 3), ("softmax",), seed=0)
        fit_by_swarm(network, X, CLASSES, generations=40, **settings)
        return network

    free, held = trained(), trained(l2=0.5)
    assert np.abs(held.layers[0].weight).mean() < 0.5 * np.abs(free.layers[0].weight).mean()
    only_class_0 = trained(sample_weight=(CLASSES == 0).astype(float))
    decided = only_class_0.predict(X).argmax(axis=1)
    assert (decided[CLASSES == 0] == 0).all()
    assert (decided == 0).mean() > (free.predict(X).argmax(axis=1) == 0).mean() + 0.2


def test_any_optimizer_with_ask_and_tell_will_do_and_a_callback_can_stop_it() -> None:
    network = Network((4, 3), ("softmax",), seed=0)
    edge = np.full(network.weights.size, 2.0)
    history = fit_by_swarm(
        network,
        X,
        CLASSES,
        generations=50,
        optimizer=Swarm(-edge, edge, rule="inertia", size=11, seed=0),
        on_generation=lambda generation, train, held_out: generation == 3,
    )
    assert history.evaluations == 44
    assert np.abs(network.weights).max() <= 2.0


def test_evolution_learns_more_weights_than_a_swarm() -> None:
    network = Network((4, 60, 3), ("relu", "softmax"), seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        history = fit_by_swarm(network, X, CLASSES, generations=60, optimizer="evolution")
    assert history.train_cost[-1] < 0.2
    with pytest.raises(ValueError, match="optimizer is 'magic'"):
        fit_by_swarm(network, X, CLASSES, optimizer="magic")


def test_too_many_weights_are_warned_of_and_the_warning_says_what_to_do_instead() -> None:
    large = Network((4, 60, 3), ("relu", "softmax"))
    with pytest.warns(SwarmSizeWarning, match=r"483 weights.*okko_train\.network\.fit"):
        fit_by_swarm(large, X, CLASSES, generations=1)
    with pytest.warns(SwarmSizeWarning, match="`refine` the last layer"):
        fit_by_swarm(large, X, CLASSES, cost=costs.DecisionCost(1 - np.eye(3)), generations=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit_by_swarm(Network((4, 10, 3), ("relu", "softmax")), X, CLASSES, generations=1)


@pytest.mark.parametrize(("k", "last"), [(2, "softmax"), (1, "sigmoid")])
def test_refining_lowers_what_the_decisions_cost_and_touches_the_last_layer_only(k: int, last: str) -> None:
    network = Network((4, 6, k), ("tanh", last), seed=0)
    fit(network, X, YES, epochs=60, learning_rate=0.01)
    before = network.weights.copy()
    result = refine(network, X, YES, cost=MONEY)
    assert result.train_cost[0] > result.train_cost[1] >= result.train_cost[2]
    assert result.kept == 2
    tail = (6 + 1) * k
    assert np.array_equal(network.weights[:-tail], before[:-tail])
    decided = (network.predict(X)[:, -1] > 0.5).astype(int)
    paid = np.where(YES == 1, MISSED * (decided == 0), FALSE_ALARM * (decided == 1)).mean()
    assert paid == pytest.approx(result.train_cost[2])


def test_refining_keeps_the_step_that_is_best_on_the_validation_part() -> None:
    network = Network((4, 6, 2), ("tanh", "softmax"), seed=0)
    fit(network, X[:60], YES[:60], epochs=60, learning_rate=0.01)
    result = refine(network, X[:60], YES[:60], cost=MONEY, validation=(X[60:], YES[60:]))
    assert result.kept == np.argmin(result.validation_cost)
    kept = float(MONEY.value(network.predict(X[60:]).T, np.eye(2)[YES[60:]].T))
    assert kept == pytest.approx(result.validation_cost[result.kept])


def test_refining_works_without_a_hidden_layer_with_batch_normalisation_and_for_numbers() -> None:
    overshoot = costs.CustomCost(lambda y, p: np.mean(np.where(p > y, 10.0, y - p), axis=(-2, -1)))
    numbers = X[:, :1] + 5
    for network in (Network((4, 1), ("linear",)), Network((4, 6, 1), ("relu", "linear"), batch_norm=True)):
        fit(network, X, numbers, cost="mse", epochs=100, learning_rate=0.03)
        result = refine(network, X, numbers, cost=overshoot)
        assert result.train_cost[2] < 0.5 * result.train_cost[0]


def test_a_decision_cost_reads_its_matrix_from_true_to_decided() -> None:
    cost = costs.DecisionCost([[0, 1, 2], [3, 0, 4], [5, 6, 0]])
    outputs = np.array([[0.6, 0.1, 0.1, 0.2], [0.3, 0.8, 0.2, 0.7], [0.1, 0.1, 0.7, 0.1]])
    targets = np.eye(3)[[0, 2, 1, 0]].T
    assert cost.rows(outputs, targets).tolist() == [0, 6, 4, 1]
    assert cost.value(np.stack([outputs, outputs[:, ::-1]]), targets).shape == (2,)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"X": np.where(X > 2, np.nan, X)}, "X has nan"),
        ({"y": CLASSES[:9]}, "y has 9 rows, X has 90"),
        ({"particles": 1}, "size is 1"),
        ({"generations": 0}, "generations"),
        ({"bound": 0.0}, "bound"),
        ({"l2": -1.0}, "l2"),
        ({"patience": 0}, "patience"),
        ({"cost": "hinge"}, "hinge"),
    ],
)
def test_input_that_does_not_fit_is_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_by_swarm(Network((4, 3), ("softmax",)), **{"X": X, "y": CLASSES, "generations": 1, **changes})


def test_batch_normalisation_is_left_to_the_gradient() -> None:
    with pytest.raises(ValueError, match="batch_norm"):
        fit_by_swarm(Network((4, 5, 3), ("relu", "softmax"), batch_norm=True), X, CLASSES)


def test_a_cost_function_of_the_wrong_shape_is_named() -> None:
    with pytest.raises(costs.CostError, match=r"returned shape \(\) .*average over the last two axes"):
        fit_by_swarm(Network((4, 3), ("softmax",)), X, CLASSES, cost=lambda y, p: np.mean(p))
    with pytest.raises(ValueError, match="weigh the samples inside that cost"):
        fit_by_swarm(
            Network((4, 3), ("softmax",)),
            X,
            CLASSES,
            cost=lambda y, p: np.mean(p, axis=(-2, -1)),
            sample_weight=np.ones(90),
        )
    with pytest.raises(ValueError, match=r"expected \(classes, classes\)"):
        costs.DecisionCost([[0.0, 1.0]])
