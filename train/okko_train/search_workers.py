"""Processes that score hyperparameters side by side, and survive the death of any of them.

A worker knows an objective and nothing of the search: it takes parameters, tells the cost fold by fold, and gives up
when told to. If a worker is killed, its job is given to a fresh one, so nothing is lost and nothing counted twice; if
the search itself is killed, its workers find their pipes closed and end.
"""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any, Final

from okko_models.errors import OkkoError

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess
    from typing import Self

    from okko_train.scoring import Score

MOST_DEATHS: Final = 3
"""A job that kills this many workers is not tried again."""


Decide = Callable[[int, int, float], bool]
"""Takes a job's ticket, the folds it has done and their mean cost; returns whether to give up."""


class Here:
    """A pool of one without a process of its own: scores when its results are waited for."""

    def __init__(self, objective: Any) -> None:
        self._objective = objective
        self._job: tuple[int, Mapping[str, Any]] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    @property
    def free(self) -> int:
        """How many jobs can be given."""
        return int(self._job is None)

    def submit(self, ticket: int, parameters: Mapping[str, Any]) -> None:
        """Remembers a job."""
        self._job = ticket, parameters

    def results(self, decide: Decide) -> list[tuple[int, Score]]:
        """Does the job; ``decide`` is asked after each fold."""
        assert self._job is not None
        ticket, parameters = self._job
        score = self._objective(parameters, lambda folds, cost: decide(ticket, folds, cost))
        self._job = None
        return [(ticket, score)]


class Workers:
    """A fixed number of worker processes, started at once; use it in a ``with`` statement.

    Args:
        objective: called as ``objective(parameters, report)``; must be picklable.
        count: of processes.
    """

    def __init__(self, objective: Any, count: int) -> None:
        self._objective = objective
        # Spawned, not forked: a fork would copy locks that other threads may hold.
        self._context = multiprocessing.get_context("spawn")
        self._idle: list[_Worker] = []
        self._busy: dict[Connection, _Worker] = {}
        self._count = count

    def __enter__(self) -> Self:
        self._idle = [self._start() for _ in range(self._count)]
        return self

    def __exit__(self, *_: object) -> None:
        for worker in [*self._idle, *self._busy.values()]:
            worker.process.kill()
            worker.process.join()
            worker.pipe.close()

    @property
    def free(self) -> int:
        """How many workers have nothing to do."""
        return len(self._idle)

    def submit(self, ticket: int, parameters: Mapping[str, Any]) -> None:
        """Gives a job to a free worker."""
        self._assign(self._idle.pop(0), _Job(ticket, parameters))

    def results(self, decide: Decide) -> list[tuple[int, Score]]:
        """Waits until some job reports or ends; ``decide`` is asked for each report.

        Returns:
            Ticket and score of those that ended, perhaps none.

        Raises:
            OkkoError: a job has killed too many workers.
        """
        ended = []
        for pipe in wait([*self._busy]):
            assert isinstance(pipe, Connection)
            worker = self._busy[pipe]
            assert worker.job is not None
            try:
                folds, cost, score = pipe.recv()
                if score is None:
                    pipe.send(decide(worker.job.ticket, folds, cost))
                    continue
            except (EOFError, OSError):
                self._replace(worker, worker.job)
                continue
            self._idle.append(self._busy.pop(pipe))
            ended.append((worker.job.ticket, score))
        return ended

    def _start(self) -> _Worker:
        here, there = self._context.Pipe()
        process = self._context.Process(target=_work, args=(there, self._objective), daemon=True)
        process.start()
        there.close()
        return _Worker(process, here)

    def _assign(self, worker: _Worker, job: _Job) -> None:
        worker.job = job
        self._busy[worker.pipe] = worker
        with contextlib.suppress(OSError):
            worker.pipe.send(job.parameters)

    def _replace(self, worker: _Worker, job: _Job) -> None:
        del self._busy[worker.pipe]
        worker.pipe.close()
        worker.process.join()
        if job.deaths + 1 == MOST_DEATHS:
            raise OkkoError(
                f"{MOST_DEATHS} worker processes died over trial {job.ticket} ({dict(job.parameters)}); "
                "is there enough memory? Try --workers 1"
            )
        self._assign(self._start(), _Job(job.ticket, job.parameters, job.deaths + 1))


@dataclass(frozen=True)
class _Job:
    ticket: int
    parameters: Mapping[str, Any]
    deaths: int = 0


@dataclass
class _Worker:
    process: SpawnProcess
    pipe: Connection
    job: _Job | None = None


def _work(pipe: Connection, objective: Any) -> None:
    def report(folds: int, cost: float) -> bool:
        pipe.send((folds, cost, None))
        return bool(pipe.recv())

    with contextlib.suppress(EOFError, OSError, KeyboardInterrupt):
        while True:
            parameters = pipe.recv()
            score = objective(parameters, report)
            pipe.send((score.folds, score.cost, score))
