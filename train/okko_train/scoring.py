"""What one set of hyperparameters is worth: (grouped) cross-validation, and the penalty that R's automl adds to it.

Every set is measured on the same folds with the same seeds, so that only hyperparameters make a difference. The folds
are encoded once; a score is told fold by fold, so that a hopeless set can be given up early.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

from okko_models.errors import OkkoError
from okko_train.network import TrainingDivergedError
from okko_train.table_encoder import TableEncoder
from okko_train.tuned_network import Targets, TunedNetwork, train

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from okko_train.tabular import Table

Report = Callable[[int, float], bool]
"""Takes the number of folds done and the mean cost so far; returns whether to give up."""

SMALLEST_PROBABILITY: Final = 1e-12  # keeps a log loss finite


@dataclass(frozen=True)
class Score:
    """What cross-validation says.

    Attributes:
        cost: what tuning makes small; infinite if the network could not be trained.
        train: mean cost on the parts learnt from.
        validation: mean cost on the parts held out: log loss in nats, or for numbers the mean squared error as a share
            of the target's variance.
        skill: accuracy on the parts held out; for numbers the coefficient of determination.
        folds: how many were measured.
        given_up: whether the rest was not worth it.
    """

    cost: float
    train: float
    validation: float
    skill: float
    folds: int
    given_up: bool = False


FAILED: Final = Score(math.inf, math.inf, math.inf, -math.inf, 0)


def combined_cost(train: float, validation: float, gap_penalty: float) -> float:
    """The cost of a set of hyperparameters, from its costs on the parts learnt from and on those held out.

    With ``gap_penalty`` 0 it is ``validation``; with 1 that of R's automl 1.3.2,
    |train - validation| + (1.5 validation + train) / 2.5; in between, a mixture.
    """
    r = abs(train - validation) + (1.5 * validation + train) / 2.5
    return (1 - gap_penalty) * validation + gap_penalty * r if gap_penalty else validation


@dataclass(frozen=True, eq=False)
class _Fold:
    encoder: TableEncoder
    train: NDArray[np.float64]
    train_rows: NDArray[np.int64]
    held_out: NDArray[np.float64]
    held_out_rows: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Objective:
    """Scores sets of hyperparameters on one table.

    Attributes:
        folds: of the cross-validation, encoded.
        targets: of the whole table.
        seed: of every training.
        gap_penalty: see `combined_cost`.
        overfit: score by the cost on the parts learnt from alone; the first step of ``two_steps``.
        fixed: hyperparameters that are the same in every trial.
    """

    folds: tuple[_Fold, ...]
    targets: Targets
    seed: int = 0
    gap_penalty: float = 0.0
    overfit: bool = False
    fixed: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        table: Table,
        targets: Targets,
        *,
        groups: NDArray[Any] | None = None,
        n_folds: int = 5,
        seed: int = 0,
        gap_penalty: float = 0.0,
    ) -> Objective:
        """Cuts a table into folds, with like shares of each class; a group's rows stay in one fold.

        Raises:
            OkkoError: fewer than two rows or groups.
        """
        numbers = fold_numbers(targets, groups, n_folds, seed)
        folds = []
        for number in np.unique(numbers):
            learn, hold = np.flatnonzero(numbers != number), np.flatnonzero(numbers == number)
            encoder = TableEncoder.fit(table.rows(learn))
            encoded = (encoder.encode(table.rows(rows)) for rows in (learn, hold))
            folds.append(_Fold(encoder, next(encoded), learn, next(encoded), hold))
        return cls(tuple(folds), targets, seed, gap_penalty)

    def given(self, fixed: Mapping[str, Any], *, overfit: bool = False) -> Objective:
        """The same measurement with some hyperparameters fixed, perhaps of how well a network learns by heart."""
        return replace(self, fixed=dict(fixed), overfit=overfit)

    def __call__(self, hyperparameters: Mapping[str, Any], report: Report = lambda _folds, _cost: False) -> Score:
        """Trains one network a fold and measures it."""
        parts: list[tuple[float, float, float]] = []
        for number, fold in enumerate(self.folds, 1):
            try:
                model = train(
                    {**self.fixed, **hyperparameters},
                    fold.encoder,
                    fold.train,
                    self.targets,
                    fold.train_rows,
                    seed=self.seed,
                )
            except TrainingDivergedError:
                return FAILED
            learnt, _ = self._measure(model, fold.train, fold.train_rows)
            held_out, skill = self._measure(model, fold.held_out, fold.held_out_rows)
            if not math.isfinite(learnt + held_out):
                return FAILED
            parts.append((learnt, held_out, skill))
            score = self._score(parts)
            if number < len(self.folds) and report(number, score.cost):
                return replace(score, given_up=True)
        return score

    def _score(self, parts: list[tuple[float, float, float]]) -> Score:
        learnt, held_out, skill = (float(value) for value in np.mean(parts, axis=0))
        cost = learnt if self.overfit else combined_cost(learnt, held_out, self.gap_penalty)
        return Score(cost, learnt, held_out, skill, len(parts))

    def _measure(
        self, model: TunedNetwork, features: NDArray[np.float64], rows: NDArray[np.int64]
    ) -> tuple[float, float]:
        truth = self.targets.values[rows]
        raw = model.network.predict(model.encoder.shaped(features, model.shape))
        if self.targets.classes is not None:
            likelihood = raw[np.arange(len(rows)), truth]
            accuracy = float((raw.argmax(axis=1) == truth).mean())
            return float(-np.log(np.maximum(likelihood, SMALLEST_PROBABILITY)).mean()), accuracy
        predicted = raw[:, 0] * model.target_scale + model.target_mean
        share = float(((predicted - truth) ** 2).mean() / (self.targets.values.var() or 1.0))
        return share, 1 - share


def fold_numbers(targets: Targets, groups: NDArray[Any] | None, n_folds: int, seed: int) -> NDArray[np.int64]:
    """Which fold each row is held out in (n,): shuffled, classes spread evenly, groups kept together."""
    n = len(targets.values)
    if groups is not None:
        different = len(np.unique(groups))
        if different < 2:
            raise OkkoError("all rows belong to one group; cross-validation needs at least two groups")
        n_folds = min(n_folds, different)
        kind = GroupKFold if targets.classes is None else StratifiedGroupKFold
        numbers = np.empty(n, np.int64)
        split = kind(n_folds, shuffle=True, random_state=seed).split(np.empty((n, 1)), targets.values, groups)
        for number, (_, held_out) in enumerate(split):
            numbers[held_out] = number
        return numbers
    if n < 2:
        raise OkkoError(f"there is n_samples = {n}; cross-validation needs at least 2")
    order = np.random.default_rng(seed).permutation(n)
    if targets.classes is not None:
        order = order[np.argsort(targets.values[order], kind="stable")]
    numbers = np.empty(n, np.int64)
    numbers[order] = np.arange(n) % min(n_folds, n)
    return numbers
