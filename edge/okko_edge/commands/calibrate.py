"""`okko calibrate`: find the servo's positions with the arrow keys, live, and write them into the configuration."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from okko_edge.calibration import Calibration
    from okko_edge.gates.servo import ServoDriver


@click.command()
@click.option("--config", "file", type=click.Path(path_type=Path), metavar="FILE", help="Another configuration file.")
@click.option("--gate", metavar="servo:PIN", help="Another gate than the configuration's.  [servo:PIN or sim]")
def calibrate(file: Path | None, gate: str | None) -> None:
    """Turn the servo with the keys until OK, KO, UNCERTAIN and rest are right, and save them.

    \b
    okko calibrate --config okko.toml
    okko calibrate --config okko.toml --gate servo:18

    The servo moves with every key, and never beyond the stops min_us and max_us of the section [gate]. Saving changes
    these values in the file and nothing else in it; comments stay.
    """  # noqa: D301
    import sys

    import tomlkit  # noqa: F401 (only saving needs it, but then it is too late to install it)

    from okko_edge.calibration import Calibration
    from okko_edge.config import find, read
    from okko_edge.gate import GateChoice
    from okko_edge.gates.servo import open_driver
    from okko_edge.gates.simulated import SimulatedDriver
    from okko_models.errors import OkkoError

    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise OkkoError("okko calibrate needs a terminal: it is steered with keys (with ssh, add -t)")
    path = find(file)
    if path is None:
        raise OkkoError(
            "there is no configuration to write the positions to; `okko config example > okko.toml` makes one, "
            "then: okko calibrate --config okko.toml"
        )
    settings = read(path).settings.gate
    try:
        choice = GateChoice.parse(gate or settings.kind)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--gate") from error
    if choice.kind not in {"servo", "sim"}:
        raise OkkoError(
            f"the gate {choice} has no positions to calibrate; expected servo:PIN, for example --gate servo:18"
        )
    state = Calibration.begin(settings)
    driver: ServoDriver
    driver = SimulatedDriver() if choice.pin is None else open_driver(choice.pin, settings.driver)
    values = {"kind": str(choice)} if choice.pin is not None and str(choice) != settings.kind else {}
    try:
        _converse(state, driver, title=str(choice), path=path, also=values, move_s=settings.move_s)
    finally:
        driver.detach()
        driver.close()


def _converse(
    state: Calibration, driver: ServoDriver, *, title: str, path: Path, also: dict[str, str], move_s: float
) -> None:
    """Shows, waits for a key, does it; until the person quits."""
    import os
    import select
    import signal
    import sys
    import termios
    import time
    import tty
    from dataclasses import replace

    from okko_edge.calibration import CHOICES, Action, parse_keys, save, screen
    from okko_models.errors import OkkoError

    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)

    def show() -> None:
        click.echo("\x1b[H\x1b[J" + "\n".join(screen(state, title)))

    def wait_for(seconds: float | None) -> bool:
        return bool(select.select([terminal], [], [], seconds)[0])

    def keys() -> list[str]:
        while not wait_for(max(move_s, 0.02)):
            driver.detach()  # nobody presses a key: the move is over, and the servo need not hum
            wait_for(None)
        data = os.read(terminal, 64)
        while data.endswith((b"\x1b", b"\x1b[", b"\x1bO")) and wait_for(0.05):
            data += os.read(terminal, 64)
        return parse_keys(data) if data else ["q", "q"]  # the terminal is gone

    def act(action: Action) -> None:
        nonlocal state
        if action is Action.MOVE:
            driver.pulse(state.width_us)
        elif action is Action.TRY_ALL:
            for position in (*CHOICES.values(), state.target):
                driver.pulse(state.widths.of(position))
                time.sleep(max(move_s, 0.02))
        elif action is Action.SAVE:
            try:
                save(path, {**also, **state.values})
            except OkkoError as error:
                state = replace(state, said=str(error))
            else:
                state = replace(state, saved=state.values, said=f"saved to {path}")

    for number in (signal.SIGTERM, signal.SIGHUP):  # a window that is closed ends the pulses too
        signal.signal(number, signal.default_int_handler)
    try:
        tty.setcbreak(terminal)
        driver.pulse(state.width_us)
        show()
        while True:
            for key in keys():
                state, action = state.press(key)
                if action is Action.QUIT:
                    return
                act(action)
            show()
    except KeyboardInterrupt:
        return
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)
