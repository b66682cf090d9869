"""How a random generator travels in a saved state: as six whole numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


def random_state(random: np.random.Generator) -> NDArray[np.uint64]:
    """State (6,) of an SFC64 generator, the fastest of NumPy's."""
    bits: Any = random.bit_generator.state
    return np.array([*bits["state"]["state"], bits["has_uint32"], bits["uinteger"]], dtype=np.uint64)


def restored_random(state: ArrayLike) -> np.random.Generator:
    """Generator that goes on where `random_state` was called.

    Raises:
        ValueError: not six whole numbers.
    """
    numbers = np.array(state, dtype=np.uint64)
    if numbers.shape != (6,):
        raise ValueError(f"random has shape {numbers.shape}; expected (6,), as saved")
    random = np.random.Generator(np.random.SFC64(0))
    bits: Any = random.bit_generator.state
    bits["state"]["state"] = numbers[:4].copy()
    bits["has_uint32"], bits["uinteger"] = int(numbers[4]), int(numbers[5])
    random.bit_generator.state = bits
    return random
