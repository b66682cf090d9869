"""Particle swarm optimisation as an Optuna sampler: storage, resume, pruning, workers and plots come from Optuna.

The swarm has no memory of its own. Where its particles are, and what they know, is read from the trials in the study's
storage whenever a trial begins; so any number of processes can share one study, and a killed one takes nothing with it.
A particle moves as soon as its own result is known (asynchronous PSO, Koh et al. 2006). Parameters may be conditional:
each one is moved by itself, when the objective asks for it. What is tuned, and how it is scored, is elsewhere.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from optuna.study import Study

PARTICLE = "swarm:particle"
"""System attribute of a trial: the particle that made it. A particle bears the number of its first trial's step."""

MOVE = "swarm:move"
_RETRY_OF = ("failed_trial", "fixed_trial")


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
    """

    first: int = 12
    size: int = 6
    inertia: tuple[float, ...] = (0.5, 0.4, 0.3)
    attraction: float = 1.5
    longest_move: float = 0.3
    first_move: float = 0.15
    jitter: float = 0.02
    mutation: float = 0.1
    local: float = 0.0
    barebones: float = 0.0


@dataclass(frozen=True)
class _Plan:
    """What one trial is going to do, from a snapshot of the study.

    Attributes:
        step: number of the trial among those that are no repetitions of others.
        path: finished trials of the trial's particle, oldest first; empty for a particle that only begins.
        own: best trial of the particle, or None.
        ranking: all completed trials, best first.
    """

    step: int
    path: tuple[FrozenTrial, ...]
    own: FrozenTrial | None
    ranking: tuple[FrozenTrial, ...]


class SwarmSampler(BaseSampler):  # type: ignore[misc]
    def __init__(self, *, seed: int = 0, settings: Settings | None = None) -> None:
        self._seed = seed
        self._settings = Settings() if settings is None else settings
        self._plans: dict[int, _Plan] = {}

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return {}

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        trials = study.get_trials(deepcopy=False)
        step = _step(trial, trials)
        particle = trial.system_attrs.get(PARTICLE)
        swarm = _Swarm(trials, study.direction)
        if particle is None:
            particle = step if step < self._settings.first else swarm.next_particle(self._settings.size, step)
            study._storage.set_trial_system_attr(trial._trial_id, PARTICLE, particle)
        self._plans[trial._trial_id] = swarm.plan(step, particle)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        if trial._trial_id not in self._plans:
            self.before_trial(study, trial)
        plan = self._plans[trial._trial_id]
        random = np.random.default_rng([self._seed, plan.step, zlib.crc32(param_name.encode())])
        if isinstance(param_distribution, CategoricalDistribution):
            return self._category(plan, param_name, param_distribution, random)
        axis = _Axis(param_distribution)
        return axis.decode(self._number(plan, param_name, axis, random))

    def after_trial(
        self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        self._plans.pop(trial._trial_id, None)

    def _begin(self, step: int, name: str, random: np.random.Generator) -> float:
        """A unit coordinate of a first trial: strata of a Latin hypercube, in an order that belongs to the name."""
        n = self._settings.first
        if step >= n:
            return float(random.random())
        strata = np.random.default_rng([self._seed, zlib.crc32(name.encode())]).permutation(n)
        return float((strata[step] + random.random()) / n)

    def _number(self, plan: _Plan, name: str, axis: _Axis, random: np.random.Generator) -> float:
        s = self._settings
        places = [axis.encode(t.params[name], random) for t in plan.path if name in t.params]
        leader = next((t for t in plan.ranking if name in t.params), None)
        if leader is None or not plan.path:
            return self._begin(plan.step, name, random)
        best = axis.encode(leader.params[name], random)
        here = places[-1] if places else best
        own = axis.encode(plan.own.params[name], random) if plan.own and name in plan.own.params else here
        pull = random.random(2) * s.attraction
        if random.random() < s.barebones:
            x = random.normal((own + best) / 2, abs(own - best))
        else:
            last = places[-1] - places[-2] if len(places) > 1 else random.uniform(-s.first_move, s.first_move)
            inertia = s.inertia[min(len(plan.path), len(s.inertia)) - 1]
            move = inertia * last + pull[0] * (own - here) + pull[1] * (best - here)
            x = here + float(np.clip(move, -s.longest_move, s.longest_move))
        x += random.normal(0, s.jitter)
        return float(1 - abs(1 - abs(x)))  # reflection at both walls

    def _category(
        self, plan: _Plan, name: str, distribution: CategoricalDistribution, random: np.random.Generator
    ) -> Any:
        choices = distribution.choices
        past = [t.params[name] for t in plan.path if name in t.params]
        leader = next((t for t in plan.ranking if name in t.params), None)
        if leader is None or not plan.path:
            return choices[int(self._begin(plan.step, name, random) * len(choices))]
        if random.random() < self._settings.mutation:
            return choices[int(random.integers(len(choices)))]
        best = leader.params[name]
        here = past[-1] if past else best
        own = plan.own.params[name] if plan.own and name in plan.own.params else here
        inertia = self._settings.inertia[min(len(plan.path), len(self._settings.inertia)) - 1]
        weight = np.array([inertia, *(random.random(2) * self._settings.attraction)])
        return (here, own, best)[int(random.choice(3, p=weight / weight.sum()))]


class _Swarm:
    def __init__(self, trials: Sequence[FrozenTrial], direction: StudyDirection) -> None:
        sign = -1.0 if direction == StudyDirection.MAXIMIZE else 1.0
        dead = _repeated(trials)
        self.cost = {}
        self.paths: dict[int, list[FrozenTrial]] = {}
        self.flying: dict[int, int] = {}
        for trial in trials:
            if trial.number in dead:
                continue
            particle = trial.system_attrs.get(PARTICLE)
            if particle is None:
                if not trial.state.is_finished():
                    continue
                particle = _step(trial, trials)
            if trial.state.is_finished():
                self.paths.setdefault(particle, []).append(trial)
            elif trial.state == TrialState.RUNNING:
                self.flying[particle] = self.flying.get(particle, 0) + 1
            if trial.state == TrialState.COMPLETE and trial.value is not None and not math.isnan(trial.value):
                self.cost[trial.number] = sign * trial.value
        self.trials = trials

    def best(self, path):
        good = [t for t in path if t.number in self.cost]
        return min(good, key=lambda t: (self.cost[t.number], t.number), default=None)

    def next_particle(self, size: int, step: int) -> int:
        known = {}
        for particle, path in self.paths.items():
            b = self.best(path)
            if b is not None:
                known[particle] = self.cost[b.number]
        elite = sorted(known, key=lambda p: (known[p], p))[:size]
        if not elite:
            return step
        return min(elite, key=lambda p: (self.flying.get(p, 0), len(self.paths[p]), elite.index(p)))

    def plan(self, step: int, particle: int) -> _Plan:
        path = self.paths.get(particle, [])
        everyone = [t for p in self.paths.values() for t in p if t.number in self.cost]
        everyone.sort(key=lambda t: (self.cost[t.number], t.number))
        return _Plan(step, tuple(path), self.best(path), tuple(everyone))


def _is_retry(trial):
    return "failed_trial" in trial.system_attrs


def _repeated(trials):
    return {n for t in trials for n in t.system_attrs.get("retry_history", ())}


def _step(trial: FrozenTrial, trials: Sequence[FrozenTrial]) -> int:
    number = trial.system_attrs.get("failed_trial", trial.number)
    return sum(1 for t in trials if t.number < number and not _is_retry(t))


class _Axis:
    """A numeric parameter as the unit interval."""

    def __init__(self, distribution: BaseDistribution) -> None:
        assert isinstance(distribution, FloatDistribution | IntDistribution)
        self._distribution = distribution
        self._grid = distribution.step
        half = (self._grid or 0) / 2
        self._scale = math.log if distribution.log else float
        self._back = math.exp if distribution.log else float
        self._low, self._high = self._scale(distribution.low - half), self._scale(distribution.high + half)

    def encode(self, value: float, random: np.random.Generator) -> float:
        """Place in [0, 1]; a value on a grid stands anywhere in its cell, or small moves would never leave it."""
        if self._grid:
            value = value + self._grid * random.uniform(-0.5, 0.5)
        u = (self._scale(value) - self._low) / ((self._high - self._low) or 1)
        return min(max(u, 0.0), 1.0)

    def decode(self, unit: float) -> float | int:
        d = self._distribution
        value = self._back(self._low + (self._high - self._low) * unit)
        if self._grid:
            value = d.low + self._grid * math.floor((value - d.low) / self._grid + 0.5)
        value = min(max(value, d.low), d.high)
        return int(value) if isinstance(d, IntDistribution) else float(value)
