"""The rules of the literature, each with its equation and its paper.

`Classical` covers the swarms in which every particle remembers its best position; `Competitive` the one in which nobody
remembers anything and losers learn from winners.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from okko_train.swarm.topology import neighbours

if TYPE_CHECKING:
    from okko_train.swarm.box import Array, Box
    from okko_train.swarm.settings import Settings

Costs = NDArray[np.float64]


class Classical:
    """Particles with a memory: inertia, constriction, SPSO-2011, fully informed.

    The state: ``position``, ``velocity``, and ``memory`` (size, dimension), each particle's best position; ``cost``
    (size,) of the memories; ``informants`` (size, k); ``clock``: generations flown.
    """

    STATE: ClassVar = ("position", "velocity", "memory", "cost", "informants", "clock")

    def __init__(self, settings: Settings, box: Box, random: np.random.Generator) -> None:
        self._settings, self._box, self._random = settings, box, random
        self._limit = None if settings.velocity_limit is None else settings.velocity_limit * box.span
        self._rule = {"spso2011": self._sphere, "informed": self._all_informants}.get(settings.rule, self._own_and_best)

    def gather(self, position: Array, cost: Costs) -> None:
        """Starts from these positions (size, dimension) and costs (size,)."""
        n = len(cost)
        self.position, self.memory, self.cost = position, position.copy(), cost
        self.velocity: Array = position[self._random.permutation(n)] - position
        self.velocity *= self._settings.first_velocity
        self.informants = neighbours(self._settings.topology, n, self._random)
        self.clock = np.zeros(1, np.intp)

    def fly(self) -> Array:
        """Next positions (size, dimension)."""
        velocity = self._rule(self._settings.inertia_at(int(self.clock[0])))
        if self._limit is not None:
            np.minimum(velocity, self._limit, out=velocity)
            np.maximum(velocity, -self._limit, out=velocity)
        asked: Array = self.position + velocity
        self._box.contain(asked, velocity, self._settings.walls, self._random)
        self.velocity = velocity
        self.clock[0] += 1
        return asked

    def land(self, asked: Array, cost: Costs) -> None:
        """Takes the costs (size,) of the positions that `fly` returned."""
        if self._settings.topology == "random" and cost.min() >= self.cost.min():
            self.informants = neighbours("random", len(cost), self._random)
        better = cost < self.cost
        np.copyto(self.memory, asked, where=better[:, np.newaxis])
        np.copyto(self.cost, cost, where=better)
        self.position = asked

    def _leader(self) -> Array:
        """Best memory among the informants: (dimension,) if all share one, else (size, dimension)."""
        if len(self.informants) == 1:
            leader: Array = self.memory[self.cost.argmin()]
            return leader
        best = self.cost[self.informants].argmin(axis=1)
        leaders: Array = self.memory.take(self.informants[np.arange(len(best)), best], axis=0)
        return leaders

    def _own_and_best(self, w: float) -> Array:
        """Velocity = w v + c r1 (own best - x) + c r2 (leader - x): Kennedy and Eberhart 1995, Shi and Eberhart 1998.

        Constriction multiplies the whole sum: v = w (v + ...), Clerc and Kennedy 2002, eq. 4.
        """
        c = self._settings.attraction * (w if self._settings.rule == "constriction" else 1)
        x, random = self.position, self._random.random((2, *self.position.shape), dtype=self.position.dtype.type)
        random *= c
        pull = self.memory - x
        pull *= random[0]
        best = self._leader() - x
        best *= random[1]
        pull += best
        velocity = self.velocity
        velocity *= w
        velocity += pull
        return velocity

    def _all_informants(self, w: float) -> Array:
        """Velocity = w (v + sum over k informants of 2 c / k r_k (their best - x)).

        Mendes, Kennedy and Neves, IEEE Trans. Evolutionary Computation 8(3), 2004, eq. 2.
        """
        pull = self.memory[self.informants]
        pull -= self.position[:, np.newaxis]
        pull *= self._random.random(pull.shape, dtype=pull.dtype.type)
        sum_of_pulls = pull.sum(axis=1)
        sum_of_pulls *= w * 2 * self._settings.attraction / self.informants.shape[1]
        velocity = self.velocity
        velocity *= w
        velocity += sum_of_pulls
        return velocity

    def _sphere(self, w: float) -> Array:
        """Velocity = w v + x' - x, with x' in a ball around G through x.

        G is the mean of x, x + c (own best - x) and x + c (leader - x); without the last if the leader is the
        particle. Standard PSO 2011: Zambrano-Bigiarini, Clerc and Rojas, CEC 2013, eq. 7 to 11.
        """
        c, x = self._settings.attraction, self.position
        centre = self.memory - x
        leader = self._leader()
        alone = (leader == self.memory).all(axis=1)
        centre += leader - x
        centre *= np.where(alone, c / 4, c / 3)[:, np.newaxis].astype(x.dtype)
        direction = self._random.standard_normal(x.shape, dtype=x.dtype.type)
        length = np.sqrt(np.einsum("nd,nd->n", direction, direction))
        radius = np.sqrt(np.einsum("nd,nd->n", centre, centre))
        radius *= self._random.random(len(x), dtype=x.dtype.type)
        direction *= (radius / length)[:, np.newaxis]
        velocity = self.velocity
        velocity *= w
        velocity += centre
        velocity += direction
        return velocity


class Competitive:
    """Pairs are drawn, the loser learns from the winner: Cheng and Jin, IEEE Trans. Cybernetics 45(2), 2015.

    The state: ``position``, ``velocity`` (size, dimension), ``cost`` (size,), ``losers`` (size // 2,) under way.
    """

    STATE: ClassVar = ("position", "velocity", "cost", "losers")

    def __init__(self, settings: Settings, box: Box, random: np.random.Generator) -> None:
        self._settings, self._box, self._random = settings, box, random
        self._limit = None if settings.velocity_limit is None else settings.velocity_limit * box.span

    def gather(self, position: Array, cost: Costs) -> None:
        """Starts from these positions (size, dimension) and costs (size,)."""
        self.position, self.velocity, self.cost = position, np.zeros_like(position), cost
        self.losers = np.zeros(0, np.intp)

    def fly(self) -> Array:
        """Next positions (size // 2, dimension) of the losers.

        Their velocity is r1 v + r2 (winner - x) + phi r3 (mean - x), eq. 6.
        """
        half = len(self.cost) // 2
        pair = self._random.permutation(len(self.cost))[: 2 * half].reshape(2, half)
        first_wins = self.cost[pair[0]] < self.cost[pair[1]]
        winner, self.losers = np.where(first_wins, pair, pair[::-1])
        x, phi = self.position.take(self.losers, axis=0), self._settings.mean_attraction
        r = self._random.random((3 if phi else 2, *x.shape), dtype=x.dtype.type)
        pull = self.position.take(winner, axis=0)
        pull -= x
        pull *= r[1]
        velocity = self.velocity.take(self.losers, axis=0)
        velocity *= r[0]
        velocity += pull
        if phi:
            r[2] *= phi
            r[2] *= self.position.mean(axis=0) - x
            velocity += r[2]
        if self._limit is not None:
            np.clip(velocity, -self._limit, self._limit, out=velocity)
        x += velocity
        self._box.contain(x, velocity, self._settings.walls, self._random)
        self.velocity[self.losers] = velocity
        return x

    def land(self, asked: Array, cost: Costs) -> None:
        """Takes the costs (size // 2,) of the positions that `fly` returned."""
        self.position[self.losers], self.cost[self.losers] = asked, cost
