"""What is needed to fit novelty, from photos on disk: glances at them and their copies, and wrong pictures.

The rim round `novelty`, `novelty_frames` and `novelty_graph`. With many photos an evenly spread part of them serves, so
that it takes seconds however many there are.
"""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

import numpy as np
from threadpoolctl import threadpool_limits

from okko_models.classifier import make_session
from okko_models.photo import read_photo, shrink
from okko_train.augment import Augmentation
from okko_train.feature_graph import FEATURES, IMAGE
from okko_train.features import embed
from okko_train.novelty import Novelty, fit_novelty
from okko_train.novelty_frames import Scene, kinds
from okko_train.novelty_graph import GLANCE, glance_length, glance_model, with_glance
from okko_train.progress import progress

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray
    from onnx import ModelProto

    from okko_train.dataset import Dataset, Photo
    from okko_train.looks import Embedded
    from okko_train.preparation import Split
    from okko_train.region import Place

MOST_PHOTOS: Final = 400
WRONG_PICTURES: Final = 400
MOST_COPIES: Final = 2
"""Altered copies of each photo that are made familiar; more would take time and say the same."""
_LONGEST_SIDE: Final = 640
_RELIT_SHARE: Final = 0.5


def learn_novelty(
    dataset: Dataset,
    split: Split,
    ok_labels: Sequence[str],
    model: ModelProto,
    features: Embedded,
    place: Place,
    *,
    seed: int,
    workers: int,
) -> Novelty:
    """Fits novelty on the photos that may be learnt from.

    Args:
        dataset: the photos.
        split: which of them may be learnt from, and their folds.
        ok_labels: labels of photos that show a whole object.
        model: graph from `image` to `features`.
        features: of all photos; without altered copies they count as learnt by heart, and the glance alone is used.
        place: where the object lies.
        seed: of the wrong pictures.
        workers: photos computed side by side.
    """
    chosen = np.arange(len(split.learn))[:: -(-len(split.learn) // MOST_PHOTOS)]
    photos = [dataset.photos[row] for row in split.learn[chosen]]
    n_copies = max(1, min(MOST_COPIES, len(features.copies)))
    with progress("Learning what is familiar", len(photos) * (1 + n_copies) + WRONG_PICTURES) as seen:
        glance = glance_model()
        data = glance.SerializeToString()
        digest = hashlib.sha256(data).hexdigest()
        glances = embed(photos, data, digest, workers=workers, on_photo=seen)
        copies = np.stack(
            [
                embed(photos, data, digest, workers=workers, augmentation=Augmentation(copy), on_photo=seen)
                for copy in range(n_copies)
            ]
        )
        by_heart = len(features.copies) == 0
        both = with_glance(model).SerializeToString()
        looks = _wrong_looks(photos, ok_labels, both, place, seed=seed, workers=workers, on_picture=seen)
    strange = np.stack([row[-glance_length() :] if by_heart else row for row in looks])
    emphasis = np.full(glance_length(), glance_length() ** -0.5, np.float32)
    if not by_heart:
        width = features.photos.shape[1]
        glances = np.concatenate([features.photos[split.learn[chosen]], glances], axis=1)
        copies = np.concatenate([features.copies[:n_copies, chosen], copies], axis=2)
        emphasis = np.concatenate([np.full(width, width**-0.5, np.float32), emphasis])
    with threadpool_limits(1):
        return fit_novelty(glances, copies, strange, split.folds[chosen], emphasis)


def _wrong_looks(
    photos: Sequence[Photo],
    ok_labels: Sequence[str],
    model: bytes,
    place: Place,
    *,
    seed: int,
    workers: int,
    on_picture: Callable[[], None],
) -> list[NDArray[np.float32]]:
    """Features and glance of each wrong picture, in one row."""
    whole = [photo for photo in photos if photo.label in ok_labels]
    partners: dict[str | None, list[Photo]] = {}
    for photo in whole:
        partners.setdefault(photo.group, []).append(photo)
    session = make_session(model, threads=1)
    todo = kinds(WRONG_PICTURES)

    def look(number: int) -> NDArray[np.float32]:
        random = np.random.default_rng([seed, number])
        photo = whole[random.integers(len(whole))]
        other = partners[photo.group][random.integers(len(partners[photo.group]))]
        image, beside = (shrink(read_photo(each.path), _LONGEST_SIDE) for each in (photo, other))
        wrong = todo[number](Scene(image, beside, place), random)
        if random.random() < _RELIT_SHARE:
            wrong = Augmentation(0)(wrong, hashlib.sha256(f"{seed} {number}".encode()).hexdigest())
        rows = session.run((FEATURES, GLANCE), {IMAGE: wrong[None]})
        return np.concatenate([row[0] for row in rows])

    rows = []
    with ThreadPoolExecutor(workers) as pool:
        for row in pool.map(look, range(WRONG_PICTURES)):
            rows.append(row)
            on_picture()
    return rows
