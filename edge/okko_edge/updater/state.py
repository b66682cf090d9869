"""What a device remembers about its models, and the rules by which that changes: values in, values out, no disk.

Which model is in service is said by two links beside this state (`shelf`); only a rename can change both at once and
survive a power cut. The state is written before the links are, and every rule here holds at any moment between the two:
a probation of a bundle that is not current has not begun, a candidate that is current is none, and a current bundle
that was rejected is on its way out.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

    from okko_edge.settings import UpdatesSettings
    from okko_edge.updater.protocols import Health, SelfTest, ShadowReport

BY_HAND: Final = "by hand"
"""The place of a candidate that a person chose on the device itself."""
MAX_REJECTED: Final = 200
MAX_CONFIRMED: Final = 20
MAX_TRIES: Final = 3
"""A candidate whose self-test was begun so often, and never ended, takes the device down: it is rejected."""
FAST_MS: Final = 5.0
"""What takes no longer than this is fast enough, however much faster the old model is."""


class Stage(enum.StrEnum):
    """How far a candidate has come."""

    FETCHED = "fetched"
    TESTED = "tested"
    SHADOWED = "shadowed"


@dataclass(frozen=True, slots=True)
class Arrival:
    """A bundle that wants to be put in service.

    Attributes:
        digest: the bundle's.
        name: its name.
        version: its version.
        place: who wants it: `channels/stable`, `pins/DEVICE`, or `by hand`.
        stage: how far it has come.
        tries: self-tests that were begun since the last one that ended.
        shadow: whether it has to judge marbles beside the model in service first.
    """

    digest: str
    name: str
    version: str
    place: str
    stage: Stage = Stage.FETCHED
    tries: int = 0
    shadow: bool = True


@dataclass(frozen=True, slots=True)
class Candidate:
    """A verified bundle that wants to be put in service.

    Attributes:
        digest: the bundle's.
        folder: where it is.
        stage: how far it has come.
        shadow: whether it has to judge marbles beside the model in service first.
        proven: whether it proved itself on this device before.
    """

    digest: str
    folder: Path
    stage: Stage
    shadow: bool
    proven: bool


@dataclass(frozen=True, slots=True)
class Probation:
    """A bundle that is in service but has not proven itself.

    Attributes:
        digest: the bundle's.
        starts: starts of the agent with it that have not ended well so far.
        at: when it was put in service, seconds since 1970.
    """

    digest: str
    starts: int
    at: float


@dataclass(frozen=True, slots=True)
class Rejection:
    """A bundle that is not tried again.

    Attributes:
        digest: the bundle's.
        reason: what it did.
        at: when, seconds since 1970.
        okko: only for this version of okko, which cannot read it; empty: for all.
    """

    digest: str
    reason: str
    at: float
    okko: str = ""


@dataclass(frozen=True, slots=True)
class State:
    """All of it.

    Attributes:
        pin: digest of the bundle that this device is held on; empty: none.
        candidate: the bundle that wants to be put in service.
        probation: the bundle that is in service on trial.
        rejected: newest first.
        confirmed: digests that proved themselves on this device, newest first.
        registry: where the device was enrolled.
    """

    pin: str = ""
    candidate: Arrival | None = None
    probation: Probation | None = None
    rejected: tuple[Rejection, ...] = ()
    confirmed: tuple[str, ...] = ()
    registry: str = ""

    def rejection(self, digest: str, okko: str) -> Rejection | None:
        """Returns why a bundle is not tried again by this version of okko; None if it may be."""
        for rejection in self.rejected:
            if rejection.digest == digest and rejection.okko in {"", okko}:
                return rejection
        return None

    def choices(self, current: str, previous: str) -> tuple[str, ...]:
        """Returns the bundles that may be in service, best first.

        Args:
            current: digest that the link `current` names; empty: it names none.
            previous: likewise.
        """
        bad = {rejection.digest for rejection in self.rejected if not rejection.okko}
        return tuple(dict.fromkeys(digest for digest in (current, previous) if digest and digest not in bad))

    def wants(self, current: str) -> Arrival | None:
        """Returns the candidate, unless it is current already."""
        return None if self.candidate is None or self.candidate.digest == current else self.candidate

    def on_probation(self, current: str) -> Probation | None:
        """Returns the probation of the current bundle; None if it has none."""
        return self.probation if self.probation is not None and self.probation.digest == current else None

    def needed(self, current: str, previous: str) -> frozenset[str]:
        """Returns the digests of all bundles that have to stay on the disk."""
        candidate = self.candidate.digest if self.candidate else ""
        return frozenset(filter(None, (current, previous, candidate, self.pin)))


def arrived(state: State, arrival: Arrival) -> State:
    """A bundle is here and verified; one that was the candidate already stays as far as it has come."""
    known = state.candidate
    if known is not None and known.digest == arrival.digest:
        arrival = replace(known, place=arrival.place)
    # One that proved itself here before, or that a person asked for, does not have to agree with the one in service:
    # that one may be what they want to get away from.
    if arrival.digest in state.confirmed or arrival.place == BY_HAND:
        arrival = replace(arrival, shadow=False)
    return replace(state, candidate=arrival)


def withdrawn(state: State) -> State:
    """There is no candidate any more."""
    return replace(state, candidate=None)


def testing(state: State) -> State:
    """The self-test of the candidate begins."""
    known = state.candidate
    return state if known is None else replace(state, candidate=replace(known, tries=known.tries + 1))


def untested(state: State) -> State:
    """The candidate's self-test could not be done, for a reason that says nothing about the candidate."""
    known = state.candidate
    return state if known is None else replace(state, candidate=replace(known, tries=max(0, known.tries - 1)))


