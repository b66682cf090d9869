"""What training promises: repeatable, stops in time, continues, weighs, and says what is wrong with its input."""

import copy
from pathlib import Path

import numpy as np
import pytest

from okko_models.errors import OkkoError
from okko_train import costs, optimizers
from okko_train.network import Network, TrainingDivergedError, fit

RNG = np.random.default_rng(2)
X = RNG.normal(size=(120, 4)).astype(np.float32)
CLASSES = (X[:, 0] > 0).astype(int) + (X[:, 1] > 0)
NUMBERS = (X[:, :1] * 2 - X[:, 1:2] + 5).astype(np.float32)


def classifier(**settings: object) -> Network:
    return Network((4, 8, 3), ("relu", "softmax"), seed=3, **settings)


def test_it_learns_classes() -> None:
    network = classifier()
    history = fit(network, X, CLASSES, epochs=60, learning_rate=0.01)
    assert history.train_cost[-1] < 0.3 * history.train_cost[0]
    assert (network.predict(X).argmax(axis=1) == CLASSES).mean() > 0.95


@pytest.mark.parametrize("cost", ["mse", "mape"])
def test_it_learns_numbers(cost: str) -> None:
    network = Network((4, 1), ("linear",), seed=0)
    fit(network, X, NUMBERS, cost=cost, epochs=200, learning_rate=0.05, learning_rate_decay="cosine")
    assert network.predict(X) == pytest.approx(NUMBERS, abs=0.05)


def test_it_learns_several_labels_at_once() -> None:
    labels = np.column_stack([X[:, 0] > 0, X[:, 1] > 0.5, X[:, 2] < 0])
    network = Network((4, 3), ("sigmoid",), seed=0)
    fit(network, X, labels, epochs=200, learning_rate=0.05)
    assert ((network.predict(X) > 0.5) == labels).mean() > 0.95


def test_it_learns_a_cost_of_ones_own() -> None:
    pinball = costs.CustomCost(
        value=lambda y, p: np.mean(np.maximum(0.9 * (y - p), -0.1 * (y - p)), axis=(-2, -1)),
        gradient=lambda y, p: np.where(p < y, -0.9, 0.1) / y.size,
    )
    noisy = RNG.normal(size=(2000, 1))
    network = Network((1, 1), ("linear",), seed=0)
    fit(network, np.zeros((2000, 1)), noisy, cost=pinball, epochs=60, learning_rate=0.02, learning_rate_decay="cosine")
    assert (noisy < network.predict([[0.0]])).mean() == pytest.approx(0.9, abs=0.02)


@pytest.mark.parametrize("settings", [{}, {"dropout": 0.2}, {"batch_norm": True}, {"dropout": (0.1, 0.2)}])
def test_the_same_seed_gives_the_same_weights_to_the_last_bit(settings: dict[str, object]) -> None:
    def trained(seed: int) -> np.ndarray:
        network = classifier(**settings)
        fit(network, X, CLASSES, epochs=4, seed=seed)
        return network.weights.copy()

    assert np.array_equal(trained(1), trained(1))
    assert not np.array_equal(trained(1), trained(2))


def test_class_numbers_and_their_one_hot_rows_are_the_same_targets() -> None:
    one, other = classifier(), classifier()
    fit(one, X, CLASSES, epochs=2)
    fit(other, X, np.eye(3)[CLASSES], epochs=2)
    assert np.array_equal(one.weights, other.weights)


def test_batches_are_as_equal_as_possible_and_shuffled() -> None:
    seen: list[np.ndarray] = []
    spy = costs.CustomCost(
        value=lambda y, p: np.mean(p, axis=(-2, -1)),
        gradient=lambda y, p: (seen.append(y[:, 0].copy()), np.zeros_like(p))[1],
    )
    order = np.arange(50.0)
    fit(Network((1, 1), ("linear",)), order[:, None], order, cost=spy, epochs=2, batch_size=16)
    assert [len(batch) for batch in seen[:4]] == [12, 13, 12, 13]
    first, second = np.concatenate(seen[:4]), np.concatenate(seen[4:])
    assert sorted(first) == sorted(second) == list(order)
    assert not np.array_equal(first, second)


def test_early_stopping_brings_back_the_best_weights() -> None:
    noise = RNG.integers(0, 3, 120)
    network = Network((4, 40, 3), ("relu", "softmax"), seed=0)
    kept: list[np.ndarray] = []
    history = fit(
        network,
        X[:80],
        noise[:80],
        epochs=200,
        learning_rate=0.02,
        validation=(X[80:], noise[80:]),
        patience=8,
        on_epoch=lambda epoch, train, held_out: kept.append(network.weights.copy()),
    )
    assert history.best_epoch == np.argmin(history.validation_cost)
    assert len(history.validation_cost) == history.best_epoch + 9 < 200
    assert np.array_equal(network.weights, kept[history.best_epoch])


