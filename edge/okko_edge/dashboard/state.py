"""What the page is told once a second, as values; and what the dashboard asks of the parts that it steers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from okko_edge.metrics import resident_bytes, temperature_celsius

if TYPE_CHECKING:
    from okko_edge.about import About
    from okko_edge.dashboard.marbles import LiveView, Marble
    from okko_edge.sorter import Decision
    from okko_edge.statistics import Snapshot
    from okko_models.decision import Verdict

SHOWN = 24
"""Marbles on the page."""


class Controls(Protocol):
    """What the buttons do. Called on a thread of the dashboard; an `OkkoError` is shown to the person who clicked."""

    @property
    def paused(self) -> bool:
        """Whether sorting is paused."""

    def pause(self) -> None:
        """Stops looking at marbles."""

    def resume(self) -> None:
        """Looks at marbles again."""

    def test_gate(self, verdict: Verdict, /) -> None:
        """Sends the gate to a verdict's position; only ever called while paused."""


class Corrections(Protocol):
    """Where a person's labels go; an outbox is one. Called on a thread of the dashboard."""

    def label(self, digest: str, label: str, /) -> bool:
        """Labels a frame that is kept already; returns whether it is."""

    def keep(self, decision: Decision, label: str, /) -> None:
        """Keeps a decision's frame with its label."""


@dataclass(frozen=True, slots=True)
class ShownMarble:
    """A marble on the page; see `Decision` and `Classification`. Times in seconds, `ago_s` since it was sorted."""

    number: int
    ago_s: float
    verdict: str
    outcome: str
    label: str | None
    probability: dict[str, float] | None
    probability_of_ok: float | None
    novelty: float | None
    error: str | None
    path_ms: float
    truth: str | None
    photo: str | None
    picture: bool
    correction: str | None


@dataclass(frozen=True, slots=True)
class View:
    """The newest frame: its size in pixels, age, frames a second, and the region (left, top, width, height)."""

    width: int
    height: int
    age_s: float
    frames_per_s: float
    region: tuple[int, int, int, int] | None


@dataclass(frozen=True, slots=True)
class Machine:
    """The device: resident memory in bytes and the processor's temperature, where the kernel says them."""

    memory_bytes: int | None
    temperature_celsius: float | None


@dataclass(frozen=True, slots=True)
class State:
    """Everything on the page.

    Attributes:
        run: names this start of the program, so that a page can tell a restart.
        about: the model and what stands around it.
        paused: whether sorting is paused.
        can_correct: whether there is somewhere for corrections to go.
        has_password: whether one can log out.
        statistics: counts and rolling statistics.
        events: the counted events.
        view: the newest frame; None before the first.
        marbles: the latest, newest first.
        machine: memory and temperature.
    """

    run: str
    about: About
    paused: bool
    can_correct: bool
    has_password: bool
    statistics: Snapshot
    events: dict[str, int]
    view: View | None
    marbles: list[ShownMarble]
    machine: Machine


def shown(marble: Marble, about: About, now_s: float) -> ShownMarble:
    """Returns what the page shows of a marble."""
    decision = marble.decision
    said = decision.classification
    labels = decision.judge.labels if decision.judge else about.labels
    return ShownMarble(
        number=decision.number,
        ago_s=now_s - marble.at_s,
        verdict=decision.verdict.value,
        outcome=decision.outcome.value,
        label=said.label if said else None,
        probability=dict(zip(labels, said.probability.tolist(), strict=True)) if said else None,
        probability_of_ok=_finite(said.probability_of_ok) if said else None,
        novelty=_finite(said.novelty) if said else None,
        error=decision.error,
        path_ms=decision.path_ms,
        truth=marble.frame.truth if marble.frame else None,
        photo=marble.frame.photo if marble.frame else None,
        picture=marble.frame is not None,
        correction=marble.correction,
    )


def view_of(live: LiveView, about: About) -> View | None:
    """Returns what there is to say of the newest frame."""
    newest = live.newest
    if newest is None:
        return None
    height, width = newest[0].image.shape[:2]
    region = about.region.box(width, height) if about.region else None
    return View(width, height, newest[1], live.frames_per_s(), region)


def machine() -> Machine:
    """Looks at the device."""
    return Machine(resident_bytes(), temperature_celsius())


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
