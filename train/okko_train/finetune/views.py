"""What the network sees in training: the view of each photo, turned, shifted, zoomed, relit and made noisy at random.

Photos are read once and kept as small canvases, somewhat larger than the view, so that a view can be moved without
reading the photo again. Every alteration keeps the label true: another light, another exposure, a camera that was
touched, an object that lies another way round.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from okko_models.photo import read_photo

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from okko_train.dataset import Photo
    from okko_train.feature_graph import View

MARGIN: Final = 1.5
"""Side of a canvas by side of the view: a square turned by 45 degrees fits in."""
_SHIFT: Final = 0.1
"""As a share of the view's side."""
_ZOOM: Final = 0.12
_TILT: Final = math.radians(8)
_SATURATION: Final = 0.4
_WARMTH: Final = 0.6
_GREEN: Final = 0.15
_EXPOSURE: Final = 0.4
_GAMMA: Final = 0.35
_RAMP: Final = 0.4
"""Half the logarithm of the brightness from one side of the view to the other, at most."""
_BLURRED: Final = 0.2
_NOISE_LEVELS: Final = 10.0


@dataclass(frozen=True)
class Alteration:
    """How a view may be changed.

    Attributes:
        any_way_up: the object may lie any way round, and mirrored; else it is tilted by a few degrees at most.
    """

    any_way_up: bool = True


def load_canvases(photos: Sequence[Photo], view: View) -> NDArray[np.uint8]:
    """Returns (n_photos, side, side, 3) RGB: the view and a margin round it, where `view.size` pixels span the view."""
    return np.stack([_canvas(read_photo(photo.path), view) for photo in photos])


def _canvas(image: NDArray[np.uint8], view: View) -> NDArray[np.uint8]:
    left, top, right, bottom = view.box(image.shape[1], image.shape[0])
    x, y = (left + right) / 2, (top + bottom) / 2
    half_x, half_y = MARGIN * (right - left) / 2, MARGIN * (bottom - top) / 2
    pad = math.ceil(max(0, half_x - x, half_y - y, x + half_x - image.shape[1], y + half_y - image.shape[0]))
    padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode="edge")
    side = round(MARGIN * view.size)
    box = (x - half_x + pad, y - half_y + pad, x + half_x + pad, y + half_y + pad)
    # BOX-sized support when shrinking is what the graph's antialiased linear Resize does, too.
    return np.asarray(Image.fromarray(padded).resize((side, side), Image.Resampling.BILINEAR, box=box))


def plain_views(canvases: torch.Tensor, size: int) -> torch.Tensor:
    """Returns the views (n, 3, size, size), normalised for the backbone, of canvases (n, side, side, 3) uint8."""
    return _normalised(
        _sampled(canvases, torch.eye(2).expand(len(canvases), 2, 2), torch.zeros(len(canvases), 2), size)
    )


def altered_views(
    canvases: torch.Tensor, size: int, alteration: Alteration, generator: torch.Generator
) -> torch.Tensor:
    """Returns views like `plain_views`, each altered at random."""
    n = len(canvases)

    def uniform(*shape: int) -> torch.Tensor:
        return 2 * torch.rand(n, *shape, generator=generator) - 1

    angle = uniform() * (math.pi if alteration.any_way_up else _TILT)
    zoom = torch.exp(uniform() * _ZOOM)
    mirror = torch.where(uniform() < 0, -1.0, 1.0) if alteration.any_way_up else torch.ones(n)
    cosine, sine = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    matrix = torch.stack([torch.stack([cosine * mirror, -sine], -1), torch.stack([sine * mirror, cosine], -1)], 1)
    x = _sampled(canvases, matrix, uniform(2) * _SHIFT, size)
    grey = x.mean(1, keepdim=True)
    x = (grey + (x - grey) * torch.exp(uniform(1, 1, 1) * _SATURATION)).clamp(1, 255)
    warmth = uniform() * _WARMTH
    tint = torch.stack([warmth, uniform() * _GREEN, -warmth], 1) + uniform(1) * _EXPOSURE
    x = 255 * (x / 255) ** torch.exp(uniform(1, 1, 1) * _GAMMA) * torch.exp(tint)[:, :, None, None]
    across = torch.linspace(-1, 1, size)
    direction, steepness = uniform() * math.pi, uniform() * _RAMP
    ramp = (torch.cos(direction) * steepness)[:, None, None] * across + (torch.sin(direction) * steepness)[
        :, None, None
    ] * across[:, None]
    x = x * torch.exp(ramp)[:, None]
    blurred = functional.avg_pool2d(functional.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
    x = torch.where(uniform(1, 1, 1) < 2 * _BLURRED - 1, blurred, x)
    strength = torch.randn(n, 1, 1, 1, generator=generator).abs() * _NOISE_LEVELS
    fine = 0.6 * torch.randn(x.shape, generator=generator) + 0.5 * torch.randn(n, 1, size, size, generator=generator)
    grain = torch.randn(n, 3, size // 2, size // 2, generator=generator)
    coarse = 1.2 * functional.interpolate(grain, size=size, mode="bilinear")
    x = x + strength * torch.where(uniform(1, 1, 1) < 0, fine, coarse)
    return _normalised(x.clamp(0, 255))


def _sampled(canvases: torch.Tensor, matrix: torch.Tensor, shift: torch.Tensor, size: int) -> torch.Tensor:
    at = (torch.arange(size) + 0.5) / size - 0.5
    y, x = torch.meshgrid(at, at, indexing="ij")
    places = torch.stack([x, y], -1).reshape(1, -1, 2) @ matrix.transpose(1, 2) + shift[:, None]
    grid = (2 / MARGIN * places).reshape(len(canvases), size, size, 2)
    pixels = canvases.permute(0, 3, 1, 2).float()
    return functional.grid_sample(pixels, grid, align_corners=False, padding_mode="border")


def _normalised(pixels: torch.Tensor) -> torch.Tensor:
    return (pixels - 127) / 128