def test_without_a_validation_part_patience_watches_the_training_cost() -> None:
    still = fit(
        Network((4, 3), ("softmax",)), np.zeros((9, 4)), np.arange(9) % 3, epochs=99, patience=3, batch_size=None
    )
    assert len(still.train_cost) < 99
    assert np.isnan(still.validation_cost).all()


def test_the_callback_can_stop_and_an_exception_in_it_comes_through() -> None:
    history = fit(classifier(), X, CLASSES, epochs=50, on_epoch=lambda epoch, train, held_out: epoch == 4)
    assert len(history.train_cost) == 5

    def prune(epoch: int, train: float, held_out: float) -> None:
        raise RuntimeError("pruned")

    with pytest.raises(RuntimeError, match="pruned"):
        fit(classifier(), X, CLASSES, on_epoch=prune)


@pytest.mark.parametrize("name", sorted(optimizers.OPTIMIZERS))
def test_every_optimizer_goes_downhill(name: str) -> None:
    rate = {"sgd": 0.5, "momentum": 0.1}.get(name, 0.02)
    history = fit(classifier(), X, CLASSES, optimizer=name, learning_rate=rate, epochs=40)
    assert history.train_cost[-1] < 0.4 * history.train_cost[0]


@pytest.mark.parametrize("name", sorted(optimizers.OPTIMIZERS))
def test_training_continues_from_where_it_stopped(name: str, tmp_path: Path) -> None:
    def run(epochs: int, network: Network, optimizer: str | optimizers.Optimizer) -> optimizers.Optimizer:
        return fit(network, X, CLASSES, epochs=epochs, optimizer=optimizer, batch_size=None).optimizer

    whole, parts = classifier(dtype=np.float64), classifier(dtype=np.float64)
    run(8, whole, name)
    run(5, parts, name).save(tmp_path / "optimizer.npz")
    parts.save(tmp_path / "network.npz")
    loaded = Network.load(tmp_path / "network.npz")
    run(3, loaded, optimizers.load(tmp_path / "optimizer.npz"))
    # Equal but for rounding: the order of the samples, in which a full batch is summed, starts anew.
    assert loaded.weights == pytest.approx(whole.weights, abs=1e-9)


def test_a_trained_network_can_be_fine_tuned_on_other_targets() -> None:
    network = classifier()
    fit(network, X, CLASSES, epochs=60, learning_rate=0.01)
    swapped = 2 - CLASSES
    fit(network, X, swapped, epochs=60, learning_rate=0.01)
    assert (network.predict(X).argmax(axis=1) == swapped).mean() > 0.9


def test_adam_follows_the_equations_of_the_paper() -> None:
    weights, gradient = np.array([1.0, -2.0]), np.array([0.3, -4.0])
    expected, first, second = weights.copy(), np.zeros(2), np.zeros(2)
    optimizer = optimizers.Adam(beta1=0.8, beta2=0.95, epsilon=1e-3)
    for step in range(1, 6):
        first, second = 0.8 * first + 0.2 * gradient, 0.95 * second + 0.05 * gradient**2
        expected -= 0.1 * (first / (1 - 0.8**step)) / (np.sqrt(second / (1 - 0.95**step)) + 1e-3)
        optimizer.step(weights, gradient.copy(), 0.1)
    assert weights == pytest.approx(expected, rel=1e-12)


def test_adamw_shrinks_the_weights_themselves() -> None:
    weights = np.array([2.0, -3.0])
    optimizers.AdamW().step(weights, np.zeros(2), 0.1, decay=np.array([0.5, 0.5]))
    assert weights == pytest.approx([2.0 * 0.95, -3.0 * 0.95])


def test_the_gradient_of_the_expected_cost_changes_the_decisions() -> None:
    yes = (X[:, 0] + RNG.normal(size=120) > 0.5).astype(int)
    money = costs.DecisionCost([[0, 1], [9, 0]])
    network = Network((4, 2), ("softmax",), seed=0)

    def paid() -> float:
        return float(money.value(network.predict(X).T, np.eye(2)[yes].T))

    fit(network, X, yes, epochs=60, learning_rate=0.02)
    before = paid()
    fit(network, X, yes, cost=money.expected(), epochs=60, learning_rate=0.02)
    assert paid() < 0.6 * before


def test_l2_makes_the_weights_smaller() -> None:
    def size(l2: float) -> float:
        network = classifier()
        fit(network, X, CLASSES, epochs=30, learning_rate=0.01, l2=l2)
        return float(sum((layer.weight**2).sum() for layer in network.layers))

    assert size(0.1) < 0.5 * size(0.0)