def passed(state: State, digest: str, stage: Stage) -> State:
    """The candidate has come so far; it never goes back."""
    known = state.candidate
    if known is None or known.digest != digest:
        return state
    stage = stage if known.stage is Stage.FETCHED else Stage.SHADOWED if stage is Stage.SHADOWED else known.stage
    return replace(state, candidate=replace(known, stage=stage, tries=0))


def switching(state: State, digest: str, at: float, *, running: bool) -> State:
    """The bundle is about to become current, at `at` seconds since 1970; `running`: the agent sorts with it at once."""
    return replace(state, probation=Probation(digest, int(running), at))


def started(state: State, current: str) -> State:
    """The agent starts with the current bundle; if that is on probation, this is a bad start until it ends well."""
    probation = state.on_probation(current)
    return state if probation is None else replace(state, probation=replace(probation, starts=probation.starts + 1))


def ended_well(state: State, current: str) -> State:
    """The agent ends as it should: its start was no bad one."""
    probation = state.on_probation(current)
    if probation is None:
        return state
    return replace(state, probation=replace(probation, starts=max(0, probation.starts - 1)))


def healthy(state: State, digest: str) -> State:
    """The bundle in service proved itself."""
    probation = None if state.probation is not None and state.probation.digest == digest else state.probation
    others = tuple(other for other in state.confirmed if other != digest)
    return replace(state, probation=probation, confirmed=(digest, *others)[:MAX_CONFIRMED])


def rejected(state: State, rejection: Rejection) -> State:
    """The bundle is not tried again: it is neither candidate, nor on probation, nor proven."""
    digest = rejection.digest
    return replace(
        state,
        rejected=(rejection, *forgiven(state, digest).rejected)[:MAX_REJECTED],
        candidate=None if state.candidate is not None and state.candidate.digest == digest else state.candidate,
        probation=None if state.probation is not None and state.probation.digest == digest else state.probation,
        confirmed=tuple(other for other in state.confirmed if other != digest),
    )


def forgiven(state: State, digest: str) -> State:
    """A person wants the bundle tried again."""
    return replace(state, rejected=tuple(known for known in state.rejected if known.digest != digest))


def pinned(state: State, digest: str) -> State:
    """The device is held on a bundle; empty: on none."""
    return replace(state, pin=digest)


def enrolled(state: State, registry: str) -> State:
    """The device trusts this registry."""
    return replace(state, registry=registry)


def judge_self_test(test: SelfTest, limits: UpdatesSettings) -> str | None:
    """Returns why a model that passed its golden frames is not good enough for this device; None if it is."""
    if test.latency_ms > limits.latency_ms:
        return (
            f"it takes {test.latency_ms:.0f} ms for a frame on this device; at most {limits.latency_ms:g} ms are "
            "allowed (updates.latency_ms)"
        )
    return None


def judge(report: ShadowReport, limits: UpdatesSettings) -> str | None:
    """Returns why a model that judged marbles beside the old one is not put in service; None if it may be.

    Args:
        report: of a finished shadow run.
        limits: `agreement`, `more_uncertain` and `times_slower` are used.
    """
    # Written so that a share that is not a number is refused.
    if not report.agreement >= limits.agreement:
        return (
            f"it agrees with the model in service on {report.agreement:.1%} of {report.marbles} marbles; at least "
            f"{limits.agreement:.1%} are expected (updates.agreement)"
        )
    more = report.uncertain_share_new - report.uncertain_share_old
    if not more <= limits.more_uncertain:
        return (
            f"it is UNCERTAIN of {report.uncertain_share_new:.1%} of {report.marbles} marbles, the model in service of "
            f"{report.uncertain_share_old:.1%}; {limits.more_uncertain:.1%} more are allowed (updates.more_uncertain)"
        )
    slowest = max(FAST_MS, limits.times_slower * report.latency_ms_old)
    if not report.latency_ms_new <= slowest:
        return (
            f"it takes {report.latency_ms_new:.1f} ms for a marble, the model in service {report.latency_ms_old:.1f} "
            f"ms; at most {limits.times_slower:g} times that is allowed (updates.times_slower)"
        )
    return None


@dataclass(frozen=True, slots=True)
class Judgement:
    """What probation has come to: proven, or bad (and why), or neither yet."""

    proven: bool = False
    bad: str = ""


def judge_health(health: Health, limits: UpdatesSettings) -> Judgement:
    """Returns whether the model in service has proven itself; `probation_marbles` and `probation_errors` are used."""
    errors = health.inference_failures + health.deadline_misses
    if errors > limits.probation_errors:
        return Judgement(
            bad=f"in service it failed on {health.inference_failures} and was too late for {health.deadline_misses} of "
            f"its first {health.marbles} marbles; {limits.probation_errors} are allowed (updates.probation_errors)"
        )
    return Judgement(proven=health.marbles >= limits.probation_marbles)
