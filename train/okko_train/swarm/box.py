"""The box a swarm lives in: where the first points are, and what happens at the walls.

Handling the walls can decide more than the update rule: a particle that is put back on the wall and keeps its
velocity leaves again in the next generation, and the swarm starves there.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.floating[Any]]


class Box:
    """Lower and upper bounds (dimension,) of finite width.

    Raises:
        ValueError: bounds that are not two finite vectors of one length, or that leave no room.
    """

    def __init__(self, lower: ArrayLike, upper: ArrayLike, dtype: Any) -> None:
        self.dtype = np.dtype(dtype)
        if self.dtype not in (np.dtype(np.float64), np.dtype(np.float32)):
            raise ValueError(f"dtype is {self.dtype}; use float64 or float32")
        self.lower, self.upper = np.array(lower, dtype=self.dtype), np.array(upper, dtype=self.dtype)
        if self.lower.ndim != 1 or self.lower.shape != self.upper.shape or not len(self.lower):
            raise ValueError(
                f"lower and upper have shapes {self.lower.shape} and {self.upper.shape}; expected two equal vectors"
            )
        self.span: Array = self.upper - self.lower
        bad = ~(np.isfinite(self.span) & (self.span > 0))
        if bad.any():
            i = int(bad.argmax())
            raise ValueError(
                f"lower[{i}] is {self.lower[i]}, upper[{i}] is {self.upper[i]}; expected finite numbers, lower < upper"
            )

    def points(self, n: int, start: str, random: np.random.Generator) -> Array:
        """First points (n, dimension): uniform, a scrambled Sobol sequence, or a Latin hypercube."""
        d = len(self.span)
        if start == "sobol":
            # SciPy comes with scikit-learn; it is slow to import, and only this start needs it.
            from scipy.stats import qmc

            unit = qmc.Sobol(d, rng=random).random_base2(max(1, (n - 1).bit_length()))[:n]
        elif start == "latin":
            unit = (random.permuted(np.tile(np.arange(n), (d, 1)), axis=1).T + random.random((n, d))) / n
        else:
            unit = random.random((n, d))
        points: Array = self.lower + self.span * unit.astype(self.dtype)
        return points.clip(self.lower, self.upper)

    def contain(self, x: Array, v: Array, walls: str, random: np.random.Generator) -> None:
        """Brings positions x (n, dimension) back into the box, in place, and adapts their velocities v."""
        nearest = np.maximum(x, self.lower)
        np.minimum(nearest, self.upper, out=nearest)
        outside = nearest != x
        if not outside.any():
            return
        if walls == "absorb":
            x[...] = nearest
            v[outside] = 0
            return
        if walls == "reflect":
            nearest += nearest
            nearest -= x
            np.copyto(x, nearest, where=outside)
            v[outside] *= -0.5
        elif walls == "wrap":
            np.copyto(x, self.lower + np.mod(x - self.lower, self.span), where=outside)
        else:
            np.copyto(x, self.points(len(x), "uniform", random), where=outside)
            v[outside] = 0
        # A particle further out than the box is wide would leave on the other side.
        np.maximum(x, self.lower, out=x)
        np.minimum(x, self.upper, out=x)
