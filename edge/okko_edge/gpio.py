"""What every user of a GPIO pin needs: errors that name the pin and say what to do, and whether there are pins at all.

gpiozero and lgpio are imported only when a pin is asked for; a machine without pins runs everything else.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from okko_models.errors import OkkoError

DEVICES = Path("/dev")


def why_not_available(*, devices: Path = DEVICES) -> str | None:
    """Says why there are no GPIO pins to use, None if there are."""
    chips = sorted(devices.glob("gpiochip*"))
    if not chips:
        return f"this machine has no GPIO pins ({devices}/gpiochip*)"
    if not any(os.access(chip, os.R_OK | os.W_OK) for chip in chips):
        return f"no right to use {chips[0]}; add the user to the group gpio (sudo usermod -aG gpio USER), log in again"
    for package, hint in (
        ("gpiozero", 'pip install "okko[edge]"'),
        ("lgpio", "sudo apt install python3-lgpio, and a venv made with --system-site-packages"),
    ):
        if importlib.util.find_spec(package) is None:
            return f"the Python package {package} is missing: {hint}"
    return None


@contextlib.contextmanager
def claiming(pin: int, kind: type[OkkoError]) -> Iterator[None]:
    """While this lasts, whatever gpiozero or lgpio raise about a pin becomes an error for the user, of type `kind`."""
    try:
        yield
    except kind:
        raise
    except Exception as error:  # lgpio's and gpiozero's exceptions share no base class
        said = str(error)
        if "busy" in said.lower() or type(error).__name__ == "GPIOPinInUse":
            raise kind(f"GPIO{pin} is in use: another program, or another part of okko, has it ({said})") from error
        why = why_not_available()
        raise kind(f"GPIO{pin} cannot be used: {why or f'{type(error).__name__}: {said}'}") from error
