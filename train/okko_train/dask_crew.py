"""A crew on a Dask cluster that is there already: okko starts no scheduler and no worker of its own, and ends none.

Tasks go out as plain functions of okko, so every worker needs the same okko installed. A task whose worker died is
given to another one by Dask; what the dead one had stored is found and not computed again.
https://distributed.dask.org/en/stable/resilience.html
"""

from __future__ import annotations

import contextlib
import functools
import logging
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final, TypeVar

from okko_models.errors import OkkoError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future

    from distributed import Client

    from okko_train.engine import Pool

_R = TypeVar("_R")

EVENTS: Final = "okko"
"""The topic under which the scheduler keeps what workers say of finished shards (`client.get_events`)."""

_CONNECT_S: Final = 15
_WORKERS_S: Final = 30
_DECISIVE: Final = ("okko", "numpy", "onnxruntime", "pillow")
"""Packages that decide which numbers come out; they must be the same everywhere."""


class ClusterError(OkkoError):
    """The Dask cluster cannot be used, or went away."""


@dataclass(frozen=True, eq=False)
class DaskCrew:
    """The workers of a cluster.

    Attributes:
        client: connected.
        size: number of the workers' threads.
        elsewhere: True.
    """

    client: Client
    size: int
    elsewhere: bool = True

    @contextlib.contextmanager
    def pool(self) -> Iterator[Pool]:
        """Yields the cluster as a pool.

        Raises:
            ClusterError: workers die over the same task again and again, or the scheduler is gone.
        """
        with _in_one_sentence(self.client), self.client.get_executor(pure=False) as pool:  # type: ignore[no-untyped-call]
            yield _Told(pool)


@contextlib.contextmanager
def connect(address: str) -> Iterator[DaskCrew]:
    """Yields the workers of the scheduler at `address` (tcp://HOST:PORT).

    Raises:
        ClusterError: dask is not installed, nobody answers there, no worker is there, or workers lack the same okko.
    """
    try:
        from distributed import Client
    except ModuleNotFoundError as error:
        raise ClusterError(
            'a cluster needs: pip install "okko[dask]"  (the Python package distributed is not installed)'
        ) from error
    logging.getLogger("distributed").setLevel(logging.ERROR)  # what matters is said in okko's own words
    try:
        client = Client(address, timeout=_CONNECT_S, set_as_default=False)  # type: ignore[no-untyped-call]
    except (OSError, ValueError, TypeError) as error:
        raise ClusterError(
            f"no Dask scheduler answers at {address} ({error}); start one with `dask scheduler`, and give the address "
            "that it prints (tcp://HOST:8786)"
        ) from error
    with client:
        try:
            client.wait_for_workers(1, timeout=_WORKERS_S)
        except TimeoutError as error:
            raise ClusterError(
                f"the scheduler at {address} has no workers; start some with `dask worker {address} --nthreads 1`"
            ) from error
        with _in_one_sentence(client):
            _check_versions(client)
        yield DaskCrew(client, sum(client.nthreads().values()))  # type: ignore[no-untyped-call]


def versions() -> dict[str, str]:
    """Returns the versions of what decides which numbers come out; workers are asked for theirs."""
    return {package: version(package) for package in _DECISIVE}


def _check_versions(client: Client) -> None:
    here = versions()
    try:
        everywhere: dict[str, dict[str, str]] = client.run(versions)
    except ModuleNotFoundError as error:
        raise ClusterError(
            f'the workers lack okko ({error}); install it on all of them: pip install "okko[train,cloud,dask]"'
        ) from error
    for worker, there in everywhere.items():
        other = [f"{package} {there[package]}" for package in _DECISIVE if there[package] != here[package]]
        if other:
            mine = ", ".join(f"{package} {here[package]}" for package in _DECISIVE)
            raise ClusterError(
                f"worker {worker} has {', '.join(other)}, this machine {mine}: the result would not be that of one "
                "machine; install the same versions everywhere"
            )


class _Told:
    """A Dask pool whose tasks tell the scheduler what they did, so that it is known even of workers that died."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool

    def submit(self, work: Callable[..., _R], /, *arguments: Any) -> Future[_R]:
        future: Future[_R] = self._pool.submit(functools.partial(_work_and_tell, work), *arguments)
        return future


def _work_and_tell(work: Callable[..., _R], *arguments: Any) -> _R:
    from distributed import get_worker

    result = work(*arguments)
    parts, computed = getattr(result, "parts", None), getattr(result, "computed", 0)
    if parts is not None:
        get_worker().log_event(EVENTS, {"parts": [name for _, name in parts], "computed": computed})
    return result


@contextlib.contextmanager
def _in_one_sentence(client: Client) -> Iterator[None]:
    from concurrent.futures import CancelledError

    from distributed.comm.core import CommClosedError
    from distributed.scheduler import KilledWorker

    address = client.scheduler.address if client.scheduler is not None else "the given address"
    try:
        yield
    except KilledWorker as error:
        raise ClusterError(
            f"workers died again and again over the same photos (the last was {error.last_worker.address}), most "
            "likely of too little memory; give each 1.5 GB for every thread. The same command goes on with what is left"
        ) from error
    except (CancelledError, CommClosedError, ConnectionError) as error:
        raise ClusterError(
            f"the cluster at {address} went away ({type(error).__name__}: {error}); once it is back, the same command "
            "goes on with what is left"
        ) from error
