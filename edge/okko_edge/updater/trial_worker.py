"""The child process in which a new model is tried: it may crash, loop or take too much memory here, and nowhere else.

It steps back behind everything else that runs, loads the model, repeats the golden frames and measures; then it judges
the frames that it is sent, one after the other, and never acts. Times are the processor's, of this one thread: what
else the device does changes them little, and the model in service is measured in the same way for comparison.

    python -m okko_edge.updater.trial_worker TASK

It talks over the socket that the task names: lines of JSON (`Said`) to the agent; from there a line with height and
width of a frame, and its bytes. See `trial` for the other end.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import resource
import signal
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from okko_models.errors import BundleError, OkkoError

if TYPE_CHECKING:
    from typing import BinaryIO

    import numpy as np
    from numpy.typing import NDArray

    from okko_models.classifier import Classifier

MAX_LINE: Final = 1 << 16
MAX_FRAME_BYTES: Final = 128 << 20
EARLY_STAGES: Final = {
    "start": "before it began",
    "import": "while onnxruntime was being imported",
    "open": "while the bundle was being read",
    "old": "while the model in service was being measured",
}
"""Stages in which nothing of the new model runs; how far it came, for people."""
STAGES: Final = {
    **EARLY_STAGES,
    "load": "while the model was being loaded",
    "golden": "while the golden frames were being repeated",
    "measure": "while its speed was being measured",
    "shadow": "on a marble in the shadow run",
}
_LONGEST_ERROR = 2000
_PR_SET_PDEATHSIG = 1
# The model as a file, as a session, and packed for the processor; twice what its tensors take, and some more. Models of
# 8 and 18 MB did with less than 20 and 40 MB of the 176 and 189 MB that this comes to.
_MARGIN_BYTES = 64_000_000
# Height and width of a golden frame, at most; see `read_golden`.
_LARGEST_GOLDEN = (2000, 2000)
_WARM_UP_RUNS, _FEWEST_RUNS, _MOST_RUNS, _MEASURE_S = 3, 10, 50, 1.0
# So many times as long as a frame took it rests after it. Even last in the queue for the processor, a neighbour slows
# down whoever shares the memory with it; rested, it meets few marbles (measured in docs/reliability.md).
_REST = 4.0
_LONGEST_REST_S = 0.5


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """What the child is to do.

    Attributes:
        folder: the new bundle.
        old: the bundle in service.
        height: of a frame of the camera.
        width: likewise.
        memory_mb: at most so much may be allocated for the new model, whatever its bytes say that it needs, megabytes
            of 10^6 bytes.
        cpu_s: so many seconds of the processor may each stage and each frame take.
        descriptor: of the socket.
        parent: process that it ends with.
    """

    folder: str
    old: str
    height: int
    width: int
    memory_mb: float
    cpu_s: int
    descriptor: int
    parent: int


class Tested(msgspec.Struct, frozen=True, kw_only=True):
    """What came of the self-test; see `SelfTest`. `old_ms`: median time of the model in service for a frame."""

    golden_difference: float
    latency_ms: float
    memory_mb: float
    old_ms: float


class Judged(msgspec.Struct, frozen=True, kw_only=True):
    """What the model said about a frame: its verdict, the probability of OK, and how long that took."""

    verdict: str
    probability_of_ok: float
    took_ms: float


class Said(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A line from the child: the stage that begins, or one of the results; `error` ends the child."""

    stage: str = ""
    tested: Tested | None = None
    judged: Judged | None = None
    error: str = ""


