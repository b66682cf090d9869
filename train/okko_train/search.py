"""The search for hyperparameters: an Optuna study that asks a sampler, scores by cross-validation, and keeps a budget.

One process asks and tells, workers score; so trials begin in one order, and no two processes ever claim the same one. A
study in a file goes on where it was stopped or killed: trials that were under way are taken up first, with the
parameters that they had. How a set of hyperparameters is scored is `okko_train.scoring`.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import math
import time
import warnings
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Final, Protocol

import optuna
from optuna.trial import Trial, TrialState

from okko_models.errors import OkkoError
from okko_train.scoring import FAILED, Score
from okko_train.search_workers import Here, Workers
from okko_train.space import Categorical, Float, Integer, Space
from okko_train.swarm_history import MOVE
from okko_train.swarm_sampler import SwarmSampler

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from optuna.trial import FrozenTrial

    from okko_train.scoring import Report

TUNERS: Final = ("swarm", "tpe", "cmaes", "random")

_FOLDS_BEFORE_PRUNING = 1
_TRIALS_BEFORE_PRUNING = 12


class Scores(Protocol):
    """What is searched for the lowest cost of; `okko_train.scoring.Objective` is one."""

    def __call__(self, parameters: Mapping[str, Any], report: Report, /) -> Score: ...  # noqa: D102


class OnTrial(Protocol):
    """Called after each trial with a remark on the best so far."""

    def __call__(self, note: str = "") -> None: ...  # noqa: D102


@dataclass(frozen=True)
class Options:
    """How to search.

    Attributes:
        trials: when to stop; trials of earlier runs of the same study count.
        deadline_s: no trial starts after this time of the monotonic clock.
        tuner: one of `TUNERS`.
        seed: of the tuner.
        workers: processes side by side; 1 stays in this one.
        storage: SQLite file that keeps the study, or None to keep it in memory.
        prune: give up trials that are worse than the median after a fold.
        name: of the study in the storage.
        identity: what the costs depend on, in words or digests; a stored study of another identity is refused.
    """

    trials: int = 30
    deadline_s: float = math.inf
    tuner: str = "swarm"
    seed: int = 0
    workers: int = 1
    storage: Path | None = None
    prune: bool = True
    name: str = "okko"
    identity: str = ""


@dataclass(frozen=True)
class TrialResult:
    """One set of hyperparameters and what was found out about it.

    Attributes:
        number: 0, 1, 2, ... in the order in which trials began.
        parameters: hyperparameters by name.
        state: "complete", "pruned" or "failed".
        score: by cross-validation; of a pruned trial, over the folds that were measured.
        seconds: wall time of the trial.
        move: how often the trial's particle had moved before; 0 for the first trials and for other tuners.
    """

    number: int
    parameters: dict[str, Any]
    state: str
    score: Score
    seconds: float
    move: int


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    Attributes:
        best: the complete trial of lowest cost.
        trials: all of them, by number.
        stopped_by_budget: whether time ran out first.
    """

    best: TrialResult
    trials: tuple[TrialResult, ...]
    stopped_by_budget: bool


