"""A servo as a gate: four pulse widths, two stops that are never passed, and who makes the pulses.

A hobby servo turns to where the length of its pulses says, 50 of them a second. It is given pulses only while it
moves: without them it rests by friction and neither hums nor jitters. gpiozero's own servo is not used, because its
default pin factory makes pulses in steps of 200 microseconds (gpiozero#1209), which is 11 places in half a turn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from okko_edge.gate import GateError, Position

if TYPE_CHECKING:
    from okko_edge.settings import GateSettings

PERIOD_US = 20_000
"""From one pulse to the next: 50 a second, what every analogue hobby servo takes."""


class ServoDriver(Protocol):
    """Makes the pulses on one pin; every method may raise `GateError`."""

    def pulse(self, width_us: float, /) -> None:
        """Sends pulses of that width from now on; returns at once."""

    def detach(self) -> None:
        """Sends no more pulses."""

    def close(self) -> None:
        """Lets go of the pin."""


@dataclass(frozen=True, kw_only=True)
class PulseWidths:
    """Where the servo's horn stands for each position, in microseconds of pulse width.

    Raises:
        GateError: a position is beyond a stop, or the stops are the wrong way round.
    """

    ok_us: float = 2000.0
    ko_us: float = 1000.0
    uncertain_us: float = 1500.0
    rest_us: float = 1500.0
    min_us: float = 1000.0
    max_us: float = 2000.0

    def __post_init__(self) -> None:
        if not self.min_us < self.max_us:
            raise GateError(f"the stops min_us {self.min_us:g} and max_us {self.max_us:g} leave no way between them")
        for name in ("ok_us", "ko_us", "uncertain_us", "rest_us"):
            width_us = getattr(self, name)
            if not self.min_us <= width_us <= self.max_us:
                raise GateError(
                    f"{name} is {width_us:g} µs, beyond the stops at {self.min_us:g} and {self.max_us:g} µs; "
                    "`okko calibrate` finds a place between them"
                )

    @classmethod
    def from_settings(cls, settings: GateSettings) -> PulseWidths:
        """Takes the widths out of the section [gate]."""
        return cls(
            ok_us=settings.ok_us,
            ko_us=settings.ko_us,
            uncertain_us=settings.uncertain_us,
            rest_us=settings.rest_us,
            min_us=settings.min_us,
            max_us=settings.max_us,
        )

    def of(self, position: Position) -> float:
        """Returns the pulse width for a position, in microseconds."""
        return {
            Position.OK: self.ok_us,
            Position.KO: self.ko_us,
            Position.UNCERTAIN: self.uncertain_us,
            Position.REST: self.rest_us,
        }[position]


class Servo:
    """An actuator that turns a horn.

    Args:
        widths: the positions.
        driver: makes the pulses.
        move_s: how long a move takes; then the pulses end.
    """

    park = Position.KO

    def __init__(self, widths: PulseWidths, driver: ServoDriver, *, move_s: float = 0.4) -> None:
        self.widths = widths
        self.hold_s = move_s
        self._driver = driver

    def go(self, position: Position, /) -> None:
        """Sends the pulses of a position."""
        self._driver.pulse(self.widths.of(position))

    def release(self) -> None:
        """Sends no more pulses; the horn stays where it is by friction."""
        self._driver.detach()

    def close(self) -> None:
        """Lets go of the pin."""
        self._driver.close()


def open_driver(pin: int, driver: str = "auto") -> ServoDriver:
    """Opens what makes the pulses on a pin.

    Args:
        pin: GPIO number.
        driver: "hardware", "lgpio", or "auto" for the better one that works here.

    Raises:
        GateError: there is none, or the pin is taken.
    """
    from okko_edge.gates.lgpio_servo import LgpioServo
    from okko_edge.gates.sysfs_pwm import SysfsPwmServo

    if driver == "hardware":
        return SysfsPwmServo(pin)
    if driver == "lgpio":
        return LgpioServo(pin)
    try:
        return SysfsPwmServo(pin)
    except GateError as no_hardware:
        try:
            return LgpioServo(pin)
        except GateError as no_lgpio:
            raise GateError(f"no pulses for a servo on GPIO{pin}: {no_hardware}; and {no_lgpio}") from no_lgpio
