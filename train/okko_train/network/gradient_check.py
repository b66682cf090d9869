"""Is the gradient right? Backpropagation against slopes that are measured by small steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from okko_train import costs
from okko_train.network.backpropagation import Backpropagation
from okko_train.network.inputs import as_samples, as_targets

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from okko_train.network.model import Network


def check_gradient(
    network: Network,
    X: ArrayLike,
    y: ArrayLike,
    *,
    cost: str | costs.Cost | costs.Value = "cross_entropy",
    epsilon: float = 1e-6,
    seed: int = 0,
) -> float:
    """How far backpropagation is from the slope that small steps measure, in double precision.

    Args:
        network: it is not changed; dropout (the same mask for each step) and batch normalisation are on.
        X: samples (n, d).
        y: targets, as for `fit`.
        cost: as for `fit`.
        epsilon: length of the steps to either side.
        seed: decides the dropout mask.

    Returns:
        |g - m| / (|g| + |m|), g from backpropagation, m measured. Below 1e-6 is right; ReLU at a kink can be above.
    """
    double = network.copy(np.float64)
    function = costs.resolve_differentiable(cost, double.activation_names[-1])
    samples, targets = as_samples(double, X, "X"), as_targets(double, y, "y")
    gradient, outputs = np.zeros_like(double.weights), np.empty_like(targets)

    def measure() -> tuple[float, Backpropagation]:
        run = Backpropagation(double, function, gradient, len(samples), np.random.default_rng(seed))
        run.forward(samples, outputs)
        return float(function.value(outputs, targets)), run

    _, run = measure()
    run.backward(outputs, targets, 1 / len(samples))
    measured = np.empty_like(gradient)
    for index in range(len(measured)):
        weight = double.weights[index]
        double.weights[index] = weight + epsilon
        above, _ = measure()
        double.weights[index] = weight - epsilon
        below, _ = measure()
        double.weights[index] = weight
        measured[index] = (above - below) / (2 * epsilon)
    length = np.linalg.norm(gradient) + np.linalg.norm(measured)
    return float(np.linalg.norm(gradient - measured) / length) if length else 0.0
