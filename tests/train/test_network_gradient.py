"""The gradient is right for every layer, cost and regulariser."""

import numpy as np
import pytest

from okko_train import costs
from okko_train.network import Network, check_gradient
from okko_train.network.activations import ACTIVATIONS
from okko_train.network.gradient_check import Backpropagation
from okko_train.optimizers import SGD

RNG = np.random.default_rng(1)
X = RNG.normal(size=(9, 5))
HIDDEN = ("linear", "sigmoid", "tanh", "relu", "leaky_relu")
TARGETS = {
    "one of three": np.eye(3)[RNG.integers(0, 3, 9)],
    "three labels": RNG.integers(0, 2, (9, 3)).astype(float),
    "numbers": RNG.normal(size=(9, 3)) + 3.0,
}
QUARTIC = costs.CustomCost(
    value=lambda y, p: np.mean((p - y) ** 4, axis=(-2, -1)), gradient=lambda y, p: 4 * (p - y) ** 3 / y.size
)
COSTS = [
    ("softmax", "cross_entropy", "one of three"),
    ("sigmoid", "cross_entropy", "three labels"),
    ("sigmoid", "mse", "three labels"),
    ("softmax", "mse", "one of three"),
    ("softmax", costs.ExpectedCost([[0, 1, 2], [3, 0, 4], [5, 6, 0]]), "one of three"),
    ("softmax", "mape", "numbers"),
    ("linear", "mse", "numbers"),
    ("linear", "mape", "numbers"),
    ("tanh", QUARTIC, "numbers"),
    ("relu", QUARTIC, "numbers"),
]


def away_from_kinks(network: Network) -> Network:
    """Biases that keep a ReLU without live inputs off the point where it has no slope."""
    for layer in network.layers:
        layer.bias[:] = RNG.uniform(0.1, 0.5, layer.bias.shape)
    return network


def test_every_activation_is_checked() -> None:
    assert {*HIDDEN, *(last for last, _, _ in COSTS)} == set(ACTIVATIONS)


@pytest.mark.parametrize("hidden", HIDDEN)
@pytest.mark.parametrize(("last", "cost", "targets"), COSTS)
def test_backpropagation_agrees_with_measured_slopes(
    hidden: str, last: str, cost: str | costs.Cost, targets: str
) -> None:
    network = away_from_kinks(Network((5, 7, 6, 3), (hidden, hidden, last), seed=1))
    assert check_gradient(network, X, TARGETS[targets], cost=cost) < 1e-6


@pytest.mark.parametrize("hidden", HIDDEN)
@pytest.mark.parametrize("dropout", [0.0, 0.3, (0.2, 0.3, 0.1)])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_it_agrees_with_dropout_and_batch_normalisation(
    hidden: str, dropout: float | tuple[float, ...], batch_norm: bool
) -> None:
    network = Network((5, 7, 6, 3), (hidden, hidden, "softmax"), seed=2, dropout=dropout, batch_norm=batch_norm)
    assert check_gradient(away_from_kinks(network), X, TARGETS["one of three"]) < 1e-6


def test_a_wrong_gradient_is_noticed() -> None:
    wrong = costs.CustomCost(QUARTIC._value, gradient=lambda y, p: 4.1 * (p - y) ** 3 / y.size)
    assert check_gradient(Network((5, 3), ("linear",)), X, TARGETS["numbers"], cost=wrong) > 1e-3


def test_a_single_output_learns_a_yes_or_no() -> None:
    yes = (X[:, 0] > 0).astype(float)
    assert check_gradient(Network((5, 4, 1), ("tanh", "sigmoid")), X, yes) < 1e-7
    expected = costs.ExpectedCost([[0, 1], [9, 0]])
    assert check_gradient(Network((5, 4, 1), ("tanh", "sigmoid")), X, yes, cost=expected) < 1e-7


def test_l2_adds_the_weights_but_not_the_biases_to_the_gradient() -> None:
    network = away_from_kinks(Network((5, 4, 3), ("tanh", "softmax"), seed=0, dtype=np.float64))
    cost = costs.resolve("cross_entropy", "softmax")
    samples, targets = np.column_stack([X, np.ones(9)]), np.ascontiguousarray(TARGETS["one of three"].T)
    gradient, outputs = np.zeros_like(network.weights), np.empty((3, 9))
    run = Backpropagation(network, cost, gradient, 9, np.random.default_rng(0))

    def step(l2: float) -> np.ndarray:
        from okko_train.network.inputs import penalised

        run.forward(samples, outputs)
        run.backward(outputs, targets, 1 / 9)
        weights = network.weights.copy()
        SGD().step(weights, gradient, 1.0, l2 * penalised(network))
        return network.weights - weights

    for layer, difference in zip(network.layers, network.views(step(0.5) - step(0.0)), strict=True):
        assert difference.weight == pytest.approx(0.5 * layer.weight)
        assert difference.bias == pytest.approx(np.zeros_like(layer.bias))
