"""Before anything is learnt: which labels are good, and which photos are put aside for the test.

The rest is cut into folds at once, so that every later choice is made on the same division.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from okko_models.errors import OkkoError
from okko_train.splits import most_folds, stratified_folds, stratified_split

if TYPE_CHECKING:
    from collections.abc import Collection

    from numpy.typing import NDArray

    from okko_train.dataset import Dataset

TEST_FRACTION: Final = 0.2
MAX_FOLDS: Final = 5
_OK_WORDS: Final = frozenset({"ok", "okay", "good", "pass", "passed", "normal", "intact", "fine", "accept", "accepted"})
_NEGATIONS: Final = frozenset({"not", "no", "non", "un"})


@dataclass(frozen=True)
class Split:
    """Rows of the photos to learn from (n_learn,), to test on (n_test,), and the fold of each one to learn from."""

    learn: NDArray[np.int64]
    test: NDArray[np.int64]
    folds: NDArray[np.int64]


def choose_ok_labels(dataset: Dataset, wanted: tuple[str, ...] | None) -> tuple[str, ...]:
    """Returns the labels that count as good: the `wanted` ones, or those whose name says so.

    Raises:
        OkkoError: a wanted label does not exist, or no label is good, or all are.
    """
    labels = wanted or tuple(label for label in dataset.labels if sounds_good(label))
    there = ", ".join(dataset.labels)
    if unknown := sorted(set(labels) - set(dataset.labels)):
        raise OkkoError(f"--ok names {', '.join(unknown)}, but the labels are {there}")
    if not labels:
        raise OkkoError(f"which label is good? The labels are {there}; name the good one with --ok LABEL")
    if len(labels) == len(dataset.labels):
        raise OkkoError(f"all labels ({there}) count as good, so there is nothing to sort out; name fewer with --ok")
    return labels


def sounds_good(label: str) -> bool:
    """Says whether a label's name means that the object is good: OK, ok_front, Good; but not not_ok."""
    words = set(re.findall(r"[a-z]+", label.lower()))
    return bool(words & _OK_WORDS) and not words & _NEGATIONS


def split_photos(dataset: Dataset, *, seed: int, test: Collection[str] | None = None) -> Split:
    """Puts a test split aside and cuts the rest into folds; groups and near-duplicates stay together.

    Args:
        dataset: the photos.
        seed: the same seed gives the same split.
        test: SHA-256 of the photos to put aside, if that was decided before; None decides it here.

    Raises:
        OkkoError: there are too few photos or groups of a label for that.
    """
    groups, truth = dataset.split_groups(), dataset.targets
    try:
        if test is None:
            learn, held = stratified_split(truth, groups, fraction=TEST_FRACTION, seed=seed)
        else:
            in_test = np.array([photo.digest in test for photo in dataset.photos])
            learn, held = np.flatnonzero(~in_test), np.flatnonzero(in_test)
            if not len(held) or len(set(truth[learn].tolist())) < len(dataset.labels):
                raise ValueError(f"{len(held)} photos are to be put aside, and a label is missing among the others")
        k = min(MAX_FOLDS, most_folds(truth[learn], groups[learn]))
        return Split(learn, held, stratified_folds(truth[learn], groups[learn], k=k, seed=seed))
    except ValueError as error:
        raise OkkoError(
            f"{dataset.root}: the photos cannot be divided into parts for learning, choosing and testing: {error}. "
            "Each label needs photos from at least three groups (photos that look nearly the same count as one group)"
            + (f"; or group by something else than {dataset.group_by}" if dataset.group_by else "")
        ) from error
