"""okko itself, with the wheels that a Pi installs, on the Pi's processors: does it say what it says on this machine?

qemu-aarch64 runs each program for exactly the named processor: an instruction that it lacks ends the program, as it
would on the board. Only correctness is tested; the emulated times say nothing about a Pi's.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from packages import CACHE, Debian, install_okko, install_wheels, requirements
from train_both import PHOTOS, trained

BOARDS = {"cortex-a53": "Pi 3, Zero 2 W", "cortex-a72": "Pi 4", "cortex-a76": "Pi 5"}
PYTHONS = {"bookworm": "3.11", "trixie": "3.13"}
PRECISIONS = ("float32", "int8")
TOLERANCE = 1e-4
"""Largest difference in probability from this machine's."""


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    processor: str
    what: str
    result: str
    ok: bool
    seconds: float


class Emulator:
    """Python for aarch64 with okko's edge install, run on one kind of processor."""

    def __init__(self, suite: str) -> None:
        self.python = PYTHONS[suite]
        asked, pins = requirements(self.python, "edge")
        qemu = Debian("trixie", "amd64").unpack(
            CACHE / "qemu-user", "qemu-user", dependencies=False, only=("usr/bin/qemu-aarch64",)
        )
        self._root = Debian(suite, "arm64").unpack(CACHE / f"{suite}-arm64", f"python{self.python}", "libstdc++6")
        site = install_wheels(CACHE / f"site-{self.python}", self.python, asked, pins)
        self._path = f"{site}:{install_okko(CACHE / 'okko')}"
        self._qemu = qemu / "usr/bin/qemu-aarch64"

    def run(self, processor: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """Runs Python with these arguments on `processor`."""
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))},
            "QEMU_CPU": processor,
            "PYTHONPATH": self._path,
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        program = [self._qemu, "-L", self._root, self._root / f"usr/bin/python{self.python}", *arguments]
        return subprocess.run(program, env=environment, text=True, capture_output=True, check=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", nargs="*", type=Path, help="bundles to try; without any, a float32 and an int8 one")
    parser.add_argument("--photos", type=int, default=20, help="how many photos each bundle sees")
    parser.add_argument("--suite", choices=PYTHONS, default="bookworm", help="Debian with its Python")
    arguments = parser.parse_args()
    started = time.monotonic()
    emulator = Emulator(arguments.suite)
    bundles = arguments.bundle or [trained(precision) for precision in PRECISIONS]
    every = sorted(PHOTOS.glob("*/*.jpg"))
    photos = every[:: max(1, len(every) // arguments.photos)][: arguments.photos]
    trials = [Trial(bundle, photos) for bundle in bundles]
    prepared = time.monotonic()
    rows = []

    def show(row: Row) -> None:
        rows.append(row)
        board, verdict = BOARDS[row.processor], "ok" if row.ok else "NOT OK"
        print(
            f"{row.processor}  {board:<14}  {row.what:<21}  {verdict:<6}  {row.seconds:4.0f} s  {row.result}",
            flush=True,
        )

    for processor in BOARDS:
        show(_help(emulator, processor))
        for trial in trials:
            show(trial.repeat(emulator, processor))
    for processor in BOARDS:
        show(_sorts(emulator, processor, bundles[-1]))
    print(f"prepared in {prepared - started:.0f} s, ran {time.monotonic() - prepared:.0f} s")
    if not all(row.ok for row in rows):
        raise SystemExit("not every line is ok")


class Trial:
    """A bundle and some photos, and what okko says of them on this machine."""

    def __init__(self, bundle: Path, photos: list[Path]) -> None:
        self._precision = json.loads((bundle / "manifest.json").read_text())["model"]["precision"]
        self._arguments = ["-m", "okko.cli", "predict", bundle, *photos, "--json"]
        done = subprocess.run([sys.executable, *self._arguments], text=True, capture_output=True, check=True)
        self._here = _answers(done)

    def repeat(self, emulator: Emulator, processor: str) -> Row:
        """Says whether okko says the same on `processor`."""
        start = time.monotonic()
        done = emulator.run(processor, *self._arguments)
        seconds = time.monotonic() - start
        what = f"predict, {self._precision}"
        if done.returncode:
            return Row(processor, what, _failure(done), False, seconds)
        there = _answers(done)
        same = sum(there[name].verdict == mine.verdict for name, mine in self._here.items())
        worst = max(there[name].distance(mine) for name, mine in self._here.items())
        return Row(
            processor,
            what,
            f"{same} of {len(self._here)} verdicts as here; probabilities differ by at most {worst:.1e}",
            same == len(self._here) and worst <= TOLERANCE,
            seconds,
        )


@dataclass(frozen=True)
class Answer:
    """What okko says about one photo."""

    verdict: str
    probability: dict[str, float]

    def distance(self, other: Answer) -> float:
        """Returns the largest difference in probability."""
        return max(abs(self.probability[label] - other.probability[label]) for label in other.probability)


def _answers(done: subprocess.CompletedProcess[str]) -> dict[str, Answer]:
    said = [json.loads(line) for line in done.stdout.splitlines()]
    return {each["file"]: Answer(each["verdict"], each["probability"]) for each in said}


def _help(emulator: Emulator, processor: str) -> Row:
    start = time.monotonic()
    done = emulator.run(processor, "-m", "okko.cli", "--help")
    commands = re.findall(r"^  (\w+) ", done.stdout.partition("Commands:")[2], re.MULTILINE)
    ok = done.returncode == 0 and {"predict", "run"} <= set(commands)
    result = f"{len(commands)} commands, predict and run among them" if ok else _failure(done)
    return Row(processor, "okko --help", result, ok, time.monotonic() - start)


def _sorts(emulator: Emulator, processor: str, bundle: Path, count: int = 20) -> Row:
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        done = emulator.run(
            processor,
            *("-m", "okko.cli", "run", bundle, "--camera", f"sim:{PHOTOS}", "--pace", "fast", "--count", str(count)),
            *("--journal", Path(folder) / "journal.sqlite", "--json"),
        )
    seconds = time.monotonic() - start
    if done.returncode:
        return Row(processor, "okko run", _failure(done), False, seconds)
    said = json.loads(done.stdout)
    verdicts = ", ".join(f"{n} {verdict}" for verdict, n in said["verdicts"].items())
    wrong = said["false_ok"] + said["false_ko"] + said["errors"] + said["journal"]["lost"]
    result = f"{said['marbles']} marbles: {verdicts}; {wrong} mistakes, errors or entries lost"
    return Row(processor, "okko run", result, said["marbles"] == count and wrong == 0, seconds)


def _failure(done: subprocess.CompletedProcess[str]) -> str:
    if done.returncode < 0:
        return f"ended by {signal.Signals(-done.returncode).name}"
    return f"exit code {done.returncode}: {(done.stderr.strip().splitlines() or ['nothing said'])[-1]}"


if __name__ == "__main__":
    main()
