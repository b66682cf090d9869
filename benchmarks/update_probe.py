"""The device of `tests.faults.device`, which also writes down when which step of an update begins and ends.

    python -m benchmarks.update_probe PHOTOS LOG START_S PERIOD_S okko run arguments...

$OKKO_PHASES names the file; it gets a line "NAME BEGIN END" for each step, in seconds on the monotonic clock. Nothing
of okko is left out or replaced. With $OKKO_FIRST it goes before all other programs (SCHED_FIFO, root only).
"""

from __future__ import annotations

import functools
import os
import sys
import time

from tests.faults import device


class Phases:
    """Writes the file."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._begun: dict[str, float] = {}

    def begin(self, name: str) -> None:
        """A step begins."""
        self._begun[name] = time.monotonic()

    def end(self, name: str) -> None:
        """It ends; nothing happens if it did not begin."""
        begin_s = self._begun.pop(name, None)
        if begin_s is not None:
            os.write(self._file, f"{name} {begin_s:.6f} {time.monotonic():.6f}\n".encode())

    def watch(self, kind: type, method: str, *, begins: str = "", ends: str = "") -> None:
        """Lets steps begin before a method is called, and end when it has returned."""
        call = getattr(kind, method)

        @functools.wraps(call)
        def watched(*arguments, **named):
            if begins:
                self.begin(begins)
            try:
                return call(*arguments, **named)
            finally:
                if ends:
                    self.end(ends)

        setattr(kind, method, watched)


def main(arguments: list[str]) -> None:
    """Runs the device."""
    from okko_edge.updater.child import FetchProcess
    from okko_edge.updater.in_service import ModelInService
    from okko_edge.updater.trial import ChildTrial
    from okko_edge.updater.updater import Updater

    if os.environ.get("OKKO_FIRST"):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10))
    phases = Phases(os.environ["OKKO_PHASES"])
    phases.watch(FetchProcess, "__init__", begins="download")
    phases.watch(Updater, "_hear_of", ends="download")
    phases.watch(ChildTrial, "self_test", begins="self-test", ends="self-test")
    phases.watch(ChildTrial, "shadow", begins="shadow")
    phases.watch(ChildTrial, "close", ends="shadow")
    phases.watch(ModelInService, "change_model", begins="switch", ends="switch")
    device.main(arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
