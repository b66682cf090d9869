"""Opens the gate that the settings name, or says why that cannot be."""

from __future__ import annotations

from typing import TYPE_CHECKING

from okko_edge import gpio
from okko_edge.gate import GateChoice, GateError, NoGate
from okko_edge.gates import sysfs_pwm
from okko_edge.gates.relay import Relay
from okko_edge.gates.scheduled import ScheduledGate
from okko_edge.gates.servo import PulseWidths, Servo, open_driver
from okko_edge.gates.simulated import SimulatedGate

if TYPE_CHECKING:
    from okko_edge.clock import Clock
    from okko_edge.events import Counters
    from okko_edge.gates.scheduled import Actuator
    from okko_edge.settings import GateSettings


def open_gate(settings: GateSettings, *, clock: Clock, counters: Counters) -> ScheduledGate | NoGate:
    """Opens the gate of the section [gate]; it goes to rest, so that nobody need wonder where it stood.

    Raises:
        GateError: no such gate, positions beyond its stops, or no hardware that would move.
    """
    choice = _choice(settings)
    if choice.kind == "none":
        return NoGate()
    if choice.kind == "sim":
        return SimulatedGate(
            clock,
            PulseWidths.from_settings(settings),
            counters=counters,
            travel_s=settings.travel_s,
            back_to_rest_s=settings.back_to_rest_s,
            move_s=settings.move_s,
        )
    gate = ScheduledGate(
        _actuator(choice.pin or 0, settings, choice.kind),
        clock=clock,
        counters=counters,
        travel_s=settings.travel_s,
        back_to_rest_s=settings.back_to_rest_s,
    )
    try:
        gate.rest()
    except GateError:
        gate.close()
        raise
    return gate


def why_not_available(settings: GateSettings) -> str | None:
    """Says why the gate of the section [gate] cannot move here, None if nothing stands in its way."""
    try:
        choice = _choice(settings)
        if choice.pin is None:
            return None
        if choice.kind == "relay":
            return gpio.why_not_available()
        PulseWidths.from_settings(settings)
    except GateError as error:
        return str(error)
    no_hardware = sysfs_pwm.why_not_available(choice.pin)
    if settings.driver == "hardware" or no_hardware is None:
        return no_hardware
    no_lgpio = gpio.why_not_available()
    if settings.driver == "lgpio" or no_lgpio is None:
        return no_lgpio
    return f"{no_hardware}; and {no_lgpio}"


def _choice(settings: GateSettings) -> GateChoice:
    try:
        return GateChoice.parse(settings.kind)
    except ValueError as error:
        raise GateError(str(error)) from error


def _actuator(pin: int, settings: GateSettings, kind: str) -> Actuator:
    if kind == "relay":
        return Relay(
            pin,
            fires_on=settings.fires_on,
            pulse_s=settings.pulse_s,
            active_high=settings.relay_active_high,
        )
    widths = PulseWidths.from_settings(settings)
    return Servo(widths, open_driver(pin, settings.driver), move_s=settings.move_s)
