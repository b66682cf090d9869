"""Which of several moves to make: a cheap guess from the trials so far, and the places of parameters that it needs.

A trial costs seconds to hours, a guess microseconds; so a particle thinks of several moves, and makes the one that a
kernel ridge regression of the trials' ranks expects most of (surrogate-assisted PSO, Regis 2014). Nothing is decided
by the guess alone: all proposals are moves that the swarm could have made.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from optuna.trial import FrozenTrial

# Chosen by measurement on the three tuning tasks' surrogates; the result is flat around them.
_WIDTH: Final = 0.25  # of the kernel, as a share of a parameter's range
_RIDGE: Final = 0.1
_POWER: Final = 2  # of the mean of the parameters' kernels: 1 would be additive, more lets parameters act together
_MOST_TRIALS: Final = 200  # the best ones; a regression costs their number cubed
_ABSENT: Final = 0.5  # likeness of two trials in a parameter that only one of them has


class Screen:
    """Expectations from ranked trials.

    Args:
        ranking: trials, best first, at least two.

    Attributes:
        distributions: of all parameters that any of the trials had.
    """

    def __init__(self, ranking: Sequence[FrozenTrial]) -> None:
        self.distributions: dict[str, BaseDistribution] = {}
        ranking = ranking[:_MOST_TRIALS]
        for trial in ranking:
            self.distributions |= trial.distributions
        self._known = [trial.params for trial in ranking]

    def expected_ranks(self, points: Sequence[Mapping[str, Any]]) -> NDArray[np.float64]:
        """What to expect of parameters: a number (len(points),) each, lower is better."""
        n = len(self._known)
        likeness = self._likeness([*self._known, *points])
        ranks = (np.arange(n) - (n - 1) / 2) / n
        weights = np.linalg.solve(likeness[:n, :n] + _RIDGE * np.eye(n), ranks)
        return np.asarray(likeness[n:, :n] @ weights)

    def _likeness(self, points: Sequence[Mapping[str, Any]]) -> NDArray[np.float64]:
        total = np.zeros((len(points), len(points)))
        for name, distribution in self.distributions.items():
            present = np.array([name in point for point in points])
            both, neither = present[:, None] & present, ~present[:, None] & ~present
            if isinstance(distribution, CategoricalDistribution):
                index = np.array([distribution.choices.index(p[name]) if name in p else -1 for p in points])
                alike = (index[:, None] == index).astype(float)
            else:
                x = np.array([place(p[name], distribution) if name in p else 0.0 for p in points])
                alike = np.exp(-0.5 * ((x[:, None] - x) / _WIDTH) ** 2)
            total += np.where(both, alike, np.where(neither, 1.0, _ABSENT))
        mean: NDArray[np.float64] = (total / len(self.distributions)) ** _POWER
        return mean


def place(value: float, distribution: BaseDistribution, random: np.random.Generator | None = None) -> float:
    """Where a number lies in its range, from 0 to 1 along the distribution's scale.

    Numbers on a grid own equal cells of the range (on a log scale, those between their half-way neighbours). With
    ``random`` they stand anywhere in their cell, or small moves would never leave it.
    """
    low, high, grid = _ends(distribution)
    if grid and random is not None:
        value = value + grid * random.uniform(-0.5, 0.5)
    u = (_scaled(value, distribution) - low) / ((high - low) or 1.0)
    return min(max(u, 0.0), 1.0)


def value_at(unit: float, distribution: BaseDistribution) -> float | int:
    """The number at a place from 0 to 1; the opposite of `place`."""
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    low, high, grid = _ends(distribution)
    x = low + (high - low) * unit
    value = math.exp(x) if distribution.log else x
    if grid:
        value = distribution.low + grid * math.floor((value - distribution.low) / grid + 0.5)
    value = min(max(value, distribution.low), distribution.high)
    return int(value) if isinstance(distribution, IntDistribution) else float(value)


def _ends(distribution: BaseDistribution) -> tuple[float, float, float]:
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    grid = distribution.step or 0
    return (
        _scaled(distribution.low - grid / 2, distribution),
        _scaled(distribution.high + grid / 2, distribution),
        grid,
    )


def _scaled(value: float, distribution: BaseDistribution) -> float:
    return math.log(value) if getattr(distribution, "log", False) else float(value)
