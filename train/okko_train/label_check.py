"""Photos whose label is probably wrong: a model that has not seen a photo is sure of another label.

The idea is confident learning (Northcutt, Jiang and Chuang, 2021, "Confident learning: estimating uncertainty in
dataset labels"): labels are doubted where the out-of-fold probability of another one is as high as it usually is for
photos that bear it. The probabilities come from a support vector machine on the bundle's embeddings, trained anew for
each fold; the bundle's own network may have learnt a wrong label by heart, so its opinion of a photo that it has seen
is no evidence.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from rich.console import Console
from rich.table import Table
from sklearn.svm import SVC

from okko_models.bundle import MODEL
from okko_models.errors import OkkoError
from okko_train.calibration import fit_calibration
from okko_train.features import embed
from okko_train.listing import readable
from okko_train.progress import progress
from okko_train.splits import most_folds, stratified_folds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from okko_models.bundle import Bundle
    from okko_train.dataset import Dataset

SURE_ENOUGH: Final = 0.8
"""A label this sure is doubted even where photos of that label are usually surer: missing a wrong one costs more than a
look at a right one."""
_MOST_PRINTED: Final = 40
_MOST_FOLDS: Final = 5
_DIVISIONS: Final = 3
"""The photos are divided into folds so often, differently each time, and the scores averaged."""
_PENALTY: Final = 3.0
_WIDTH: Final = 0.5
"""Of the radial kernel, by the total variance of the embeddings."""


@dataclass(frozen=True)
class Doubt:
    """A photo that probably has the wrong label.

    Attributes:
        file: the photo's name in the dataset.
        given: its label.
        suggested: the label that it looks like.
        sure: out-of-fold probability of the suggested label.
    """

    file: str
    given: str
    suggested: str
    sure: float

    def as_json(self) -> dict[str, str | float]:
        """The doubt as a plain dictionary."""
        return {**asdict(self), "sure": round(self.sure, 4)}


def doubted_labels(dataset: Dataset, bundle: Bundle, workers: int) -> tuple[Doubt, ...]:
    """Returns the photos of `dataset` whose label is probably wrong, surest first.

    The labels need not be those that the bundle knows; only its embedding is used.

    Raises:
        OkkoError: there are too few photos of a label to judge any of them by others.
    """
    digest = bundle.manifest.files[MODEL].sha256
    with progress("Looking at the photos", len(dataset)) as seen:
        embeddings = embed(
            dataset.photos, bundle.read(MODEL), digest, workers=workers, output="embedding", on_photo=seen
        )
    groups = dataset.split_groups()
    try:
        probability = out_of_fold(embeddings, dataset.targets, groups)
    except ValueError as error:
        raise OkkoError(f"{dataset.root}: the labels cannot be checked: {error}") from error
    doubts = [
        Doubt(
            dataset.photos[row].name, dataset.photos[row].label, dataset.labels[label], float(probability[row, label])
        )
        for row, label in doubts_in(probability, dataset.targets)
    ]
    return tuple(doubts)


def out_of_fold(
    embeddings: NDArray[np.float32], given: NDArray[np.int64], groups: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Returns (n, n_labels) calibrated probabilities, each from a machine that has seen no photo of the same group.

    Args:
        embeddings: (n, d), similar photos close together.
        given: (n,) index of the label that each photo bears.
        groups: (n,) photos of one group stay on one side.

    Raises:
        ValueError: photos of fewer than two labels, or of fewer than two groups of a label.
    """
    n_labels = int(given.max()) + 1
    if n_labels < 2:
        raise ValueError("there is one label only")
    count = min(_MOST_FOLDS, most_folds(given, groups))
    if count < 2:
        raise ValueError("each label needs photos of two groups or more (near-duplicates count as one group)")
    logits = np.zeros((len(given), n_labels))
    for division in range(_DIVISIONS):
        folds = stratified_folds(given, groups, k=count, seed=division)
        for fold in range(count):
            logits[folds == fold] += _scores(embeddings[folds != fold], given[folds != fold], embeddings[folds == fold])
    return fit_calibration(logits / _DIVISIONS, given, folds)(logits / _DIVISIONS)


def doubts_in(probability: NDArray[np.float64], given: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Returns row and suggested label of each photo whose label is doubted, surest first.

    A label is suggested if it is the most probable one, and as probable as it is on average for the photos that bear it
    (or `SURE_ENOUGH`).

    Args:
        probability: (n, n_labels) out of fold.
        given: (n,) index of the label that each photo bears.
    """
    usual = [probability[given == label, label].mean() for label in range(probability.shape[1])]
    enough = np.minimum(usual, SURE_ENOUGH)
    suggested = probability.argmax(axis=1)
    sure = probability[np.arange(len(given)), suggested]
    rows = np.flatnonzero((suggested != given) & (sure >= enough[suggested]))
    return [(int(row), int(suggested[row])) for row in rows[np.argsort(-sure[rows], kind="stable")]]


def _scores(learn: NDArray[np.float32], given: NDArray[np.int64], rest: NDArray[np.float32]) -> NDArray[np.float64]:
    spread = float(learn.var(axis=0).sum()) or 1.0
    machine = SVC(C=_PENALTY, gamma=_WIDTH / spread, decision_function_shape="ovr").fit(learn, given)
    scores = np.asarray(machine.decision_function(rest), np.float64)
    return np.stack([np.zeros(len(rest)), scores], axis=1) if scores.ndim == 1 else scores


def print_doubts(doubts: Sequence[Doubt], n_photos: int, console: Console | None = None) -> None:
    """Prints the doubts for people, on standard output."""
    # File names may contain square brackets, which are no markup.
    console = console or Console(markup=False, highlight=False)
    if not doubts:
        console.print(f"No label of {n_photos} photos is in doubt.")
        return
    table = Table(title=f"Labels in doubt: {len(doubts)} of {n_photos} photos", title_justify="left")
    for title in ("photo", "labelled", "looks like"):
        table.add_column(title, overflow="fold")
    table.add_column("sure", justify="right")
    for doubt in doubts[:_MOST_PRINTED]:
        table.add_row(readable(doubt.file), doubt.given, doubt.suggested, f"{doubt.sure:.0%}")
    console.print(table)
    if len(doubts) > _MOST_PRINTED:
        console.print(f"and {len(doubts) - _MOST_PRINTED} more, less surely (--json lists all)")
    console.print("Some are wrong labels, some are hard photos with the right one: look at each (--report FILE).")
