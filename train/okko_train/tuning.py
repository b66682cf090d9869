"""The swarm looks for the head's hyperparameters: each particle is a set, its cost the cross-validated log loss.

A generation's particles are evaluated side by side in worker processes (or on the cluster that computed the features),
each on one thread, and told to the swarm together; so the result depends on the seed and not on the number of workers.
Only a time budget that cuts the search short makes it depend on the machine.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import math
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol, cast

import numpy as np
from threadpoolctl import threadpool_limits

from okko_models.errors import OkkoError
from okko_train.calibration import fit_temperature, losses, softmax
from okko_train.head import (
    Hyperparameters,
    Projection,
    hyperparameter_space,
    train_network,
    usual_hyperparameters,
)
from okko_train.metrics import clearly_better, standard_errors
from okko_train.network import TrainingDivergedError
from okko_train.result import LearningCurve, Trial
from okko_train.shards import encode_part, load_part
from okko_train.swarm import Swarm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from concurrent.futures import Future

    from numpy.typing import NDArray

    from okko_train.engine import Engine
    from okko_train.shards import Part, StoreAt


@dataclass(frozen=True)
class Look:
    """Features of photos, all of one kind.

    Attributes:
        photos: (n_photos, n_features).
        copies: (n_copies, n_photos, n_features) of altered copies, to learn from as well.
        emphasis: (n_features,) how loud each feature is, once standardised.
    """

    photos: NDArray[np.float32]
    copies: NDArray[np.float32]
    emphasis: NDArray[np.float32]

    def rows(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Returns ((1 + n_copies) * n_rows, n_features): some photos, then their copies."""
        return np.concatenate([self.photos[rows], *self.copies[:, rows]])


@dataclass(frozen=True)
class Fold:
    """One fold of the cross-validation, projected once so that no trial does it again.

    Attributes:
        train: (n_train, n_components) components of the photos to learn from and of their copies.
        train_truth: (n_train,) their labels.
        validation: (1 + n_copies, n_validation, n_components), projected with what `train` alone taught; the photos
            as they are come first.
        validation_truth: (n_validation,).
        validation_rows: (n_validation,) the photos' rows in the whole set.
    """

    train: NDArray[np.float32]
    train_truth: NDArray[np.int64]
    validation: NDArray[np.float32]
    validation_truth: NDArray[np.int64]
    validation_rows: NDArray[np.int64]


@dataclass(frozen=True)
class CrossValidation:
    """A set of photos, looked at in one way or several, and cut into folds.

    Attributes:
        folds: at least two for each look, by the look's name.
        truth: (n_photos,) labels.
        groups: (n_photos,) photos with the same number may err together.
        n_labels: number of labels.
        seed: of every network's weights and photo order.
    """

    folds: dict[str, tuple[Fold, ...]]
    truth: NDArray[np.int64]
    groups: NDArray[np.int64]
    n_labels: int
    seed: int

    @classmethod
    def of(
        cls,
        looks: Mapping[str, Look],
        truth: NDArray[np.int64],
        fold_numbers: NDArray[np.int64],
        *,
        n_labels: int,
        seed: int,
        workers: int = 1,
        groups: NDArray[np.int64] | None = None,
    ) -> CrossValidation:
        """Cuts the photos into the folds that `fold_numbers` names.

        Args:
            looks: the photos' features, by the look's name.
            truth: (n_photos,) labels.
            fold_numbers: (n_photos,).
            groups: (n_photos,) photos with the same number may err together; None: each errs alone.
            n_labels: number of labels.
            seed: of every network.
            workers: folds projected at a time, each on one thread.
        """

        def project(task: tuple[str, int]) -> Fold:
            look, number = looks[task[0]], task[1]
            learn, rows = np.flatnonzero(fold_numbers != number), np.flatnonzero(fold_numbers == number)
            train, versions = look.rows(learn), 1 + len(look.copies)
            projection = Projection.fit(train, look.emphasis)
            validation = projection(look.rows(rows)).reshape(versions, len(rows), -1)
            return Fold(projection(train), np.tile(truth[learn], versions), validation, truth[rows], rows)

        numbers = np.unique(fold_numbers).tolist()
        with threadpool_limits(1), ThreadPoolExecutor(workers) as pool:
            folds = {name: tuple(pool.map(project, [(name, number) for number in numbers])) for name in looks}
        groups = np.arange(len(truth)) if groups is None else groups
        return cls(folds, truth, groups, n_labels, seed)

    def as_part(self, look: str) -> Part:
        """Returns everything that trials with one look need, as plain arrays."""
        folds = {
            f"{name} {number}": getattr(fold, name)
            for number, fold in enumerate(self.folds[look])
            for name in Fold.__dataclass_fields__
        }
        numbers = np.array([self.n_labels, self.seed, len(self.folds[look])])
        return {"truth": self.truth, "groups": self.groups, "numbers": numbers, **folds}

    @classmethod
    def from_part(cls, look: str, part: Part) -> CrossValidation:
        """Returns what `as_part` was called on, with that look alone."""
        n_labels, seed, n_folds = part["numbers"].tolist()
        names = Fold.__dataclass_fields__
        folds = (Fold(**{name: part[f"{name} {number}"] for name in names}) for number in range(n_folds))
        return cls({look: tuple(folds)}, part["truth"], part["groups"], n_labels, seed)

    def out_of_fold(self, parameters: Hyperparameters) -> NDArray[np.float64]:
        """Returns (1 + n_copies, n_photos, n_labels) scores, each from a network that has not seen the photo."""
        folds = self.folds[parameters["look"]]
        logits = np.empty((len(folds[0].validation), len(self.truth), self.n_labels))
        for fold in folds:
            network, _ = train_network(fold.train, fold.train_truth, self.n_labels, parameters, seed=self.seed)
            for version, components in enumerate(fold.validation):
                logits[version, fold.validation_rows] = network.logits(components[:, : network.layer_sizes[0]])
        return logits

    def learning_curves(self, parameters: Hyperparameters) -> tuple[LearningCurve, ...]:
        """Returns one curve a fold: the course of the same trainings, watched on the photos that they do not see."""
        curves = []
        for fold in self.folds[parameters["look"]]:
            watched = (fold.validation[0], fold.validation_truth)
            _, history = train_network(
                fold.train, fold.train_truth, self.n_labels, parameters, seed=self.seed, validation=watched
            )
            curves.append(LearningCurve(history.train_cost, history.validation_cost))
        return tuple(curves)


