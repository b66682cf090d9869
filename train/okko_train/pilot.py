"""Very many photos: everything is chosen on an evenly spread part of them, the pilot; then all of them are learnt from.

Where to look, the hyperparameters and int8 differ by little between thousands of photos and a hundred times as many, so
that choosing on the pilot costs a fraction of the time. What the model learns from and is measured on are all photos,
streamed from the disk block by block: memory holds one fold's components, never the features.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, cast

import numpy as np
from threadpoolctl import threadpool_limits

from okko_train.embedding import embed_copies
from okko_train.engine import MANY, some_rows
from okko_train.head import MAX_PHOTOS_FOR_AXES, Head, Projection, train_network
from okko_train.novelty_learning import MOST_PHOTOS as MOST_PHOTOS_FOR_NOVELTY
from okko_train.preparation import Split
from okko_train.progress import progress

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from okko_train.candidates import Candidate, Task
    from okko_train.head import Hyperparameters
    from okko_train.looks import Embedded
    from okko_train.network import Network

FEWEST_OF_A_LABEL: Final = 200
"""So many photos of a rare label are in the pilot, if there are so many."""

MOST_LEARNT_FROM: Final = 30_000
"""Photos that the head learns from, with their copies, evenly spread; on all others it is calibrated, too. A head has
at most some ten thousand weights."""

_ROWS_AT_A_TIME: Final = 4096


def choose_pilot(task: Task, most: int = MANY) -> Task:
    """Returns the task on a part of the photos to learn from, evenly spread over each label; all of them if few.

    Args:
        task: what is to be learnt.
        most: about so many photos are chosen.
    """
    n = len(task.split.learn)
    if n <= most:
        return task
    chosen = []
    for label in range(len(task.dataset.labels)):
        rows = np.flatnonzero(task.truth == label)
        wanted = min(len(rows), max(FEWEST_OF_A_LABEL, round(most * len(rows) / n)))
        chosen.append(rows[np.linspace(0, len(rows) - 1, wanted).round().astype(np.int64)])
    rows = np.sort(np.concatenate(chosen))
    photos = tuple(task.dataset.photos[row] for row in task.split.learn[rows])
    split = Split(np.arange(len(rows)), np.arange(0), task.split.folds[rows])
    return replace(task, dataset=replace(task.dataset, photos=photos, thumbnails=None), split=split)


def learn_from_all(task: Task, found: Candidate, most: int = MOST_LEARNT_FROM) -> Candidate:
    """Returns the candidate that was found on the pilot, learnt from all photos of `task` and measured on them.

    Args:
        task: all photos.
        found: look, precision and hyperparameters that were best on the pilot.
        most: photos that the head learns from, evenly spread over all.
    """
    dataset, split, model = task.dataset, task.split, found.measured.model
    n = len(split.learn)
    learnt_from = np.union1d(_spread(n, most), _spread(n, MOST_PHOTOS_FOR_NOVELTY))
    digest = found.recipe.digest
    if found.measured.precision != "float32":
        digest = hashlib.sha256(model.SerializeToString()).hexdigest()
    title = f"Looking at all photos in {found.measured.precision}"
    features = embed_copies(dataset, split.learn, model, digest, title, task.workers, copied=learnt_from)
    lessons = _Lessons(features, split.learn, task.truth, len(dataset.labels), found.recipe.emphasis, task.seed)
    parameters = cast("Hyperparameters", found.hyperparameters)
    logits = np.empty((n, len(dataset.labels)))
    numbers = np.unique(split.folds)
    with threadpool_limits(1), progress("Learning from all photos", len(numbers) + 1) as done:
        for number in numbers:
            projection, network = lessons.learn(learnt_from[split.folds[learnt_from] != number], parameters)
            rows = np.flatnonzero(split.folds == number)
            for start in range(0, len(rows), _ROWS_AT_A_TIME):
                some = rows[start : start + _ROWS_AT_A_TIME]
                logits[some] = network.logits(lessons.components(some, projection, copies=False))
            done()
        measured = task.measured(found.measured.precision, model, features, logits)
        head = Head(*lessons.learn(learnt_from, parameters)).calibrated(measured.calibration)
        done()
    return replace(
        found,
        measured=measured,
        head=head,
        hyperparameters={**found.hyperparameters, "photos_of_the_search": len(found.measured.losses)},
        variants=tuple(measured if each is found.measured else each for each in found.variants),
    )


@dataclass(frozen=True, eq=False)
class _Lessons:
    """Photos to learn from, whose features may be too large for the memory.

    Attributes:
        features: of all photos, and of copies of those to learn from.
        rows: (n_learn,) of the photos to learn from.
        truth: (n_learn,) their labels.
        n_labels: number of labels.
        emphasis: how loud each feature is.
        seed: of every network.
    """

    features: Embedded
    rows: NDArray[np.int64]
    truth: NDArray[np.int64]
    n_labels: int
    emphasis: NDArray[np.float32]
    seed: int

    def learn(self, chosen: NDArray[np.int64], parameters: Hyperparameters) -> tuple[Projection, Network]:
        """Trains on the photos `chosen` (indices into `rows`) and their copies."""
        versions = 1 + len(self.features.copies)
        both = np.arange(versions * len(chosen))
        some = both[:: -(-len(both) // MAX_PHOTOS_FOR_AXES)]
        axes = [self._read(each // len(chosen), chosen[[each % len(chosen)]])[0] for each in some.tolist()]
        projection = Projection.fit(np.stack(axes), self.emphasis).first(parameters["components"])
        components = self.components(chosen, projection, copies=True)
        truths = np.tile(self.truth[chosen], versions)
        network, _ = train_network(components, truths, self.n_labels, parameters, seed=self.seed)
        return projection, network

    def components(self, chosen: NDArray[np.int64], projection: Projection, *, copies: bool) -> NDArray[np.float32]:
        """Returns the components of the photos, then those of their copies if these are wanted."""
        versions = 1 + len(self.features.copies) if copies else 1
        components = np.empty((versions * len(chosen), projection.axes.shape[1]), np.float32)
        for version in range(versions):
            for start in range(0, len(chosen), _ROWS_AT_A_TIME):
                block = self._read(version, chosen[start : start + _ROWS_AT_A_TIME])
                first = version * len(chosen) + start
                components[first : first + len(block)] = projection(block)
        return components

    def _read(self, version: int, chosen: NDArray[np.int64]) -> NDArray[np.float32]:
        source, rows = (
            (self.features.photos, self.rows[chosen]) if version == 0 else (self.features.copies[version - 1], chosen)
        )
        return some_rows(source, rows)


def _spread(n: int, most: int) -> NDArray[np.int64]:
    return np.arange(n)[:: -(-n // most)]
