"""Photos of a dataset in numbers: where to look is found first, then every view is embedded, with altered copies.

This is the rim between the pure parts (regions, looks, graphs) and what computes: onnxruntime with its cache, or the
dataset's engine where photos are many or elsewhere. It shows the progress.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

import numpy as np

from okko_train.augment import Augmentation
from okko_train.engine import Wanted
from okko_train.feature_graph import FEATURES, Recipe, Rectangle, View, feature_model, map_model
from okko_train.features import compute, embed, remembered
from okko_train.looks import SIZE, Embedded
from okko_train.progress import progress
from okko_train.region import Place, find_place
from okko_train.shards import Pass

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from onnx import ModelProto

    from okko_train.dataset import Dataset

MOST_PHOTOS_FOR_REGION: Final = 300
_REGION_TAPS: Final = ("block10", "head")
_REGION_BUILD: Final = "3"


def n_copies(n_photos: int) -> int:
    """Returns how many altered copies each photo gets: the fewer photos, the more they gain from it."""
    return 4 if n_photos <= 600 else 1


def outputs_of(
    dataset: Dataset, rows: NDArray[np.int64], model: bytes, outputs: Sequence[str], workers: int, title: str
) -> list[NDArray[np.float32]]:
    """Returns each of the `outputs` of a graph for the photos in `rows`: (n, n_numbers), or (n,) for a single number.

    Args:
        dataset: the photos.
        rows: (n,) which of them.
        model: a serialised graph from `image` to the outputs.
        outputs: their names.
        workers: photos computed at a time, where the dataset has no engine.
        title: for people.
    """
    photos = [dataset.photos[row] for row in rows]
    with progress(title, len(photos)) as done:
        if dataset.engine is None:
            found = []
            for values in compute(photos, model, outputs, workers=workers):
                found.append(values)
                done()
            return [np.stack([values[number] for values in found]) for number in range(len(outputs))]
        by = Pass(f"{hashlib.sha256(model).hexdigest()} {' '.join(outputs)}")
        (joined,) = dataset.engine.vectors([Wanted.all_of(by, photos)], model, outputs, done)
    # One photo tells how many numbers each output has.
    (first,) = compute(photos[:1], model, outputs, workers=1)
    ends = np.cumsum([value.size for value in first])
    parts = np.split(joined, ends[:-1], axis=1)
    return [part[:, 0] if value.ndim == 0 else part for part, value in zip(parts, first, strict=True)]


def find_region(dataset: Dataset, learn: NDArray[np.int64], folds: NDArray[np.int64], workers: int) -> Place:
    """Returns the place that tells the labels apart best, looking only at the photos `learn` (rows).

    The result is remembered for the same photos, labels and folds.
    """
    step = -(-len(learn) // MOST_PHOTOS_FOR_REGION)
    rows, folds = learn[::step], folds[::step]
    photos, groups = [dataset.photos[row] for row in rows], dataset.split_groups()[rows]
    recipe = Recipe(View(crop=None, size=SIZE))
    seen = hashlib.sha256(f"{recipe.digest} {_REGION_TAPS} build {_REGION_BUILD}".encode())
    for photo, fold, group in zip(photos, folds.tolist(), groups.tolist(), strict=True):
        seen.update(f"{photo.digest} {photo.label} {fold} {group}\n".encode())

    def search() -> NDArray[np.float32]:
        with progress("Finding where to look", len(photos)) as done:
            model = map_model(recipe.view, _REGION_TAPS).SerializeToString()
            maps = []
            for photo_maps in compute(photos, model, _REGION_TAPS, workers=workers):
                maps.append([each.astype(np.float16) for each in photo_maps])
                done()
        stacked = [np.stack([photo_maps[depth] for photo_maps in maps]) for depth in range(len(_REGION_TAPS))]
        aspects = [photo.width / photo.height for photo in photos]
        place = find_place(stacked, dataset.targets[rows], folds, groups, float(np.median(aspects)))
        return np.array([place.x, place.y], np.float32)

    x, y = remembered("region", seen.hexdigest(), search).tolist()
    return Place(round(x, 3), round(y, 3))


def embed_looks(
    dataset: Dataset, learn: NDArray[np.int64], looks: Mapping[str, Recipe], workers: int
) -> dict[str, Embedded]:
    """Embeds all photos, and an altered copy of those in the rows `learn`, once for each look: enough to choose one."""
    return {
        name: embed_copies(
            dataset, learn, feature_model(recipe), recipe.digest, f"Looking at the {name_of(recipe.view)}", workers, 1
        )
        for name, recipe in looks.items()
    }


def name_of(view: View) -> str:
    """Returns what is seen, for people."""
    if isinstance(view.crop, Rectangle):
        return f"region {view.crop}"
    return "whole photos" if view.crop is None else f"region round {view.x:.0%}, {view.y:.0%}"


def embed_copies(
    dataset: Dataset,
    learn: NDArray[np.int64],
    model: ModelProto,
    digest: str,
    title: str,
    workers: int,
    copies: int | None = None,
    copied: NDArray[np.int64] | None = None,
) -> Embedded:
    """Embeds all photos of `dataset`, and altered copies of those in the rows `learn`: `n_copies` unless told.

    Args:
        dataset: the photos.
        learn: (n_learn,) rows of those to learn from.
        model: graph from `image` to `features`.
        digest: names the numbers that the model computes.
        title: for people.
        workers: photos computed at a time, where the dataset has no engine.
        copies: how many altered copies; None for `n_copies`.
        copied: with an engine, which of `learn` get copies (indices into it); the others' rows are 0. None: all.
    """
    data = model.SerializeToString()
    copies = n_copies(len(dataset)) if copies is None else copies
    if dataset.engine is not None:
        some = np.arange(len(learn)) if copied is None else copied
        altered_photos = [dataset.photos[row] for row in learn[some]]
        wanted = [Wanted.all_of(Pass(digest), dataset.photos)]
        wanted += [Wanted(Pass(digest, copy), altered_photos, some, len(learn)) for copy in range(copies)]
        with progress(title, len(dataset) + copies * len(some)) as seen:
            photos, *rows = dataset.engine.vectors(wanted, data, (FEATURES,), seen)
        if len(rows) == 1:
            return Embedded(photos, rows[0][None])
        return Embedded(photos, np.stack(rows) if rows else np.empty((0, len(learn), photos.shape[1]), np.float32))
    learn_photos = [dataset.photos[row] for row in learn]
    with progress(title, len(dataset) + copies * len(learn)) as seen:
        photos = embed(dataset.photos, data, digest, workers=workers, on_photo=seen)
        altered = [
            embed(learn_photos, data, digest, workers=workers, augmentation=Augmentation(copy), on_photo=seen)
            for copy in range(copies)
        ]
    return Embedded(photos, np.stack(altered) if altered else np.empty((0, len(learn), photos.shape[1]), np.float32))
