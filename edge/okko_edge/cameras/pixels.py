"""From what cameras deliver to RGB: luma and chroma, and compressed pictures. Pure functions of arrays and bytes.

The formula is that of ITU-R BT.601, R = Y + 1.402 V, G = Y - 0.344136 U - 0.714136 V, B = Y + 1.772 U, with U and V
centred at 0. In the limited range Y goes from 16 to 235 and U, V from 16 to 240; JPEG and a few cameras use all levels.
"""

from __future__ import annotations

import functools
import io
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from okko_edge.camera import CorruptFrameError

if TYPE_CHECKING:
    from numpy.typing import NDArray


def from_yuyv(rows: NDArray[np.uint8], *, full_range: bool = False) -> NDArray[np.uint8]:
    """Converts Y0 U Y1 V: two pixels side by side share their chroma.

    Args:
        rows: (height, 2 width), width even.
        full_range: whether all levels are used.

    Returns:
        (height, width, 3) RGB.
    """
    height, width = rows.shape[0], rows.shape[1] // 2
    pairs = rows.reshape(height, width // 2, 4)
    luma = pairs[:, :, ::2].reshape(height, 1, width // 2, 2)
    return _to_rgb(luma, pairs[:, :, 1], pairs[:, :, 3], full_range=full_range)


def from_nv12(rows: NDArray[np.uint8], *, full_range: bool = False) -> NDArray[np.uint8]:
    """Converts a plane of Y with a plane of U V U V ... below; four pixels share their chroma.

    Args:
        rows: (3/2 height, width), both even.
        full_range: whether all levels are used.

    Returns:
        (height, width, 3) RGB.
    """
    height, width = rows.shape[0] * 2 // 3, rows.shape[1]
    luma = rows[:height].reshape(height // 2, 2, width // 2, 2)
    chroma = rows[height:].reshape(height // 2, width // 2, 2)
    return _to_rgb(luma, chroma[:, :, 0], chroma[:, :, 1], full_range=full_range)


def from_jpeg(data: bytes, width: int, height: int) -> NDArray[np.uint8]:
    """Decompresses one picture of a stream of JPEGs.

    Returns:
        (height, width, 3) RGB.

    Raises:
        CorruptFrameError: it is damaged, or of another size.
    """
    try:
        with Image.open(io.BytesIO(data), formats=["JPEG"]) as picture:
            if picture.size != (width, height):
                found = f"{picture.width} x {picture.height}"
                raise CorruptFrameError(f"the camera sent {found} pixels instead of {width} x {height}")
            return np.array(picture.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise CorruptFrameError(f"the camera sent a damaged picture: {error}") from error


def _to_rgb(
    luma: NDArray[np.uint8], u: NDArray[np.uint8], v: NDArray[np.uint8], *, full_range: bool
) -> NDArray[np.uint8]:
    """Joins luma (rows, a, columns, b) with chroma (rows, columns): each of the latter is for a x b pixels."""
    tables = _tables(full_range=full_range)
    rows, a, columns, b = luma.shape
    rgb = np.empty((rows, a, columns, b, 3), dtype=np.uint8)
    levels = tables.luma[luma]
    for channel, chroma in enumerate((tables.red[v], tables.green_u[u] + tables.green_v[v], tables.blue[u])):
        shifted = levels + chroma[:, None, :, None]
        np.clip(shifted, 0, 255, out=shifted)
        rgb[..., channel] = shifted
    return rgb.reshape(rows * a, columns * b, 3)


class _Tables:
    """What each of the 256 levels means, as int16."""

    def __init__(self, *, full_range: bool) -> None:
        level = np.arange(256.0)
        chroma = (level - 128) * (1.0 if full_range else 255 / 224)
        self.luma = _rounded(level if full_range else (level - 16) * 255 / 219)
        self.red = _rounded(1.402 * chroma)
        self.green_u = _rounded(-0.344136 * chroma)
        self.green_v = _rounded(-0.714136 * chroma)
        self.blue = _rounded(1.772 * chroma)


@functools.cache
def _tables(*, full_range: bool) -> _Tables:
    return _Tables(full_range=full_range)


def _rounded(values: NDArray[np.float64]) -> NDArray[np.int16]:
    rounded: NDArray[np.int16] = np.rint(values).astype(np.int16)
    return rounded
