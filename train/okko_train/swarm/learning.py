"""The default rule: the worse half of the swarm learns from the better half, and the better half then searches.

Every generation the swarm stands in line, best first. Each particle of the worse half flies towards the better half,
with another teacher for each coordinate: losers that learn and are never rejected are Cheng and Jin's competitive swarm
(IEEE Trans. Cybernetics 45, 2015), the teacher per coordinate is their social learning swarm (Information Sciences 291,
2015). That explores well and stalls in narrow valleys. So once the swarm has gathered, its better half also takes steps
along differences between particles and keeps them only if they pay, with step lengths learned from the steps that paid:
differential evolution with success history (Tanabe and Fukunaga, SHADE, CEC 2013). The handbook shows what each adds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from okko_train.swarm.box import Array, Box
    from okko_train.swarm.settings import Settings

# Gathered: the swarm fills at most this share of the box in every dimension; looked at every few generations.
_GATHERED, _LOOK_EVERY = 0.2, 10
# What steps paid is remembered in this many slots, and leaders are drawn from this share of the swarm (SHADE's H, p).
_SLOTS, _LEADERS = 5, 0.1
# Step lengths and shares are drawn this far around a remembered value.
_AROUND, _SHORTEST = 0.2, 0.05


class Learning:
    """Half learns, half searches; see the module.

    The state: ``pool`` (2 size, dimension), the line of particles and behind it positions given up for better ones;
    ``velocity`` (size, dimension) and ``cost`` (size,) of the line; ``tried`` (2, size // 2), step length and share of
    coordinates of the steps under way; ``learned`` (2, 5), the same of steps that paid; ``clock``: generation,
    gathered or not, next slot of ``learned``.
    """

    STATE: ClassVar = ("pool", "velocity", "cost", "tried", "learned", "clock")

    def __init__(self, settings: Settings, box: Box, random: np.random.Generator) -> None:
        self._settings, self._box, self._random = settings, box, random
        self._columns = np.arange(len(box.span))
        self._rows = np.arange(settings.size // 2)
        # Turns random numbers into a slot, a leader, a mate, a former position and a coordinate.
        n = settings.size
        ranges = [_SLOTS, max(2, round(_LEADERS * n)), n, 2 * n, len(box.span)]
        self._ranges = np.array(ranges, dtype=np.float64)[:, np.newaxis]
        self._limit = None if settings.velocity_limit is None else settings.velocity_limit * box.span

    @property
    def position(self) -> Array:
        """Positions (size, dimension) of the swarm."""
        return self.pool[: len(self.cost)]

    def gather(self, position: Array, cost: NDArray[np.float64]) -> None:
        """Starts from these positions (size, dimension) and costs (size,)."""
        n = len(cost)
        self.pool = np.concatenate([position, position])
        self.velocity, self.cost = np.zeros_like(position), cost
        self.tried, self.learned = np.zeros((2, n // 2)), np.full((2, _SLOTS), 0.5)
        self.clock = np.zeros(3, np.intp)

    def fly(self) -> Array:
        """Next positions: of the worse half, and once gathered of all (size, dimension), best first."""
        n, half = len(self.cost), len(self.cost) // 2
        order = self.cost.argsort(kind="stable")
        line = self.pool[:n]
        line[...] = line.take(order, axis=0)
        self.velocity, self.cost = self.velocity.take(order, axis=0), self.cost.take(order)
        if self.clock[0] % _LOOK_EVERY == 0 and not self.clock[1]:
            self.clock[1] = bool((np.ptp(line, axis=0) <= _GATHERED * self._box.span).all())
        self.clock[0] += 1
        first = 0 if self.clock[1] else half
        motion = np.empty((n - first, len(self._columns)), line.dtype)
        self._learn(line, half, motion[half - first :])
        if not first:
            self._search(line, half, motion[:half])
        asked: Array = line[first:] + motion
        self._box.contain(asked, motion, self._settings.walls, self._random)
        self.velocity[half:] = motion[half - first :]
        return asked

    def land(self, asked: Array, cost: NDArray[np.float64]) -> None:
        """Takes the costs of the positions that `fly` returned."""
        n, half = len(self.cost), len(self.cost) // 2
        if len(cost) == n:
            self._keep_what_pays(asked[:half], cost[:half])
        self.pool[half:n] = asked[half - n :]
        self.cost[half:] = cost[half - n :]

    def _learn(self, line: Array, half: int, motion: Array) -> None:
        """Velocity = r1 v + r2 (teacher - x), with another teacher of the better half for each coordinate."""
        r = self._random.random((3, *motion.shape), dtype=motion.dtype.type)
        r[2] *= half
        teacher = r[2].astype(np.intp)
        teacher *= motion.shape[1]
        teacher += self._columns
        pull = line.ravel().take(teacher)
        pull -= line[half:]
        pull *= r[1]
        np.multiply(self.velocity[half:], r[0], out=motion)
        motion += pull
        if self._limit is not None:
            np.maximum(motion, -self._limit, out=motion)
            np.minimum(motion, self._limit, out=motion)

    def _search(self, line: Array, half: int, motion: Array) -> None:
        """Step = F (leader - x) + F (mate - former), in a share C of the coordinates: SHADE's current-to-pbest/1/bin.

        F and C are uniform around a remembered value (SHADE: Cauchy and normal); ``former`` is one of the line or one
        that was given up, which points along the way the swarm has come.
        """
        r = self._random.random((7, half))
        slot, leader, mate, former, certain = (r[:5] * self._ranges).astype(np.intp)
        tried = r[5:]
        tried -= 0.5
        tried *= 2 * _AROUND
        tried += self.learned.take(slot, axis=1)
        np.maximum(tried, _SHORTEST, out=tried)
        np.minimum(tried, 1, out=tried)
        self.tried = tried
        np.subtract(self.pool.take(leader, axis=0), line[:half], out=motion)
        motion += self.pool.take(mate, axis=0)
        motion -= self.pool.take(former, axis=0)
        step, share = tried.astype(motion.dtype)[:, :, np.newaxis]
        motion *= step
        moves = self._random.random(motion.shape, dtype=motion.dtype.type) < share
        moves[self._rows, certain] = True
        motion *= moves

    def _keep_what_pays(self, asked: Array, cost: NDArray[np.float64]) -> None:
        n, half = len(self.cost), len(cost)
        gain = self.cost[:half] - cost
        most = gain.max()
        if most <= 0:
            return
        paid = (gain > 0).nonzero()[0]
        given_up = (self._random.random(len(paid)) * n).astype(np.intp)
        given_up += n
        self.pool[given_up] = self.pool.take(paid, axis=0)
        self.pool[paid] = asked.take(paid, axis=0)
        np.minimum(self.cost[:half], cost, out=self.cost[:half])
        np.maximum(gain, 0, out=gain)
        gain /= most
        # Lehmer mean: long steps count more, against the bias of greedy choice for short ones (SHADE, eq. 7).
        weighted = self.tried * gain
        self.learned[:, self.clock[2]] = (weighted * self.tried).sum(axis=1) / weighted.sum(axis=1)
        self.clock[2] = (self.clock[2] + 1) % _SLOTS
