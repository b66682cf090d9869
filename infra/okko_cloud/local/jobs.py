"""Runs one job in a process of its own, which can be killed at any point: by the clock, by a person, by the kernel.

The process prints one line of JSON on standard output and all else on standard error. It ends when its parent does: it
notices that standard input has ended.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NoReturn

import msgspec

from okko_cloud.bucket import ChangedError, UnreachableError
from okko_cloud.lease import BusyError, LeaseLostError
from okko_models.errors import OkkoError
from okko_models.registry.errors import ConflictError, OfflineError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from okko_cloud.job import Job

BUSY: Final = 75
"""Exit code when another worker is at it, or S3 is out of reach: try again later (EX_TEMPFAIL of sysexits.h)."""
LATER: Final = (BusyError, LeaseLostError, ChangedError, ConflictError, OfflineError, UnreachableError)
"""What may be over when it is tried again."""
_END_S: Final = 10.0


@dataclass(frozen=True)
class Ended:
    """How a job's process ended.

    Attributes:
        kind: as in `JobRecord`.
        words: for people.
        outcome: what it printed, JSON.
    """

    kind: str
    words: str
    outcome: str


class JobProcess:
    """A job that runs.

    Args:
        command: the program and its arguments.
        environment: of the process.
        log: where standard error goes.
        max_s: it is ended when it takes longer.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        log: Path,
        *,
        max_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock, self._end, self._max_s = clock, clock() + max_s, max_s
        self._output: list[bytes] = []
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                command,
                env=dict(environment),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,  # so that all its children can be ended with it
            )
        self._reader = threading.Thread(target=self._read, name="job", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._process.pid

    def poll(self) -> Ended | None:
        """Returns how the job ended; None while it runs. Ends it when it has taken too long."""
        code = self._process.poll()
        if code is None:
            if self._clock() < self._end:
                return None
            self.kill()
            return Ended("killed", f"it took longer than {self._max_s / 60:g} minutes (--max-minutes)", "")
        self._reader.join(_END_S)
        self._let_go()
        return _ended(code, b"".join(self._output).decode(errors="replace").strip())

    def stop(self) -> None:
        """Asks the job to end, and makes it if it does not."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_END_S)
        self.kill()

    def kill(self) -> None:
        """Ends the job and its children at once."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._reader.join(_END_S)
        self._let_go()

    def _read(self) -> None:
        assert self._process.stdout is not None
        self._output.append(self._process.stdout.read())

    def _let_go(self) -> None:
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()


def _ended(code: int, output: str) -> Ended:
    try:
        said: Any = msgspec.json.decode(output)
        if code == 0:
            return Ended(said["kind"], said["done"]["ruling"]["reason"], output)
        words = said["error"]
    except (msgspec.DecodeError, KeyError, TypeError):
        return Ended("killed", f"its process ended with {code} and said nothing", "")
    return Ended("busy" if code == BUSY else "failed", words, "")


def serve(make: Callable[[], Job], *, watch_parent: bool) -> NoReturn:
    """Runs a job, prints what came of it as JSON, and ends this process.

    Args:
        make: makes the job; what it raises counts as the job's.
        watch_parent: end at once, with all children, when standard input ends.
    """
    if watch_parent:
        threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    # So that what is under way is undone: the lock is let go.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        outcome = make().run()
    except LATER as error:
        _print({"error": str(error)})
        sys.exit(BUSY)
    except OkkoError as error:
        _print({"error": str(error)})
        sys.exit(1)
    _print(outcome)
    sys.exit(0)


def _print(value: object) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(value) + b"\n")
    sys.stdout.flush()


def _end_with_parent() -> None:
    # Not through sys.stdin: a thread in its buffer keeps the interpreter from ending.
    while os.read(0, 1):
        pass
    os.killpg(os.getpgid(0), signal.SIGKILL)
