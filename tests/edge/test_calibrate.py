from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from okko_edge.calibration import Action, Calibration, parse_keys, save, screen
from okko_edge.commands.calibrate import calibrate
from okko_edge.gate import GateError, Position
from okko_edge.settings import GateSettings
from okko_models.errors import OkkoError

FILE = """\
# my sorter
bundle = "marbles.okko"  # the best one

[gate]
kind = "sim"     # no servo yet
ok_us = 1800.0   # found by hand
# the flap touches the frame beyond these
min_us = 1000
max_us = 1900

[journal]
max_days = 30
"""
# `okko calibrate` as `okko.cli` runs it.
PROGRAM = """
import sys
from okko_edge.commands.calibrate import calibrate
from okko_models.errors import OkkoError
try:
    calibrate(sys.argv[1:], prog_name="okko calibrate")
except OkkoError as error:
    sys.exit(f"Error: {error}")
"""


def pressed(keys, **settings):
    state, actions = Calibration.begin(GateSettings(**settings)), []
    for key in keys:
        state, action = state.press(key)
        actions.append(action)
    return state, actions


@pytest.mark.parametrize(
    ("keys", "width_us"),
    [
        (["left"], 1995),
        (["down"], 1950),
        (["-", "-"], 1990),
        (["down", "up"], 2000),
        (["down", "+"], 1955),
        (["down", "right"], 1955),
    ],
)
def test_keys_move_the_chosen_position_by_small_and_by_large_steps(keys, width_us):
    state, actions = pressed(keys)
    assert state.widths.ok_us == width_us
    assert actions == [Action.MOVE] * len(keys)
    assert (state.widths.ko_us, state.widths.uncertain_us, state.widths.rest_us) == (1000, 1500, 1500)


def test_a_number_chooses_the_position_that_the_keys_move_from_then_on():
    state, _ = pressed(["2", "right", "3", "left", "4", "up", "1", "left"])
    assert state.values == {"ok_us": 1995, "ko_us": 1005, "uncertain_us": 1495, "rest_us": 1550}
    assert state.target is Position.OK


@pytest.mark.parametrize(("key", "name", "stop_us"), [("up", "max_us", 2030), ("down", "min_us", 990)])
def test_no_key_leads_beyond_a_stop_and_the_screen_says_so(key, name, stop_us):
    state, actions = pressed([key] * 60, min_us=990, max_us=2030)
    assert state.width_us == stop_us
    assert f"{name} is {stop_us}" in screen(state, "sim")[-1]
    assert set(actions) == {Action.MOVE}


def test_positions_beyond_the_stops_begin_at_the_stops_and_are_not_saved_yet():
    state, _ = pressed([], ok_us=2400, ko_us=700)
    assert (state.widths.ok_us, state.widths.ko_us) == (2000, 1000)
    assert state.changed == ["ok_us", "ko_us"]
    assert "ok_us, ko_us" in state.said
    with pytest.raises(GateError, match="stops"):
        pressed([], min_us=1600, max_us=1400)


def test_quitting_with_changes_asks_once():
    _, actions = pressed(["q"])
    assert actions == [Action.QUIT]
    state, actions = pressed(["left", "q"])
    assert actions[-1] is Action.NOTHING
    assert "ok_us not saved" in state.said
    assert pressed(["left", "q", "q"])[1][-1] is Action.QUIT
    assert pressed(["left", "q", "left", "q"])[1][-1] is Action.NOTHING


def test_other_keys_do_nothing():
    state, actions = pressed(["x", "\n", "5"])
    assert set(actions) == {Action.NOTHING}
    assert state.changed == []


def test_what_a_terminal_sends_becomes_keys():
    assert parse_keys(b"\x1b[A\x1b[B\x1bOC\x1b[D+-1S\x1b[3~q\xff") == [
        *("up", "down", "right", "left", "+", "-", "1", "s", "~", "q", "\N{REPLACEMENT CHARACTER}")
    ]
    assert parse_keys(b"\x1b") == []


def test_the_screen_shows_each_position_between_the_stops():
    state, _ = pressed(["2", "right"])
    lines = screen(state, "servo:18")
    assert lines[0] == "servo:18, stops at 1000 and 2000 µs"
    assert "  1 OK           2000 µs  |----------------------------------------*|" in lines
    assert "> 2 KO           1005 µs  |*----------------------------------------|" in lines
    assert lines[-1] == "not saved: ko_us"


def test_saving_changes_the_values_and_nothing_else(tmp_path):
    path = tmp_path / "okko.toml"
    path.write_text(FILE)
    path.chmod(0o640)
    save(path, {"ok_us": 1805.0, "ko_us": 1012.5, "kind": "servo:18"})
    text = path.read_text()
    assert text == FILE.replace('"sim"     #', '"servo:18"     #').replace("1800.0   #", "1805   #").replace(
        "max_us = 1900\n", "max_us = 1900\nko_us = 1012.5\n"
    )
    assert path.stat().st_mode & 0o777 == 0o640
    assert [entry.name for entry in tmp_path.iterdir()] == ["okko.toml"]


