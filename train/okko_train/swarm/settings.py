"""Every choice a swarm offers, the default of each rule, and when a swarm should stop.

Plain values only, so that a saved swarm carries its settings as JSON. The handbook page "The swarm" holds the
measurements behind the defaults.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

TOPOLOGIES = ("global", "ring", "von_neumann", "random")
WALLS = ("reflect", "absorb", "wrap", "random")
STARTS = ("uniform", "sobol", "latin")

# Clerc and Kennedy 2002: with c = 2.05, w = 2 / (phi - 2 + sqrt(phi^2 - 4 phi)) for phi = 2 c.
_CONSTRICTION: dict[str, Any] = {"inertia": 0.729844, "attraction": 2.05}
#: What each rule is used with, where the caller does not say otherwise.
DEFAULTS: dict[str, dict[str, Any]] = {
    "learning": {"velocity_limit": None},
    "competitive": {"velocity_limit": None},
    "inertia": {"inertia": 0.7298, "attraction": 1.49618},
    "constriction": _CONSTRICTION,
    "spso2011": {"inertia": 1 / (2 * math.log(2)), "attraction": 0.5 + math.log(2), "topology": "random"},
    "informed": _CONSTRICTION | {"topology": "ring"},
}


@dataclass(frozen=True)
class Stop:
    """When to stop; the first rule that holds counts. None switches a rule off.

    Attributes:
        evaluations: after so many evaluations.
        target: at a best cost of this or less.
        patience: after so many generations without a better best cost.
        spread: when the swarm fills at most this share of the box in every dimension.

    Raises:
        ValueError: a value that makes no sense; the message names it.
    """

    evaluations: int | None = None
    target: float | None = None
    patience: int | None = None
    spread: float | None = None

    def __post_init__(self) -> None:
        for name in ("evaluations", "patience", "spread"):
            _check(name, getattr(self, name), optional=True, positive=True)
        if self.target is not None and math.isnan(self.target):
            raise ValueError("target is NaN; expected a number or None")


@dataclass(frozen=True)
class Settings:
    """How a swarm flies; `choose` fills in what suits the rule.

    Attributes:
        rule: ``"learning"`` (default: the worse half learns from the better half, see `okko_train.swarm.learning`),
            ``"competitive"``, ``"inertia"``, ``"constriction"``, ``"spso2011"`` or ``"informed"``.
        size: number of particles.
        first: number of points of the first generation; the best ``size`` of them become the swarm.
        start: where those points come from: ``"uniform"``, ``"sobol"`` or ``"latin"`` (Latin hypercube).
        topology: who informs whom, for the last four rules: ``"global"``, ``"ring"``, ``"von_neumann"``, ``"random"``.
        walls: what happens at the bounds: ``"reflect"``, ``"absorb"``, ``"wrap"`` or ``"random"`` (a new coordinate).
        velocity_limit: highest speed per generation as a share of the box, or None for no limit.
        first_velocity: first speed, as a share of the way to another particle (the last four rules).
        inertia: share of the velocity that is kept, one number or one for each generation; the last stays.
        damping: the inertia also shrinks by this factor in each generation.
        attraction: pull towards the particle's own best and, as strong, towards its informants' best.
        mean_attraction: pull towards the swarm's mean (the competitive rule: phi of Cheng and Jin).
        restart_after: start afresh after so many generations without a better cost, or None; the best is kept.

    Raises:
        ValueError: a value that makes no sense; the message names it.
    """

    rule: str = "learning"
    size: int = 40
    first: int = 40
    start: str = "uniform"
    topology: str = "global"
    walls: str = "reflect"
    velocity_limit: float | None = 0.2
    first_velocity: float = 0.5
    inertia: float | tuple[float, ...] = 0.7298
    damping: float = 1.0
    attraction: float = 1.49618
    mean_attraction: float = 0.0
    restart_after: int | None = None

    @classmethod
    def choose(cls, **given: Any) -> Settings:
        """What was given, and for the rest what suits the rule."""
        unknown = sorted(given.keys() - {field.name for field in fields(cls)})
        if unknown:
            raise ValueError(f"{unknown[0]} is no choice of a swarm; it knows {', '.join(f.name for f in fields(cls))}")
        rule, size = given.get("rule", cls.rule), given.get("size", cls.size)
        return cls(**{"first": size} | DEFAULTS.get(rule, {}) | given)

    def __post_init__(self) -> None:
        known = (("rule", DEFAULTS), ("topology", TOPOLOGIES), ("walls", WALLS), ("start", STARTS))
        for name, allowed in known:
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}; use one of {', '.join(allowed)}")
        if self.size < 4:
            raise ValueError(f"size is {self.size}; a swarm needs at least 4 particles")
        if self.first < self.size:
            raise ValueError(f"first is {self.first}; it must not be less than size ({self.size})")
        if isinstance(self.inertia, Sequence):
            object.__setattr__(self, "inertia", tuple(self.inertia))
        for weight in self.inertia if isinstance(self.inertia, tuple) else (self.inertia,):
            _check("inertia", weight)
        for name in ("damping", "attraction", "mean_attraction", "first_velocity"):
            _check(name, getattr(self, name))
        for name in ("velocity_limit", "restart_after"):
            _check(name, getattr(self, name), optional=True, positive=True)
        if self.rule == "informed" and self.topology == "global":
            raise ValueError("topology is 'global'; the informed rule needs ring, von_neumann or random")

    def inertia_at(self, generation: int) -> float:
        """Share of the velocity that is kept in this generation (from 0)."""
        weights = self.inertia if isinstance(self.inertia, tuple) else (self.inertia,)
        return float(weights[min(generation, len(weights) - 1)] * self.damping**generation)


def _check(name: str, value: float | None, *, optional: bool = False, positive: bool = False) -> None:
    if value is None and optional:
        return
    if value is None or not (math.isfinite(value) and value >= 0) or (positive and not value > 0):
        kind = "a positive number" if positive else "a number that is not negative"
        raise ValueError(f"{name} is {value!r}; expected {kind}{' or None' if optional else ''}")
