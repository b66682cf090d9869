"""Particle swarm optimisation by ask and tell.

`Swarm.ask` says where to evaluate, `Swarm.tell` takes the costs, and nothing else happens: the swarm never calls the
cost function, owns no loop, no threads and no log, and keeps no history. After Kennedy and Eberhart (1995); which
velocity rule flies is a choice, and the default is the one that measured best.
"""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

import numpy as np

from okko_train.swarm.box import Array, Box
from okko_train.swarm.classical import Classical, Competitive
from okko_train.swarm.learning import Learning
from okko_train.swarm.saving import random_state, restored_random
from okko_train.swarm.settings import Settings, Stop

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, DTypeLike, NDArray

# Stands for NaN and infinity: worse than any cost, and differences of costs stay finite.
_WORST = 1e300


class Swarm:
    """A swarm that minimises a cost over a box.

    Example:
        >>> swarm = Swarm(lower=[-5, -5], upper=[5, 5], seed=1, stop=Stop(evaluations=5000, target=1e-12))
        >>> while not swarm.stopped:
        ...     x = swarm.ask()
        ...     swarm.tell((x**2).sum(axis=1))
        >>> swarm.stopped, bool(swarm.best_cost <= 1e-12)
        ('target', True)

    Args:
        lower: lowest position (dimension,).
        upper: highest position (dimension,).
        start: ``"uniform"``, ``"sobol"``, ``"latin"``, or positions (n, dimension), n <= first, with which the first
            generation begins (the rest is uniform).
        stop: when `stopped` names a reason.
        dtype: float64 or float32.
        seed: of the swarm's own random generator.
        choices: fields of `Settings`, first of all ``rule`` and ``size``.

    Attributes:
        best_position: best position so far (dimension,); meaningless while best_cost is infinite.
        best_cost: its cost; infinite while nothing finite was told.
        generation: generations told.
        evaluations: costs told.

    Raises:
        ValueError: an argument that makes no sense; the message names it.
    """

    def __init__(
        self,
        lower: ArrayLike,
        upper: ArrayLike,
        *,
        start: str | ArrayLike = "uniform",
        stop: Stop | None = None,
        dtype: DTypeLike = np.float64,
        seed: int = 0,
        **choices: Any,
    ) -> None:
        self._box = Box(lower, upper, dtype)
        given = {} if not isinstance(start, str) else {"start": start}
        self.settings = Settings.choose(**choices, **given)
        self._stop = Stop() if stop is None else stop
        self._random = np.random.Generator(np.random.SFC64(seed))
        self._flight = _flight(self.settings, self._box, self._random)
        self._asked = self._box.points(self.settings.first, self.settings.start, self._random)
        if not isinstance(start, str):
            self._put(np.asarray(start))
        self._asked.flags.writeable = False
        self.best_position: Array = self._asked[0].copy()
        self.best_cost = np.inf
        self.generation = self.evaluations = 0
        # Generations since the best cost improved, since it improved after the last restart, and flown since then.
        self._stale = self._stale_here = self._age = 0
        self._best_here = np.inf

    @classmethod
    def for_tuning(cls, dimension: int, *, seed: int = 0) -> Swarm:
        """A swarm for some thirty expensive evaluations in the unit cube.

        12 Sobol points, of which the best 6 fly on, six at a time, strongly damped.
        """
        return cls(
            np.zeros(dimension),
            np.ones(dimension),
            rule="inertia",
            size=6,
            first=12,
            start="sobol",
            inertia=(0.5, 0.4, 0.3),
            attraction=1.5,
            velocity_limit=0.3,
            first_velocity=0.2,
            seed=seed,
        )

    @property
    def dimension(self) -> int:
        """Number of coordinates."""
        return len(self._box.span)

    @property
    def stopped(self) -> str | None:
        """The stop rule that holds: ``"evaluations"``, ``"target"``, ``"patience"``, ``"spread"``, or None."""
        s = self._stop
        if s.evaluations is not None and self.evaluations >= s.evaluations:
            return "evaluations"
        if s.target is not None and self.best_cost <= s.target:
            return "target"
        if s.patience is not None and self._stale >= s.patience:
            return "patience"
        if s.spread is not None and self._age and self.spread <= s.spread:
            return "spread"
        return None

    @property
    def spread(self) -> float:
        """Largest share of the box, over all dimensions, that the particles fill."""
        position = self._flight.position if self._age else self._asked
        return float((np.ptp(position, axis=0) / self._box.span).max())

    def ask(self) -> Array:
        """Positions (n, dimension) to evaluate next, read-only; the same ones until they are told.

        n is ``first`` in the first generation and after a restart, ``size`` later, and half of that while the default
        rule explores.
        """
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
        # NaN is both the largest and the smallest of its array, so it fails this too.
        if not -_WORST < cost.min() <= cost.max() < _WORST:
            cost[~(np.abs(cost) < _WORST)] = _WORST
        self._remember(cost)
        if self._age == 0:
            best_first = cost.argsort(kind="stable")[: self.settings.size]
            self._flight.gather(self._asked[best_first], cost[best_first])
        else:
            self._flight.land(self._asked, cost)
        self.evaluations += len(cost)
        self.generation += 1
        self._age += 1
        if self.settings.restart_after is not None and self._stale_here >= self.settings.restart_after:
            self._age, self._stale_here, self._best_here = 0, 0, np.inf
            start = "uniform" if self.settings.start == "sobol" else self.settings.start
            self._asked = self._box.points(self.settings.first, start, self._random)
        else:
            self._asked = self._flight.fly()
        self._asked.flags.writeable = False

    def state(self) -> dict[str, Any]:
        """Everything needed to go on exactly from here: a dict of arrays and one JSON text, fit for ``np.savez``.

        As JSON: turn arrays to lists; `from_state` takes both.
        """
        numbers = [self.generation, self.evaluations, self._stale, self._stale_here, self._age]
        settings = {"settings": dataclasses.asdict(self.settings), "stop": dataclasses.asdict(self._stop)}
        state: dict[str, Any] = {
            "settings": np.array(json.dumps(settings | {"dtype": self._box.dtype.name})),
            "lower": self._box.lower.copy(),
            "upper": self._box.upper.copy(),
            "asked": self._asked.copy(),
            "best_position": self.best_position.copy(),
            "best_cost": np.array([self.best_cost, self._best_here]),
            "numbers": np.array(numbers),
            "random": random_state(self._random),
        }
        if self._age:
            state |= {f"flight_{name}": getattr(self._flight, name).copy() for name in self._flight.STATE}
        return state

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Swarm:
        """The swarm that `state` described.

        Raises:
            ValueError: a state that no swarm wrote.
        """
        try:
            return cls._from_state(state)
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(
                f"state is not that of a swarm: {error!r}; expected what Swarm.state() returned"
            ) from error

    @classmethod
    def _from_state(cls, state: dict[str, Any]) -> Swarm:
        plain = json.loads(str(state["settings"]))
        stop, dtype = Stop(**plain["stop"]), plain["dtype"]
        swarm = cls(state["lower"], state["upper"], stop=stop, dtype=dtype, **plain["settings"])
        swarm._asked = np.array(state["asked"], dtype=dtype).reshape(-1, swarm.dimension)
        swarm._asked.flags.writeable = False
        swarm.best_position = np.array(state["best_position"], dtype=dtype)
        swarm.best_cost, swarm._best_here = (float(cost) for cost in state["best_cost"])
        counts = (int(number) for number in state["numbers"])
        swarm.generation, swarm.evaluations, swarm._stale, swarm._stale_here, swarm._age = counts
        if swarm._age:
            # A gathered flight has every array in its type and rank; the saved values replace them.
            n = swarm.settings.size
            swarm._flight.gather(np.zeros((n, swarm.dimension), dtype), np.zeros(n))
            for name in swarm._flight.STATE:
                like = getattr(swarm._flight, name)
                value = np.array(state[f"flight_{name}"], dtype=like.dtype)
                setattr(swarm._flight, name, value.reshape(-1, *like.shape[1:]))
        swarm._random.bit_generator.state = restored_random(state["random"]).bit_generator.state
        return swarm

    def _put(self, start: NDArray[Any]) -> None:
        first, d = self._asked.shape
        if start.ndim != 2 or start.shape[1] != d or not 0 < len(start) <= first:
            raise ValueError(f"start has shape {start.shape}; expected (1 to {first}, {d})")
        if not np.isfinite(start).all():
            raise ValueError("start has NaN or infinite coordinates")
        self._asked[: len(start)] = start.clip(self._box.lower, self._box.upper)

    def _remember(self, cost: NDArray[np.float64]) -> None:
        best = int(cost.argmin())
        lowest = float(cost[best])
        self._stale += 1
        self._stale_here += 1
        if lowest < min(self._best_here, _WORST):
            self._best_here, self._stale_here = lowest, 0
        if lowest < min(self.best_cost, _WORST):
            self.best_cost, self._stale = lowest, 0
            self.best_position = self._asked[best].copy()


def _flight(settings: Settings, box: Box, random: np.random.Generator) -> Classical | Competitive | Learning:
    kinds: dict[str, type[Classical] | type[Competitive] | type[Learning]]
    kinds = {"learning": Learning, "competitive": Competitive}
    return kinds.get(settings.rule, Classical)(settings, box, random)