def test_saving_makes_the_section_where_there_is_none_and_follows_a_link(tmp_path):
    (tmp_path / "real.toml").write_text("# nothing yet\n")
    (tmp_path / "okko.toml").symlink_to("real.toml")
    save(tmp_path / "okko.toml", {"ok_us": 1805.0})
    assert (tmp_path / "okko.toml").is_symlink()
    text = (tmp_path / "real.toml").read_text()
    assert text.startswith("# nothing yet\n")
    assert tomllib.loads(text) == {"gate": {"ok_us": 1805}}


def test_a_file_that_cannot_be_written_is_left_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "okko.toml"
    path.write_text(FILE)

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OkkoError, match="No space left"):
        save(path, {"ok_us": 1805.0})
    assert path.read_text() == FILE
    assert [entry.name for entry in tmp_path.iterdir()] == ["okko.toml"]


def test_a_file_that_somebody_broke_meanwhile_is_left_as_it_is(tmp_path):
    path = tmp_path / "okko.toml"
    path.write_text("[gate\n")
    with pytest.raises(OkkoError, match="not TOML any more"):
        save(path, {"ok_us": 1805.0})


def test_without_a_terminal_there_is_a_clear_error(tmp_path):
    path = tmp_path / "okko.toml"
    path.write_text(FILE)
    result = CliRunner().invoke(calibrate, ["--config", str(path)])
    assert isinstance(result.exception, OkkoError)
    assert "needs a terminal" in str(result.exception)


class Terminal:
    """The command, on a terminal of its own."""

    def __init__(self, *arguments, environment=None):
        self.master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *map(str, arguments)],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            env={**os.environ, "LC_ALL": "C.UTF-8", **(environment or {})},
        )
        os.close(slave)
        self.seen = ""

    def until(self, text):
        """Waits until the screen has said something, after what was waited for before."""
        end = time.monotonic() + 30
        while text not in self.seen:
            assert time.monotonic() < end, self.seen
            self.read()
        self.seen = self.seen.partition(text)[2]

    def read(self):
        if select.select([self.master], [], [], 0.5)[0]:
            try:
                self.seen += os.read(self.master, 4096).decode(errors="replace")
            except OSError:  # the other end is closed
                time.sleep(0.05)

    def press(self, keys):
        os.write(self.master, keys.encode())

    def end(self):
        code = self.process.wait(30)
        os.close(self.master)
        return code


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "okko.toml"
    path.write_text(FILE)
    return path


def test_the_handbook_shows_the_screen_that_the_command_shows():
    state, _ = pressed(["down", "left", "2", "up", "up"])
    page = (Path(__file__).parents[2] / "docs" / "gates.md").read_text()
    assert "\n".join(screen(state, "servo:18")) in page


def test_a_person_finds_the_positions_with_the_keys_and_saves_them(config):
    config.write_text(FILE.replace('"sim"', '"servo:18"'))
    terminal = Terminal("--config", config, "--gate", "sim")
    terminal.until("stops at 1000 and 1900")
    terminal.press("\x1b[D")
    terminal.until("1795 µs")
    terminal.press("2\x1b[A\x1b[A+")
    terminal.until("1105 µs")
    terminal.until("not saved: ok_us, ko_us")
    terminal.press("t")
    terminal.until("not saved: ok_us, ko_us")
    terminal.press("1" + "\x1b[A" * 5)
    terminal.until("the stop: max_us is 1900")
    terminal.press("q")
    terminal.until("q again quits")
    terminal.press("s")
    terminal.until("saved to")
    terminal.press("q")
    assert terminal.end() == 0
    saved = tomllib.loads(config.read_text())["gate"]
    assert saved["kind"] == "servo:18", "trying out without a servo must not take it out of the file"
    assert (saved["ok_us"], saved["ko_us"], saved["uncertain_us"], saved["rest_us"]) == (1900, 1105, 1500, 1500)
    assert (saved["min_us"], saved["max_us"]) == (1000, 1900)
    assert "# found by hand" in config.read_text()


@pytest.mark.parametrize("how", ["\x03", signal.SIGTERM])
def test_an_interrupted_calibration_saves_nothing(config, how):
    terminal = Terminal("--config", config)
    terminal.until("q: quit")
    terminal.press("\x1b[D")
    terminal.until("not saved")
    if isinstance(how, str):
        os.killpg(terminal.process.pid, signal.SIGINT)
    else:
        terminal.process.send_signal(how)
    assert terminal.end() == 0
    assert config.read_text() == FILE


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--gate", "relay:17"), "has no positions to calibrate"),
        (("--gate", "arm:1"), "expected servo:PIN"),
        (("--gate", "servo:18"), "no pulses for a servo on GPIO18"),
    ],
)
def test_what_cannot_be_calibrated_is_refused_with_a_reason(config, arguments, message):
    terminal = Terminal("--config", config, *arguments)
    while terminal.process.poll() is None:
        terminal.read()
    terminal.read()
    assert message in " ".join(terminal.seen.split())
    assert terminal.end() != 0
    assert config.read_text() == FILE


def test_without_a_configuration_there_is_nowhere_to_save_to():
    terminal = Terminal(environment={"OKKO_CONFIG": ""})
    terminal.until("no configuration to write the positions to")
    assert terminal.end() == 1
