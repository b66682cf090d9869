"""The process that fetches, seen from the one that sorts: started, asked whether it is done, and never waited for."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from typing import Final, Protocol

import msgspec

from okko_edge.updater.fetching import Fetched, Request, Result
from okko_models.damaged import decode_json

LONGEST_S: Final = 6 * 3600.0
"""A download that takes longer is ended, and goes on where it was the next time."""
_MAX_ANSWER: Final = 1 << 16


class Fetching(Protocol):
    """A look at the registry that is under way."""

    def poll(self) -> Fetched | None:
        """Returns what came of it; None: not yet."""

    def close(self) -> None:
        """Ends it, whatever it does; may be called twice."""


class FetchProcess:
    """Starts the process.

    Args:
        request: what it shall do.
        longest_s: then it is ended.
    """

    def __init__(self, request: Request, *, longest_s: float = LONGEST_S) -> None:
        self._ends_at = time.monotonic() + longest_s
        self._longest_s = longest_s
        # It lives as long as its standard input stays open: if this process dies, so does that one.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "okko_edge.updater.fetching"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.write(msgspec.json.encode(request) + b"\n")
            self._process.stdin.flush()

    def poll(self) -> Fetched | None:
        """Returns what came of it; None: not yet."""
        if self._process.poll() is None:
            if time.monotonic() < self._ends_at:
                return None
            self.close()
            return _failed(f"the download took longer than {self._longest_s:.0f} s; it goes on the next time")
        return self._answer()

    def wait(self, timeout_s: float) -> Fetched:
        """Waits for it; for commands, which have nothing else to do."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout_s)
        done = self.poll()
        if done is None:
            self.close()
            return _failed(f"the download took longer than {timeout_s:.0f} s; it goes on the next time")
        return done

    def close(self) -> None:
        """Ends it, whatever it does."""
        self._process.kill()
        self._process.wait()
        self._shut()

    def _answer(self) -> Fetched:
        stdout = self._process.stdout
        answer = b"" if stdout is None or stdout.closed else stdout.read(_MAX_ANSWER)
        self._shut()
        try:
            return decode_json(answer, Fetched)
        except msgspec.DecodeError:
            return _failed(f"the fetching process ended with code {self._process.returncode} and said nothing")

    def _shut(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


def _failed(message: str) -> Fetched:
    return Fetched(Result.FAILED, message)
