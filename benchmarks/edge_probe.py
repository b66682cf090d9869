"""`okko run`, with a stopwatch in it: started by `benchmarks.edge` in a process of its own.

    python edge_probe.py RESULT okko run arguments...

Nothing of okko is left out or replaced; the camera and the classifier are only timed. RESULT gets when the first gate
command came, and of every frame that led to a verdict how long all but the inference took, in wall time and in the
sorting thread's processor time: from the frame in hand until the next frame is asked for, so trigger, decision, gate,
journal, digest and listeners.
"""

from __future__ import annotations

import time

STARTED_S = time.perf_counter()

import json  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402
from array import array  # noqa: E402
from pathlib import Path  # noqa: E402

_MOST = 200_000


class Stopwatch:
    """Measures around one thread's calls."""

    def __init__(self) -> None:
        self.first_s: float | None = None
        # Made in one piece, so that the stopwatch takes no more memory with each marble.
        self.wall_ms = array("d", bytes(8 * _MOST))
        self.cpu_ms = array("d", bytes(8 * _MOST))
        self.marbles = 0
        self.memory: list[tuple[int, int]] = []
        self._inference = (0.0, 0.0)
        self._in_hand: tuple[float, float] | None = None

    def time_classifier(self, classifier: type) -> None:
        """Times `classify`."""
        classify = classifier.classify

        def timed(*arguments):
            wall_s, cpu_s = time.perf_counter(), time.thread_time()
            try:
                return classify(*arguments)
            finally:
                self._inference = (time.perf_counter() - wall_s, time.thread_time() - cpu_s)

        classifier.classify = timed

    def time_camera(self, rig) -> None:
        """Times what happens between two calls of `read`."""
        read, camera = rig.camera.read, rig.camera

        def timed(timeout_s=None):
            if self._in_hand is not None and self._inference[0]:
                wall_s, cpu_s = self._in_hand
                self.wall_ms[self.marbles] = (time.perf_counter() - wall_s - self._inference[0]) * 1000
                self.cpu_ms[self.marbles] = (time.thread_time() - cpu_s - self._inference[1]) * 1000
                self.marbles += 1
                self._count()
            self._inference = (0.0, 0.0)
            frame = read(timeout_s)
            self._in_hand = (time.perf_counter(), time.thread_time())
            return frame

        camera.read = timed

    def time_gate(self, rig) -> None:
        """Notes when the first verdict goes to the gate."""
        sort = rig.gate.sort

        def timed(*arguments):
            sent = sort(*arguments)
            if self.first_s is None:
                self.first_s = time.perf_counter() - STARTED_S
            return sent

        rig.gate.sort = timed

    def _count(self) -> None:
        if self.marbles % 500 == 0:
            self.memory.append((self.marbles, resident_kb()))


def resident_kb() -> int:
    """Resident memory of this process now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024


def main(result: Path, command: list[str]) -> None:
    """Runs the command."""
    watch = Stopwatch()
    from okko.cli import main as okko

    sys.argv = ["okko", *command]
    from okko_edge import rig
    from okko_models.classifier import Classifier

    watch.time_classifier(Classifier)
    set_up = rig.set_up

    def timed(*arguments):
        made = set_up(*arguments)
        watch._inference = (0.0, 0.0)  # of the self-test
        watch.time_camera(made)
        watch.time_gate(made)
        return made

    rig.set_up = timed
    try:
        okko()
    finally:
        wall_ms, cpu_ms = watch.wall_ms[: watch.marbles].tolist(), watch.cpu_ms[: watch.marbles].tolist()
        said = {"first_s": watch.first_s, "wall_ms": wall_ms, "cpu_ms": cpu_ms, "memory": watch.memory}
        result.write_text(json.dumps(said))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