@dataclass(frozen=True)
class TuningResult:
    """The swarm's find.

    Attributes:
        chosen: the trial to ship; see `choose_trial`.
        trials: all of them, in order.
        stopped_by_budget: whether time ran out before the swarm was done.
    """

    chosen: Trial
    trials: tuple[Trial, ...]
    stopped_by_budget: bool


class OnTrial(Protocol):
    """Called after each trial with a remark on the best so far."""

    def __call__(self, note: str = "") -> None: ...  # noqa: D102


def tune(
    data: CrossValidation,
    *,
    n_trials: int,
    workers: int,
    first: Hyperparameters | None = None,
    deadline_s: float = math.inf,
    on_trial: OnTrial = lambda note="": None,  # noqa: ARG005
    engine: Engine | None = None,
) -> TuningResult:
    """Lets the swarm look for hyperparameters.

    Args:
        data: what a trial is measured on.
        n_trials: when to stop.
        workers: processes side by side; 1 stays in this one.
        first: to be tried first, apart from the swarm, and kept unless the swarm finds clearly better ones; None: the
            usual ones.
        deadline_s: no trial starts after this time of the monotonic clock.
        on_trial: told of each trial.
        engine: what computed the features; if its crew is on other machines, it does the trials, too.

    Raises:
        OkkoError: no trial gave a usable network, or the engine failed.
    """
    smallest = min(len(fold.train) for folds in data.folds.values() for fold in folds)
    space = hyperparameter_space(smallest, list(data.folds))
    swarm = Swarm.for_tuning(space.dimension, seed=data.seed)
    first = first or usual_hyperparameters(next(iter(data.folds)))
    trials: list[Trial] = []
    scored: list[NDArray[np.float64]] = []
    with _evaluator(data, workers, engine) as evaluate:
        generation = 0
        while len(trials) < n_trials and (not trials or time.monotonic() < deadline_s):
            positions = swarm.ask()
            known = [] if trials else [first]
            asked = [cast("Hyperparameters", space.decode(position)) for position in positions]
            candidates = [*known, *asked][: n_trials - len(trials)]
            costs = np.full(len(known) + len(positions), np.inf)
            for index, score in enumerate(evaluate(candidates, deadline_s)):
                costs[index] = score.cost
                parameters = cast("dict[str, bool | int | float | str]", candidates[index])
                trials.append(Trial(len(trials), generation, parameters, *score[:-1]))
                scored.append(score.losses)
                best = min(trial.cost for trial in trials)
                on_trial(f"best log loss {best:.4f}")
            swarm.tell(costs[len(known) :])
            generation += 1
    if not any(math.isfinite(trial.cost) for trial in trials):
        raise OkkoError(
            f"none of {len(trials)} trials gave a usable network; give more time (--budget) or look at the photos "
            "with `okko data check`"
        )
    chosen = trials[first_unless_beaten(scored, data.groups)]
    return TuningResult(chosen, tuple(trials), stopped_by_budget=len(trials) < n_trials)


def choose_look(data: CrossValidation) -> str:
    """Returns the look to take, measured with the usual head: the first, unless another one is clearly better."""
    looks = list(data.folds)
    with threadpool_limits(1):
        scored = [_score(data, usual_hyperparameters(look)).losses for look in looks]
    return looks[first_unless_beaten(scored, data.groups)]


