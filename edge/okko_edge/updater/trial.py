"""A new model on trial, seen from the agent: a child process that is started, asked, and ended whatever it does.

The sorting thread puts a reference to a decision into a queue of two and goes on; a thread of its own sends the frame
to the child and compares what comes back with what the model in service said. Every wait has an end. What the child
says is untrusted: its lines are short, and checked. See `trial_worker` for the other end.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections import deque
from typing import TYPE_CHECKING, Final, NoReturn

import msgspec

from okko_edge.updater.protocols import RejectedError, SelfTest, ShadowReport, TrialError
from okko_edge.updater.trial_worker import EARLY_STAGES, MAX_LINE, STAGES, Judged, Said, Task
from okko_models import manifest as manifests
from okko_models.bundle import MANIFEST
from okko_models.damaged import decode_json
from okko_models.decision import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from okko_edge.sorter import Decision
    from okko_models.manifest import Manifest

MEMORY_MB: Final = 512.0
"""So much more than the bare process a new model may take, if its bytes say that it needs that; most need a third."""
CPU_S: Final = 60
"""So much of the processor each stage may take; okko's own models take seconds on the slowest board."""
SELF_TEST_S: Final = 600.0
FRAME_S: Final = 120.0
"""How long an answer is waited for. The child is last in the queue for the processor, so only its own time is held
against the model; this is for a child that hangs, or a device that never rests."""
WORKER: Final = (sys.executable, "-m", "okko_edge.updater.trial_worker")
_CAPACITY = 2
_KEPT_TIMES = 1000
_END_S = 5.0
_KEPT_VARIABLES = ("PATH", "PYTHON", "LD_", "LC_", "LANG", "HOME", "TMPDIR")
# These come from what a process does; any other signal was sent by somebody.
_OWN_FAULT = (signal.SIGSEGV, signal.SIGILL, signal.SIGBUS, signal.SIGFPE, signal.SIGABRT, signal.SIGXCPU)


