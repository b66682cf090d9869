"""Finding a servo's positions by eye: keys in, pulse widths out, and the file that keeps them.

The core is pure: a `Calibration` and a key give the next `Calibration` and what the servo does. The stops are part of
it, so there is no key with which a pulse beyond them could be asked for.
"""

from __future__ import annotations

import contextlib
import enum
import os
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from okko_edge.gate import Position
from okko_edge.gates.servo import PulseWidths
from okko_models.errors import OkkoError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from okko_edge.settings import GateSettings

STEPS_US = {"left": -5, "right": 5, "-": -5, "+": 5, "down": -50, "up": 50}
"""How far a key moves the horn."""

CHOICES = {"1": Position.OK, "2": Position.KO, "3": Position.UNCERTAIN, "4": Position.REST}
NAMES = {
    Position.OK: "ok_us",
    Position.KO: "ko_us",
    Position.UNCERTAIN: "uncertain_us",
    Position.REST: "rest_us",
}
"""The key of the section [gate] that keeps a position."""


class Action(enum.Enum):
    """What is to be done after a key."""

    NOTHING = enum.auto()
    MOVE = enum.auto()
    TRY_ALL = enum.auto()
    SAVE = enum.auto()
    QUIT = enum.auto()


@dataclass(frozen=True)
class Calibration:
    """Where a calibration stands.

    Attributes:
        widths: the positions as they are now.
        saved: the positions as the file has them, by their keys.
        target: the position that the keys move.
        said: what the person should know.
        quitting: quit was asked for once, with changes that are not saved.
    """

    widths: PulseWidths
    saved: Mapping[str, float]
    target: Position = Position.OK
    said: str = ""
    quitting: bool = False

    @classmethod
    def begin(cls, settings: GateSettings) -> Calibration:
        """Starts from the section [gate]; a position beyond a stop is moved to the stop, and that is said.

        Raises:
            GateError: the stops are the wrong way round.
        """
        least, most = settings.min_us, settings.max_us
        asked = {name: getattr(settings, name) for name in NAMES.values()}
        inside = {name: min(max(width, least), most) for name, width in asked.items()}
        moved = [name for name in asked if asked[name] != inside[name]]
        said = f"beyond the stops, and moved to them: {', '.join(moved)}" if moved else ""
        return cls(PulseWidths(min_us=least, max_us=most, **inside), asked, said=said)

    @property
    def width_us(self) -> float:
        """The pulse width of the position that the keys move."""
        return self.widths.of(self.target)

    @property
    def values(self) -> dict[str, float]:
        """The positions by their keys of the section [gate]."""
        return {name: getattr(self.widths, name) for name in NAMES.values()}

    @property
    def changed(self) -> list[str]:
        """The keys of [gate] whose values are not saved."""
        return [name for name, width in self.values.items() if width != self.saved[name]]

    def press(self, key: str) -> tuple[Calibration, Action]:
        """Returns what a key leads to; keys are "left", "right", "up", "down" and single characters."""
        calm = replace(self, said="", quitting=False)
        if key in STEPS_US:
            return calm._step(STEPS_US[key])
        if key in CHOICES:
            return replace(calm, target=CHOICES[key]), Action.MOVE
        if key == "t":
            return calm, Action.TRY_ALL
        if key == "s":
            return calm, Action.SAVE
        if key == "q":
            if self.changed and not self.quitting:
                unsaved = ", ".join(self.changed)
                return replace(calm, said=f"{unsaved} not saved: s saves, q again quits", quitting=True), Action.NOTHING
            return calm, Action.QUIT
        return self, Action.NOTHING

    def _step(self, step_us: float) -> tuple[Calibration, Action]:
        least, most = self.widths.min_us, self.widths.max_us
        width_us = min(max(self.width_us + step_us, least), most)
        said = ""
        if width_us != self.width_us + step_us:
            name, stop_us = ("min_us", least) if step_us < 0 else ("max_us", most)
            said = f"the stop: {name} is {stop_us:g}; change it in the file if the servo can go further"
        return replace(self, widths=replace(self.widths, **{NAMES[self.target]: width_us}), said=said), Action.MOVE


def parse_keys(data: bytes) -> list[str]:
    """Returns the keys in what a terminal sent; arrows come as ESC [ A or ESC O A, everything else as itself."""
    arrows = {"A": "up", "B": "down", "C": "right", "D": "left"}
    text = data.decode(errors="replace")
    keys = []
    while text:
        if text[0] == "\x1b":
            if text[1:2] in {"[", "O"}:
                if text[2:3] in arrows:
                    keys.append(arrows[text[2]])
                text = text[3:]
            else:
                text = text[1:]
            continue
        keys.append(text[0].lower())
        text = text[1:]
    return keys


def screen(state: Calibration, title: str) -> list[str]:
    """Returns the lines to show: the positions on their way between the stops, and the keys."""
    least, most = state.widths.min_us, state.widths.max_us
    lines = [f"{title}, stops at {least:g} and {most:g} µs", ""]
    for key, position in CHOICES.items():
        width_us = state.widths.of(position)
        place = round((width_us - least) / (most - least) * 40)
        rail = "-" * place + "*" + "-" * (40 - place)
        mark = ">" if position is state.target else " "
        lines.append(f"{mark} {key} {position.value:<9} {width_us:>7g} µs  |{rail}|")
    return [
        *lines,
        "",
        "1 to 4: choose a position    left/right or -/+: 5 µs    down/up: 50 µs",
        "t: try all    s: save    q: quit",
        state.said or (f"not saved: {', '.join(state.changed)}" if state.changed else "saved"),
    ]


def save(path: Path, values: Mapping[str, object]) -> None:
    """Writes values into the section [gate] of a configuration file; all else in it, comments too, stays as it is.

    The file is replaced in one step, so a power cut leaves the old or the new one.

    Args:
        path: the file.
        values: by name of the key.

    Raises:
        OkkoError: the file cannot be read or written.
    """
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    real = path.resolve()
    try:
        document = tomlkit.parse(real.read_text("utf-8-sig"))
        gate = document.setdefault("gate", tomlkit.table())
        for name, value in values.items():
            gate[name] = int(value) if isinstance(value, float) and value.is_integer() else value
        _replace(real, tomlkit.dumps(document))
    except TOMLKitError as error:
        raise OkkoError(f"{path} is not TOML any more: {error}") from error
    except OSError as error:
        hint = "; start okko calibrate with sudo" if isinstance(error, PermissionError) else ""
        raise OkkoError(f"{path} cannot be written: {error.strerror}{hint}") from error


def _replace(path: Path, text: str) -> None:
    before = path.stat()
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fchmod(file.fileno(), before.st_mode & 0o7777)
            with contextlib.suppress(PermissionError):  # only root may give a file to its owner
                os.fchown(file.fileno(), before.st_uid, before.st_gid)
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
