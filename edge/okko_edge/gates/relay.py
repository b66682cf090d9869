"""A relay or transistor as a gate: a short jet of air for some verdicts, nothing for the others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from okko_edge.gate import GateError, Position
from okko_edge.gpio import claiming

if TYPE_CHECKING:
    from gpiozero.pins import Factory

FIRES_ON = {
    "OK": {Position.OK},
    "KO": {Position.KO},
    "UNCERTAIN": {Position.UNCERTAIN},
    "not OK": {Position.KO, Position.UNCERTAIN},
}


class Relay:
    """An actuator that switches one pin on for a moment; a marble that it does not fire on ends a jet at once.

    Args:
        pin: GPIO number.
        fires_on: a key of `FIRES_ON`.
        pulse_s: how long it is on.
        active_high: whether a high pin means on.
        pin_factory: gpiozero's; its default when not given.

    Raises:
        GateError: no GPIO, or the pin is taken.
    """

    park = Position.REST

    def __init__(
        self,
        pin: int,
        *,
        fires_on: str = "not OK",
        pulse_s: float = 0.05,
        active_high: bool = True,
        pin_factory: Factory | None = None,
    ) -> None:
        self.hold_s = pulse_s
        self._pin = pin
        self._fires_on = FIRES_ON[fires_on]
        with claiming(pin, GateError):
            from gpiozero import DigitalOutputDevice

            self._output = DigitalOutputDevice(
                pin, active_high=active_high, initial_value=False, pin_factory=pin_factory
            )

    def go(self, position: Position, /) -> None:
        """Switches on if it fires on this position, else off."""
        with claiming(self._pin, GateError):
            self._output.value = position in self._fires_on

    def release(self) -> None:
        """Switches off."""
        with claiming(self._pin, GateError):
            self._output.off()

    def close(self) -> None:
        """Switches off and gives the pin back."""
        self._output.close()