def first_unless_beaten(scored: Sequence[NDArray[np.float64]], groups: NDArray[np.int64]) -> int:
    """Returns the index of the best choice if it is clearly better than the first one, else 0.

    The best of many is in part the luckiest, and the fewer the photos, the more so; the first is known to serve.

    Args:
        scored: (n_photos,) log loss of each photo, for each choice; infinite where it failed.
        groups: (n_photos,) photos with the same number may err together.
    """
    best = int(np.argmin([each.mean() for each in scored]))
    failed = not np.isfinite(scored[0]).all()
    return best if failed or clearly_better(scored[best], scored[0], groups) else 0


class _Score(NamedTuple):
    cost: float
    accuracy: float
    seconds: float
    standard_error: float
    losses: NDArray[np.float64]


class _Evaluate(Protocol):
    def __call__(self, candidates: Sequence[Hyperparameters], deadline_s: float) -> Iterator[_Score]: ...


@contextlib.contextmanager
def _evaluator(data: CrossValidation, workers: int, engine: Engine | None) -> Iterator[_Evaluate]:
    """Yields a function that scores candidates in order and stops early when time is up."""
    if engine is not None and engine.crew.elsewhere:
        kept = {look: _keep(engine.store, data, look) for look in data.folds}
        with engine.crew.pool() as crew:
            yield functools.partial(
                _side_by_side,
                lambda candidate: crew.submit(
                    _score_elsewhere, engine.store, kept[candidate["look"]], candidate["look"], candidate
                ),
                engine.crew.size,
            )
        return
    if workers == 1:

        def here(candidates: Sequence[Hyperparameters], deadline_s: float) -> Iterator[_Score]:
            for number, candidate in enumerate(candidates):
                if number and time.monotonic() >= deadline_s:
                    return
                with threadpool_limits(1):
                    yield _score(data, candidate)

        yield here
        return

    # Processes are spawned, not forked: a fork would copy locks that onnxruntime's threads may hold.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_start_worker, initargs=(data,)) as pool:
        yield functools.partial(_side_by_side, lambda candidate: pool.submit(_score_in_worker, candidate), workers)


def _side_by_side(
    submit: Callable[[Hyperparameters], Future[_Score]],
    workers: int,
    candidates: Sequence[Hyperparameters],
    deadline_s: float,
) -> Iterator[_Score]:
    waiting = list(candidates)
    running = [submit(waiting.pop(0)) for _ in range(min(workers, len(waiting)))]
    while running:
        try:
            score = running.pop(0).result()
        except BrokenProcessPool as error:
            raise OkkoError(
                "a worker process was killed, most likely because memory ran out; try again with --workers 1"
            ) from error
        if waiting and time.monotonic() < deadline_s:
            running.append(submit(waiting.pop(0)))
        yield score


def _keep(store: StoreAt, data: CrossValidation, look: str) -> str:
    """Puts what trials with this look need where workers find it; returns its name."""
    part = encode_part(data.as_part(look))
    name = f"trials/{hashlib.sha256(part).hexdigest()[:40]}.npz"
    store.open().put_new(name, part)
    return name


def _score_elsewhere(store: StoreAt, name: str, look: str, parameters: Hyperparameters) -> _Score:
    with threadpool_limits(1):
        return _score(_kept(store, name, look), parameters)


@functools.lru_cache(maxsize=2)
def _kept(store: StoreAt, name: str, look: str) -> CrossValidation:
    part = load_part(store.open(), name)
    if part is None:
        raise OkkoError(f"{store.location} has no {name}; all workers must see the same place: name it with --shards")
    return CrossValidation.from_part(look, part)


_worker_data: CrossValidation


def _start_worker(data: CrossValidation) -> None:
    global _worker_data
    _worker_data = data
    threadpool_limits(1)


def _score_in_worker(parameters: Hyperparameters) -> _Score:
    return _score(_worker_data, parameters)


def _score(data: CrossValidation, parameters: Hyperparameters) -> _Score:
    started = time.process_time()
    with contextlib.suppress(TrainingDivergedError), np.errstate(all="ignore"):
        logits = data.out_of_fold(parameters)
        if np.isfinite(logits).all():
            temperature = fit_temperature(logits[0], data.truth)
            each = np.stack([losses(softmax(version / temperature), data.truth) for version in logits])
            # Altered copies of photos that the network has not seen stand for the next day; they count half.
            per_photo = (each[0] + (each[1:] if len(each) > 1 else each).mean(axis=0)) / 2
            return _Score(
                cost=float(per_photo.mean()),
                accuracy=float((logits[0].argmax(axis=1) == data.truth).mean()),
                seconds=time.process_time() - started,
                standard_error=float(standard_errors(per_photo[None], data.groups)[0]),
                losses=per_photo,
            )
    return _Score(math.inf, 0.0, time.process_time() - started, 0.0, np.full(len(data.truth), math.inf))
