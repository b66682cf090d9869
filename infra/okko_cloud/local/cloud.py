"""`okko cloud up --local`: starts the local S3, listens, works, and ends all of it again; its state is one folder.

DIR/server/       the S3 server's data, its configuration and log
DIR/keys/         what models are signed with; keys/root.json is what devices are enrolled with
DIR/cache/        photos and bundles that are here already; may be deleted
DIR/queue.sqlite  what waits and what was done
DIR/cloud.log     what was said
"""

from __future__ import annotations

import os
import secrets
import signal
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from okko_cloud.bucket import BucketPhotos, is_running
from okko_cloud.debounce import Debounce
from okko_cloud.local.jobs import JobProcess
from okko_cloud.local.queue import LocalQueue
from okko_cloud.local.receiver import Receiver
from okko_cloud.local.seaweed import SeaweedFS, environment
from okko_cloud.local.worker import Worker
from okko_cloud.making import make_registry
from okko_cloud.place import Place, Settings, load_settings, save_settings
from okko_cloud.snapshot import take_snapshot
from okko_models.damaged import decode_json
from okko_models.errors import OkkoError
from okko_models.registry.errors import BusyError as FolderBusyError
from okko_models.registry.files import locked, write_durably

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable
    from pathlib import Path

BUCKET: Final = "okko"
LEASE_S: Final = 20.0
"""On one machine nobody is out of reach for long."""
_STEP_S: Final = 0.25
_LOOK_EVERY_S: Final = 60.0
_POLL_S: Final = 10.0
"""A bucket of an S3 that tells of nothing is looked at so often."""
_DOWN_S: Final = 60.0
_LAST_S: Final = 5.0
_LOCK_TRIES: Final = 5
_BACK_OFF_S: Final = 5.0


class Running(msgspec.Struct, frozen=True):
    """What a running cloud says of itself.

    Attributes:
        pid: its process.
        place: `s3://...`.
        endpoint: of the S3 that it has started; empty: it has started none.
        external: `--endpoint-url` of the S3 that ran already; empty: as boto3 finds it.
        since: seconds since 1970.
    """

    pid: int
    place: str
    endpoint: str
    external: str
    since: float


@dataclass(frozen=True)
class Folder:
    """A local cloud's folder.

    Attributes:
        path: where it is.
    """

    path: Path

    @property
    def keys(self) -> Path:
        """Where the keys are."""
        return self.path / "keys"

    @property
    def log(self) -> Path:
        """What was said."""
        return self.path / "cloud.log"

    @property
    def running(self) -> Path:
        """What the running cloud says of itself."""
        return self.path / "running.json"

    @property
    def lock(self) -> Path:
        """Held while a cloud runs."""
        return self.path / ".lock"

    @property
    def server(self) -> SeaweedFS:
        """The S3 server, not started."""
        return SeaweedFS(self.path / "server")

    def queue(self) -> LocalQueue:
        """Opens the queue."""
        return LocalQueue(self.path / "queue.sqlite")

    def is_up(self) -> bool:
        """Says whether a cloud runs here."""
        if not self.path.is_dir():
            return False
        try:
            with locked(self.lock, wait=False):
                return False
        except FolderBusyError:
            return True

    def read_running(self) -> Running | None:
        """Returns what the cloud that runs here says of itself; None: none runs, or it is just starting."""
        if not self.is_up():
            return None
        try:
            return decode_json(self.running.read_bytes(), Running)
        except (OSError, msgspec.DecodeError):
            return None

    def environment(self) -> dict[str, str]:
        """Returns an environment in which boto3 finds this cloud's S3."""
        return environment(self.server.config, self.server.credentials)


def run(
    folder: Folder,
    *,
    place: Place | None,
    change: Callable[[Settings], Settings],
    stop: threading.Event,
    say: Callable[[str], None],
) -> None:
    """Runs a local cloud until `stop` is set.

    Args:
        folder: its folder; made if it is not there.
        place: a place in an S3 that runs already; None: start one here.
        change: from the place's settings to what the user wants now.
        stop: ends it.
        say: takes one line for people.

    Raises:
        OkkoError: another one runs here; or the S3 does not start, or cannot be used.
    """
    folder.path.mkdir(parents=True, exist_ok=True, mode=0o700)
    for attempt in range(_LOCK_TRIES):
        try:
            with locked(folder.lock, wait=False):
                _run(folder, place, change, stop, say)
                return
        except FolderBusyError as error:
            # Somebody who only looks whether a cloud runs here holds the lock for a moment.
            if attempt == _LOCK_TRIES - 1:
                raise OkkoError(f"a cloud runs in {folder.path} already (okko cloud status {folder.path})") from error
            time.sleep(_STEP_S)


