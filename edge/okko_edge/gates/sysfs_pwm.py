"""Servo pulses from the processor's own PWM, through /sys/class/pwm: no jitter, whatever else the machine does.

Needs the overlay `pwm-2chan` in /boot/firmware/config.txt. The kernel numbers its PWM chips as it likes
(raspberrypi/linux#6818), so the chip is found by the address in its device path; on a Raspberry Pi 5 the other chip
drives the fan, and is never touched. The order of writing follows what the kernel's `pwm-bcm2835` was seen to refuse: a
duty cycle longer than the period, a period shorter than the duty cycle, and anything before there is a period.
"""

from __future__ import annotations

import contextlib
import errno
import time
from pathlib import Path
from typing import TYPE_CHECKING

from okko_edge.gate import GateError
from okko_edge.gates.servo import PERIOD_US

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path("/sys/class/pwm")
_UNTIL_PI_4 = {12: 0, 13: 1, 18: 0, 19: 1}
_PI_5 = {12: 0, 13: 1, 18: 2, 19: 3}
CHANNELS = {
    "2020c000.pwm": _UNTIL_PI_4,  # Pi 1, Zero
    "3f20c000.pwm": _UNTIL_PI_4,  # Pi 2, 3, Zero 2
    "fe20c000.pwm": _UNTIL_PI_4,  # Pi 4
    "1f00098000.pwm": _PI_5,  # Pi 5; 1f0009c000.pwm is its fan
}
"""By the chip's address: which GPIO is on which of its channels (BCM2711 and RP1 peripherals data sheets)."""

# udev gives a fresh channel to the group gpio a moment after it appears.
_PATIENCE_S = 1.0
_RETRY_S = 0.02
_OVERLAY = "add `dtoverlay=pwm-2chan` to /boot/firmware/config.txt (Pi 5: see the handbook) and restart"


def find_channel(pin: int, root: Path = ROOT) -> tuple[Path, int]:
    """Returns the folder of the PWM chip, and its channel, for a GPIO number.

    Raises:
        GateError: no such chip, or the pin is not on it.
    """
    for chip in sorted(root.glob("pwmchip*")):
        for part in chip.resolve().parts:
            if part not in CHANNELS:
                continue
            channels = CHANNELS[part]
            if pin not in channels:
                pins = ", ".join(map(str, channels))
                raise GateError(f"GPIO{pin} has no hardware PWM; the pins that have are {pins}")
            return chip, channels[pin]
    raise GateError(f"the hardware PWM is not switched on; {_OVERLAY}")


def why_not_available(pin: int, root: Path = ROOT) -> str | None:
    """Says why there is no hardware PWM for a pin, None if there is."""
    try:
        find_channel(pin, root)
    except GateError as error:
        return str(error)
    return None


def _write(path: Path, text: str) -> None:
    path.write_text(text)


class SysfsPwmServo:
    """A servo on a pin of the processor's PWM.

    Args:
        pin: GPIO number.
        root: where the kernel shows its PWM chips.
        write: writes a text to one of their files.
        sleep: waits some seconds.

    Raises:
        GateError: no such PWM, or no right to use it.
    """

    def __init__(
        self,
        pin: int,
        *,
        root: Path = ROOT,
        write: Callable[[Path, str], None] = _write,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        chip, channel = find_channel(pin, root)
        self._pin = pin
        self._chip = chip
        self._channel = channel
        self._folder = chip / f"pwm{channel}"
        self._write = write
        self._sleep = sleep
        self._enabled = False
        with self._explained():
            self._prepare()

    def pulse(self, width_us: float, /) -> None:
        """Sends pulses of that width from now on.

        Raises:
            GateError: the kernel refuses.
        """
        with self._explained():
            try:
                self._set("duty_cycle", round(width_us * 1000))
            except FileNotFoundError:  # another program gave the channel back, such as a calibration that has ended
                self._prepare()
                self._set("duty_cycle", round(width_us * 1000))
            if not self._enabled:
                self._set("enable", 1)
                self._enabled = True

    def detach(self) -> None:
        """Sends no more pulses.

        Raises:
            GateError: the kernel refuses.
        """
        with self._explained():
            self._enabled = False
            self._set("enable", 0)

    def close(self) -> None:
        """Ends the pulses and gives the channel back."""
        with contextlib.suppress(OSError):
            self._set("enable", 0)
        with contextlib.suppress(OSError):
            self._write(self._chip / "unexport", str(self._channel))

    def _prepare(self) -> None:
        self._export()
        self._enabled = False
        # Another program, or this one before it was killed, may have left pulses running, of any period.
        for name in ("enable", "duty_cycle"):
            with contextlib.suppress(OSError):
                self._set(name, 0)
        self._set("period", PERIOD_US * 1000)

    def _export(self) -> None:
        try:
            self._write(self._chip / "export", str(self._channel))
        except OSError as error:
            if error.errno != errno.EBUSY:  # busy: it is exported already
                raise
        for _ in range(round(_PATIENCE_S / _RETRY_S)):
            try:
                self._set("enable", 0)
            except (PermissionError, FileNotFoundError):
                self._sleep(_RETRY_S)
            except OSError:
                return  # the kernel does not switch off what has no period yet: the file is there and may be written
            else:
                return

    def _set(self, name: str, value: int) -> None:
        self._write(self._folder / name, str(value))

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except PermissionError as error:
            raise GateError(
                f"no right to use the PWM of GPIO{self._pin} ({error.filename}); add the user to the group gpio "
                "(sudo usermod -aG gpio USER) and log in again"
            ) from error
        except OSError as error:
            raise GateError(f"the PWM of GPIO{self._pin} does not work: {error}") from error
