"""Particle swarm optimisation as an Optuna sampler: storage, resume, pruning, workers and plots come from Optuna.

The swarm has no memory of its own. Where its particles are, and what they know, is read from the trials in the study's
storage whenever a trial begins; so any number of processes can share one study, and a killed one takes nothing with it.
A particle moves as soon as its own result is known (asynchronous PSO, Koh et al. 2006). Parameters may be conditional:
each one is moved by itself, when the objective asks for it. What is tuned, and how it is scored, is elsewhere.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from optuna.distributions import CategoricalDistribution
from optuna.samplers import BaseSampler

from okko_train.swarm_history import MOVE, PARTICLE, History, step_of
from okko_train.swarm_screening import Screen, place, value_at

if TYPE_CHECKING:
    from collections.abc import Sequence

    from optuna.distributions import BaseDistribution
    from optuna.study import Study
    from optuna.trial import FrozenTrial, TrialState

_FEWEST_TO_SCREEN: Final = 4


@dataclass(frozen=True)
class Settings:
    """How the swarm flies; lengths are shares of a parameter's range.

    Attributes:
        first: trials before the first move, spread as a Latin hypercube.
        size: how many particles, the best so far, fly on from there.
        inertia: share of the last move that is repeated, for a particle's first move, its second, and so on.
        attraction: towards the particle's own best, and towards the best of all.
        longest_move: no parameter moves further at a time.
        first_move: longest of the random moves that stand for the one before the first.
        jitter: standard deviation of the noise on each move, which keeps a swarm that has gathered from standing still.
        mutation: chance that a category is drawn anew.
        proposals: moves that a particle thinks of, of which it makes the most promising; see `swarm_screening`.
    """

    first: int = 10
    size: int = 6
    inertia: tuple[float, ...] = (0.5, 0.4, 0.3)
    attraction: float = 1.5
    longest_move: float = 0.3
    first_move: float = 0.15
    jitter: float = 0.02
    mutation: float = 0.1
    proposals: int = 12


@dataclass(frozen=True)
class _Plan:
    """What one trial is going to do, from a snapshot of the study.

    Attributes:
        step: number of the trial among those that are no repetitions of others.
        path: finished trials of the trial's particle, oldest first; empty for a particle that only begins.
        own: best trial of the particle, or None.
        ranking: all completed trials, best first.
        proposal: which of the moves that the particle thought of.
    """

    step: int
    path: Sequence[FrozenTrial]
    own: FrozenTrial | None
    ranking: Sequence[FrozenTrial]
    proposal: int = 0


class SwarmSampler(BaseSampler):
    """A swarm for some thirty expensive trials, as Optuna's sampler.

    >>> import optuna
    >>> optuna.logging.set_verbosity(optuna.logging.ERROR)
    >>> study = optuna.create_study(sampler=SwarmSampler(seed=1))
    >>> study.optimize(lambda trial: trial.suggest_float("x", -5, 5) ** 2, n_trials=30)
    >>> study.best_value < 0.01
    True

    The same seed and the same finished trials give the same suggestions. A trial that Optuna repeats because its worker
    died (`optuna.storages.RetryHeartbeatStaleTrialCallback`) gets the suggestions that it had.

    Args:
        seed: of all random numbers.
        settings: see `Settings`; the defaults are those that measured best.
    """

    def __init__(self, *, seed: int = 0, settings: Settings | None = None) -> None:
        self._seed = seed
        self._settings = Settings() if settings is None else settings
        self._plans: dict[int, _Plan] = {}

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:  # noqa: ARG002
        """Empty: every parameter is moved by itself, so that conditional ones need no special case."""
        return {}

    def sample_relative(
        self,
        study: Study,  # noqa: ARG002
        trial: FrozenTrial,  # noqa: ARG002
        search_space: dict[str, BaseDistribution],  # noqa: ARG002
    ) -> dict[str, Any]:
        """Empty, as `infer_relative_search_space` is."""
        return {}

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Chooses the particle that moves, and notes it in the storage."""
        trials = study.get_trials(deepcopy=False)
        step, history = step_of(trial, trials), History.of(trials, study.direction)
        particle = trial.system_attrs.get(PARTICLE)
        if particle is None:
            particle = step if step < self._settings.first else history.next_particle(self._settings.size, step)
            study._storage.set_trial_system_attr(trial._trial_id, PARTICLE, particle)
            study._storage.set_trial_system_attr(trial._trial_id, MOVE, len(history.path(particle)))
        path = history.path(particle)
        plan = _Plan(step, path, history.best_of(path), history.ranking)
        if path and len(plan.ranking) >= _FEWEST_TO_SCREEN and self._settings.proposals > 1:
            plan = self._most_promising(plan)
        self._plans[trial._trial_id] = plan

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Moves one parameter."""
        if trial._trial_id not in self._plans:  # the trial was begun by another process
            self.before_trial(study, trial)
        return self._draw(self._plans[trial._trial_id], param_name, param_distribution)

    def after_trial(
        self,
        study: Study,  # noqa: ARG002
        trial: FrozenTrial,
        state: TrialState,  # noqa: ARG002
        values: Sequence[float] | None,  # noqa: ARG002
    ) -> None:
        """Forgets the trial: from now on it is in the storage."""
        self._plans.pop(trial._trial_id, None)

    def _most_promising(self, plan: _Plan) -> _Plan:
        screen = Screen(plan.ranking)
        plans = [replace(plan, proposal=number) for number in range(self._settings.proposals)]
        points = [{name: self._draw(p, name, d) for name, d in screen.distributions.items()} for p in plans]
        return plans[int(screen.expected_ranks(points).argmin())]

    def _draw(self, plan: _Plan, name: str, distribution: BaseDistribution) -> Any:
        key = zlib.crc32(name.encode())
        random = np.random.default_rng([self._seed, plan.step, plan.proposal, key])
        leader = next((trial for trial in plan.ranking if name in trial.params), None)
        if isinstance(distribution, CategoricalDistribution):
            if leader is None or not plan.path:
                return distribution.choices[int(self._begin(plan.step, key, random) * len(distribution.choices))]
            return self._category(plan, name, distribution, leader, random)
        if leader is None or not plan.path:
            return value_at(self._begin(plan.step, key, random), distribution)
        return value_at(self._number(plan, name, distribution, leader, random), distribution)

    def _begin(self, step: int, key: int, random: np.random.Generator) -> float:
        """A unit coordinate of a first trial: strata of a Latin hypercube, in an order that belongs to the name."""
        n = self._settings.first
        if step >= n:
            return float(random.random())
        strata = np.random.default_rng([self._seed, key]).permutation(n)
        return float((strata[step] + random.random()) / n)

    def _number(
        self, plan: _Plan, name: str, distribution: BaseDistribution, leader: FrozenTrial, random: np.random.Generator
    ) -> float:
        """A unit coordinate by v = w v + c r1 (own best - x) + c r2 (best - x) (Shi and Eberhart 1998), reflected."""
        s = self._settings
        places = [place(trial.params[name], distribution, random) for trial in plan.path if name in trial.params]
        best = place(leader.params[name], distribution, random)
        here = places[-1] if places else best
        own = place(plan.own.params[name], distribution, random) if plan.own and name in plan.own.params else here
        last = places[-1] - places[-2] if len(places) > 1 else random.uniform(-s.first_move, s.first_move)
        pull_own, pull_best = s.attraction * random.random(2)
        move = self._inertia(plan) * last + pull_own * (own - here) + pull_best * (best - here)
        x = here + np.clip(move, -s.longest_move, s.longest_move) + random.normal(0, s.jitter)
        return float(np.clip(1 - abs(1 - abs(x)), 0, 1))

    def _category(
        self,
        plan: _Plan,
        name: str,
        distribution: CategoricalDistribution,
        leader: FrozenTrial,
        random: np.random.Generator,
    ) -> Any:
        """The present choice, the particle's best or the best of all; the forces of a move are their chances."""
        if random.random() < self._settings.mutation:
            return distribution.choices[int(random.integers(len(distribution.choices)))]
        best = leader.params[name]
        here = next((trial.params[name] for trial in reversed(plan.path) if name in trial.params), best)
        own = plan.own.params[name] if plan.own and name in plan.own.params else here
        force = np.array([self._inertia(plan), *(self._settings.attraction * random.random(2))])
        return (here, own, best)[int(random.choice(3, p=force / force.sum()))]

    def _inertia(self, plan: _Plan) -> float:
        weights = self._settings.inertia
        return weights[min(len(plan.path), len(weights)) - 1]
