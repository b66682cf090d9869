"""What training adds for those who ask why: the photos kept in the bundle, and the reasons for the worst mistakes."""

from __future__ import annotations

import dataclasses
import io
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image

from okko_models.classifier import make_session
from okko_models.photo import read_photo, shrink
from okko_train.explain import LONGEST_SIDE, judge
from okko_train.explain.examples import Examples, KeptPhoto, choose_examples, usual_distance
from okko_train.explain.heat import QUICK, heat_map
from okko_train.explain.overlay import overlay
from okko_train.feature_graph import IMAGE
from okko_train.progress import progress
from okko_train.result import Reasons

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from okko_models.manifest import Manifest
    from okko_train.dataset import Dataset, Photo
    from okko_train.feature_graph import View
    from okko_train.result import Example

_KEPT_SIDE: Final = 112
_KEPT_QUALITY: Final = 82
_SHOWN_SIDE: Final = 300


def keep_examples(
    photos: Sequence[Photo], labels: Sequence[str], embeddings: NDArray[np.float32], view: View
) -> Examples:
    """Returns the photos that are to stay with the model.

    Args:
        photos: that were learnt from.
        labels: of the model; all labels of `photos` are among them.
        embeddings: (n_photos, embedding_size), as the model's graph gives them.
        view: the look at a photo; what it shows is kept.
    """
    chosen = choose_examples(embeddings)
    number = {label: index for index, label in enumerate(labels)}
    kept = []
    with progress("Keeping photos to compare with", len(chosen)) as done:
        for row in chosen:
            photo = photos[row]
            kept.append(KeptPhoto(photo.name, number[photo.label], photo.digest, _small(photo, view)))
            done()
    return Examples.of(kept, embeddings[chosen], usual_distance(embeddings), len(embeddings))


def with_reasons(
    mistakes: Sequence[Example],
    dataset: Dataset,
    model: bytes,
    manifest: Manifest,
    view: View,
    examples: Examples,
    workers: int,
) -> tuple[Example, ...]:
    """Returns the `mistakes` of `model` with a coarse heat map and the nearest of the `examples`."""
    session = make_session(model, threads=1)
    log_odds = judge(session, [manifest.labels.index(label) for label in manifest.decision.ok_labels])
    paths = {photo.name: photo.path for photo in dataset.photos}

    def explained(mistake: Example) -> Example:
        full = read_photo(paths[mistake.name])
        (embedding,) = session.run(("embedding",), {IMAGE: full[None]})
        image = shrink(full, LONGEST_SIDE)
        area = view.box(image.shape[1], image.shape[0])
        left, top, right, bottom = area
        evidence = heat_map(log_odds, image, area, grids=QUICK).map
        heat = overlay(image[top:bottom, left:right], evidence[top:bottom, left:right], _SHOWN_SIDE)
        return dataclasses.replace(mistake, reasons=Reasons(heat, examples.nearest(embedding[0])))

    done = []
    with progress("Finding reasons for mistakes", len(mistakes)) as advance, ThreadPoolExecutor(workers) as pool:
        for each in pool.map(explained, mistakes):
            done.append(each)
            advance()
    return tuple(done)


def _small(photo: Photo, view: View) -> bytes:
    image = read_photo(photo.path)
    left, top, right, bottom = view.box(image.shape[1], image.shape[0])
    buffer = io.BytesIO()
    seen = np.ascontiguousarray(image[top:bottom, left:right])
    Image.fromarray(shrink(seen, _KEPT_SIDE)).save(buffer, "JPEG", quality=_KEPT_QUALITY)
    return buffer.getvalue()
