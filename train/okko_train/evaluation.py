"""A finished bundle, measured on labelled photos as a device would run it: one photo at a time, timed."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from okko_models.classifier import Classifier
from okko_models.errors import OkkoError
from okko_models.photo import read_photo
from okko_train.metrics import Evaluation, evaluate
from okko_train.progress import progress

if TYPE_CHECKING:
    from okko_models.bundle import Bundle
    from okko_train.dataset import Dataset, SkippedPhoto


@dataclass(frozen=True)
class BundleEvaluation:
    """What a bundle did on photos.

    Attributes:
        evaluation: the figures.
        latency_ms: 50th, 95th and 99th percentile of the time from decoded photo to verdict.
        skipped: files that could not be used, with the reason.
    """

    evaluation: Evaluation
    latency_ms: dict[str, float]
    skipped: tuple[SkippedPhoto, ...]


def evaluate_bundle(bundle: Bundle, dataset: Dataset, *, threads: int = 1) -> BundleEvaluation:
    """Classifies every photo of `dataset` and compares with its label.

    Raises:
        OkkoError: the photos have labels that the model does not know, or the model fails its golden frames.
    """
    labels = bundle.manifest.labels
    if unknown := sorted(set(dataset.labels) - set(labels)):
        raise OkkoError(
            f"{dataset.root}: the photos have labels that the model does not know: {', '.join(unknown)}. "
            f"It knows {', '.join(labels)}"
        )
    classifier = Classifier(bundle, threads=threads)
    classifier.self_test()
    probability = np.empty((len(dataset), len(labels)), np.float32)
    novelty, times = np.empty(len(dataset)), np.empty(len(dataset))
    with progress("Evaluating", len(dataset)) as done:
        for row, photo in enumerate(dataset.photos):
            image = read_photo(photo.path)
            begin = time.perf_counter()
            classification = classifier.classify(image)
            times[row] = time.perf_counter() - begin
            probability[row], novelty[row] = classification.probability, classification.novelty
            done()
    truth = np.array([labels.index(photo.label) for photo in dataset.photos])
    return BundleEvaluation(
        evaluation=evaluate(probability, truth, labels, bundle.manifest.decision, novelty),
        latency_ms={f"p{share}": 1e3 * float(np.percentile(times, share)) for share in (50, 95, 99)},
        skipped=dataset.skipped,
    )
