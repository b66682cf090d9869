"""A heat map laid over a photo, as pixels: the photo in grey, what spoke for OK in blue, what spoke for KO in orange.

Blue and orange differ for every common kind of colour vision. A line marks where the heat is strong, and dots fill what
spoke for KO, so that the picture can be read from a grey print, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from numpy.typing import NDArray

OK_COLOUR: Final = (11, 111, 164)
KO_COLOUR: Final = (214, 80, 12)
_STRONG: Final = 0.4
"""Of the strongest heat: from there on it has a line round it."""
_DOTS: Final = 9
"""Pixels from dot to dot."""


def scale_of(heat: NDArray[np.float32]) -> float:
    """Returns the heat from which on a place has the full colour: all but the strongest 2 % lie below; 0 for none."""
    strengths = np.abs(heat)
    return float(np.quantile(strengths, 0.98) or strengths.max()) if heat.size else 0.0


def overlay(image: NDArray[np.uint8], heat: NDArray[np.float32], longest_side: int) -> NDArray[np.uint8]:
    """Returns the picture, with `longest_side` pixels along its longer side.

    Args:
        image: (height, width, 3).
        heat: (height, width), above 0 for OK and below for KO.
        longest_side: of the result, in pixels.
    """
    height, width = image.shape[:2]
    zoom = longest_side / max(height, width)
    size = max(1, round(width * zoom)), max(1, round(height * zoom))
    grey = np.asarray(Image.fromarray(image).convert("L").resize(size, Image.Resampling.BICUBIC), np.float32)
    # Half of the greys are enough to recognise the photo, and leave room for the colours on both ends.
    grey = 80 + 0.6 * grey
    resized = np.asarray(Image.fromarray(heat).resize(size, Image.Resampling.BICUBIC), np.float32)
    signed = np.clip(resized / np.float32(scale_of(heat) or 1.0), -1, 1)
    strength = signed[..., None]
    much = 0.92 * np.abs(strength) ** 0.8
    tint = np.where(strength > 0, *(np.array(colour, np.float32) for colour in (OK_COLOUR, KO_COLOUR)))
    picture = grey[..., None] * (1 - much) + tint * much
    line = _line(signed)[..., None]
    picture = picture * (1 - line) + np.where(strength > 0, 255, 25) * line
    return np.asarray(np.rint(picture), np.uint8)


def _line(strength: NDArray[np.float32]) -> NDArray[np.float32]:
    """How much (height, width) of a pixel the lines and dots cover, from 0 to 1."""
    rise = np.hypot(*np.gradient(strength)) if min(strength.shape) > 1 else np.zeros_like(strength)
    # Distance in pixels from where the heat crosses the mark.
    away = np.abs(np.abs(strength) - _STRONG) / np.maximum(rise, 1e-4)
    line = np.clip(1.4 - away, 0, 1)
    y, x = np.indices(strength.shape)
    across, down = ((each + 0.5) % _DOTS - _DOTS / 2 for each in (x + (y // _DOTS % 2) * (_DOTS // 2), y))
    dots = np.clip(1.9 - np.hypot(across, down), 0, 1) * (strength < -_STRONG)
    return np.asarray(np.maximum(line, 0.7 * dots), np.float32)