class ChildTrial:
    """A trial of one bundle; see `protocols.Trial`.

    Args:
        folder: the new bundle.
        old: the bundle in service, for comparing how long both take.
        shape: height and width of a frame of the camera.
        check: raises `RejectedError` if this device cannot sort with a model of this manifest.
        worker: the command of the child, to which the task is added.
        memory_mb: so much may the model allocate, megabytes of 10^6 bytes.
        cpu_s: seconds of the processor for each stage and each frame.
        self_test_s: how long the self-test is waited for.
        frame_s: how long the answer to a frame is waited for.
    """

    def __init__(
        self,
        folder: Path,
        *,
        old: Path,
        shape: tuple[int, int],
        check: Callable[[Manifest], None] = lambda _: None,
        worker: Sequence[str] = WORKER,
        memory_mb: float = MEMORY_MB,
        cpu_s: int = CPU_S,
        self_test_s: float = SELF_TEST_S,
        frame_s: float = FRAME_S,
    ) -> None:
        self._folder = folder
        self._old = old
        self._shape = shape
        self._check = check
        self._worker = tuple(worker)
        self._memory_mb = memory_mb
        self._cpu_s = cpu_s
        self._self_test_s = self_test_s
        self._frame_s = frame_s
        self._child: _Child | None = None
        self._thread: threading.Thread | None = None
        self._queue: queue.Queue[Decision | None] = queue.Queue(_CAPACITY)
        self._closed = threading.Event()
        self._failure: RejectedError | TrialError | None = None
        self._wanted = 0
        self._listens = False
        self._old_ms = 0.0
        # Written by one thread each: `_lost` by the sorting thread, the others by the trial's own.
        self._lost = 0
        self._marbles = self._agreed = self._uncertain_old = self._uncertain_new = 0
        self._times_ms: deque[float] = deque(maxlen=_KEPT_TIMES)

    def self_test(self) -> SelfTest:
        """Starts the child, loads the model, repeats the golden frames and measures.

        Raises:
            RejectedError: the model is at fault.
            TrialError: the child cannot be started, was killed, or gave no answer in time.
        """
        try:
            self._check(manifests.decode((self._folder / MANIFEST).read_bytes()[: manifests.MAX_MANIFEST_BYTES + 1]))
        except OSError as error:
            raise TrialError(f"{self._folder} cannot be read: {error.strerror}") from error
        self._child = _Child(self._worker, self._task())
        if self._closed.is_set():
            self._child.end()
        tested = self._child.answer("tested", self._self_test_s)
        assert tested.tested is not None
        self._old_ms = tested.tested.old_ms
        return SelfTest(tested.tested.golden_difference, tested.tested.latency_ms, tested.tested.memory_mb)

    def shadow(self, marbles: int) -> None:
        """From now on frames that are heard of go to the child; to be called once, after the self-test."""
        if self._child is None:
            raise ValueError("the self-test comes first")
        self._wanted = marbles
        self._thread = threading.Thread(target=self._compare_until_closed, name="trial", daemon=True)
        self._thread.start()
        self._listens = True

    def hear(self, decision: Decision) -> None:
        """Takes a decision; returns at once."""
        if not self._listens or decision.frame is None or decision.classification is None:
            return
        try:
            self._queue.put_nowait(decision)
        except queue.Full:
            self._lost += 1

    def report(self) -> ShadowReport:
        """Says how far the shadow run is; returns at once.

        Raises:
            RejectedError: the model failed on a marble.
            TrialError: the child is gone.
        """
        if self._failure is not None:
            raise self._failure
        marbles, times_ms = self._marbles, sorted(self._times_ms.copy())
        share = 1 / marbles if marbles else 0.0
        return ShadowReport(
            marbles=marbles,
            agreement=self._agreed * share,
            uncertain_share_old=self._uncertain_old * share,
            uncertain_share_new=self._uncertain_new * share,
            latency_ms_old=self._old_ms,
            latency_ms_new=times_ms[len(times_ms) // 2] if times_ms else 0.0,
            lost=self._lost,
            finished=marbles >= self._wanted,
        )

    def close(self) -> None:
        """Ends the child; waits for its end, and for the thread's, some seconds at most."""
        self._listens = False
        self._closed.set()
        if self._child is not None:
            self._child.end()
        if self._thread is not None:
            with contextlib.suppress(queue.Full):
                self._queue.put_nowait(None)
            self._thread.join(_END_S)

    def _task(self) -> Task:
        return Task(
            folder=str(self._folder),
            old=str(self._old),
            height=self._shape[0],
            width=self._shape[1],
            memory_mb=self._memory_mb,
            cpu_s=self._cpu_s,
            descriptor=-1,
            parent=os.getpid(),
        )

    def _compare_until_closed(self) -> None:
        child = self._child
        assert child is not None
        try:
            while self._marbles < self._wanted and (decision := self._queue.get()) is not None:
                assert decision.frame is not None
                assert decision.classification is not None
                child.show(decision.frame.image, self._frame_s)
                judged = child.answer("judged", self._frame_s).judged
                assert judged is not None
                self._count(decision.classification.verdict, judged)
        except (RejectedError, TrialError) as error:
            self._failure = error
        except Exception as error:  # no defect of ours may be held against the model
            self._failure = TrialError(f"the trial failed: {type(error).__name__}: {error}")
        self._listens = False
        child.end()

    def _count(self, old: Verdict, new: Judged) -> None:
        self._times_ms.append(new.took_ms)
        self._agreed += new.verdict == old.value
        self._uncertain_old += old is Verdict.UNCERTAIN
        self._uncertain_new += new.verdict == Verdict.UNCERTAIN
        self._marbles += 1


class _Child:
    """The process, and the socket between it and the agent.

    Raises:
        TrialError: it cannot be started.
    """

    def __init__(self, worker: Sequence[str], task: Task) -> None:
        self._stage = "start"
        self._task = task
        self._rest = b""
        self._ending = threading.Lock()
        self._line, theirs = socket.socketpair()
        self._errors, their_errors = os.pipe()
        # Closed when nobody refers to them any more: the process may be ended while another thread still listens to it.
        closing = contextlib.ExitStack()
        closing.callback(self._line.close)
        closing.callback(os.close, self._errors)
        os.set_blocking(their_errors, False)  # what is said too much is lost, and blocks nobody
        os.set_blocking(self._errors, False)
        said = msgspec.json.encode(msgspec.structs.replace(task, descriptor=theirs.fileno())).decode()
        # It gets no credentials: it runs what somebody else made.
        variables = {name: value for name, value in os.environ.items() if name.startswith(_KEPT_VARIABLES)}
        threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        try:
            self._process = subprocess.Popen(
                [*worker, said],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=their_errors,
                pass_fds=(theirs.fileno(),),
                env=variables | threads,
            )
        except OSError as error:
            closing.close()
            raise TrialError(f"a process for the trial cannot be started: {error.strerror}") from error
        finally:
            theirs.close()
            os.close(their_errors)
        weakref.finalize(self, closing.close)

    def show(self, image: NDArray[np.uint8], patience_s: float) -> None:
        """Sends a frame (height, width, 3) uint8; see `answer`."""
        height, width, _ = image.shape
        try:
            self._line.settimeout(patience_s)
            self._line.sendall(f"{height} {width}\n".encode())
            self._line.sendall(image.data.cast("B"))
        except OSError as error:
            self._give_up(error, patience_s)

    def answer(self, field: str, patience_s: float) -> Said:
        """Returns the next line that has a result of this name.

        Raises:
            RejectedError: the model failed, or the process died of what it does.
            TrialError: it ended otherwise, or gave no answer within `patience_s` seconds.
        """
        end_s = time.monotonic() + patience_s
        while True:
            said = self._read(end_s, patience_s)
            if said.error:
                self._fail(said.error)
            if said.stage:
                self._stage = said.stage if said.stage in STAGES else self._stage
            elif getattr(said, field) is not None:
                return said
            else:
                raise RejectedError("the process that tried it said nothing that makes sense")

    def end(self) -> None:
        """Kills the process, if it has not ended, and lets go of all; may be called by any thread, and twice."""
        with self._ending:
            self._process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_END_S)
            with contextlib.suppress(OSError):  # so that whoever reads it does not wait any longer
                self._line.shutdown(socket.SHUT_RDWR)

    def _read(self, end_s: float, patience_s: float) -> Said:
        while b"\n" not in self._rest:
            try:
                self._line.settimeout(max(end_s - time.monotonic(), 0.001))
                more = self._line.recv(MAX_LINE)
            except OSError as error:
                self._give_up(error, patience_s)
            if not more:
                self._died()
            self._rest += more
            if len(self._rest) > MAX_LINE:
                raise RejectedError("the process that tried it said nothing that makes sense")
        line, _, self._rest = self._rest.partition(b"\n")
        try:
            return decode_json(line, Said)
        except msgspec.DecodeError as error:
            raise RejectedError(f"the process that tried it said nothing that makes sense: {error}") from error

    def _give_up(self, error: OSError, patience_s: float) -> NoReturn:
        if isinstance(error, TimeoutError):
            self.end()
            raise TrialError(f"its process gave no answer within {patience_s:g} s, {STAGES[self._stage]}") from error
        self._died()

    def _died(self) -> NoReturn:
        """Says why the process ended: of itself, or because somebody ended it."""
        try:
            status = self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self.end()
            raise TrialError("its process said no more, and did not end") from None
        if status >= 0:
            self._fail(f"its process ended with {status} {STAGES[self._stage]}: {self._last_error()}")
        number = -status
        if number == signal.SIGXCPU:
            self._fail(f"it computed for more than {self._task.cpu_s} s {STAGES[self._stage]}")
        where = f"its process died of {_name(number)} {STAGES[self._stage]}"
        if number in _OWN_FAULT:
            self._fail(f"{where}: {self._last_error()}".rstrip(": "))
        raise TrialError(where)

    def _fail(self, reason: str) -> NoReturn:
        """Blames the model for what happened since it was touched, and the device for what happened before."""
        if self._stage in EARLY_STAGES:
            raise TrialError(reason)
        raise RejectedError(reason)

    def _last_error(self) -> str:
        try:
            said = os.read(self._errors, MAX_LINE).decode(errors="replace")
        except OSError:
            return ""
        return said.strip().rpartition("\n")[2][:500]


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
