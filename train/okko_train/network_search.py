"""Tuning a network on a table: which hyperparameters are open, in one step or two, and the best trained on all rows.

The run types are those of R's automl: look for everything at once, or first for a network that learns by heart and then
for the regularisation that makes it general. How trials are run is `okko_train.search`.
"""

from __future__ import annotations

import hashlib
import math
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from okko_models.errors import OkkoError
from okko_train.scoring import Objective
from okko_train.search import Options, SearchResult, TrialResult, search
from okko_train.space import Space
from okko_train.table_encoder import TableEncoder
from okko_train.tuned_network import DEFAULTS, NO_REGULARISATION, REGULARISATION, TunedNetwork, train, tuning_space

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from okko_train.search import OnTrial
    from okko_train.tabular import Table
    from okko_train.tuned_network import Targets

RUN_TYPES: Final = ("normal", "two_steps", "overfitting", "regularization")


@dataclass(frozen=True)
class NetworkOptions:
    """How to tune a network.

    Attributes:
        search: trials, time, tuner, workers, storage.
        run_type: "normal"; "overfitting" (no regularisation, scored on the rows learnt from); "regularization" (dropout
            and L2 alone); "two_steps" (half of the trials each, one after the other).
        folds: of the cross-validation.
        gap_penalty: see `okko_train.scoring.combined_cost`.
        fixed: hyperparameters that are not tuned, by name.
    """

    search: Options = field(default_factory=Options)
    run_type: str = "normal"
    folds: int = 5
    gap_penalty: float = 0.0
    fixed: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Found:
    """What tuning found.

    Attributes:
        hyperparameters: the best, those not tuned included.
        steps: results of the search, or of the two searches of "two_steps".
        model: trained on all rows with the best hyperparameters.
    """

    hyperparameters: dict[str, Any]
    steps: tuple[SearchResult, ...]
    model: TunedNetwork

    @property
    def best(self) -> TrialResult:
        """The best trial of the last step."""
        return self.steps[-1].best

    @property
    def trials(self) -> tuple[TrialResult, ...]:
        """Trials of all steps."""
        return tuple(trial for step in self.steps for trial in step.trials)

    @property
    def stopped_by_budget(self) -> bool:
        """Whether time ran out first."""
        return any(step.stopped_by_budget for step in self.steps)


def tune_network(
    table: Table,
    targets: Targets,
    options: NetworkOptions,
    *,
    groups: NDArray[np.int64] | None = None,
    on_trial: OnTrial = lambda note="": None,  # noqa: ARG005
) -> Found:
    """Looks for hyperparameters by cross-validation and trains a network with the best.

    Args:
        table: features.
        targets: what to predict, as many rows.
        options: see `NetworkOptions`.
        groups: (n,) rows of one group stay in one fold.
        on_trial: told of each trial that ends.

    Raises:
        OkkoError: options that make no sense, or the reasons of `okko_train.search.search`.
    """
    _check(options)
    seed = options.search.seed
    objective = Objective.of(
        table, targets, groups=groups, n_folds=options.folds, seed=seed, gap_penalty=options.gap_penalty
    )
    identity = f"{_digest(table, targets, groups)} {options.folds} {seed} {options.gap_penalty} {options.search.prune}"
    steps, fixed = [], dict(options.fixed)
    kinds = ("overfitting", "regularization") if options.run_type == "two_steps" else (options.run_type,)
    for number, kind in enumerate(kinds):
        closed = {**_closed(kind), **fixed}
        asked = _share(options.search, number, len(kinds))
        asked = replace(asked, name=f"okko {kind}", identity=f"{identity} {sorted(closed.items())}")
        result = search(
            objective.given(closed, overfit=kind == "overfitting"),
            open_space(closed),
            asked,
            first=DEFAULTS,
            on_trial=on_trial,
        )
        steps.append(result)
        found = {**closed, **result.best.parameters}
        fixed = {**{name: value for name, value in found.items() if name not in REGULARISATION}, **options.fixed}
    encoder = TableEncoder.fit(table)
    model = train(found, encoder, encoder.encode(table), targets, seed=seed)
    return Found(found, tuple(steps), model)


def open_space(fixed: Mapping[str, Any]) -> Space:
    """The tuning space without what is fixed; conditions on fixed hyperparameters are resolved.

    Raises:
        OkkoError: an unknown hyperparameter, a value it cannot have, or nothing left to tune.
    """
    space, open_parameters = tuning_space(), {}
    for name, value in fixed.items():
        if name not in space.parameters:
            raise OkkoError(f"there is no hyperparameter {name!r}; there are {', '.join(space.parameters)}")
        try:
            space.parameters[name].encode(value)
        except ValueError as error:
            if name not in NO_REGULARISATION or value != 0:
                raise OkkoError(f"hyperparameter {name!r}: {error}") from None
    for name, parameter in space.parameters.items():
        if name in fixed:
            continue
        if parameter.when is not None:
            other, values = parameter.when
            if other in fixed and fixed[other] not in values:
                continue
            parameter = replace(parameter, when=None) if other in fixed else parameter
        open_parameters[name] = parameter
    if not open_parameters:
        raise OkkoError("every hyperparameter is fixed; leave at least one open to tuning")
    return Space(open_parameters)


def _closed(kind: str) -> dict[str, Any]:
    if kind == "overfitting":
        return dict(NO_REGULARISATION)
    if kind == "regularization":
        return {name: value for name, value in DEFAULTS.items() if name not in REGULARISATION}
    return {}


def _check(options: NetworkOptions) -> None:
    if options.run_type not in RUN_TYPES:
        raise OkkoError(f"run_type is {options.run_type!r}; choose from {', '.join(RUN_TYPES)}")
    if options.run_type == "two_steps" and options.search.trials < 2:
        raise OkkoError("two_steps needs at least 2 trials, one for each step")
    if options.folds < 2:
        raise OkkoError(f"{options.folds} folds; cross-validation needs at least 2")
    if not 0 <= options.gap_penalty <= 1:
        raise OkkoError(f"gap_penalty is {options.gap_penalty}; expected 0 (none) to 1 (as R's automl)")


def _share(options: Options, number: int, steps: int) -> Options:
    """The part of trials and time that one step may have."""
    if steps == 1:
        return options
    trials = options.trials // 2 if number == 0 else options.trials - options.trials // 2
    now = time.monotonic()
    half = number == 0 and math.isfinite(options.deadline_s)
    return replace(options, trials=trials, deadline_s=(now + options.deadline_s) / 2 if half else options.deadline_s)


def _digest(table: Table, targets: Targets, groups: NDArray[np.int64] | None) -> str:
    plain = table.names, table.words.tolist(), None if groups is None else groups.tolist()
    digest = hashlib.sha256(repr(plain).encode())
    digest.update(table.numbers.tobytes())
    digest.update(targets.values.tobytes())
    return digest.hexdigest()
