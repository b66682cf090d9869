"""Training by gradient: epochs of shuffled mini-batches, early stopping, and the check that the gradient is right.

Takes arrays, changes the network's weights in place, returns the course of the costs. All products run on one thread:
on matrices this small a second one costs more than it gives, and the result would depend on the number of cores.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from okko_models.errors import OkkoError
from okko_train import costs, optimizers
from okko_train.network.backpropagation import Backpropagation
from okko_train.network.inputs import as_samples, as_targets, as_weight, check_same_length, one_thread, penalised

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from okko_train.network.activations import Array
    from okko_train.network.model import Network

#: Called after each epoch with (epoch from 0, training cost, validation cost or nan); True stops the training.
OnEpoch = Callable[[int, float, float], Any]

_DROPOUT_STREAM = 1  # so that dropout does not change the order of the samples


class TrainingDivergedError(OkkoError):
    """The cost or the weights left the finite numbers, and no validation part says which weights to go back to."""


@dataclass(frozen=True, eq=False)
class History:
    """The course of one training.

    Attributes:
        train_cost: (epochs,) mean cost of the mini-batches as training met them: dropout on, L2 not included.
        validation_cost: (epochs,) cost on the validation part after each epoch, nan without one.
        best_epoch: the epoch (from 0) whose weights the network now has.
        optimizer: its moments go with those weights; pass it to the next `fit` to continue where this one ended.
    """

    train_cost: NDArray[np.float64]
    validation_cost: NDArray[np.float64]
    best_epoch: int
    optimizer: optimizers.Optimizer


def fit(
    network: Network,
    X: ArrayLike,
    y: ArrayLike,
    *,
    cost: str | costs.Cost | costs.Value = "cross_entropy",
    optimizer: str | optimizers.Optimizer = "adam",
    learning_rate: float = 1e-3,
    l2: float = 0.0,
    epochs: int = 50,
    batch_size: int | None = 32,
    seed: int = 0,
    validation: tuple[ArrayLike, ArrayLike] | None = None,
    patience: int | None = None,
    sample_weight: ArrayLike | None = None,
    learning_rate_decay: str | float | optimizers.Schedule | None = None,
    on_epoch: OnEpoch | None = None,
) -> History:
    """Train ``network`` in place; the same arguments give the same weights, bit for bit.

    Args:
        network: starts from the weights it has, so a trained network is trained further.
        X: samples (n, d).
        y: targets (n, k) or (n,); class numbers 0 to k - 1 (n,) if the network has several outputs.
        cost: "cross_entropy", "mse", "mape", a `Cost`, or a function (see `okko_train.costs`).
        optimizer: "sgd", "momentum", "rmsprop", "adam", "adamw", or an `Optimizer` (it keeps its moments).
        learning_rate: of the first epoch.
        l2: adds l2 / 2 * sum of squared weights (no biases) to the cost; with "adamw" the decoupled decay.
        epochs: passes over the samples, at most.
        batch_size: samples per step; the batches of an epoch are as equal as possible. None: all at once.
        seed: decides the order of the samples and the dropout.
        validation: (X, y) to watch; at the end the network has the weights of the epoch that was best on it.
        patience: stop after so many epochs without a better cost (on ``validation``, else on the training cost).
        sample_weight: (n,) how much each sample counts, none negative; only their ratios matter.
        learning_rate_decay: None, a rate r for 1 / (1 + r epoch), "inverse_time", "exponential", "step", "cosine",
            or a function of the epoch that gives the factor.
        on_epoch: called after each epoch with (epoch, training cost, validation cost or nan); True stops.

    Raises:
        ValueError: an argument that does not fit; the message names it.
        TrainingDivergedError: the cost became infinite or nan, and there is no better epoch on ``validation`` to
            go back to.
    """
    function = costs.resolve_differentiable(cost, network.activation_names[-1])
    steps = optimizers.resolve(optimizer)
    schedule = optimizers.resolve_schedule(learning_rate_decay, epochs)
    samples, targets = as_samples(network, X, "X"), as_targets(network, y, "y")
    check_same_length(samples, targets, "X", "y")
    for name, number in (("learning_rate", learning_rate), ("epochs", epochs), ("patience", patience)):
        if number is not None and not number > 0:
            raise ValueError(f"{name} is {number}; expected a number above 0")
    if not l2 >= 0:
        raise ValueError(f"l2 is {l2}; expected 0 or more")
    weight = None if sample_weight is None else as_weight(sample_weight, len(samples), network.dtype)
    held_out = None
    if validation is not None:
        held_out = network.checked(validation[0]), as_targets(network, validation[1], "validation")
        check_same_length(*held_out, "validation[0]", "validation[1]")
    decay = l2 * penalised(network) if l2 else None

    epoch_of = _Epochs(network, function, samples, targets, weight, batch_size, seed)
    train_cost, validation_cost = [], []
    best: _Best | None = None
    with one_thread():
        for epoch in range(epochs):
            rate = learning_rate * schedule(epoch)
            train_cost.append(epoch_of.run(steps, rate, decay))
            held_out_cost = float("nan")
            if held_out is not None:
                held_out_cost = float(function.value(network.predict(held_out[0]).T, held_out[1]))
            validation_cost.append(held_out_cost)
            watched = train_cost[-1] if held_out is None else held_out_cost
            if not np.isfinite(watched) or not np.isfinite(train_cost[-1]):
                break
            if best is None or watched < best.cost:
                best = _Best(watched, epoch, network, steps if held_out is not None else None)
            stop = on_epoch is not None and on_epoch(epoch, train_cost[-1], held_out_cost) is True
            if stop or (patience is not None and epoch - best.epoch >= patience):
                break
    last = len(train_cost) - 1
    if held_out is not None and best is not None:
        best.put_back(network, steps)
        last = best.epoch
    elif not (np.isfinite(train_cost[-1]) and np.isfinite(network.weights).all()):
        raise TrainingDivergedError(
            f"the cost {function.name} became {train_cost[-1]} in epoch {last}; lower the learning rate "
            f"({learning_rate:g}) or scale the features to about -3 to 3"
        )
    return History(np.array(train_cost), np.array(validation_cost), last, steps)


class _Epochs:
    """Runs epochs over one set of samples; every buffer is allocated here, once."""

    def __init__(
        self,
        network: Network,
        cost: costs.Cost,
        samples: Array,
        targets: Array,
        weight: Array | None,
        batch_size: int | None,
        seed: int,
    ) -> None:
        n = len(samples)
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; expected 1 or more, or None for all samples at once")
        self._network, self._cost = network, cost
        self._samples, self._targets, self._weight = samples, targets, weight
        self._rng = np.random.default_rng(seed)
        self._gradient = np.zeros_like(network.weights)
        self._X, self._y = np.empty_like(samples), np.empty_like(targets)
        self._outputs = np.empty_like(targets)
        self._share = np.empty(n, network.dtype)
        batches = -(-n // min(batch_size or n, n))
        edges = [n * batch // batches for batch in range(batches + 1)]
        dropout = np.random.default_rng((seed, _DROPOUT_STREAM))
        sizes = {stop - start for start, stop in pairwise(edges)}
        runs = {size: Backpropagation(network, cost, self._gradient, size, dropout) for size in sizes}
        self._batches = [
            (
                runs[stop - start],
                self._X[start:stop],
                self._y[:, start:stop],
                self._outputs[:, start:stop],
                1 / (stop - start) if weight is None else self._share[start:stop],
            )
            for start, stop in pairwise(edges)
        ]

    def run(self, optimizer: optimizers.Optimizer, rate: float, decay: Array | None) -> float:
        """One epoch; returns the mean cost of its samples."""
        order = self._rng.permutation(len(self._samples))
        # mode="clip" lets take write into the buffer directly; the order is always within bounds.
        np.take(self._samples, order, axis=0, out=self._X, mode="clip")
        np.take(self._targets, order, axis=1, out=self._y, mode="clip")
        weight = None if self._weight is None else self._weight[order]
        if weight is not None:
            np.divide(weight, len(self._samples) / len(self._batches), out=self._share)
        weights, gradient = self._network.weights, self._gradient
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # divergence is reported by its cost
            for run, X, y, outputs, share in self._batches:
                run.forward(X, outputs)
                run.backward(outputs, y, share)
                optimizer.step(weights, gradient, rate, decay)
            return float(self._cost.value(self._outputs, self._y, weight))


class _Best:
    """The weights of the best epoch so far (copied only if they may have to come back)."""

    def __init__(self, cost: float, epoch: int, network: Network, optimizer: optimizers.Optimizer | None) -> None:
        self.cost, self.epoch = cost, epoch
        if optimizer is not None:
            self._kept = network.weights.copy(), network.moving.copy(), optimizer.state()

    def put_back(self, network: Network, optimizer: optimizers.Optimizer) -> None:
        network.weights, moving, state = self._kept
        network.moving[:] = moving
        optimizer.restore(state)
