"""What a network promises: its numbers, its gradient, its repeatability."""

import numpy as np
import pytest

from okko_train.network import Network, check_gradient, fit

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 4))
CLASSES = (X[:, 0] > 0).astype(int) + (X[:, 1] > 0)


def test_softmax_regression_learns_what_is_linearly_separable() -> None:
    network = Network((4, 3), ("softmax",), seed=0)
    history = fit(network, X, CLASSES, epochs=200, learning_rate=0.05)
    assert history.train_cost[-1] < 0.4 * history.train_cost[0]
    assert (network.predict(X).argmax(axis=1) == CLASSES).mean() > 0.8
    assert network.predict(X).sum(axis=1) == pytest.approx(np.ones(40))


def test_the_same_seed_gives_the_same_weights_to_the_last_bit() -> None:
    def trained(seed: int) -> np.ndarray:
        network = Network((4, 6, 3), ("relu", "softmax"), seed=3, dropout=0.2)
        fit(network, X, CLASSES, epochs=5, seed=seed)
        return network.weights.copy()

    assert np.array_equal(trained(1), trained(1))
    assert not np.array_equal(trained(1), trained(2))


def test_backpropagation_agrees_with_measured_slopes() -> None:
    assert check_gradient(Network((4, 6, 3), ("tanh", "softmax"), seed=0), X, CLASSES) < 1e-7
