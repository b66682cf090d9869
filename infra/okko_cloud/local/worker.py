"""The loop: what waits in the queue becomes one job after the other; with time and jobs as arguments.

A change waits until a job has ended that began after it. A job that was killed, or met another worker, is tried again;
one that cannot succeed with these photos (too few, say) waits for other photos.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from okko_cloud.debounce import Debounce
    from okko_cloud.local.jobs import Ended
    from okko_cloud.local.queue import LocalQueue

LONGEST_RETRY_S: Final = 3600.0
LISTED: Final = "listing"


class Running(Protocol):
    """A job that runs; `JobProcess` is one."""

    def poll(self) -> Ended | None:
        """Returns how it ended; None while it runs."""

    def stop(self) -> None:
        """Ends it."""


@dataclass
class _Current:
    number: int
    covers: int
    listing: str
    process: Running


class Worker:
    """Turns what waits into jobs.

    Args:
        queue: what waits, and what was done.
        rule: when a job is due.
        start: starts a job.
        listing: digest of what is in the bucket now.
        look_every_s: how often to look into the bucket without having heard anything.
        retry_s: how long to wait after a job that met another worker, or was killed; twice as long each time that one
            was killed.
        longest_retry_s: but not longer.
        say: takes one line for people.
    """

    def __init__(
        self,
        queue: LocalQueue,
        rule: Debounce,
        start: Callable[[], Running],
        listing: Callable[[], str],
        *,
        look_every_s: float,
        retry_s: float,
        longest_retry_s: float = LONGEST_RETRY_S,
        say: Callable[[str], None],
    ) -> None:
        self._queue, self._rule, self._start, self._listing = queue, rule, start, listing
        self._look_every_s, self._say = look_every_s, say
        self._retry_s, self._longest_retry_s = retry_s, longest_retry_s
        self._current: _Current | None = None
        self._next_look_s = 0.0
        self._not_before_s = 0.0
        self._killed = 0
        self._told = 0

    @property
    def busy(self) -> bool:
        """Whether a job runs."""
        return self._current is not None

    def step(self, now_s: float) -> None:
        """Does what is to be done now; returns at once but for one listing.

        Args:
            now_s: seconds since 1970; what was heard is compared with it.

        Raises:
            OkkoError: the bucket cannot be read.
        """
        if self._current is not None:
            ended = self._current.process.poll()
            if ended is None:
                return
            self._end(self._current, ended, now_s)
            self._current = None
        if now_s >= self._next_look_s:
            self._next_look_s = now_s + self._look_every_s
            # Photos whose events were lost, or came while nobody listened.
            if not self._queue.waiting()[0].changes and self._listing() != self._queue.fact(LISTED):
                self._queue.heard(1, now_s)
        waiting, number = self._queue.waiting()
        due_s = waiting.due_s(self._rule)
        if due_s is None:
            self._told = 0
            return
        if number != self._told:
            if not self._told:
                self._say(f"photos have changed; retraining begins {self._rule.quiet_s:g} s after the last change")
            self._told = number
        # A clock that was set back must not make anybody wait for ever.
        if now_s >= max(due_s, self._not_before_s) or now_s < waiting.first_s:
            self._begin(number, now_s)

    def stop(self, now_s: float) -> None:
        """Ends the job that runs, if one does."""
        if self._current is not None:
            self._current.process.stop()
            self._queue.end_job(self._current.number, now_s, "killed", "the cloud was shut down", "")
            self._current = None

    def _begin(self, covers: int, now_s: float) -> None:
        listing = self._listing()
        if listing == self._queue.fact(LISTED):
            self._queue.covered(covers)  # told twice, or photos that have no label yet
            return
        number = self._queue.begin_job(now_s)
        self._say(f"job {number} begins")
        self._current = _Current(number, covers, listing, self._start())

    def _end(self, job: _Current, ended: Ended, now_s: float) -> None:
        self._queue.end_job(job.number, now_s, ended.kind, ended.words, ended.outcome)
        self._say(f"job {job.number}: {ended.kind}: {ended.words}")
        self._killed = self._killed + 1 if ended.kind == "killed" else 0
        if ended.kind in {"busy", "killed"}:
            pause_s = self._retry_s * 2.0 ** min(max(0, self._killed - 1), 32)
            self._not_before_s = now_s + min(pause_s, self._longest_retry_s)
            return
        self._queue.remember(LISTED, job.listing)
        self._queue.covered(job.covers)
        # What came after the job's listing, and was not heard of, is found by the next look.
        self._next_look_s = now_s
