"""The parent: starts child processes, sees whether they hang or die, and counts what they say."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
HANGS_S = 20.0
"""Wall time; generous, because the machine may be busy. Processor time is bounded more tightly, from inside."""
STARTS_S = 60.0
_MEMORY = Path("/dev/shm")
_INPUTS_EACH = 4000
"""So many inputs a child gets, so that what it gathers stays small."""


@dataclass
class Tally:
    """What came of the inputs of one target."""

    name: str
    inputs: int = 0
    accepted: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    slowest_s: float = 0.0
    slowest: int = 0
    peak_mb: float = 0.0
    defects: list[tuple[int, str]] = field(default_factory=list)
    wall_s: float = 0.0

    def count(self, number: int, told: dict[str, Any]) -> None:
        """Counts one input."""
        self.inputs += 1
        self.peak_mb = max(self.peak_mb, told["mb"])
        if told["s"] > self.slowest_s:
            self.slowest_s, self.slowest = told["s"], number
        match told["kind"]:
            case "accepted":
                self.accepted += 1
            case "refused":
                self.refused[told["why"]] += 1
            case _:
                self.defects.append((number, told["why"]))


def fuzz(name: str, seed: int, numbers: range, *, keep: str = "", hangs_s: float = HANGS_S) -> Tally:
    """Feeds inputs to one target.

    Args:
        name: the target's.
        seed: with a number it names an input.
        numbers: of the inputs.
        keep: a folder for inputs that show a defect; empty: nowhere.
        hangs_s: a child that says nothing for so long is taken to hang.
    """
    tally, begun_s = Tally(name), time.monotonic()
    first = numbers.start
    while first < numbers.stop:
        last = min(first + _INPUTS_EACH, numbers.stop)
        first = _one_child(tally, (name, str(seed), str(first), str(last)), keep, hangs_s)
    tally.wall_s = time.monotonic() - begun_s
    return tally


def _one_child(tally: Tally, order: tuple[str, str, str, str], keep: str, hangs_s: float) -> int:
    """Lets a child feed inputs; returns the number to go on with."""
    first, last = int(order[2]), int(order[3])
    base = tempfile.mkdtemp(dir=_MEMORY if _MEMORY.is_dir() else None)
    reading, writing = os.pipe()
    with tempfile.TemporaryFile() as errors, os.fdopen(reading, "rb", buffering=0) as pipe:
        child = subprocess.Popen(
            [sys.executable, "-m", "tests.fuzz.worker", *order, str(writing), base, keep],
            pass_fds=[writing],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=errors,
            stderr=errors,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"},
        )
        os.close(writing)
        begun = first - 1
        try:
            for told in _lines(pipe, STARTS_S, hangs_s):
                if "begun" in told:
                    begun = told["begun"]
                else:
                    tally.count(told["number"], told)
            died: int | None = child.wait(STARTS_S)
        except TimeoutError:
            died = None
        finally:
            child.kill()
            child.wait()
            # Not shutil.rmtree, which cannot remove folders that lie too deep.
            subprocess.run(["rm", "-rf", base], check=True)
        if died == 0:
            return last
        errors.seek(0)
        said = errors.read()[-3000:].decode(errors="replace")
    if begun < first:
        raise RuntimeError(f"the child of {tally.name} does not begin ({died}): {said}")
    why = f"hung for {hangs_s:g} s" if died is None else f"died with {died}"
    tally.count(begun, {"kind": "defect", "why": f"{why}: {said}", "s": 0.0, "mb": 0.0})
    return begun + 1


def _lines(pipe: Any, starts_s: float, hangs_s: float) -> Iterator[dict[str, Any]]:
    """Yields what the child says; raises TimeoutError if it says nothing for too long."""
    waiting, patience_s = b"", starts_s
    while True:
        if not select.select([pipe], [], [], patience_s)[0]:
            raise TimeoutError
        data = pipe.read(1 << 16)
        if not data:
            return
        patience_s = hangs_s
        *lines, waiting = (waiting + data).split(b"\n")
        for line in lines:
            yield json.loads(line)
