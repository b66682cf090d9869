"""Training by a swarm: a particle is a whole network, all its weights in one vector, so the cost may be anything.

`fit_by_swarm` searches all weights and suits small networks. Where a gradient exists it is the better guide: `refine`
takes a network that was trained by gradient and lets the swarm move only its last layer, on the cost that counts. The
swarm itself is in `okko_train.swarm`, the batched evaluation in `okko_train.population`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from okko_train import costs
from okko_train.evolution import EvolutionStrategy
from okko_train.network import Network
from okko_train.network.inputs import as_targets, as_weight, one_thread, penalised
from okko_train.population import Population
from okko_train.swarm import Swarm

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from okko_train.network.activations import Array

#: Called after each generation with (generation from 0, best cost, validation cost or nan); True stops the training.
OnGeneration = Callable[[int, float, float], Any]

#: How the swarm flies over weights: measured on five networks, see "The network" in the handbook.
FLIGHT: dict[str, Any] = {"rule": "inertia", "inertia": 0.7298, "attraction": 1.3}
BIAS_SPREAD = 0.5  # standard deviation of the first biases; at 0.2 the same swarm ends a third worse
EVOLUTION: dict[str, Any] = {"spread": 0.2, "learning_rate": 0.05}  # measured on digits, 650 and 2,410 weights
MANY_WEIGHTS = 300  # beyond this, measured on digits, a swarm falls behind evolution strategies and gradients


class SwarmSizeWarning(UserWarning):
    """A swarm was asked for more weights than a swarm finds."""


class Optimizer(Protocol):
    """Whatever finds the weights: positions out, costs in. `Swarm` is one."""

    best_position: Array
    best_cost: float

    def ask(self) -> Array:
        """Positions (particles, n_weights) to evaluate."""

    def tell(self, costs: ArrayLike) -> None:
        """Their costs (particles,)."""


@dataclass(frozen=True, eq=False)
class SwarmHistory:
    """The course of one training by a swarm.

    Attributes:
        train_cost: (generations,) the best cost found so far, L2 included.
        validation_cost: (generations,) cost of that best network on the validation part, nan without one.
        best_generation: the generation (from 0) whose best network was kept.
        evaluations: networks evaluated.
    """

    train_cost: NDArray[np.float64]
    validation_cost: NDArray[np.float64]
    best_generation: int
    evaluations: int


def fit_by_swarm(
    network: Network,
    X: ArrayLike,
    y: ArrayLike,
    *,
    cost: str | costs.Cost | costs.Value = "cross_entropy",
    particles: int = 50,
    generations: int = 50,
    bound: float = 10.0,
    l2: float = 0.0,
    seed: int = 0,
    validation: tuple[ArrayLike, ArrayLike] | None = None,
    patience: int | None = None,
    sample_weight: ArrayLike | None = None,
    optimizer: str | Optimizer = "swarm",
    on_generation: OnGeneration | None = None,
) -> SwarmHistory:
    """Train all weights of ``network`` by a swarm, in place; the first particle starts from the weights it has.

    Args:
        network: without batch normalisation; dropout plays no part.
        X: samples (n, d).
        y: targets, as for `okko_train.network.fit`.
        cost: "cross_entropy", "mse", "mape", a `Cost`, or any function of targets (n, k) and outputs (particles, n, k)
            that returns one cost per particle (see `okko_train.costs.CustomCost`).
        particles: networks in the swarm.
        generations: moves of the swarm.
        bound: weights stay in [-bound, bound].
        l2: adds l2 / 2 * sum of squared weights (no biases) to the cost.
        seed: decides the swarm.
        validation: (X, y) to watch; the network ends with the weights that were best on it.
        patience: stop after so many generations without a better cost (on ``validation``, else of the swarm).
        sample_weight: (n,) how much each sample counts.
        optimizer: "swarm"; "evolution", an evolution strategy, which finds thousands of weights too; or anything with
            ask and tell over this network's n_weights (``particles`` and ``bound`` are then its own affair).
        on_generation: called after each generation with (generation, best cost, validation cost or nan); True stops.

    Raises:
        ValueError: an argument that does not fit; the message names it.
        CostError: your cost function raised, or returned the wrong shape.

    Warns:
        SwarmSizeWarning: there are more weights than a swarm finds.
    """
    objective = _Objective(network, X, y, cost, sample_weight, l2)
    for name, number in (("generations", generations), ("bound", bound), ("patience", patience)):
        if number is not None and not number > 0:
            raise ValueError(f"{name} is {number}; expected a number above 0")
    held_out = None if validation is None else _Objective(network, *validation, objective.cost, None, 0.0)
    if isinstance(optimizer, str):
        if optimizer == "swarm":
            _warn_if_many(network, objective.cost)
        optimizer = _optimizer(optimizer, network, particles, bound, seed)

    train_cost, validation_cost = [], []
    best, best_cost, best_generation, evaluations = network.weights.copy(), np.inf, 0, 0
    with one_thread():
        for generation in range(generations):
            positions = optimizer.ask()
            evaluations += len(positions)
            optimizer.tell(objective(positions))
            train_cost.append(float(optimizer.best_cost))
            validation_cost.append(float("nan"))
            if held_out is not None:
                validation_cost[-1] = float(held_out(optimizer.best_position[None])[0])
            watched = train_cost[-1] if held_out is None else validation_cost[-1]
            if watched < best_cost:
                best, best_cost, best_generation = optimizer.best_position.copy(), watched, generation
            stop = on_generation is not None and on_generation(generation, train_cost[-1], validation_cost[-1]) is True
            if stop or (patience is not None and generation - best_generation >= patience):
                break
    network.weights = best
    return SwarmHistory(np.array(train_cost), np.array(validation_cost), best_generation, evaluations)


def _optimizer(name: str, network: Network, particles: int, bound: float, seed: int) -> Optimizer:
    edge = np.full(network.weights.size, float(bound))
    if name == "swarm":
        start = initial_positions(network, particles, seed).clip(-bound, bound)
        return Swarm(-edge, edge, size=particles, start=start, seed=seed, dtype=network.dtype, **FLIGHT)
    if name == "evolution":
        return EvolutionStrategy(
            network.weights, size=particles, lower=-edge, upper=edge, seed=seed, dtype=network.dtype, **EVOLUTION
        )
    raise ValueError(f"optimizer is {name!r}; expected 'swarm', 'evolution' or an object with ask and tell")


def initial_positions(network: Network, particles: int, seed: int) -> Array:
    """Where the swarm starts (particles, n_weights): the network itself, then networks initialised like a fresh one.

    Biases start spread out too: a coordinate in which all particles agree is one the swarm can hardly move.
    """
    rng = np.random.default_rng(seed)
    spread = np.zeros_like(network.weights)
    for layer, activation in zip(network.views(spread), network.activations, strict=True):
        layer.weight[:] = np.sqrt(activation.gain / layer.weight.shape[1])
        layer.bias[:] = BIAS_SPREAD
    positions = (rng.standard_normal((particles, spread.size)) * spread).astype(network.dtype)
    positions[0] = network.weights
    return positions


def _warn_if_many(network: Network, cost: costs.Cost) -> None:
    count = network.weights.size
    if count > MANY_WEIGHTS:
        better = (
            "the cost has a gradient: `okko_train.network.fit` is better and far faster"
            if cost.differentiable
            else "train by gradient on cross_entropy or mse and `refine` the last layer on your cost, or pass "
            'optimizer="evolution"'
        )
        warnings.warn(
            f"a swarm is asked for {count} weights; beyond about {MANY_WEIGHTS} it falls behind (on the 2,410 of a "
            f"digits network it reached 90 % where backpropagation reached 98 % in a fiftieth of the time). {better}",
            SwarmSizeWarning,
            stacklevel=3,
        )


class _Objective:
    """Cost of each particle: data cost plus L2, in one call for the whole swarm."""

    def __init__(
        self,
        network: Network,
        X: ArrayLike,
        y: ArrayLike,
        cost: str | costs.Cost | costs.Value,
        sample_weight: ArrayLike | None,
        l2: float,
    ) -> None:
        self.cost = costs.resolve(cost, network.activation_names[-1])
        self._population = Population(network, X)
        self._targets = as_targets(network, y, "y")
        n = self._population.n_samples
        if self._targets.shape[1] != n:
            raise ValueError(f"y has {self._targets.shape[1]} rows, X has {n}; not the same")
        self._weights = None if sample_weight is None else as_weight(sample_weight, n, network.dtype)
        if not l2 >= 0:
            raise ValueError(f"l2 is {l2}; expected 0 or more")
        self._decay = l2 / 2 * penalised(network) if l2 else None

    def __call__(self, positions: Array) -> NDArray[np.float64]:
        result = self._population.costs(positions, self.cost, self._targets, self._weights)
        if self._decay is not None:
            result += (positions**2) @ self._decay
        return result


@dataclass(frozen=True)
class Refinement:
    """What each step of `refine` came to, on the user's own cost.

    Attributes:
        train_cost: cost as trained, after the biases moved (for decisions: the thresholds), after the last layer moved.
        validation_cost: the same three on the validation part, nan without one.
        kept: which of the three the network now has: 0, 1 or 2.
    """

    train_cost: tuple[float, float, float]
    validation_cost: tuple[float, float, float]
    kept: int


def refine(
    network: Network,
    X: ArrayLike,
    y: ArrayLike,
    *,
    cost: str | costs.Cost | costs.Value,
    particles: int = 50,
    generations: int = 40,
    reach: float = 1.0,
    tie_break: float = 0.1,
    seed: int = 0,
    validation: tuple[ArrayLike, ArrayLike] | None = None,
    sample_weight: ArrayLike | None = None,
) -> Refinement:
    """Let the swarm move the last layer of a trained network, in place, on the cost that counts.

    First only the biases move (for decisions that is the choice of thresholds), then all weights of the last layer: as
    few as a swarm is good at, and from where the gradient ended. With a validation part the step that is best on it is
    kept, otherwise the last one.

    Args:
        network: trained by `okko_train.network.fit`; its other layers stay as they are.
        X: samples (n, d).
        y: targets, as for `fit`.
        cost: the cost that counts, as for `fit_by_swarm`; it needs no gradient.
        particles: networks in the swarm.
        generations: moves of the swarm, for each of the two steps.
        reach: how far weights may move, in root-mean-squares of the last layer's weights.
        tie_break: share of the smooth cost (cross-entropy, or mean squared error) that is added, because a cost of
            decisions has large flat parts on which the swarm would drift.
        seed: decides the swarm.
        validation: (X, y) on which the three steps are compared.
        sample_weight: (n,) how much each sample counts.

    Raises:
        ValueError: an argument that does not fit; the message names it.
        CostError: your cost function raised, or returned the wrong shape.

    Warns:
        SwarmSizeWarning: the last layer has more weights than a swarm finds.
    """
    for name, number in (("generations", generations), ("reach", reach)):
        if not number > 0:
            raise ValueError(f"{name} is {number}; expected a number above 0")
    tail = Network(network.layer_sizes[-2:], network.activation_names[-1:], dtype=network.dtype)
    tail.weights = network.weights[-tail.weights.size :]
    function = costs.resolve(cost, network.activation_names[-1])
    _warn_if_many(tail, function)
    inputs = _last_inputs(network, X)
    objective = _Objective(tail, inputs, y, function, sample_weight, 0.0)
    smooth = _Objective(tail, inputs, y, _smooth_cost(network), sample_weight, 0.0)
    held_out = None
    if validation is not None:
        held_out = _Objective(tail, _last_inputs(network, validation[0]), validation[1], function, None, 0.0)

    is_bias = np.zeros_like(tail.weights, dtype=bool)
    is_bias.reshape(tail.layers[0].matrix.shape)[:, -1] = True
    length = float(np.sqrt(np.mean(tail.weights**2))) or 1.0
    width = float(np.ptp(network.logits(X))) or 1.0
    steps = [tail.weights.copy()]
    with one_thread():
        for free, radius in ((is_bias, width), (np.ones_like(is_bias), reach * length)):
            search = _Neighbourhood(steps[-1], free, radius, particles, seed)
            steps.append(search.best(objective, smooth, tie_break, generations))
        train = objective(np.stack(steps))
        checked = np.full(3, np.nan) if held_out is None else held_out(np.stack(steps))
    kept = len(steps) - 1 if held_out is None else int(np.argmin(checked))
    network.weights[-tail.weights.size :] = steps[kept]
    return Refinement(
        (float(train[0]), float(train[1]), float(train[2])),
        (float(checked[0]), float(checked[1]), float(checked[2])),
        kept,
    )


class _Neighbourhood:
    """A swarm around given weights; some of them are free to move, by at most ``radius``."""

    def __init__(self, centre: Array, free: NDArray[np.bool_], radius: float, particles: int, seed: int) -> None:
        self._centre, self._free = centre, np.flatnonzero(free)
        rng = np.random.default_rng(seed)
        start = (rng.standard_normal((particles, len(self._free))) * radius / 3).clip(-radius, radius)
        start[0] = 0.0
        edge = np.full(len(self._free), radius)
        self._swarm = Swarm(-edge, edge, size=particles, start=start, seed=seed, **FLIGHT)

    def best(self, cost: _Objective, smooth: _Objective, tie_break: float, generations: int) -> Array:
        """The best weights found for cost + tie_break * smooth cost, the latter scaled to the size of the former."""
        first = self._weights(self._swarm.ask())
        usual, usual_smooth = np.median(np.abs(cost(first))), np.median(smooth(first))
        share = tie_break * (usual / usual_smooth if usual > 0 and usual_smooth > 0 else 1.0)
        for _ in range(generations):
            weights = self._weights(self._swarm.ask())
            self._swarm.tell(cost(weights) + share * smooth(weights))
        best: Array = self._weights(self._swarm.best_position[None])[0]
        return best

    def _weights(self, moves: Array) -> Array:
        weights: Array = np.repeat(self._centre[None], len(moves), axis=0)
        weights[:, self._free] += moves
        return weights


def _last_inputs(network: Network, X: ArrayLike) -> Array:
    return network.outputs(X, layer=-2) if len(network.layer_sizes) > 2 else network.checked(X)


def _smooth_cost(network: Network) -> costs.Cost:
    last = network.activation_names[-1]
    return costs.resolve("cross_entropy" if last in ("softmax", "sigmoid") else "mse", last)
