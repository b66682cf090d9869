"""What a swarm knows, read from the trials of an Optuna study: its particles, their paths and their bests.

A particle is the chain of trials that bear its number. Pure: trials in, trials out; nothing is written here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from optuna.study import StudyDirection
from optuna.trial import TrialState

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from optuna.trial import FrozenTrial

PARTICLE: Final = "swarm:particle"
"""System attribute of a trial: its particle, which bears the number of its own first step."""

MOVE: Final = "swarm:move"
"""System attribute of a trial: how often its particle had moved before."""

# What Optuna's callback for stale trials notes in the repetition of a trial.
_REPETITION_OF, _REPETITIONS = "failed_trial", "retry_history"


def step_of(trial: FrozenTrial, trials: Sequence[FrozenTrial]) -> int:
    """The number of a trial among those that are no repetitions; a repetition has that of its original.

    It depends on the trial alone and never changes, whichever process asks; so it can seed the trial's random numbers.
    """
    number = trial.system_attrs.get(_REPETITION_OF, trial.number)
    return sum(other.number < number and _REPETITION_OF not in other.system_attrs for other in trials)


@dataclass(frozen=True, eq=False)
class History:
    """The swarm at one moment.

    Attributes:
        paths: finished trials of each particle, oldest first.
        flying: number of running trials of each particle that has any.
        costs: of the complete trials, by number, made such that lower is better.
        ranking: complete trials, best first.
    """

    paths: Mapping[int, Sequence[FrozenTrial]]
    flying: Mapping[int, int]
    costs: Mapping[int, float]
    ranking: Sequence[FrozenTrial]

    @classmethod
    def of(cls, trials: Sequence[FrozenTrial], direction: StudyDirection) -> History:
        """Reads a study; a finished trial that no swarm made (added or tuned otherwise) begins a particle."""
        sign = -1.0 if direction == StudyDirection.MAXIMIZE else 1.0
        repeated = {number for trial in trials for number in trial.system_attrs.get(_REPETITIONS, ())}
        paths: dict[int, list[FrozenTrial]] = {}
        flying: dict[int, int] = {}
        costs: dict[int, float] = {}
        for trial in trials:
            particle = trial.system_attrs.get(PARTICLE)
            if trial.number in repeated:
                continue
            if trial.state.is_finished():
                paths.setdefault(step_of(trial, trials) if particle is None else particle, []).append(trial)
            elif trial.state == TrialState.RUNNING and particle is not None:
                flying[particle] = flying.get(particle, 0) + 1
            if trial.state == TrialState.COMPLETE and trial.value is not None and math.isfinite(trial.value):
                costs[trial.number] = sign * trial.value
        known = [trial for trial in trials if trial.number in costs]
        return cls(paths, flying, costs, sorted(known, key=lambda trial: costs[trial.number]))

    def path(self, particle: int) -> Sequence[FrozenTrial]:
        """Finished trials of a particle, oldest first."""
        return self.paths.get(particle, ())

    def best_of(self, path: Sequence[FrozenTrial]) -> FrozenTrial | None:
        """The best complete trial of a path, or None."""
        complete = (trial for trial in path if trial.number in self.costs)
        return min(complete, key=lambda trial: self.costs[trial.number], default=None)

    def next_particle(self, size: int, new: int) -> int:
        """Which particle moves next: of the best ``size`` one that is not flying, and has moved least.

        If all are flying, one of them begins a second move at the same time; if there is none yet, ``new`` begins.
        """
        bests = {particle: self.best_of(path) for particle, path in self.paths.items()}
        cost = {particle: self.costs[best.number] for particle, best in bests.items() if best is not None}
        swarm = sorted(cost, key=lambda particle: (cost[particle], particle))[:size]
        busy = {particle: (self.flying.get(particle, 0), len(self.paths[particle])) for particle in swarm}
        return min(swarm, key=lambda particle: busy[particle], default=new)
