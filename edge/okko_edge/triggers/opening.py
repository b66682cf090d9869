"""Opens the trigger that the settings name, or says why that cannot be."""

from __future__ import annotations

from typing import TYPE_CHECKING

from okko_edge import gpio
from okko_edge.trigger import MotionTrigger, TriggerChoice, TriggerError
from okko_edge.triggers.beam import BeamTrigger
from okko_edge.triggers.interval import IntervalTrigger
from okko_edge.triggers.passing import PassingTrigger

if TYPE_CHECKING:
    from okko_edge.clock import Clock
    from okko_edge.settings import TriggerSettings
    from okko_edge.trigger import Trigger


def open_trigger(settings: TriggerSettings, *, clock: Clock) -> Trigger:
    """Opens the trigger of the section [trigger].

    Raises:
        TriggerError: no such trigger, or its pin cannot be used.
    """
    choice = _choice(settings)
    if choice.pin is not None:
        return BeamTrigger(
            choice.pin,
            clock=clock,
            delay_s=settings.delay_s,
            active_high=settings.active_high,
            debounce_s=settings.debounce_s,
        )
    if choice.period_s is not None:
        return IntervalTrigger(choice.period_s)
    return PassingTrigger(axis=settings.axis) if settings.passing else MotionTrigger(settle_s=settings.settle_s)


def why_not_available(settings: TriggerSettings) -> str | None:
    """Says why the trigger of the section [trigger] cannot work here, None if nothing stands in its way."""
    try:
        choice = _choice(settings)
    except TriggerError as error:
        return str(error)
    return gpio.why_not_available() if choice.pin is not None else None


def _choice(settings: TriggerSettings) -> TriggerChoice:
    try:
        return TriggerChoice.parse(settings.kind)
    except ValueError as error:
        raise TriggerError(str(error)) from error
