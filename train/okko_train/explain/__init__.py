"""Why a model says what it says of one photo: which parts spoke for it, and which training photos are most like it.

The heat map asks the bundle's own graph (`okko_train.explain.heat`), the likeness is that of the bundle's own
embeddings (`okko_train.explain.examples`). Neither says that the model is right.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from okko_models.errors import BundleError, OkkoError
from okko_models.photo import decode_photo, read_bytes, shrink
from okko_train.explain.examples import read_examples
from okko_train.explain.heat import FINE, heat_map
from okko_train.feature_graph import IMAGE, Rectangle, View
from okko_train.looks import REGION_CROP, SIZE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import onnxruntime
    from numpy.typing import NDArray

    from okko_models.classifier import Classification, Classifier
    from okko_models.manifest import Manifest
    from okko_train.explain.examples import Examples, Neighbour
    from okko_train.explain.heat import Box, Heat, Judge

LONGEST_SIDE: Final = 640
"""Of the photo that is covered part by part; beyond it the model sees no difference, and it would take longer."""
_LEAST: Final = 1e-30
"""Probability; a 32-bit softmax still gives it, while 0 has no logarithm."""


@dataclass(frozen=True)
class Explanation:
    """What was found out about one photo.

    Attributes:
        name: of the photo's file.
        image: (height, width, 3) uint8, reduced to `LONGEST_SIDE`.
        said: what the model says of the photo.
        manifest: of the bundle.
        area: the part of `image` that the model looks at.
        heat: what spoke for OK, above 0, and for KO, below; its score is the log-odds of OK, in nats.
        examples: the training photos that the bundle holds, None if it holds none.
        neighbours: those of them that are most like the photo, nearest first.
        learnt: whether the model has learnt from this very file, as far as the bundle can tell.
    """

    name: str
    image: NDArray[np.uint8]
    said: Classification
    manifest: Manifest
    area: Box
    heat: Heat
    examples: Examples | None
    neighbours: tuple[Neighbour, ...]
    learnt: bool


def explain(
    classifier: Classifier,
    path: Path,
    *,
    grids: Sequence[int] = FINE,
    on_step: Callable[[], None] = lambda: None,
) -> Explanation:
    """Explains what a model says of the photo at `path`.

    Raises:
        BundleError: the bundle's training photos or its region cannot be read.
        OkkoError: the model's answer is not a number.
        PhotoError: the photo cannot be read.
    """
    manifest = classifier.bundle.manifest
    examples = read_examples(classifier.bundle)
    data = read_bytes(path, name=path.name)
    full = decode_photo(data, name=path.name).pixels
    said = classifier.classify(full)
    if not (np.isfinite(said.probability).all() and np.isfinite(said.embedding).all()):
        raise OkkoError(
            f"{path.name}: the model's answer is not a number, so there is nothing to explain; train it again"
        )
    image = shrink(full, LONGEST_SIDE)
    area = view_of(manifest.provenance.hyperparameters).box(image.shape[1], image.shape[0])
    ok_columns = [manifest.labels.index(label) for label in manifest.decision.ok_labels]
    digest = hashlib.sha256(data).hexdigest()
    return Explanation(
        name=path.name,
        image=image,
        said=said,
        manifest=manifest,
        area=area,
        heat=heat_map(judge(classifier.session, ok_columns), image, area, grids=grids, on_step=on_step),
        examples=examples,
        neighbours=examples.nearest(said.embedding) if examples else (),
        learnt=examples is not None and any(photo.digest == digest for photo in examples.photos),
    )


def judge(session: onnxruntime.InferenceSession, ok_columns: Sequence[int]) -> Judge:
    """Returns a function from photos to the log-odds of OK, in nats."""

    def log_odds(photos: NDArray[np.uint8]) -> NDArray[np.float64]:
        (probability,) = session.run(("probability",), {IMAGE: photos})
        good = probability[:, ok_columns].sum(axis=1, dtype=np.float64)
        bad = np.delete(probability, ok_columns, axis=1).sum(axis=1, dtype=np.float64)
        return np.asarray(np.log(np.maximum(good, _LEAST)) - np.log(np.maximum(bad, _LEAST)))

    return log_odds


def view_of(hyperparameters: Mapping[str, bool | int | float | str]) -> View:
    """Returns the look at the photo that a bundle's manifest tells of; the whole photo if it tells of none.

    Raises:
        BundleError: what it tells is no part of a photo.
    """
    drawn, x, y = (hyperparameters.get(name) for name in ("roi", "region_x", "region_y"))
    try:
        if drawn is not None:
            left, top, width, height = (float(share) for share in str(drawn).split(","))
            return View(Rectangle(left, top, width, height), SIZE)
        if x is None or y is None:
            return View(None, SIZE)
        middle = float(x), float(y)
        if not (min(middle) >= 0 and max(middle) <= 1):
            raise ValueError
        return View(REGION_CROP, SIZE, *middle)
    except ValueError as error:
        raise BundleError(
            "manifest.json says that the model looks at a region that is no part of a photo; train the model again"
        ) from error
