"""What training makes small: cross-entropy, mean squared error, mean absolute percentage error, or a cost of your own.

A cost compares outputs with targets; it knows nothing of weights. Built-in costs are feature-major, ``(..., k, n)``,
like everything inside the network, and any leading axes (the particles of a swarm) are kept. A cost of your own sees
the familiar ``(n, k)``, one row per sample.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from okko_models.errors import OkkoError

Array = NDArray[Any]

Value = Callable[[Array, Array], Array | float]
Gradient = Callable[[Array, Array], Array]


class CostError(OkkoError):
    """A user's cost function raised an error, or returned something of the wrong shape."""


class Cost(ABC):
    """A cost function, averaged over the samples.

    Attributes:
        name: how users call it.
        natural: last activation for which d cost / d z is just ``outputs - targets``, or None.
        differentiable: False if only a swarm can train with it.
    """

    name: str
    natural: str | None = None
    differentiable = True

    @abstractmethod
    def value(self, outputs: Array, targets: Array, weights: Array | None = None) -> Array:
        """Cost (...) of outputs (..., k, n) against targets (k, n); weights (n,) of mean 1 weigh the samples."""

    def value_of_logits(self, z: Array, targets: Array, weights: Array | None = None) -> Array:
        """The same from the last layer before its natural activation, z (..., k, n), which is overwritten.

        Raises:
            NotImplementedError: the cost has no natural activation.
        """
        raise NotImplementedError(f"{self!r} has no natural activation")

    @abstractmethod
    def slope(self, outputs: Array, targets: Array) -> Array:
        """Derivative of each sample's own cost with respect to its outputs: (k, n), not yet divided by n."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class _RowCost(Cost):
    """A cost that is a mean over samples."""

    @abstractmethod
    def rows(self, outputs: Array, targets: Array) -> Array:
        """Cost (..., n) of each sample."""

    def value(self, outputs: Array, targets: Array, weights: Array | None = None) -> Array:
        """Mean (...) of the rows, weighted if ``weights`` (n,) are given."""
        return _mean(self.rows(outputs, targets), weights)


class CategoricalCrossEntropy(_RowCost):
    """-sum over classes of t log p: one of k classes, after softmax."""

    name = "cross_entropy"
    natural = "softmax"

    def rows(self, outputs: Array, targets: Array) -> Array:
        """Cost (..., n) of each sample."""
        rows: Array = -np.sum(np.log(_above_zero(outputs)) * targets, axis=-2)
        return rows

    def value_of_logits(self, z: Array, targets: Array, weights: Array | None = None) -> Array:
        """Mean of log(sum exp z) - sum t z: no division, nothing underflows, sums over samples as products."""
        n = z.shape[-1]
        share = np.full(n, 1 / n, z.dtype) if weights is None else weights / n
        shares = targets * share
        z -= np.maximum.reduce(z, axis=-2, keepdims=True)
        chosen = z.reshape(*z.shape[:-2], -1) @ shares.reshape(-1)
        np.exp(z, out=z)
        total = np.add.reduce(z, axis=-2)
        np.log(total, out=total)
        value: Array = (total @ np.add.reduce(shares, axis=0) - chosen).astype(np.float64)
        return value

    def slope(self, outputs: Array, targets: Array) -> Array:
        """-t / p."""
        slope: Array = -targets / _above_zero(outputs)
        return slope


class BinaryCrossEntropy(_RowCost):
    """-sum over labels of t log p + (1 - t) log(1 - p): k independent yes-or-no labels, after sigmoid."""

    name = "cross_entropy"
    natural = "sigmoid"

    def rows(self, outputs: Array, targets: Array) -> Array:
        """Cost (..., n) of each sample."""
        p = self._inside(outputs)
        rows: Array = -np.sum(np.log(p) * targets + np.log1p(-p) * (1 - targets), axis=-2)
        return rows

    def value_of_logits(self, z: Array, targets: Array, weights: Array | None = None) -> Array:
        """Sum over labels of log(1 + exp z) - t z: nothing underflows."""
        rows: Array = np.add.reduce(np.logaddexp(0, z) - targets * z, axis=-2)
        return _mean(rows, weights)

    def slope(self, outputs: Array, targets: Array) -> Array:
        """(p - t) / (p (1 - p))."""
        p = self._inside(outputs)
        slope: Array = (p - targets) / (p * (1 - p))
        return slope

    @staticmethod
    def _inside(p: Array) -> Array:
        smallest = np.finfo(p.dtype).epsneg
        return np.asarray(np.clip(p, smallest, 1 - smallest))


class MeanSquaredError(_RowCost):
    """Mean over outputs and samples of (output - target) squared."""

    name = "mse"

    def rows(self, outputs: Array, targets: Array) -> Array:
        """Cost (..., n) of each sample."""
        return np.asarray(np.mean((outputs - targets) ** 2, axis=-2))

    def slope(self, outputs: Array, targets: Array) -> Array:
        """2 (output - target) / k."""
        slope: Array = (outputs - targets) * (2 / outputs.shape[-2])
        return slope


class MeanAbsolutePercentageError(_RowCost):
    """Mean over outputs and samples of |output - target| / |target|, as a share (0.1 is 10 %).

    Targets nearer to zero than float precision count as that precision, as in scikit-learn.
    """

    name = "mape"

    def rows(self, outputs: Array, targets: Array) -> Array:
        """Cost (..., n) of each sample."""
        return np.asarray(np.mean(np.abs(outputs - targets) / self._size(targets), axis=-2))

    def slope(self, outputs: Array, targets: Array) -> Array:
        """sign(output - target) / (k |target|)."""
        slope: Array = np.sign(outputs - targets) / (self._size(targets) * outputs.shape[-2])
        return slope

    @staticmethod
    def _size(targets: Array) -> Array:
        return np.asarray(np.maximum(np.abs(targets), np.finfo(targets.dtype).eps))


class DecisionCost(_RowCost):
    """What the decisions cost: ``matrix[true, decided]`` per sample, in the user's own currency.

    The decision is the largest output, or with a single output whether it is above 0.5. It has no gradient.

    Args:
        matrix: (classes, classes) cost of deciding for the column when the row is true.

    Raises:
        ValueError: the matrix is not square or not finite.
    """

    name = "decision_cost"
    differentiable = False

    def __init__(self, matrix: ArrayLike) -> None:
        self.matrix = np.asarray(matrix, np.float64)
        if self.matrix.ndim != 2 or self.matrix.shape[0] != self.matrix.shape[1] or not np.isfinite(self.matrix).all():
            raise ValueError(f"matrix has shape {self.matrix.shape}; expected (classes, classes) finite numbers")

    def rows(self, outputs: Array, targets: Array) -> Array:
        """Cost (..., n) of each sample."""
        if outputs.shape[-2] == 1:
            decided, true = outputs[..., 0, :] > 0.5, targets[0] > 0.5
        else:
            decided, true = outputs.argmax(axis=-2), targets.argmax(axis=0)
        rows: Array = self.matrix[true.astype(np.intp), decided.astype(np.intp)]
        return rows

    def slope(self, outputs: Array, targets: Array) -> Array:
        """Decisions jump: there is none; `differentiable` says so before training asks."""
        raise NotImplementedError(f"{self!r} has no slope; `expected()` has one")

    def expected(self) -> ExpectedCost:
        """The smooth cost for the gradient, in units of the largest entry so that L2 keeps its meaning."""
        return ExpectedCost(self.matrix / (np.abs(self.matrix).max() or 1.0))


class ExpectedCost(_RowCost):
    """What decisions would cost if they were drawn with the network's probabilities: sum over classes of price times p.

    Train on cross-entropy first and then on this: from a random start it is flat where the network is surely wrong.

    Args:
        matrix: as for `DecisionCost`.
    """

    name = "expected_cost"

    def __init__(self, matrix: ArrayLike) -> None:
        self.matrix = DecisionCost(matrix).matrix

    def rows(self, outputs: Array, targets: Array) -> Array:
        """Cost (..., n) of each sample."""
        if outputs.shape[-2] == 1:
            outputs = np.concatenate([1 - outputs, outputs], axis=-2)
        return np.asarray(np.sum(self._prices(targets) * outputs, axis=-2))

    def slope(self, outputs: Array, targets: Array) -> Array:
        """The price of each class; with one output, of yes instead of no."""
        prices = self._prices(targets)
        return prices if outputs.shape[-2] > 1 else prices[1:] - prices[:1]

    def _prices(self, targets: Array) -> Array:
        if len(targets) == 1:
            targets = np.concatenate([1 - targets, targets])
        prices: Array = self.matrix.T.astype(targets.dtype) @ targets
        return prices


class CustomCost(Cost):
    """A cost of your own.

    >>> pinball = CustomCost(lambda y, p: np.mean(np.maximum(0.9 * (y - p), -0.1 * (y - p)), axis=(-2, -1)))

    Args:
        value: ``value(targets, outputs)`` with targets (n, k) and outputs (..., n, k); returns one cost per leading
            index, shape (...): a number for one network, (particles,) for a swarm. Average with ``axis=(-2, -1)``.
        gradient: ``gradient(targets, outputs)`` -> (n, k), the derivative of that number. Without it only a swarm can
            train with this cost.
        name: how messages call it.
    """

    def __init__(self, value: Value, gradient: Gradient | None = None, name: str = "custom") -> None:
        self._value, self._gradient, self.name = value, gradient, name
        self.differentiable = gradient is not None

    def value(self, outputs: Array, targets: Array, weights: Array | None = None) -> Array:
        """What the function says, (...); raises CostError if it fails or its shape is wrong."""
        if weights is not None:
            raise ValueError(f"sample_weight was given with the cost {self.name!r}; weigh the samples inside that cost")
        cost = self._call(self._value, targets.T, np.swapaxes(outputs, -1, -2))
        if cost.shape != outputs.shape[:-2]:
            raise CostError(
                f"the cost {self.name!r} returned shape {cost.shape} for outputs of shape "
                f"{np.swapaxes(outputs, -1, -2).shape}; expected {outputs.shape[:-2]}: average over the last two axes"
            )
        return cost

    def slope(self, outputs: Array, targets: Array) -> Array:
        """What the gradient function says, times n; raises CostError if its shape is wrong."""
        assert self._gradient is not None, "training asks `differentiable` first"
        slope = self._call(self._gradient, targets.T, outputs.T)
        if slope.shape != outputs.T.shape:
            raise CostError(
                f"the gradient of the cost {self.name!r} has shape {slope.shape}; expected {outputs.T.shape}, one "
                "number per sample and output"
            )
        # The gradient of a mean already holds 1/n, which training divides by again.
        scaled: Array = slope.T * outputs.shape[-1]
        return scaled

    def _call(self, function: Value, targets: Array, outputs: Array) -> Array:
        try:
            return np.asarray(function(targets, outputs), dtype=np.float64)
        except Exception as error:
            raise CostError(
                f"the cost {self.name!r} failed on targets {targets.shape} and outputs {outputs.shape}: "
                f"{type(error).__name__}: {error}"
            ) from error


def _mean(rows: Array, weights: Array | None) -> Array:
    return np.asarray(np.mean(rows if weights is None else rows * weights, axis=-1, dtype=np.float64))


def _above_zero(p: Array) -> Array:
    return np.asarray(np.maximum(p, np.finfo(p.dtype).tiny))


def resolve(cost: str | Cost | Value, last_activation: str) -> Cost:
    """The cost that a name, a `Cost` or a plain function stands for.

    Args:
        cost: "cross_entropy", "mse", "mape", a `Cost`, or a function as `CustomCost` takes it.
        last_activation: of the network; it decides which cross-entropy is meant.

    Raises:
        ValueError: unknown name, or a cross-entropy of outputs that are no probabilities.
    """
    if isinstance(cost, Cost):
        return cost
    if callable(cost):
        return CustomCost(cost, name=getattr(cost, "__name__", "custom"))
    if cost == "cross_entropy":
        if last_activation == "softmax":
            return CategoricalCrossEntropy()
        if last_activation == "sigmoid":
            return BinaryCrossEntropy()
        raise ValueError(f"cost is cross_entropy after {last_activation}; it needs softmax or sigmoid outputs")
    if cost == "mse":
        return MeanSquaredError()
    if cost == "mape":
        return MeanAbsolutePercentageError()
    raise ValueError(f"cost is {cost!r}; expected 'cross_entropy', 'mse', 'mape', a Cost or a function")


def resolve_differentiable(cost: str | Cost | Value, last_activation: str) -> Cost:
    """As `resolve`; ValueError if the cost has no gradient."""
    function = resolve(cost, last_activation)
    if not function.differentiable:
        raise ValueError(
            f"cost is {function.name!r}, which has no gradient; train with cross_entropy or mse and then `refine` on "
            "this cost, or use `fit_by_swarm` (both in okko_train.swarm_training); a DecisionCost has `expected()`"
        )
    return function
