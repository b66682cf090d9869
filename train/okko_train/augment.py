"""Altered copies of a photo whose label stays true: other light, other exposure, a noisier camera that was touched.

Training on them is what carries a model over to the next day. Nothing is mirrored or rotated: where up is may matter
for some objects, and on marbles it was measured to bring little beyond these.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from numpy.typing import NDArray

_WARMTH: Final = 0.65
"""Red and blue move apart by at most this factor's logarithm: from a candle to an overcast sky."""
_EXPOSURE: Final = 0.3
_GAMMA: Final = 0.3
_NOISE_LEVELS: Final = 10.0
"""Standard deviation of the noise's own standard deviation, in grey levels at middle grey."""
_NOISY_SHARE: Final = 0.7
_SHIFT: Final = 0.03
_ZOOM: Final = 0.1
_BUILD: Final = "1"


@dataclass(frozen=True)
class Augmentation:
    """Makes the copy number `copy` of any photo; the same photo always has the same copies."""

    copy: int

    @property
    def digest(self) -> str:
        """Names what this augmentation does, for caches."""
        return f"copy {self.copy} build {_BUILD}"

    def __call__(self, image: NDArray[np.uint8], digest: str) -> NDArray[np.uint8]:
        """Returns the copy (height, width, 3) of the photo `image` whose SHA-256 is `digest`."""
        random = np.random.default_rng([self.copy, int(digest[:15], 16)])
        moved = _move(image, random)
        return _add_noise(_relight(moved, random), random)


def _move(image: NDArray[np.uint8], random: np.random.Generator) -> NDArray[np.uint8]:
    height, width = image.shape[:2]
    margin = int(np.ceil(max(height, width) * (_SHIFT + _ZOOM)))
    padded = np.pad(image, ((margin, margin), (margin, margin), (0, 0)), mode="edge")
    zoom = np.exp(random.uniform(-_ZOOM, _ZOOM))
    shift = random.uniform(-_SHIFT, _SHIFT, 2) * min(height, width)
    centre = np.array([width / 2, height / 2]) + margin + shift
    half = np.array([width / 2, height / 2]) * zoom
    box = tuple(np.concatenate([centre - half, centre + half]).tolist())
    return np.asarray(Image.fromarray(padded).resize((width, height), Image.Resampling.BILINEAR, box=box))


def _relight(image: NDArray[np.uint8], random: np.random.Generator) -> NDArray[np.float32]:
    warmth = random.uniform(-_WARMTH, _WARMTH)
    tint = np.array([warmth, random.uniform(-0.1, 0.1), -warmth])
    gain = np.exp(tint + random.uniform(-_EXPOSURE, _EXPOSURE))
    gamma = np.exp(random.uniform(-_GAMMA, _GAMMA))
    levels = np.arange(256)[:, None] / 255
    table = np.clip(255 * levels**gamma * gain, 0, 255).astype(np.float32)
    return np.stack([table[image[..., channel], channel] for channel in range(3)], axis=-1)


def _add_noise(image: NDArray[np.float32], random: np.random.Generator) -> NDArray[np.uint8]:
    """Adds grain as cameras show it after demosaicing: partly grey, coarser than a pixel, stronger in the light."""
    if random.random() < _NOISY_SHARE:
        height, width = image.shape[:2]
        coarse = random.uniform(1, 2.2)
        grain = random.standard_normal((int(height / coarse) + 1, int(width / coarse) + 1, 3), np.float32)
        grain = 0.6 * grain + grain.mean(axis=2, keepdims=True)
        layers = [
            np.asarray(Image.fromarray(layer).resize((width, height), Image.Resampling.BILINEAR))
            for layer in np.moveaxis(grain, 2, 0)
        ]
        strength = abs(random.normal(0, _NOISE_LEVELS)) * 1.3
        image = image + np.float32(strength) * np.stack(layers, axis=-1) * np.sqrt(np.maximum(image, 10) / 128)
    return np.asarray(np.clip(image + 0.5, 0, 255), np.uint8)
