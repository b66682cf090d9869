"""Which parts of a photo spoke for OK and which for KO: blur one after another, and ask the model again.

Nothing but the model's answers is used, so it serves float and 8-bit models, trained backbones and one-class scores
alike. The idea is Zeiler & Fergus's ("Visualizing and understanding convolutional networks", 2014), with soft covers
that are averaged as in RISE (Petsiuk et al., 2018), but on grids of several finenesses instead of at random: the same
photo always gives the same map. A map shows what this model reacted to, which need not be what is wrong.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image, ImageFilter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    Judge = Callable[[NDArray[np.uint8]], NDArray[np.float64]]
    """From photos (n, height, width, 3) to one score each, (n,)."""
    Box = tuple[int, int, int, int]
    """Left, top, right, bottom, in pixels."""

FINE: Final = (4, 7, 12)
"""Covers along each side of the area, from coarse to fine."""
QUICK: Final = (3, 5)
AROUND: Final = 5
"""Covers along each side of the whole photo where what lies around the area has a say."""
_REACH: Final = 0.75
"""Radius of a cover in cells of its grid: neighbours overlap, and nothing is left between them."""
_BLUR: Final = 0.5
"""Radius of the blur under a cover, in cells of its grid: what is smaller than the cover vanishes in the colours round
it. On rendered marbles this found dots of another colour, which grey covers and a stronger blur did not."""
_BATCH: Final = 8
_NO_CHANGE: Final = 1e-6


@dataclass(frozen=True)
class Heat:
    """How much each place of a photo moved the score.

    Attributes:
        map: (height, width) float32; by how much the score is higher because of what is seen there, as if the whole
            area did what this place does. Places can be compared with each other.
        score: of the photo as it is.
        most_for: the most that a single cover took away from the score, at least 0.
        most_against: the most that a single cover added to it, at least 0.
        around: whether anything around the area has a say.
    """

    map: NDArray[np.float32]
    score: float
    most_for: float
    most_against: float
    around: bool


def steps(grids: Sequence[int]) -> int:
    """Returns how many photos `heat_map` judges, apart from those for what lies around the area."""
    return 1 + sum(number * number for number in grids)


def heat_map(
    judge: Judge,
    image: NDArray[np.uint8],
    area: Box,
    *,
    grids: Sequence[int] = FINE,
    on_step: Callable[[], None] = lambda: None,
) -> Heat:
    """Blurs one part of a photo after another and records how the score changes.

    Args:
        judge: the model.
        image: (height, width, 3).
        area: the part that the model looks at. What lies around it is covered only if the model reacts to it at all.
        grids: covers along each side of the area, one grid each.
        on_step: called `steps(grids)` times.
    """
    height, width = image.shape[:2]
    left, top, right, bottom = area
    score = float(judge(image[None])[0])
    on_step()
    taken: list[NDArray[np.float64]] = []

    def heat(covers: Iterable[NDArray[np.float32]], cell: float, advance: Callable[[], None]) -> NDArray[np.float64]:
        blurred = _blur(image, _BLUR * cell)
        weight, total = np.full((height, width), 1e-9), np.zeros((height, width))
        for some in _batches(covers):
            changes = score - judge(np.stack([_mix(image, blurred, cover) for cover in some]))
            taken.append(changes)
            for cover, change in zip(some, changes.tolist(), strict=True):
                weight += cover
                total += change * cover
                advance()
        return np.asarray(total / weight)

    outside = np.ones((height, width), np.float32)
    outside[top:bottom, left:right] = 0
    around = False
    if outside.any():
        without = judge(_mix(image, _blur(image, _BLUR * min(width, height) / 2), outside)[None])
        around = abs(float(without[0]) - score) > _NO_CHANGE
    total = np.zeros((height, width))
    for number in grids:
        # A cover's effect is divided by its share of the area: else the coarsest grid would drown the others.
        cell = min(right - left, bottom - top) / number
        total += heat(_covers((height, width), area, number), cell, on_step) * number**2 / len(grids)
    total *= 1 - outside
    if around:
        share = AROUND**2 * (right - left) * (bottom - top) / (width * height)
        covers = (cover * outside for cover in _covers((height, width), (0, 0, width, height), AROUND))
        total += heat(covers, min(width, height) / AROUND, lambda: None) * outside * share
    changes = np.concatenate(taken)
    most_for, most_against = max(0.0, float(changes.max())), max(0.0, -float(changes.min()))
    return Heat(total.astype(np.float32), score, most_for, most_against, around)


def _covers(shape: tuple[int, int], area: Box, number: int) -> Iterator[NDArray[np.float32]]:
    """Soft discs (height, width), from 0 to 1, round the middle of each cell of a grid over `area`."""
    left, top, right, bottom = area
    cell_width, cell_height = (right - left) / number, (bottom - top) / number
    y, x = (each.astype(np.float32) + 0.5 for each in np.ogrid[: shape[0], : shape[1]])
    for row in range(number):
        for column in range(number):
            across = (x - left) / cell_width - column - 0.5
            down = (y - top) / cell_height - row - 0.5
            yield np.exp(-(((across**2 + down**2) / _REACH**2) ** 2))


def _batches(covers: Iterable[NDArray[np.float32]]) -> Iterator[list[NDArray[np.float32]]]:
    some: list[NDArray[np.float32]] = []
    for cover in covers:
        some.append(cover)
        if len(some) == _BATCH:
            yield some
            some = []
    if some:
        yield some


def _mix(image: NDArray[np.uint8], cover: NDArray[np.float32], much: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.rint(image + (cover - image) * much[..., None]).astype(np.uint8)


def _blur(image: NDArray[np.uint8], radius: float) -> NDArray[np.float32]:
    return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(radius)), np.float32)