@pytest.mark.parametrize(
    ("decay", "factors"),
    [
        (None, [1, 1, 1, 1]),
        (0.5, [1, 1 / 1.5, 1 / 2, 1 / 2.5]),
        ("exponential", [1, 0.95, 0.95**2, 0.95**3]),
        (optimizers.Step(factor=0.1, every=2), [1, 1, 0.1, 0.1]),
        ("cosine", [1, (1 + 2**-0.5) / 2, 0.5, (1 - 2**-0.5) / 2]),
        (lambda epoch: 2.0**epoch, [1, 2, 4, 8]),
    ],
)
def test_the_learning_rate_decays_as_told(decay: object, factors: list[float]) -> None:
    network = Network((1, 1), ("linear",), dtype=np.float64)
    constant = costs.CustomCost(lambda y, p: np.mean(p, axis=(-2, -1)), gradient=lambda y, p: np.ones_like(p) / y.size)
    biases: list[float] = [float(network.layers[0].bias[0, 0])]
    fit(
        network,
        np.zeros((4, 1)),
        np.zeros(4),
        cost=constant,
        optimizer="sgd",
        learning_rate=1.0,
        epochs=4,
        learning_rate_decay=decay,
        on_epoch=lambda epoch, train, held_out: biases.append(float(network.layers[0].bias[0, 0])),
    )
    assert -np.diff(biases) == pytest.approx(factors)


def test_a_sample_that_weighs_nothing_is_not_there_and_one_that_weighs_double_is_there_twice() -> None:
    one, other = (Network((4, 3), ("softmax",), seed=0, dtype=np.float64) for _ in range(2))
    weight = np.ones(120)
    weight[:40], weight[40:60] = 0.0, 2.0
    fit(one, X, CLASSES, sample_weight=weight, batch_size=None, optimizer="sgd", epochs=20, learning_rate=0.5)
    repeated = np.concatenate([np.arange(40, 120), np.arange(40, 60)])
    fit(other, X[repeated], CLASSES[repeated], batch_size=None, optimizer="sgd", epochs=20, learning_rate=0.5)
    assert one.weights == pytest.approx(other.weights, abs=1e-9)


def test_dropout_keeps_the_expected_activation() -> None:
    constant = costs.CustomCost(lambda y, p: np.mean(p, axis=(-2, -1)), gradient=lambda y, p: np.zeros_like(p))
    network = Network((50, 1), ("linear",), seed=0, dropout=(0.4,))
    network.weights = np.ones_like(network.weights)
    history = fit(network, np.ones((4000, 50)), np.ones(4000), cost=constant, epochs=1)
    assert history.train_cost[0] == pytest.approx(51, rel=0.01)
    assert network.predict(np.ones((1, 50)))[0, 0] == pytest.approx(51)


def test_dropout_at_the_input_makes_a_denoising_autoencoder() -> None:
    base = RNG.normal(size=(400, 2))
    seen = np.column_stack([base[:, 0], base[:, 0], base[:, 0], base[:, 1], base[:, 1], base[:, 1]])
    broken = seen.copy()
    broken[:, 0] = 0.0

    def repaired(dropout: float) -> float:
        network = Network((6, 2, 6), ("linear", "linear"), seed=0, dropout=(dropout, 0.0))
        fit(network, seen, seen, cost="mse", epochs=150, learning_rate=0.01)
        return float(np.mean((network.predict(broken)[:, 0] - seen[:, 0]) ** 2))

    # Told half of what it should know, it learns that the features repeat each other.
    assert repaired(0.4) < 0.5 * float(np.mean(seen[:, 0] ** 2))


def test_batch_normalisation_predicts_with_the_statistics_of_training() -> None:
    shifted = X * 30 + 100
    network = Network((4, 6, 3), ("relu", "softmax"), seed=0, batch_norm=True)
    fit(network, shifted, CLASSES, epochs=100, learning_rate=0.02, learning_rate_decay="cosine")
    product = shifted @ network.layers[0].weight.T + network.layers[0].bias[:, 0]
    mean, variance = network.moving_statistics(0)
    assert mean[:, 0] == pytest.approx(product.mean(axis=0), rel=0.2)
    assert variance[:, 0] == pytest.approx(product.var(axis=0), rel=0.4)
    # One sample alone is predicted as it is among others.
    assert network.predict(shifted[:1]) == pytest.approx(network.predict(shifted)[:1], abs=1e-5)
    assert (network.predict(shifted).argmax(axis=1) == CLASSES).mean() > 0.9


