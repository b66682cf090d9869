"""Golden frames: a few photos that travel with the model, with the probabilities that the trainer got.

A device repeats them before it trusts the model, so they cover every label, both when the model is sure and when it is
not: near a threshold, a difference between two processors shows first.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from okko_models.photo import read_photo, shrink

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from okko_train.dataset import Photo

LONGEST_SIDE = 640


def choose_golden(probability: NDArray[np.floating], truth: NDArray[np.integer]) -> list[int]:
    """Returns rows: of each label, the photo of which the model is most sure and the one of which it is least sure.

    Args:
        probability: (n, n_labels).
        truth: (n,) index of the true label.
    """
    rows: list[int] = []
    for label in np.unique(truth):
        of_label = np.flatnonzero(truth == label)
        surest_first = of_label[np.argsort(-probability[of_label].max(axis=1), kind="stable")]
        rows += [int(surest_first[0]), int(surest_first[-1])]
    return list(dict.fromkeys(rows))


def golden_frames(photos: Sequence[Photo]) -> dict[str, bytes]:
    """Returns PNG files of `photos` by their name in a bundle."""
    frames = {}
    for number, photo in enumerate(photos):
        buffer = io.BytesIO()
        Image.fromarray(shrink(read_photo(photo.path), LONGEST_SIDE)).save(buffer, "PNG", optimize=True)
        frames[f"golden/{number:02d}.png"] = buffer.getvalue()
    return frames