def search(
    objective: Scores,
    space: Space,
    options: Options,
    *,
    first: Mapping[str, Any] | None = None,
    on_trial: OnTrial = lambda note="": None,  # noqa: ARG005
) -> SearchResult:
    """Looks for the parameters of lowest cost.

    Args:
        objective: called as ``objective(parameters, report)``; with several workers it must be picklable.
        space: of the parameters.
        options: see `Options`.
        first: parameters of the first trial.
        on_trial: told of each trial that ends, and of those that had ended in an earlier run.

    Raises:
        OkkoError: the budget was over before the first trial, no trial succeeded, or the storage is in use, of another
            search, or no such file.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with _study(space, options) as study, _pool(objective, options.workers) as pool:
        if first is not None and not study.trials:
            study.enqueue_trial(_as_suggested(space, first))
        run = _Run(study, space, options, pool, on_trial)
        run.to_the_end()
        trials = tuple(_result(trial) for trial in study.trials if trial.state.is_finished())
    complete = [trial for trial in trials if trial.state == "complete"]
    if not trials:
        raise OkkoError("the budget was over before the first trial could start; give more time (--budget)")
    if not complete:
        raise OkkoError(f"none of {len(trials)} trials could be trained; are the features on wildly different scales?")
    return SearchResult(min(complete, key=lambda t: (t.score.cost, t.number)), trials, len(trials) < options.trials)


def suggest(trial: Trial, space: Space) -> dict[str, Any]:
    """Asks an Optuna trial for the parameters of a space; those that are switched off are not asked for.

    On a reverse-log scale it is the distance to 1 that is asked for, as ``1 - name``.
    """
    values: dict[str, Any] = {}
    for name, p in space.parameters.items():
        if p.when is not None and values.get(p.when[0]) not in p.when[1]:
            continue
        if isinstance(p, Categorical):
            values[name] = trial.suggest_categorical(name, list(p.choices))
        elif isinstance(p, Integer):
            values[name] = trial.suggest_int(name, p.low, p.high, log=p.scale == "log")
        elif p.scale == "reverse_log":
            values[name] = 1 - trial.suggest_float(f"1 - {name}", 1 - p.high, 1 - p.low, log=True)
        else:
            values[name] = trial.suggest_float(name, p.low, p.high, log=p.scale == "log")
    return values


def sampler(tuner: str, seed: int) -> optuna.samplers.BaseSampler:
    """Returns the Optuna sampler of that name.

    Raises:
        OkkoError: no such tuner.
    """
    kinds: dict[str, Callable[..., optuna.samplers.BaseSampler]] = {
        "swarm": SwarmSampler,
        "tpe": optuna.samplers.TPESampler,
        "cmaes": optuna.samplers.CmaEsSampler,
        "random": optuna.samplers.RandomSampler,
    }
    if tuner not in kinds:
        raise OkkoError(f"there is no tuner {tuner!r}; choose from {', '.join(TUNERS)}")
    more = {"warn_independent_sampling": False} if tuner == "cmaes" else {}
    return kinds[tuner](seed=seed, **more)


class _Run:
    """The loop: start what fits, take in what ends."""

    def __init__(
        self, study: optuna.Study, space: Space, options: Options, pool: Here | Workers, on_trial: OnTrial
    ) -> None:
        self._study, self._space, self._options, self._pool, self._on_trial = study, space, options, pool, on_trial
        unfinished = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        self._to_take_up = [Trial(study, trial._trial_id) for trial in unfinished]
        waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        self._begun = len(study.get_trials(deepcopy=False)) - len(waiting)
        self._running: dict[int, tuple[Trial, float]] = {}
        for _ in range(self._begun - len(unfinished)):
            on_trial(self._note())

    def to_the_end(self) -> None:
        while True:
            while self._pool.free and self._start():
                pass
            if not self._running:
                return
            for ticket, score in self._pool.results(self._give_up):
                self._take_in(*self._running.pop(ticket), score)

    def _start(self) -> bool:
        if time.monotonic() >= self._options.deadline_s:
            return False
        if self._to_take_up:
            trial = self._to_take_up.pop(0)
        elif self._begun < self._options.trials:
            trial = self._study.ask()
            self._begun += 1
        else:
            return False
        self._running[trial.number] = trial, time.monotonic()
        self._pool.submit(trial.number, suggest(trial, self._space))
        return True

    def _give_up(self, ticket: int, folds: int, cost: float) -> bool:
        trial, _ = self._running[ticket]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a trial that was taken up reports the same numbers again
            trial.report(cost, folds)
        return self._options.prune and bool(trial.should_prune())

    def _take_in(self, trial: Trial, started_s: float, score: Score) -> None:
        for name, value in asdict(score).items():
            trial.set_user_attr(name, value)
        trial.set_user_attr("seconds", time.monotonic() - started_s)
        if not math.isfinite(score.cost):
            self._study.tell(trial, state=TrialState.FAIL)
        elif score.given_up:
            self._study.tell(trial, state=TrialState.PRUNED)  # with the cost that it reported last
        else:
            self._study.tell(trial, score.cost)
        self._on_trial(self._note())

    def _note(self) -> str:
        with contextlib.suppress(ValueError):  # no trial is complete yet
            return f"best {self._study.best_value:.4g} (trial {self._study.best_trial.number})"
        return ""


def _pool(objective: Scores, workers: int) -> Here | Workers:
    return Workers(objective, workers) if workers > 1 else Here(objective)


@contextlib.contextmanager
def _study(space: Space, options: Options) -> Iterator[optuna.Study]:
    """Yields the study; as long as it is open, no other process can open the same file."""
    if not options.prune:
        pruner: optuna.pruners.BasePruner = optuna.pruners.NopPruner()
    else:
        pruner = optuna.pruners.MedianPruner(_TRIALS_BEFORE_PRUNING, n_warmup_steps=_FOLDS_BEFORE_PRUNING)
    tuner = sampler(options.tuner, options.seed)
    if options.storage is None:
        yield optuna.create_study(sampler=tuner, pruner=pruner)
        return
    with _only_user_of(options.storage):
        study = optuna.create_study(
            study_name=options.name,
            storage=_storage(options.storage),
            sampler=tuner,
            pruner=pruner,
            load_if_exists=True,
        )
        identity = hashlib.sha256(json.dumps([space.to_dict(), options.identity]).encode()).hexdigest()
        if study.user_attrs.setdefault("identity", identity) != identity:
            raise OkkoError(
                f"{options.storage} holds a search on another table or with other options, whose costs cannot be "
                "compared; give another --storage file, or the same table and options as before"
            )
        study.set_user_attr("identity", identity)
        if options.tuner != "swarm" and study.trials:
            # Unlike the swarm, Optuna's samplers would begin their random numbers anew and repeat themselves.
            study.sampler = sampler(options.tuner, options.seed + len(study.trials))
        yield study


def _storage(path: Path) -> optuna.storages.BaseStorage:
    from sqlalchemy.exc import DatabaseError

    try:
        return optuna.storages.RDBStorage(f"sqlite:///{path.absolute()}")
    except DatabaseError as error:
        raise OkkoError(f"{path} cannot be used as a storage ({error.orig}); give a new file") from error


@contextlib.contextmanager
def _only_user_of(path: Path) -> Iterator[None]:
    """Holds a lock that the operating system lets go of when this process ends, however it ends."""
    with path.with_name(path.name + ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OkkoError(
                f"another search is writing to {path}; wait for it, or give another --storage file"
            ) from None
        yield


def _as_suggested(space: Space, values: Mapping[str, Any]) -> dict[str, Any]:
    """Active parameters, as `suggest` asks for them."""
    wanted: dict[str, Any] = {}
    for name in space.decode(space.encode({name: values[name] for name in space.parameters if name in values})):
        p = space.parameters[name]
        reverse = isinstance(p, Float) and p.scale == "reverse_log"
        wanted |= {f"1 - {name}": 1 - values[name]} if reverse else {name: values[name]}
    return wanted


def _result(trial: FrozenTrial) -> TrialResult:
    attributes = trial.user_attrs
    seconds = attributes.get("seconds", 0.0)
    states = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned"}
    score = Score(**{field.name: attributes[field.name] for field in fields(Score)}) if attributes else FAILED
    parameters = {
        name.removeprefix("1 - "): 1 - value if name.startswith("1 - ") else value
        for name, value in trial.params.items()
    }
    return TrialResult(
        trial.number, parameters, states.get(trial.state, "failed"), score, seconds, trial.system_attrs.get(MOVE, 0)
    )
