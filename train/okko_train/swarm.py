"""Particle swarm optimisation by ask and tell.

`Swarm.ask` says where to evaluate, `Swarm.tell` takes the costs, and nothing else happens: the swarm never calls
the cost function, owns no loop, no threads and no log, and keeps no history. After Kennedy and Eberhart (1995), with the
constriction of Clerc and Kennedy (2002).
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

Array = NDArray[np.floating[Any]]


class Swarm:
    """A swarm that minimises a cost over a box.

    Example:
        >>> swarm = Swarm(lower=[-5, -5], upper=[5, 5], seed=1)
        >>> for _ in range(100):
        ...     x = swarm.ask()
        ...     swarm.tell((x**2).sum(axis=1))
        >>> bool(swarm.best_cost < 1e-6)
        True

    Args:
        lower: lowest position (dimension,).
        upper: highest position (dimension,).
        size: number of particles.
        first: number of points of the first generation; the best ``size`` of them become the swarm.
        start: ``"uniform"`` or ``"sobol"``, or positions (n, dimension) that the first generation contains.
        inertia: share of the velocity kept, one number or one for each generation (the last one stays).
        attraction: pull towards the particle's own best and towards the swarm's best.
        velocity_limit: highest speed per generation, as a share of the box.
        dtype: float64 or float32.
        seed: of the swarm's own random generator.

    Raises:
        ValueError: an argument that makes no sense; the message names it.
    """

    def __init__(
        self,
        lower: ArrayLike,
        upper: ArrayLike,
        *,
        size: int = 40,
        first: int | None = None,
        start: str | ArrayLike = "uniform",
        inertia: float | tuple[float, ...] = 0.7298,
        attraction: float = 1.49618,
        velocity_limit: float = 0.2,
        dtype: DTypeLike = np.float64,
        seed: int = 0,
    ) -> None:
        self._dtype: Any = np.dtype(dtype)
        self._lower = np.array(lower, dtype=self._dtype)
        self._upper = np.array(upper, dtype=self._dtype)
        if self._lower.ndim != 1 or self._lower.shape != self._upper.shape or not len(self._lower):
            raise ValueError(f"lower and upper have shapes {self._lower.shape} and {self._upper.shape}; expected (n,)")
        if not (np.isfinite(self._lower).all() and np.isfinite(self._upper).all()):
            raise ValueError("lower and upper must be finite")
        if not (self._lower < self._upper).all():
            raise ValueError(f"lower is not below upper in dimension {int((self._lower >= self._upper).argmax())}")
        if size < 2:
            raise ValueError(f"size is {size}; a swarm needs at least 2 particles")
        first = size if first is None else first
        if first < size:
            raise ValueError(f"first is {first}; it must not be less than size ({size})")
        self._settings: dict[str, Any] = {
            "size": int(size),
            "inertia": list(inertia) if isinstance(inertia, tuple) else [inertia],
            "attraction": float(attraction),
            "velocity_limit": float(velocity_limit),
            "dtype": self._dtype.name,
        }
        self._random = np.random.Generator(np.random.SFC64(seed))
        self._position = self._start(first, start, seed)
        self._velocity = np.zeros((0, self.dimension), self._dtype)
        self._memory = np.zeros((0, self.dimension), self._dtype)
        self._memory_cost: Array = np.zeros(0, np.float64)
        self.best_position = self._position[0].copy()
        self.best_cost = np.inf
        self.generation = 0
        self.evaluations = 0

    @classmethod
    def for_tuning(cls, dimension: int, *, seed: int = 0) -> Swarm:
        """A swarm for some thirty expensive evaluations in the unit cube: 12 Sobol points, the best 6 fly on."""
        return cls(
            np.zeros(dimension),
            np.ones(dimension),
            size=6,
            first=12,
            start="sobol",
            inertia=(0.5, 0.4, 0.3),
            attraction=1.5,
            velocity_limit=0.3,
            seed=seed,
        )

    @property
    def dimension(self) -> int:
        """Number of coordinates."""
        return len(self._lower)

    def ask(self) -> Array:
        """Positions (n, dimension) to evaluate next; the same ones until they are told."""
        return self._position

    def tell(self, costs: ArrayLike) -> None:
        """Costs (n,) of the positions last asked for; NaN and infinite count as worst.

        Raises:
            ValueError: another number of costs than positions.
        """
        cost = np.array(costs, dtype=np.float64)
        if cost.shape != (len(self._position),):
            raise ValueError(f"costs has shape {cost.shape}; expected ({len(self._position)},)")
        cost[~np.isfinite(cost)] = np.inf
        best = int(cost.argmin())
        if cost[best] < self.best_cost:
            self.best_cost, self.best_position = float(cost[best]), self._position[best].copy()
        if self.generation == 0:
            self._gather(cost)
        else:
            better = cost < self._memory_cost
            self._memory[better] = self._position[better]
            self._memory_cost[better] = cost[better]
        self.evaluations += len(cost)
        self.generation += 1
        self._fly()

    def state(self) -> dict[str, Any]:
        """Everything needed to go on exactly from here, as plain arrays (for npz, or lists for JSON)."""
        bits: Any = self._random.bit_generator.state
        random = [*bits["state"]["state"].tolist(), bits["has_uint32"], bits["uinteger"]]
        return {
            "settings": json.dumps(self._settings),
            "lower": self._lower.copy(),
            "upper": self._upper.copy(),
            "position": self._position.copy(),
            "velocity": self._velocity.copy(),
            "memory": self._memory.copy(),
            "memory_cost": self._memory_cost.copy(),
            "best_position": self.best_position.copy(),
            "best_cost": np.float64(self.best_cost),
            "counters": np.array([self.generation, self.evaluations]),
            "random": np.array(random, dtype=np.uint64),
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Swarm:
        """The swarm that wrote this state; arrays may have become lists on the way."""
        settings = json.loads(str(state["settings"]))
        swarm = cls(
            state["lower"],
            state["upper"],
            size=settings["size"],
            inertia=tuple(settings["inertia"]),
            attraction=settings["attraction"],
            velocity_limit=settings["velocity_limit"],
            dtype=settings["dtype"],
        )
        shape = (-1, swarm.dimension)
        swarm._position = np.array(state["position"], dtype=swarm._dtype).reshape(shape)
        swarm._velocity = np.array(state["velocity"], dtype=swarm._dtype).reshape(shape)
        swarm._memory = np.array(state["memory"], dtype=swarm._dtype).reshape(shape)
        swarm._memory_cost = np.array(state["memory_cost"], dtype=np.float64)
        swarm.best_position = np.array(state["best_position"], dtype=swarm._dtype)
        swarm.best_cost = float(state["best_cost"])
        swarm.generation, swarm.evaluations = (int(c) for c in state["counters"])
        random = np.array(state["random"], dtype=np.uint64)
        bits: Any = swarm._random.bit_generator.state
        bits["state"]["state"] = random[:4].copy()
        bits["has_uint32"], bits["uinteger"] = int(random[4]), int(random[5])
        swarm._random.bit_generator.state = bits
        return swarm

    def _start(self, first: int, start: str | ArrayLike, seed: int) -> Array:
        span = self._upper - self._lower
        if isinstance(start, str) and start == "sobol":
            from scipy.stats import qmc

            power = max(1, (first - 1).bit_length())
            unit = qmc.Sobol(self.dimension, rng=np.random.default_rng(seed)).random_base2(power)[:first]
        else:
            unit = self._random.random((first, self.dimension))
        position: Array = self._lower + span * unit.astype(self._dtype)
        if not isinstance(start, str):
            given = np.atleast_2d(np.array(start, dtype=self._dtype))
            if given.shape[1] != self.dimension or len(given) > first:
                raise ValueError(f"start has shape {given.shape}; expected at most ({first}, {self.dimension})")
            position[: len(given)] = given.clip(self._lower, self._upper)
        elif start not in ("uniform", "sobol"):
            raise ValueError(f"start is {start!r}; use 'uniform', 'sobol' or positions (n, {self.dimension})")
        return position

    def _gather(self, cost: Array) -> None:
        """Makes the best of the first points the swarm, with random velocities."""
        keep = cost.argsort(kind="stable")[: self._settings["size"]]
        self._position = self._position[keep]
        self._memory, self._memory_cost = self._position.copy(), cost[keep]
        limit = self._settings["velocity_limit"] * (self._upper - self._lower)
        self._velocity = (
            self._random.random(self._memory.shape, dtype=self._dtype.type) - self._dtype.type(0.5)
        ) * limit

    def _fly(self) -> None:
        """Moves by v = w v + c r1 (own best - x) + c r2 (swarm's best - x), reflected at the walls."""
        inertia, pull = self._settings["inertia"], self._settings["attraction"]
        w = inertia[min(self.generation - 1, len(inertia) - 1)]
        x, v = self._position, self._velocity
        leader = self._memory[self._memory_cost.argmin()]
        r = self._random.random((2, *x.shape), dtype=self._dtype.type)
        v = (w * v + pull * r[0] * (self._memory - x) + pull * r[1] * (leader - x)).astype(self._dtype)
        limit = (self._settings["velocity_limit"] * (self._upper - self._lower)).astype(self._dtype)
        v = v.clip(-limit, limit)
        x = x + v
        outside = (x < self._lower) | (x > self._upper)
        x = np.where(x < self._lower, 2 * self._lower - x, np.where(x > self._upper, 2 * self._upper - x, x))
        v[outside] *= -0.5
        self._position, self._velocity = x.clip(self._lower, self._upper), v
