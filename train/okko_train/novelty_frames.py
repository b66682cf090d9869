"""Pictures that are wrong on purpose: what a camera shows when a frame must not be judged.

Two objects in view, something in front of the lens, a camera that was touched, no focus, no light. They are made from
the training photos and are crude; a model learns from them in which directions frames go wrong (Li et al., 2021,
"CutPaste"), not what a hand looks like.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image, ImageFilter

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from okko_train.region import Place


@dataclass(frozen=True)
class Scene:
    """What a wrong picture is made of.

    Attributes:
        image: (height, width, 3) uint8 RGB, a good photo.
        other: another photo of the same camera, of any size.
        place: where the object lies.
    """

    image: NDArray[np.uint8]
    other: NDArray[np.uint8]
    place: Place


def two_objects(scene: Scene, random: np.random.Generator) -> NDArray[np.uint8]:
    """Puts what the other photo shows at the place beside what the photo shows there, or all of it, shifted."""
    image, place = scene.image, scene.place
    height, width = image.shape[:2]
    other = np.asarray(Image.fromarray(scene.other).resize((width, height), Image.Resampling.BILINEAR))
    angle = random.uniform(0, 2 * np.pi)
    if random.random() < 0.3:
        return _overlay(image, other, random)
    radius = random.uniform(0.1, 0.25) * height
    distance = radius * random.uniform(1.2, 2.2)
    shift = (round(distance * np.sin(angle)), round(distance * np.cos(angle)))
    mask = np.roll(_blob(image, place.x * width, place.y * height, radius, random), shift, (0, 1))
    return _mix(image, np.roll(other, shift, (0, 1)), mask)


def obstacle(scene: Scene, random: np.random.Generator) -> NDArray[np.uint8]:
    """Puts a patch of some colour and grain near the place; it may cover nearly all."""
    image, place = scene.image, scene.place
    height, width = image.shape[:2]
    x, y = np.clip([place.x + random.uniform(-0.3, 0.3), place.y + random.uniform(-0.3, 0.3)], 0, 1)
    mask = _blob(image, x * width, y * height, random.uniform(0.15, 0.6) * height, random)
    coarse = random.normal(0, random.uniform(3, 30), (max(2, height // 12), max(2, width // 12)))
    grain = np.asarray(Image.fromarray(coarse.astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR))
    return _mix(image, random.uniform(10, 245, 3) + grain[..., None], mask)


def moved_camera(scene: Scene, random: np.random.Generator) -> NDArray[np.uint8]:
    """Shifts, turns and zooms further than a camera moves overnight."""
    image = scene.image
    height, width = image.shape[:2]
    padded = np.pad(
        image, ((height // 2,) * 2, (width // 2,) * 2, (0, 0)), mode="edge" if random.random() < 0.5 else "reflect"
    )
    turned = Image.fromarray(padded)
    if random.random() < 0.5:
        turned = turned.rotate(float(random.choice([-1, 1]) * random.uniform(15, 60)), Image.Resampling.BILINEAR)
    shift, angle = random.uniform(0.12, 0.4) * height, random.uniform(0, 2 * np.pi)
    zoom = random.choice([1.0, random.uniform(0.4, 0.8)])
    middle = np.array([width, height]) / 1.0 + shift * np.array([np.cos(angle), np.sin(angle)])
    half = zoom * np.array([width, height]) / 2
    low = np.clip(middle - half, 0, np.array(turned.size) - 2 * half)
    box = tuple(np.concatenate([low, low + 2 * half]).tolist())
    return np.asarray(turned.resize((width, height), Image.Resampling.BILINEAR, box=box))


def out_of_focus(scene: Scene, random: np.random.Generator) -> NDArray[np.uint8]:
    """Blurs the photo by one to six hundredths of its width."""
    image = scene.image
    return np.asarray(
        Image.fromarray(image).filter(ImageFilter.GaussianBlur(image.shape[1] * random.uniform(0.012, 0.06)))
    )


def wrong_exposure(scene: Scene, random: np.random.Generator) -> NDArray[np.uint8]:
    """Makes nearly everything white, or nearly everything black."""
    gain, offset = (
        (random.uniform(3, 10), random.uniform(0, 80)) if random.random() < 0.7 else (random.uniform(0, 0.1), 0)
    )
    return _bytes(scene.image * gain + offset + random.normal(0, 3, scene.image.shape))


def no_picture(scene: Scene, random: np.random.Generator) -> NDArray[np.uint8]:
    """One colour, black and white too, with little noise or nothing but noise."""
    colour = random.choice([0.0, 255.0]) if random.random() < 0.3 else random.uniform(0, 255, 3)
    return _bytes(colour + random.normal(0, random.choice([2, 10, 60, 120]), scene.image.shape))


Kind = Callable[[Scene, np.random.Generator], "NDArray[np.uint8]"]

SHARES: Final[dict[Kind, float]] = {
    two_objects: 0.5,
    moved_camera: 0.14,
    obstacle: 0.1,
    no_picture: 0.1,
    out_of_focus: 0.08,
    wrong_exposure: 0.08,
}
"""What share of the wrong pictures each kind gets; two objects look most like good frames."""


def kinds(n: int) -> list[Kind]:
    """Returns the kind of each of `n` wrong pictures, in the order of `SHARES`."""
    ends = np.round(np.cumsum(list(SHARES.values())) * n / sum(SHARES.values())).astype(int)
    return [list(SHARES)[int(np.searchsorted(ends, number, side="right"))] for number in range(n)]


def _overlay(image: NDArray[np.uint8], other: NDArray[np.uint8], random: np.random.Generator) -> NDArray[np.uint8]:
    """The other photo, turned and shifted, where it stands out more from the brightness of the photo's rim."""
    height, width = image.shape[:2]
    rim = np.median(np.concatenate([other[0], other[-1], other[:, 0], other[:, -1]]), axis=0)
    shift = random.uniform(0.12, 0.4, 2) * random.choice([-1, 1], 2) * [width, height]
    turned = Image.fromarray(other).rotate(
        random.uniform(-45, 45), translate=tuple(shift.tolist()), fillcolor=tuple(int(value) for value in rim)
    )
    pasted = np.asarray(turned)
    stands_out = np.abs(pasted - rim).sum(axis=2) > np.abs(image - rim).sum(axis=2)
    return np.where(stands_out[..., None], pasted, image)


def _blob(
    image: NDArray[np.uint8], x: float, y: float, radius: float, random: np.random.Generator
) -> NDArray[np.float32]:
    """The mask (height, width, 1) of a round thing with a wavy rim."""
    down, right = (np.arange(n, dtype=np.float32) - np.float32(at) for n, at in zip(image.shape, (y, x), strict=False))
    angle = np.arctan2(down[:, None], right)
    distance = np.hypot(down[:, None], right * np.float32(random.uniform(0.8, 1.25)))
    waves = sum(
        np.float32(random.uniform(-0.1, 0.1) / k) * np.cos(np.float32(k) * angle + np.float32(random.uniform(0, 6.3)))
        for k in (2, 3, 4)
    )
    return np.asarray(
        np.clip(
            (np.float32(radius) * (1 + waves) - distance) / np.float32(random.uniform(1, 4)) + np.float32(0.5), 0, 1
        )[..., None]
    )


def _mix(
    image: NDArray[np.uint8], other: NDArray[np.floating | np.uint8], mask: NDArray[np.float32]
) -> NDArray[np.uint8]:
    return _bytes(image * (1 - mask) + other * mask)


def _bytes(values: NDArray[np.floating]) -> NDArray[np.uint8]:
    return np.asarray(np.clip(values + 0.5, 0, 255), np.uint8)
