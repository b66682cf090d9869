"""Brings a model from the registry: a process of its own, `python -m okko_edge.updater.fetching`.

It reads one `Request` as JSON from its standard input, does what it says at the lowest priority and within a cap on its
memory, and prints one `Fetched`. So nothing of the network, of cryptography or of S3 is ever in the process that sorts.
It ends with whoever started it, at any point: what it had is used again the next time.
"""

from __future__ import annotations

import enum
import os
import sys
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from okko_edge.updater.shelf import Shelf, ShelfError
from okko_edge.updater.state import BY_HAND, Arrival
from okko_models.errors import BundleError, OkkoError
from okko_models.registry.errors import (
    BusyError,
    ExpiredError,
    MissingError,
    OfflineError,
    UntrustedError,
)

if TYPE_CHECKING:
    from okko_models.registry.client import Client, Wanted

MAX_REQUEST_BYTES: Final = 1 << 16
ROOT: Final = "root.json"


class Result(enum.StrEnum):
    """What a look at the registry came to."""

    FETCHED = "fetched"
    NOTHING_NEW = "nothing new"
    REJECTED_BEFORE = "rejected before"
    REFUSED = "refused"
    OFFLINE = "offline"
    BUSY = "busy"
    MISSING = "missing"
    EXPIRED = "expired"
    UNTRUSTED = "untrusted"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be fetched, from where, and at what cost.

    Attributes:
        folder: the shelf's.
        registry: a folder, `s3://`, `https://` or `http://`.
        endpoint_url: another S3 than Amazon's.
        channel: `stable` or `candidate`.
        device: this device's name.
        okko: this program's version.
        in_service: digest of the model that sorts; it is not fetched.
        digest: this bundle, or the beginning of its digest, because a person asks for it; empty: the channel's.
        again: a person wants it tried again if it was rejected.
        max_mb: the largest bundle.
        memory_mb: what this process may allocate.
    """

    folder: str
    registry: str
    endpoint_url: str = ""
    channel: str = "stable"
    device: str = ""
    okko: str = ""
    in_service: str = ""
    digest: str = ""
    again: bool = False
    max_mb: float = 64.0
    memory_mb: float = 256.0


@dataclass(frozen=True, slots=True)
class Fetched:
    """What came of it.

    Attributes:
        result: in one word.
        message: in a sentence.
        digest: of the bundle that is wanted; empty: not known.
        name: its name.
        version: its version.
        place: why it is wanted.
        downloaded_bytes: what came over the network for it.
        memory_mb: the most that the process had resident.
    """

    result: Result
    message: str
    digest: str = ""
    name: str = ""
    version: str = ""
    place: str = ""
    downloaded_bytes: int = 0
    memory_mb: float = 0.0


_RESULTS: Final = (
    (BusyError, Result.BUSY),
    (OfflineError, Result.OFFLINE),
    (ExpiredError, Result.EXPIRED),
    (MissingError, Result.MISSING),
    (UntrustedError, Result.UNTRUSTED),
)


def fetch(request: Request) -> Fetched:
    """Looks at the registry and, if something new is wanted, brings it and makes it the candidate; never raises."""
    try:
        return _fetch(request)
    except OkkoError as error:
        result = next((result for kind, result in _RESULTS if isinstance(error, kind)), Result.FAILED)
        return Fetched(result, str(error))
    except MemoryError:
        return Fetched(Result.FAILED, f"more than {request.memory_mb:g} MB of memory were needed; nothing was changed")
    except OSError as error:
        return Fetched(Result.FAILED, f"{error.strerror or error}; nothing was changed")


def _fetch(request: Request) -> Fetched:
    shelf = Shelf(Path(request.folder), okko=request.okko)
    client = _client(request, shelf.trust)
    wanted = client.look(request.channel, request.device, request.digest)
    if wanted.digest == request.in_service:
        shelf.withdraw()
        return _told(Result.NOTHING_NEW, "the model in service is the one that is wanted", wanted)
    known = shelf.rejection(wanted.digest)
    if known is not None and not request.again:
        return _told(
            Result.REJECTED_BEFORE,
            f"model {wanted.digest[:12]} was rejected before: {known.reason}; it is tried again only by: okko device "
            "update --again",
            wanted,
        )
    candidate = shelf.candidate()
    if candidate is not None and candidate.digest == wanted.digest and not request.again:
        return _told(Result.NOTHING_NEW, f"model {wanted.digest[:12]} is here and being tried", wanted)
    try:
        # By its digest, so that it is the one that was just judged, also if the registry changes meanwhile.
        fetched = client.fetch(shelf.bundles, digest=wanted.digest)
    except BundleError as error:
        shelf.reject(wanted.digest, str(error), only_this_okko=True)
        return _told(Result.REFUSED, str(error), wanted)
    if known is not None:
        shelf.forgive(wanted.digest)
    place = wanted.place or BY_HAND
    shelf.fetched(Arrival(wanted.digest, wanted.name, wanted.version, place), fetched.downloaded_bytes)
    return _told(
        Result.FETCHED,
        f"model {wanted.digest[:12]} ({wanted.name} {wanted.version}) is here",
        wanted,
        fetched.downloaded_bytes,
    )


def _client(request: Request, trust: Path) -> Client:
    from okko_models.registry.client import Client, Limits
    from okko_models.registry.transport import open_transport

    if not (trust / ROOT).is_file():
        raise ShelfError(f"{trust} trusts no registry yet: okko device enroll REGISTRY root.json")
    transport = open_transport(request.registry, endpoint_url=request.endpoint_url)
    return Client(trust, transport, clock=time.time, limits=Limits(bundle_bytes=int(request.max_mb * 1e6)))


def _told(result: Result, message: str, wanted: Wanted, downloaded_bytes: int = 0) -> Fetched:
    place = wanted.place or BY_HAND
    return Fetched(result, message, wanted.digest, wanted.name, wanted.version, place, downloaded_bytes)


def _step_back(memory_mb: float) -> None:
    """Gives way to everything else on this machine, and caps what this process may allocate."""
    import contextlib
    import resource

    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, 19)  # whatever the agent has: the service runs at -10
    if hasattr(os, "SCHED_IDLE"):
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    with contextlib.suppress(OSError, ValueError):
        # Not the address space: libraries reserve much of that and never use it.
        resource.setrlimit(resource.RLIMIT_DATA, (int(memory_mb * 1e6),) * 2)


def _end_with_parent() -> None:
    """Ends this process at once when the one that started it is gone: its end of the pipe is closed then."""

    def wait() -> None:
        while os.read(0, 1):
            pass
        os._exit(3)

    threading.Thread(target=wait, daemon=True).start()


def _peak_mb() -> float:
    """The most that this process had resident; getrusage would count what the parent had when it made this one."""
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 1000
    except (OSError, IndexError, ValueError):
        return 0.0


def main() -> None:
    """Does what the standard input says."""
    line = b""
    while not line.endswith(b"\n"):
        piece = os.read(0, MAX_REQUEST_BYTES)
        if not piece:
            return
        line += piece
    request = msgspec.json.decode(line, type=Request)
    _step_back(request.memory_mb)
    _end_with_parent()
    try:
        fetched = fetch(request)
    except Exception as error:  # the parent tells the user; nobody reads this process's standard error
        fetched = Fetched(Result.FAILED, f"{type(error).__name__}: {error}")
    sys.stdout.buffer.write(msgspec.json.encode(replace(fetched, memory_mb=_peak_mb())) + b"\n")
    sys.stdout.flush()
    # Without waiting for the thread that waits for the parent.
    os._exit(0)


if __name__ == "__main__":
    main()