class Worker:
    """Does the task, and says how it goes."""

    def __init__(self, task: Task, line: socket.socket) -> None:
        self._task = task
        self._line = line
        self._allowed = 0

    def run(self) -> int:
        """Returns the exit status, when the agent has no more frames, or when the model failed."""
        try:
            classifier = self._test()
            self._begin("shadow")
            with self._line.makefile("rb") as frames:
                while (image := _read_frame(frames)) is not None:
                    self._say(judged=_judge(classifier, image))
                    _allow_cpu(self._task.cpu_s)
        except MemoryError:
            return self._fail(f"it needs more than {self._allowed / 1e6:.0f} MB of memory")
        except ConnectionError:
            return 0  # the agent is gone
        except OkkoError as error:
            return self._fail(error)
        except Exception as error:  # onnxruntime's exceptions share no public base class
            return self._fail(f"{type(error).__name__}: {error}")
        return 0

    def _test(self) -> Classifier:
        self._begin("import")
        import numpy as np

        from okko_models.bundle import Bundle
        from okko_models.classifier import Classifier
        from okko_models.trust.model_check import check_bundle

        task = self._task
        image = np.random.default_rng(0).integers(0, 256, (task.height, task.width, 3), dtype=np.uint8)
        self._begin("open")
        bundle, old = Bundle.open(Path(task.folder)), Bundle.open(Path(task.old))
        self._begin("old")
        old_ms = float(np.median(_times_ms(Classifier(old), image)))
        self._begin("load")
        facts = check_bundle(bundle, photo=max((task.height, task.width), _LARGEST_GOLDEN, key=math.prod))
        needed = _MARGIN_BYTES + 4 * facts.parameter_bytes + 2 * facts.activation_bytes
        self._allowed = min(needed, int(task.memory_mb * 1e6))
        _limit_memory(self._allowed)
        classifier = Classifier(bundle)
        self._begin("golden")
        difference = classifier.self_test()
        self._begin("measure")
        times_ms = _times_ms(classifier, image)
        tested = Tested(
            golden_difference=difference,
            latency_ms=float(np.percentile(times_ms, 95)),
            memory_mb=_status_bytes("VmHWM") / 1e6,
            old_ms=old_ms,
        )
        self._say(tested=tested)
        return classifier

    def _begin(self, stage: str) -> None:
        _allow_cpu(self._task.cpu_s)
        self._say(stage=stage)

    def _say(self, **fields: object) -> None:
        self._line.sendall(msgspec.json.encode(Said(**fields)) + b"\n")  # type: ignore[arg-type]

    def _fail(self, error: object) -> int:
        self._say(error=str(error)[:_LONGEST_ERROR])
        return 1


def _judge(classifier: Classifier, image: NDArray[np.uint8]) -> Judged:
    before_s = time.thread_time()
    said = classifier.classify(image)
    took_ms = (time.thread_time() - before_s) * 1000
    if not math.isfinite(said.probability_of_ok):
        raise BundleError("the model's probability is not a number")
    return Judged(verdict=said.verdict.value, probability_of_ok=said.probability_of_ok, took_ms=took_ms)


def _times_ms(classifier: Classifier, image: NDArray[np.uint8]) -> list[float]:
    for _ in range(_WARM_UP_RUNS):
        classifier.classify(image)
    times_ms: list[float] = []
    begin_s = time.thread_time()
    while len(times_ms) < _FEWEST_RUNS or (len(times_ms) < _MOST_RUNS and time.thread_time() - begin_s < _MEASURE_S):
        before_s = time.thread_time()
        classifier.classify(image)
        took_s = time.thread_time() - before_s
        times_ms.append(took_s * 1000)
        time.sleep(min(_REST * took_s, _LONGEST_REST_S))
    return times_ms


def _read_frame(frames: BinaryIO) -> NDArray[np.uint8] | None:
    """Reads the next frame, (height, width, 3) uint8; None when there are no more."""
    import numpy as np

    head = frames.readline(MAX_LINE)
    if not head.endswith(b"\n"):
        return None
    height, width = map(int, head.split())
    if not 0 < height * width * 3 <= MAX_FRAME_BYTES:
        raise ValueError(f"a frame of {height} x {width} pixels is too large")
    data = frames.read(height * width * 3)
    if len(data) < height * width * 3:
        return None
    return np.frombuffer(data, np.uint8).reshape(height, width, 3)


def _step_back(parent: int) -> None:
    """Lets everything else on the device go first, and this process end with the agent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal is meant for the agent
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, 19)  # whatever the agent has: the service runs at -10
    with contextlib.suppress(OSError, AttributeError):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    # When memory is short, the kernel ends this process first.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        raise ConnectionError("the agent ended already")


def _allow_cpu(seconds: int) -> None:
    """Lets this process use so much more of the processor; beyond, the kernel ends it with SIGXCPU."""
    used_s = time.process_time()
    _, most = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(used_s) + seconds + 1, most))


def _limit_memory(more_bytes: int) -> None:
    """Lets this process allocate so much more, write no file, and forget how much it once took."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    data = _status_bytes("VmData")
    if data:
        limit = data + more_bytes
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def _status_bytes(key: str) -> int:
    """Returns what the kernel says of this process's memory; 0 where it says nothing."""
    try:
        fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return int(fields[key].split()[0]) * 1024
    except (OSError, KeyError, ValueError, IndexError):
        return 0


def main(arguments: list[str]) -> int:
    """Does the task that the only argument holds as JSON."""
    task = msgspec.json.decode(arguments[0], type=Task)
    with socket.socket(fileno=task.descriptor) as line:
        try:
            _step_back(task.parent)
        except ConnectionError:
            return 0
        return Worker(task, line).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
