"""What a local cloud is doing, as values and in words: from its folder, and from the registry while it runs."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec

from okko_cloud.job import Outcome
from okko_cloud.place import Place
from okko_models.errors import OkkoError
from okko_models.registry.catalog import channel_place

if TYPE_CHECKING:
    from okko_cloud.local.cloud import Folder, Running
    from okko_cloud.local.queue import JobRecord

_JOBS = 10


class Model(msgspec.Struct, frozen=True):
    """A model of the registry: its version, and the digest of its bundle."""

    version: str
    bundle: str


class Job(msgspec.Struct, frozen=True):
    """One job, as in `JobRecord`, with what it printed understood.

    Attributes:
        number: see `JobRecord`.
        began_s: likewise.
        ended_s: likewise.
        kind: likewise.
        words: likewise.
        outcome: None if it printed nothing.
    """

    number: int
    began_s: float
    ended_s: float | None
    kind: str
    words: str
    outcome: Outcome | None


class Status(msgspec.Struct, frozen=True):
    """What a local cloud is doing.

    Attributes:
        up: whether it runs.
        place: where its photos are; empty while it does not run.
        endpoint: of the S3 that it has started; empty if it has not.
        waiting: changes that no job has seen.
        waiting_since_s: when the first of them was heard of, seconds since 1970; None without one.
        jobs: the latest, newest first.
        in_service: the model in service in `stable`; None: there is none, or the cloud does not run.
        candidate: likewise in `candidate`.
    """

    up: bool
    place: str
    endpoint: str
    waiting: int
    waiting_since_s: float | None
    jobs: tuple[Job, ...]
    in_service: Model | None
    candidate: Model | None


def look(folder: Folder) -> Status:
    """Returns what the cloud in a folder is doing.

    Raises:
        OkkoError: no cloud ran there yet.
    """
    if not (folder.path / "queue.sqlite").is_file():
        raise OkkoError(f"no cloud ran in {folder.path} yet; okko cloud up --local {folder.path} starts one")
    running = folder.read_running()
    queue = folder.queue()
    try:
        waiting, _ = queue.waiting()
        records = queue.jobs(_JOBS)
    finally:
        queue.close()
    models = _models(folder, running) if running else {}
    return Status(
        up=running is not None,
        place=running.place if running else "",
        endpoint=running.endpoint if running else "",
        waiting=waiting.changes,
        waiting_since_s=waiting.first_s if waiting.changes else None,
        jobs=tuple(_job(record) for record in records),
        in_service=models.get("stable"),
        candidate=models.get("candidate"),
    )


def is_idle(folder: Folder) -> bool:
    """Says whether nothing waits and nothing runs, or whether nobody is there who would do it."""
    if not folder.is_up():
        return True
    queue = folder.queue()
    try:
        return not queue.waiting()[0].changes and not any(job.kind == "running" for job in queue.jobs(1))
    finally:
        queue.close()


def _models(folder: Folder, running: Running) -> dict[str, Model]:
    from okko_cloud.making import publisher

    if running.endpoint:
        environment = folder.environment()
        os.environ.clear()
        os.environ.update(environment)
    place = Place.parse(running.place, running.external)
    catalog = publisher(place.registry(), folder.keys).look().catalog
    served = {channel: catalog.places.get(channel_place(channel)) for channel in ("stable", "candidate")}
    return {
        channel: Model(catalog.bundles[service.digest].version, service.digest)
        for channel, service in served.items()
        if service is not None
    }


def _job(record: JobRecord) -> Job:
    outcome = msgspec.json.decode(record.outcome, type=Outcome) if record.outcome else None
    return Job(record.number, record.began_s, record.ended_s, record.kind, record.words, outcome)


def words(status: Status, now_s: float) -> str:
    """Returns the status for people.

    Args:
        status: from `look`.
        now_s: seconds since 1970.
    """
    lines = [f"up at {status.place}" + (f" ({status.endpoint})" if status.endpoint else "") if status.up else "down"]
    if status.waiting:
        assert status.waiting_since_s is not None
        lines.append(f"{status.waiting} changes wait, the first for {max(0, now_s - status.waiting_since_s):.0f} s")
    else:
        lines.append("nothing waits")
    for name, model in (("in service", status.in_service), ("candidate", status.candidate)):
        if status.up:
            lines.append(f"{name}: {model.version} ({model.bundle[:12]})" if model else f"{name}: none")
    for job in status.jobs:
        took = (job.ended_s or now_s) - job.began_s
        photos = f"  {sum(job.outcome.done.photos.values())} photos" if job.outcome else ""
        lines.append(f"job {job.number}  {job.kind:<9} {took:6.1f} s{photos}  {job.words}".rstrip())
    return "\n".join(lines)
