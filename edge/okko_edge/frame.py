"""One camera image and when it was taken: what travels along the sorting path.

A frame is never changed after it was handed over, so every part may keep a reference to it without a copy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One image of a camera.

    Attributes:
        image: (height, width, 3) uint8 RGB, contiguous.
        captured_at_s: when it was taken, seconds on the monotonic clock.
        sequence: counts the camera's frames from 0.
        truth: the label that the object in view is known to have; None when unknown, as with any real camera.
        photo: name of the stored photo in view, if the camera shows stored photos.
    """

    image: NDArray[np.uint8]
    captured_at_s: float
    sequence: int
    truth: str | None = None
    photo: str | None = None
