"""Two optimizers for hundreds to thousands of weights, where a swarm falls behind; the same ask and tell as the swarm.

`SeparableCMA` learns one step size per weight (Ros and Hansen, "A simple modification in CMA-ES achieving linear time
and space complexity", PPSN 2008). `EvolutionStrategy` estimates a gradient from mirrored samples and follows it with
Adam (Salimans et al., arXiv 1703.03864, 2017). Neither calls the cost function or keeps a history. Where the cost has
a gradient, backpropagation is better than both, by an order of magnitude in time.
"""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from okko_train.swarm.saving import random_state, restored_random

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, DTypeLike, NDArray

    Array = NDArray[np.floating[Any]]


class _Evolution(abc.ABC):
    """What both share: arguments, the best so far, and saving."""

    #: Arrays and numbers that a saved state holds besides the common ones.
    STATE: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        start: ArrayLike,
        *,
        spread: float,
        size: int,
        lower: ArrayLike | None,
        upper: ArrayLike | None,
        dtype: DTypeLike,
        seed: int,
    ) -> None:
        self._dtype: Any = np.dtype(dtype)
        self._mean: Array = np.array(start, dtype=self._dtype)
        d = self._mean.size
        if self._mean.ndim != 1 or not d or not np.isfinite(self._mean).all():
            raise ValueError(f"start has shape {self._mean.shape}; expected one finite position (dimension,)")
        if not (np.isfinite(spread) and spread > 0):
            raise ValueError(f"spread is {spread!r}; expected a positive number")
        if size < 4:
            raise ValueError(f"size is {size}; expected at least 4")
        self._spread, self._size = float(spread), int(size)
        self._lower: Array = np.full(d, -np.inf, self._dtype) if lower is None else np.array(lower, dtype=self._dtype)
        self._upper: Array = np.full(d, np.inf, self._dtype) if upper is None else np.array(upper, dtype=self._dtype)
        if not (self._lower.shape == self._upper.shape == (d,) and (self._lower < self._upper).all()):
            raise ValueError(f"lower and upper must have shape ({d},), each lower below its upper")
        self._mean = self._mean.clip(self._lower, self._upper)
        self._random = np.random.Generator(np.random.SFC64(seed))
        self.best_position: Array = self._mean.copy()
        self.best_cost = np.inf
        self.generation = self.evaluations = 0
        self._prepare()
        self._asked: Array = self._sample()

    @property
    def dimension(self) -> int:
        """Number of coordinates."""
        return len(self._mean)

    def ask(self) -> Array:
        """Positions (n, dimension) to evaluate next; the same ones until they are told."""
        return self._asked

    def tell(self, costs: ArrayLike) -> None:
        """Takes the costs (n,) of the positions last asked for; NaN and infinite count as worst.

        Raises:
            ValueError: another number of costs than positions.
        """
        cost = np.array(costs, dtype=np.float64)
        if cost.shape != (len(self._asked),):
            raise ValueError(
                f"costs has shape {cost.shape}; expected ({len(self._asked)},), one for each position asked"
            )
        cost[~np.isfinite(cost)] = np.inf
        best = int(cost.argmin())
        if cost[best] < self.best_cost:
            self.best_cost, self.best_position = float(cost[best]), self._asked[best].copy()
        self.evaluations += len(cost)
        self.generation += 1
        self._learn(cost)
        self._asked = self._sample()

    def state(self) -> dict[str, Any]:
        """Everything needed to go on exactly from here: a dict of arrays, fit for ``np.savez`` or, as lists, JSON."""
        names = ("_mean", "_asked", "_lower", "_upper", "best_position", *self.STATE)
        state = {name.strip("_"): np.array(getattr(self, name)) for name in names}
        return state | {
            "spread": np.array(self._spread),
            "counts": np.array([self._size, self.generation, self.evaluations]),
            "best_cost": np.array(self.best_cost),
            "dtype": np.array(self._dtype.name),
            "random": random_state(self._random),
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """The optimizer that `state` described.

        Raises:
            ValueError: a state that this kind of optimizer did not write.
        """
        try:
            counts = [int(count) for count in np.asarray(state["counts"])]
            bounds = {"lower": state["lower"], "upper": state["upper"]}
            spread, dtype = float(state["spread"]), str(state["dtype"])
            made = cls(state["mean"], spread=spread, size=counts[0], dtype=dtype, **bounds)
            for name in ("_asked", "best_position", *cls.STATE):
                value = getattr(made, name)
                saved = np.array(state[name.strip("_")], dtype=np.asarray(value).dtype).reshape(np.shape(value))
                setattr(made, name, saved if saved.ndim else saved.item())
            made.best_cost = float(state["best_cost"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"state is not that of a {cls.__name__}: {error!r}") from error
        _, made.generation, made.evaluations = counts
        made._random = restored_random(state["random"])
        return made

    @abc.abstractmethod
    def _prepare(self) -> None:
        """Sets up what is learned besides the mean."""

    @abc.abstractmethod
    def _sample(self) -> Array:
        """Next positions (n, dimension), inside the bounds."""

    @abc.abstractmethod
    def _learn(self, cost: NDArray[np.float64]) -> None:
        """Moves the mean, given the costs (n,) of the positions asked."""


class SeparableCMA(_Evolution):
    """CMA-ES with a diagonal covariance matrix: linear time and memory in the number of weights.

    Args:
        start: where to begin (dimension,).
        spread: standard deviation of the first samples; a third of the way to where the best may be.
        size: samples per generation; None: 4 + 3 ln(dimension).
        lower: lowest position (dimension,), or None.
        upper: highest position (dimension,), or None.
        dtype: float64 or float32.
        seed: of the own random generator.

    Raises:
        ValueError: an argument that makes no sense; the message names it.
    """

    STATE = ("_sigma", "_variance", "_path_sigma", "_path")

    def __init__(
        self,
        start: ArrayLike,
        *,
        spread: float,
        size: int | None = None,
        lower: ArrayLike | None = None,
        upper: ArrayLike | None = None,
        dtype: DTypeLike = np.float64,
        seed: int = 0,
    ) -> None:
        size = 4 + int(3 * np.log(max(1, np.size(start)))) if size is None else size
        super().__init__(start, spread=spread, size=size, lower=lower, upper=upper, dtype=dtype, seed=seed)

    def _prepare(self) -> None:
        # Names and defaults of Hansen, "The CMA evolution strategy: a tutorial", table 1, without negative weights.
        d, parents = self.dimension, self._size // 2
        weights = np.log((self._size + 1) / 2) - np.log(np.arange(1, parents + 1))
        self._weights = weights / weights.sum()
        mu = self._mu = 1 / float((self._weights**2).sum())
        self._c_sigma = (mu + 2) / (d + mu + 5)
        self._damping = 1 + 2 * max(0.0, ((mu - 1) / (d + 1)) ** 0.5 - 1) + self._c_sigma
        self._c_path = (4 + mu / d) / (d + 4 + 2 * mu / d)
        # Ros and Hansen, section 3: a diagonal has d numbers, not d^2 / 2, and may be learned (d + 2) / 3 times faster.
        faster = (d + 2) / 3
        self._c_1 = min(0.5, faster * 2 / ((d + 1.3) ** 2 + mu))
        self._c_mu = min(1 - self._c_1, faster * 2 * (mu - 2 + 1 / mu) / ((d + 2) ** 2 + mu))
        self._expected_length = d**0.5 * (1 - 1 / (4 * d) + 1 / (21 * d * d))
        self._sigma = self._spread
        self._variance, self._path_sigma, self._path = np.ones(d), np.zeros(d), np.zeros(d)

    def _sample(self) -> Array:
        normal = self._random.standard_normal((self._size, self.dimension), dtype=self._dtype.type)
        normal *= (self._sigma * np.sqrt(self._variance)).astype(self._dtype)
        normal += self._mean
        return normal.clip(self._lower, self._upper)

    def _learn(self, cost: NDArray[np.float64]) -> None:
        best = cost.argsort(kind="stable")[: len(self._weights)]
        # Samples cut off at the bounds count as what was evaluated.
        steps = (self._asked[best] - self._mean) / self._sigma
        step = self._weights @ steps
        self._mean = (self._mean + self._sigma * step).astype(self._dtype)
        c = self._c_sigma
        self._path_sigma = (1 - c) * self._path_sigma + (c * (2 - c) * self._mu) ** 0.5 * step / np.sqrt(self._variance)
        length = float(np.linalg.norm(self._path_sigma))
        settled = 1 - (1 - c) ** (2 * self.generation)
        moving = length / settled**0.5 < (1.4 + 2 / (self.dimension + 1)) * self._expected_length
        c = self._c_path
        self._path = (1 - c) * self._path + moving * (c * (2 - c) * self._mu) ** 0.5 * step
        kept = 1 - self._c_1 - self._c_mu + (0 if moving else self._c_1 * c * (2 - c))
        self._variance = kept * self._variance + self._c_1 * self._path**2 + self._c_mu * (self._weights @ steps**2)
        grown = np.exp(min(1.0, self._c_sigma / self._damping * (length / self._expected_length - 1)))
        # Far below the resolution of the numbers nothing is left to learn.
        self._sigma = float(np.clip(self._sigma * grown, 1e-12 * self._spread, 1e6 * self._spread))


class EvolutionStrategy(_Evolution):
    """Follows a gradient estimated from mirrored samples (Salimans et al. 2017), with Adam (Kingma and Ba 2015).

    Each generation asks for the mean itself and ``size`` samples in mirrored pairs around it.

    Args:
        start: where to begin (dimension,).
        spread: standard deviation of the samples.
        learning_rate: Adam's step per generation; None: as large as ``spread``.
        size: samples per generation, an even number.
        lower: lowest position (dimension,), or None.
        upper: highest position (dimension,), or None.
        dtype: float64 or float32.
        seed: of the own random generator.

    Raises:
        ValueError: an argument that makes no sense; the message names it.
    """

    STATE = ("_learning_rate", "_noise", "_momentum", "_square")

    def __init__(
        self,
        start: ArrayLike,
        *,
        spread: float,
        learning_rate: float | None = None,
        size: int = 50,
        lower: ArrayLike | None = None,
        upper: ArrayLike | None = None,
        dtype: DTypeLike = np.float64,
        seed: int = 0,
    ) -> None:
        if size % 2:
            raise ValueError(f"size is {size}; expected an even number, samples come in pairs")
        if learning_rate is not None and not (np.isfinite(learning_rate) and learning_rate > 0):
            raise ValueError(f"learning_rate is {learning_rate!r}; expected a positive number or None")
        self._learning_rate = float(spread if learning_rate is None else learning_rate)
        super().__init__(start, spread=spread, size=size, lower=lower, upper=upper, dtype=dtype, seed=seed)

    def _prepare(self) -> None:
        self._noise: Array = np.zeros((self._size // 2, self.dimension), self._dtype)
        self._momentum, self._square = np.zeros(self.dimension), np.zeros(self.dimension)

    def _sample(self) -> Array:
        self._noise = self._random.standard_normal(self._noise.shape, dtype=self._dtype.type)
        step = self._dtype.type(self._spread) * self._noise
        samples: Array = np.concatenate([self._mean[np.newaxis], self._mean + step, self._mean - step])
        return samples.clip(self._lower, self._upper)

    def _learn(self, cost: NDArray[np.float64]) -> None:
        # Ranks instead of costs: the step does not depend on the scale of the cost (Salimans et al., section 2.1).
        rank = cost[1:].argsort(kind="stable").argsort(kind="stable") / (self._size - 1) - 0.5
        pairs = self._size // 2
        # Finite costs of a pair that are equal say nothing about its direction, whatever place the sort gave them.
        difference = np.where(cost[1 : pairs + 1] == cost[pairs + 1 :], 0.0, rank[:pairs] - rank[pairs:])
        gradient = difference @ self._noise / (self._size * self._spread)
        t = self.generation
        self._momentum = 0.9 * self._momentum + 0.1 * gradient
        self._square = 0.999 * self._square + 0.001 * gradient**2
        step = self._momentum / (1 - 0.9**t) / (np.sqrt(self._square / (1 - 0.999**t)) + 1e-8)
        self._mean = (self._mean - self._learning_rate * step).astype(self._dtype).clip(self._lower, self._upper)
