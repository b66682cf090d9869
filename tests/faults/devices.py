"""Starts, breaks, kills and reads devices in processes of their own (`tests.faults.device`), and judges their logs."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": "/nowhere",
    "AWS_SHARED_CREDENTIALS_FILE": "/nowhere",
}


@dataclass
class Life:
    """What one process did, by its log.

    Attributes:
        start_s: when its Python was up.
        came: (number, time, photo) of each marble that broke the beam.
        verdicts: (time of arrival, time of the verdict, position) of each verdict.
        moves: (time, position) of each move of the gate.
    """

    start_s: float = 0.0
    came: list[tuple[int, float, int]] = field(default_factory=list)
    verdicts: list[tuple[float, float, str]] = field(default_factory=list)
    moves: list[tuple[float, str]] = field(default_factory=list)

    def matched(self) -> list[tuple[int, str]]:
        """Returns (index of the marble in `came`, position) of each verdict: it belongs to the last that had come."""
        matched, index = [], -1
        for arrived_s, _, position in self.verdicts:
            while index + 1 < len(self.came) and self.came[index + 1][1] <= arrived_s + 1e-5:
                index += 1
            matched.append((index, position))
        return matched

    @property
    def exactly_one_each(self) -> bool:
        """Whether the verdicts are those of the first marbles, in their order, without a gap and without a second."""
        return [index for index, _ in self.matched()] == list(range(len(self.verdicts)))

    @property
    def undecided(self) -> int:
        """Marbles that had no verdict when the process ended."""
        return len(self.came) - len(self.verdicts)


def read_lives(log: Path) -> list[Life]:
    """Reads a log."""
    lives: list[Life] = []
    for line in log.read_text().splitlines() if log.exists() else ():
        kind, *words = line.split()
        if kind == "start":
            lives.append(Life(float(words[0])))
        elif kind == "in":
            lives[-1].came.append((int(words[0]), float(words[1]), int(words[2])))
        elif kind == "out":
            lives[-1].verdicts.append((float(words[0]), float(words[1]), words[2]))
        else:
            lives[-1].moves.append((float(words[0]), words[1]))
    return lives


@dataclass
class Row:
    """A row of the journal, as far as it is compared."""

    run: str
    at_s: float
    number: int
    verdict: str
    photo: str | None
    outcome: str
    error: str | None


def journal_rows(path: Path, after: int = 0) -> dict[int, Row]:
    """Returns the committed rows by their place in the file; empty while there is no file that can be read."""
    columns = "rowid, run, monotonic_s, number, verdict, photo, outcome, error"
    try:
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5)) as connection:
            found = connection.execute(f"SELECT {columns} FROM marbles WHERE rowid > ?", (after,)).fetchall()
    except sqlite3.OperationalError:
        return {}
    return {place: Row(*rest) for place, *rest in found}


class DeviceProcess:
    """A device, running.

    Args:
        folder: where its files are; several lives of one device share it.
        config: the configuration's text.
        photos: what its marbles look like.
        start_s: when marble 0 came.
        period_s: from one marble to the next.
        environment: added to that of the process.
        arguments: added to the command.
        program: the device, or one that measures it.
    """

    def __init__(
        self,
        folder: Path,
        config: str,
        *,
        photos: Path,
        start_s: float | None = None,
        period_s: float = 0.05,
        environment: dict[str, str] | None = None,
        arguments: tuple[str, ...] = (),
        program: str = "tests.faults.device",
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "okko.toml").write_text(config)
        self.log = folder / "world.log"
        self._lives_before = len(read_lives(self.log))
        start = time.monotonic() if start_s is None else start_s
        command = [sys.executable, "-m", program, photos, self.log, start, period_s]
        command += ["run", "--config", folder / "okko.toml", "--json", *arguments]
        self._said = (folder / "said.txt").open("ab")
        self.started_s = time.monotonic()
        self.process = subprocess.Popen(
            [str(part) for part in command],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            env={**os.environ, "XDG_STATE_HOME": str(folder / "state"), **CREDENTIALS, **(environment or {})},
        )

    @property
    def life(self) -> Life:
        """What it has done so far."""
        lives = read_lives(self.log)
        return lives[self._lives_before] if len(lives) > self._lives_before else Life()

    def fault(self, name: str, value: float) -> None:
        """Lets a fault last for so many seconds; "clock": puts the calendar forward by so many."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{name} {value}\n".encode())
        self.process.stdin.flush()

    def wait_for(self, what: str, condition, timeout_s: float = 30.0) -> None:
        """Waits until `condition(self)` is true.

        Raises:
            AssertionError: it did not become true, or the process ended.
        """
        end_s = time.monotonic() + timeout_s
        while not condition(self):
            assert self.process.poll() is None, f"the device ended: {Path(self._said.name).read_text()}"
            assert time.monotonic() < end_s, f"waited {timeout_s:g} s for {what}"
            time.sleep(0.02)

    def wait_for_verdicts(self, count: int) -> None:
        """Waits until it has given so many verdicts."""
        self.wait_for(f"{count} verdicts", lambda device: len(device.life.verdicts) >= count)

    def terminate(self) -> dict:
        """Ends it as systemd does, and returns its report."""
        self.process.send_signal(signal.SIGTERM)
        out, _ = self.process.communicate(timeout=30)
        self._said.close()
        assert self.process.returncode == 0, Path(self._said.name).read_text()
        return json.loads(out)

    def kill(self) -> float:
        """Ends it at once, and returns when."""
        at_s = time.monotonic()
        self.process.kill()
        self.process.communicate()
        self._said.close()
        return at_s
