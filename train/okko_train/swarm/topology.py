"""Who informs whom: the neighbours from which a particle takes its leader.

Global best spreads news in one generation, a ring slowly; in between stand the von Neumann grid (Kennedy and Mendes
2002) and random informants, drawn anew whenever a generation brought nothing better (Clerc, Standard PSO 2006 to 2011).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Index = NDArray[np.intp]

# Each particle asks itself and three others, as in Standard PSO.
_INFORMANTS = 3


def neighbours(topology: str, n: int, random: np.random.Generator) -> Index:
    """Informants (n, k) of each particle, itself included; for ``"global"`` all of them, in one row (1, n)."""
    own: NDArray[Any] = np.arange(n)
    if topology == "global":
        return own[np.newaxis, :]
    if topology == "ring":
        return np.stack([own, (own - 1) % n, (own + 1) % n], axis=1)
    if topology == "von_neumann":
        columns = _columns(n)
        return np.stack([own, *((own + step) % n for step in (-1, 1, -columns, columns))], axis=1)
    others = random.integers(n - 1, size=(n, _INFORMANTS))
    others += others >= own[:, np.newaxis]
    return np.concatenate([own[:, np.newaxis], others], axis=1)


def _columns(n: int) -> int:
    """Columns of the grid: the divisor next to the square root; a prime gets the whole number next to it."""
    divisors = [c for c in range(2, n) if n % c == 0] or [max(2, round(n**0.5))]
    return min(divisors, key=lambda c: abs(c - n**0.5))