def test_a_training_that_diverges_says_so() -> None:
    wild = {"cost": "mse", "optimizer": "sgd", "learning_rate": 1e9}
    with pytest.raises(TrainingDivergedError, match="in epoch 0; lower the learning rate"):
        fit(Network((4, 1), ("linear",)), X * 1e9, NUMBERS, **wild)

    def late(epoch: int) -> float:
        return 1e-12 if epoch < 3 else 1e30

    with pytest.raises(TrainingDivergedError, match=r"in epoch [34]"):
        fit(Network((4, 1), ("linear",)), X, NUMBERS, **wild, learning_rate_decay=late)
    with pytest.raises(TrainingDivergedError):  # the weights alone, in the very last step
        fit(Network((4, 1), ("linear",)), X, NUMBERS, **wild, learning_rate_decay=late, epochs=4, batch_size=None)


def test_weights_that_were_good_survive_a_later_divergence() -> None:
    network = Network((4, 1), ("linear",), seed=0)
    history = fit(
        network,
        X,
        NUMBERS,
        cost="mse",
        optimizer="sgd",
        epochs=30,
        learning_rate=1e-2,
        learning_rate_decay=lambda epoch: 1.0 if epoch < 5 else 1e20,
        validation=(X, NUMBERS),
    )
    assert history.best_epoch == 4
    assert np.isfinite(network.predict(X)).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"X": X[:, :3]}, r"X has shape \(120, 3\); expected \(n, 4\)"),
        ({"X": X[:0], "y": CLASSES[:0]}, "no samples"),
        ({"X": np.where(X > 2, np.nan, X)}, "X has nan or infinite values"),
        ({"X": np.where(X > 2, np.inf, X)}, "X has nan or infinite values"),
        ({"y": CLASSES + 1}, "classes 1 to 3; expected 0 to 2"),
        ({"y": CLASSES[:50]}, "y has 50 rows, X has 120"),
        ({"y": np.zeros((120, 2))}, r"y has shape \(120, 2\); expected \(n, 3\)"),
        ({"y": np.full((120, 3), np.nan)}, "y has nan"),
        ({"cost": "hinge"}, "hinge"),
        ({"cost": costs.DecisionCost(np.eye(3))}, "no gradient"),
        ({"cost": lambda y, p: 0.0}, "no gradient"),
        ({"optimizer": "newton"}, "newton"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"epochs": 0}, "epochs"),
        ({"l2": -1.0}, "l2"),
        ({"batch_size": 0}, "batch_size"),
        ({"patience": 0}, "patience"),
        ({"sample_weight": np.ones(3)}, "sample_weight"),
        ({"sample_weight": -np.ones(120)}, "sample_weight"),
        ({"learning_rate_decay": "fast"}, "learning_rate_decay"),
        ({"validation": (X, CLASSES[:50])}, r"validation\[1\] has 50 rows"),
    ],
)
def test_input_that_does_not_fit_is_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit(classifier(), **{"X": X, "y": CLASSES, "epochs": 1, **changes})


def test_cross_entropy_needs_probabilities() -> None:
    with pytest.raises(ValueError, match="needs softmax or sigmoid"):
        fit(Network((4, 3), ("linear",)), X, CLASSES)


def test_a_cost_function_that_fails_is_named() -> None:
    def broken(y: np.ndarray, p: np.ndarray) -> float:
        raise ZeroDivisionError("division by zero")

    cost = costs.CustomCost(broken, gradient=lambda y, p: np.zeros_like(p), name="profit")
    with pytest.raises(costs.CostError, match=r"'profit' failed .* ZeroDivisionError"):
        fit(classifier(), X, CLASSES, cost=cost)
    wrong = costs.CustomCost(lambda y, p: np.zeros(7), gradient=lambda y, p: np.zeros_like(p))
    with pytest.raises(costs.CostError, match=r"returned shape \(7,\)"):
        fit(classifier(), X, CLASSES, cost=wrong)
    thin = costs.CustomCost(lambda y, p: 0.0, gradient=lambda y, p: np.zeros(2))
    with pytest.raises(costs.CostError, match="one number per sample and output"):
        fit(classifier(), X, CLASSES, cost=thin)


def test_moments_for_another_network_are_refused() -> None:
    optimizer = fit(classifier(), X, CLASSES, epochs=1).optimizer
    with pytest.raises(ValueError, match="moments for 67 weights"):
        fit(Network((4, 3), ("softmax",)), X, CLASSES, optimizer=optimizer)
    assert copy.deepcopy(optimizer).steps == optimizer.steps


def test_a_file_that_is_no_optimizer_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_bytes(b"no")
    with pytest.raises(OkkoError, match="is not a saved optimizer"):
        optimizers.load(tmp_path / "x.npz")