def _run(
    folder: Folder,
    external: Place | None,
    change: Callable[[Settings], Settings],
    stop: threading.Event,
    say: Callable[[str], None],
) -> None:
    place, server, queue = external or Place(BUCKET), folder.server, folder.queue()
    queue.give_up_running(time.time())
    token = secrets.token_hex(16)
    receiver = Receiver(place.bucket, place.prefix, token, lambda n: queue.heard(n, time.time()), say)
    worker = None
    try:
        if external is None:
            server.start(place, receiver.url, token)
            own = folder.environment()
            os.environ.clear()
            os.environ.update(own)
        settings = _prepare(folder, place, change)
        photos = BucketPhotos(place)
        running = Running(os.getpid(), str(place), server.endpoint, place.endpoint_url, time.time())
        write_durably(folder.running, msgspec.json.encode(running), mode=0o600)
        worker = Worker(
            queue,
            Debounce(60 * settings.quiet_minutes, 60 * settings.at_most_minutes),
            lambda: _start_job(folder, place, settings),
            lambda: _listing(photos, settings),
            look_every_s=_POLL_S if external else _LOOK_EVERY_S,
            retry_s=LEASE_S / 2,
            say=say,
        )
        say(f"up: photos go to {place}/photos/LABEL/, models come out at {place}/registry")
        while not stop.wait(_STEP_S):
            if external is None and not server.is_running():
                say("the local S3 has ended; it is started again")
                server.start(place, receiver.url, token)
            try:
                worker.step(time.time())
            except OkkoError as error:
                say(f"{error}; trying again")
                stop.wait(_BACK_OFF_S)
    finally:
        if worker is not None:
            worker.stop(time.time())
        receiver.close()
        server.stop()
        queue.close()
        folder.running.unlink(missing_ok=True)
        say("down: nothing runs any more; photos and models stay where they are")


def _prepare(folder: Folder, place: Place, change: Callable[[Settings], Settings]) -> Settings:
    store = place.store()
    settings = change(load_settings(store))
    save_settings(store, settings)
    make_registry(place.registry(), folder.keys)
    return settings


def _listing(photos: BucketPhotos, settings: Settings) -> str:
    """Changes with what there is to learn from, and with how; empty for an empty bucket."""
    snapshot = take_snapshot(photos)
    return f"{snapshot.digest}-{settings.recipe}" if snapshot.listed else ""


def _start_job(folder: Folder, place: Place, settings: Settings) -> JobProcess:
    command = [sys.executable, "-m", "okko_cloud.commands.cloud_job", str(place), "--watch-parent", "--json"]
    command += ["--keys", str(folder.keys), "--folder", str(folder.path / "cache"), "--lease", str(LEASE_S)]
    command += ["--endpoint-url", place.endpoint_url] if place.endpoint_url else []
    return JobProcess(command, os.environ, folder.log, max_s=60 * settings.max_minutes)


def down(folder: Folder) -> bool:
    """Ends the cloud that runs in a folder; returns whether one did.

    Raises:
        OkkoError: it does not end.
    """
    running = folder.read_running()
    if not folder.is_up():
        return False
    if running is None:
        raise OkkoError(f"the cloud in {folder.path} is just starting; try again")
    os.kill(running.pid, signal.SIGTERM)
    end = time.monotonic() + _DOWN_S
    while folder.is_up():
        if time.monotonic() > end:
            raise OkkoError(f"the cloud in {folder.path} (process {running.pid}) does not end")
        time.sleep(0.1)
    # It has let go of everything; the interpreter needs another moment.
    end = time.monotonic() + _LAST_S
    while is_running(str(running.pid)) and time.monotonic() < end:
        time.sleep(0.05)
    return True
