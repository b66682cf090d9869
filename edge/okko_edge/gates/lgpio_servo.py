"""Servo pulses of exact microseconds from lgpio, on any pin, where the hardware PWM is not to be had.

A thread of lgpio's times each pulse, so a busy processor makes them jitter: that is why they last only for a move.
"""

from __future__ import annotations

import contextlib
import importlib
import time
from typing import TYPE_CHECKING

from okko_edge.gate import GateError
from okko_edge.gates.servo import PERIOD_US
from okko_edge.gpio import claiming

if TYPE_CHECKING:
    from types import ModuleType

# The chips that drive the header's pins, as the kernel names them: Pi 5, Pi 4, and all before.
CHIPS = ("pinctrl-rp1", "pinctrl-bcm2711", "pinctrl-bcm2835")
_MOST_CHIPS = 16
# What lgpio sends; anything else is an error of its own.
SHORTEST_US, LONGEST_US = 500, 2500
# A pulse that runs, and one more, are over by then.
_LAST_PULSES_S = 0.045


class LgpioServo:
    """A servo on any pin of the header.

    Args:
        pin: GPIO number.
        lgpio: the library; imported when not given.

    Raises:
        GateError: no GPIO chip, or the pin is taken.
    """

    def __init__(self, pin: int, *, lgpio: ModuleType | None = None) -> None:
        self._pin = pin
        self._width_us = 0
        with claiming(pin, GateError):
            self._lgpio = lgpio or _import()
            self._handle = _open_chip(self._lgpio)
            try:
                self._lgpio.gpio_claim_output(self._handle, pin, 0)
            except Exception:
                self._lgpio.gpiochip_close(self._handle)
                raise

    def pulse(self, width_us: float, /) -> None:
        """Sends pulses of that width from now on, to the microsecond.

        Raises:
            GateError: lgpio cannot send it.
        """
        width = round(width_us)
        if not SHORTEST_US <= width <= LONGEST_US:
            raise GateError(
                f"lgpio sends pulses of {SHORTEST_US} to {LONGEST_US} µs, not {width_us:g}; "
                'use the hardware PWM (driver = "hardware"), or another position'
            )
        with claiming(self._pin, GateError):
            self._lgpio.tx_servo(self._handle, self._pin, width, round(1e6 / PERIOD_US))
            self._width_us = width

    def detach(self) -> None:
        """Sends one pulse more, then no more.

        Asked for a width of 0 in the middle of a pulse, lgpio leaves the pin high; a last pulse always ends low.

        Raises:
            GateError: lgpio refuses.
        """
        if self._width_us:
            with claiming(self._pin, GateError):
                self._lgpio.tx_servo(self._handle, self._pin, self._width_us, round(1e6 / PERIOD_US), 0, 1)
            self._width_us = 0

    def close(self) -> None:
        """Ends the pulses and gives the pin back."""
        if self._width_us:
            with contextlib.suppress(GateError):
                self.detach()
        time.sleep(_LAST_PULSES_S)
        with contextlib.suppress(self._lgpio.error):
            self._lgpio.gpio_free(self._handle, self._pin)
        with contextlib.suppress(self._lgpio.error):
            self._lgpio.gpiochip_close(self._handle)


def _import() -> ModuleType:
    try:
        return importlib.import_module("lgpio")
    except ModuleNotFoundError as error:
        raise GateError(
            "the Python package lgpio is missing: sudo apt install python3-lgpio, and a venv made with "
            '--system-site-packages (or pip install "okko[pi]")'
        ) from error


def _open_chip(lgpio: ModuleType) -> int:
    """Opens the chip of the header's pins; its number differs between kernels, so it is known by its label."""
    failure: Exception | None = None
    for number in range(_MOST_CHIPS):
        try:
            handle: int = lgpio.gpiochip_open(number)
        except lgpio.error as error:
            failure = failure or error
            continue
        _, _, _, label = lgpio.gpio_get_chip_info(handle)
        if label in CHIPS:
            return handle
        lgpio.gpiochip_close(handle)
    raise failure or GateError(f"none of this machine's GPIO chips drives a header; expected one of {', '.join(CHIPS)}")
