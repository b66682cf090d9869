"""A storm of uploads against the local cloud, while its workers are killed.

    python -m benchmarks.cloud_storm                     2,000 photos in a minute, 20 kills; a few minutes
    python -m benchmarks.cloud_storm --photos 200 --seconds 10 --kills 5

A real S3 server (SeaweedFS), the real queue, loop and job processes; only training is a stand-in that takes no time.
Some photos are relabelled or deleted while the storm blows. Each event is delivered one to three times, in any order,
up to some seconds late. A kill is SIGKILL for the job, or for the whole loop. In the end every photo must be in exactly
one dataset, that of the last job; one model must be published for it; and nothing may be left locked or waiting.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote_plus

from benchmarks.cloud_weather import GIVE_UP_S, PLACE, TOKEN, Loop, Post
from okko_cloud.bucket import BucketPhotos, PhotoCache
from okko_cloud.job import Job
from okko_cloud.lease import holder
from okko_cloud.local.jobs import serve
from okko_cloud.local.seaweed import SeaweedFS, environment
from okko_cloud.making import make_registry, publisher
from okko_cloud.place import load_settings
from okko_cloud.publishing import published_for
from okko_cloud.snapshot import take_snapshot
from okko_models.registry.checking import check

LEASE_S = 3.0


@dataclass(frozen=True)
class Storm:
    """How hard it blows.

    Attributes:
        photos: uploads.
        seconds: in which they come.
        kills: of jobs and loops.
        seed: of everything random.
    """

    photos: int = 2000
    seconds: float = 60.0
    kills: int = 20
    seed: int = 0


@dataclass(frozen=True)
class Calm:
    """What is there when it is over.

    Attributes:
        uploaded: photos that were uploaded.
        removed: of those, deleted again.
        relabelled: moved to the other label.
        delivered: events, with repetitions.
        jobs: how each job ended, in order.
        kills: jobs or loops that were killed while a job ran.
        in_dataset: photos in the last dataset.
        lost: photos of the bucket that are not in it, and the other way round.
        datasets: models published for each dataset, the last one at the end.
        locked: whether the lock is still held.
        waiting: changes that still wait.
        leftovers: unfinished folders on the workers' disk.
        errors: what `okko registry verify` finds.
        seconds: from the last upload to the end.
    """

    uploaded: int
    removed: int
    relabelled: int
    delivered: int
    jobs: list[str]
    kills: int
    in_dataset: int
    lost: int
    datasets: list[int]
    locked: bool
    waiting: int
    leftovers: int
    errors: list[str]
    seconds: float


def blow(storm: Storm, folder: Path) -> Calm:
    """Lets a storm blow in an empty folder, and says what is left."""
    server = SeaweedFS(folder / "server")
    before = dict(os.environ)
    loop = None
    try:
        server.start(PLACE, "http://127.0.0.1:9/", TOKEN)  # its own events go nowhere; the storm makes them
        own = environment(server.config, server.credentials) | {"OMP_NUM_THREADS": "1"}
        os.environ.clear()
        os.environ.update(own)
        make_registry(PLACE.registry(), folder / "keys")
        loop = Loop(folder)
        return _blow(storm, folder, loop)
    finally:
        if loop is not None:
            loop.close()
        server.stop()
        os.environ.clear()
        os.environ.update(before)


def _blow(storm: Storm, folder: Path, loop: Loop) -> Calm:
    lot = random.Random(storm.seed)
    files = [(f"{'OK' if n % 2 else 'KO'}/storm {n}+%.png", _photo(n)) for n in range(storm.photos)]
    lot.shuffle(files)
    client = PLACE.client(connections=16)
    delivered, sequence = [0], iter(range(1, 1 << 30))
    pool, post = ThreadPoolExecutor(8), Post(loop)
    removed, relabelled = [], []

    def tell(key: str, *, gone: bool = False) -> None:
        """Delivers an event one to three times, up to two seconds late, whoever listens then."""
        body = _event(key, next(sequence), gone=gone)
        for _ in range(lot.randint(1, 3)):
            delivered[0] += 1
            post.send(body, time.monotonic() + lot.uniform(0, 2))

    def upload(at: float, key: str, data: bytes) -> None:
        time.sleep(max(0.0, at - time.monotonic()))
        client.put_object(Bucket=PLACE.bucket, Key=PLACE.photos + key, Body=data)
        tell(PLACE.photos + key)
        if lot.random() < 0.03:
            client.delete_object(Bucket=PLACE.bucket, Key=PLACE.photos + key)
            tell(PLACE.photos + key, gone=True)
            removed.append(key)
        elif lot.random() < 0.03:
            other = f"{'KO' if key.startswith('OK') else 'OK'}/moved {key[3:]}"
            client.put_object(Bucket=PLACE.bucket, Key=PLACE.photos + other, Body=data)
            client.delete_object(Bucket=PLACE.bucket, Key=PLACE.photos + key)
            for each, gone in ((key, True), (other, False)):
                tell(PLACE.photos + each, gone=gone)
            relabelled.append(key)

    start, kills = time.monotonic(), 0
    uploads = [
        pool.submit(upload, start + storm.seconds * n / storm.photos, key, data) for n, (key, data) in enumerate(files)
    ]
    next_kill = start + lot.uniform(1, 3)
    last_upload, end = None, start + storm.seconds + GIVE_UP_S
    calm_since, late = None, 0
    while time.monotonic() < end:
        now = time.monotonic()
        if last_upload is None and all(each.done() for each in uploads):
            last_upload = now
        if kills < storm.kills and now >= next_kill:
            kills += loop.kill(lot)
            next_kill = now + lot.uniform(0.2, 3)
        calm = last_upload is not None and post.is_empty() and loop.is_calm()
        if calm and kills < storm.kills:
            # Too little was going on to kill so many; so another photo comes.
            upload(now, f"OK/late {late}.png", _photo(2 * (storm.photos + late) + 1))
            late += 1
            last_upload = time.monotonic()
            calm = False
        calm_since = (calm_since or now) if calm else None
        # A look of its own must have found nothing, either.
        if calm_since and now > calm_since + 6:
            break
        time.sleep(0.05)
    for each in uploads:
        each.result()
    pool.shutdown()
    post.close()
    took = (calm_since or time.monotonic()) - (last_upload or start)
    return _look(folder, loop, storm.photos + late, removed, relabelled, delivered[0], kills, took)


def _look(
    folder: Path,
    loop: Loop,
    uploaded: int,
    removed: list[str],
    relabelled: list[str],
    delivered: int,
    kills: int,
    took: float,
) -> Calm:
    store, registry = PLACE.store(), publisher(PLACE.registry(), folder / "keys")
    seen = registry.look()
    with tempfile.TemporaryDirectory() as name:
        cache = PhotoCache(Path(name))
        listed = take_snapshot(loop.photos).listed
        there = set(zip(cache.fetch(loop.photos, listed), (each.key.partition("/")[0] for each in listed), strict=True))
        cache.close()
    digest = hashlib.sha256("".join(f"{each} {label}\n" for each, label in sorted(there)).encode()).hexdigest()
    done = [json.loads(record.outcome)["done"] for record in loop.queue.jobs(10_000) if record.outcome]
    command = f"okko cloud job, recipe {load_settings(store).recipe}"
    published: dict[str, int] = {}
    for each in seen.catalog.bundles:
        made = json.loads(registry.store.get(f"bundles/{each}/manifest.json").data)["dataset"]["digest"]
        published[made] = published.get(made, 0) + 1
    last = published.pop(digest, 0)
    assert not last or published_for(registry.store, seen.catalog, digest, command)
    leftovers = [path for path in (folder / "disk" / "work").glob("*") if path.is_dir()]
    return Calm(
        uploaded=uploaded,
        removed=len(removed),
        relabelled=len(relabelled),
        delivered=delivered,
        jobs=[record.kind for record in reversed(loop.queue.jobs(10_000))],
        kills=kills,
        in_dataset=sum(done[0]["photos"].values()) if done and done[0]["dataset"] == digest else 0,
        lost=len(there) - (uploaded - len(removed)),
        datasets=[*published.values(), last],
        locked=holder(store) is not None,
        waiting=loop.queue.waiting()[0].changes,
        leftovers=len(leftovers),
        errors=list(check(registry.store, seen, time.time()).errors),
        seconds=took,
    )


def _photo(number: int) -> bytes:
    from tests.cloud.fakes import colour_photo

    return colour_photo(number, "OK" if number % 2 else "KO")


def _event(key: str, sequence: int, *, gone: bool) -> bytes:
    found = {"key": quote_plus(key, safe="/"), "sequencer": f"{sequence:016X}"}
    name = "ObjectRemoved:Delete" if gone else "ObjectCreated:Put"
    record = {"eventName": name, "s3": {"bucket": {"name": PLACE.bucket}, "object": found}}
    return json.dumps({"Records": [record]}).encode()


def _job(folder: Path) -> Job:
    from tests.cloud.fakes import stand_in

    store = PLACE.store()
    return Job(
        photos=BucketPhotos(PLACE),
        store=store,
        publisher=publisher(PLACE.registry(), folder / "keys"),
        settings=load_settings(store),
        cache=PhotoCache(folder / "disk" / "photos"),
        folder=folder / "disk",
        train=stand_in(),
        say=lambda line: print(line, file=sys.stderr),
        lease_s=LEASE_S,
        workers=1,
    )


def main() -> None:
    """Runs a storm, prints what is left, and fails if that is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--job", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        serve(lambda: _job(options.job), watch_parent=True)
    with tempfile.TemporaryDirectory(prefix="okko-storm-") as name:
        calm = blow(Storm(options.photos, options.seconds, options.kills, options.seed), Path(name))
    kinds = ", ".join(f"{calm.jobs.count(kind)} {kind}" for kind in sorted(set(calm.jobs)))
    print(
        f"uploaded   {calm.uploaded} photos in {options.seconds:g} s; {calm.removed} deleted, {calm.relabelled} "
        f"relabelled meanwhile; {calm.delivered} events delivered\n"
        f"jobs       {len(calm.jobs)}: {kinds}; {calm.kills} kills\n"
        f"dataset    {calm.in_dataset} photos in the last one, {calm.lost} lost or twice\n"
        f"models     {calm.datasets[-1]} for the last dataset; for each of {len(calm.datasets) - 1} before: "
        f"{', '.join(sorted(map(str, set(calm.datasets[:-1])))) or '-'}\n"
        f"left over  {int(calm.locked)} locks, {calm.waiting} waiting, {calm.leftovers} folders; "
        f"registry: {len(calm.errors)} errors\n"
        f"calm       {calm.seconds:.1f} s after the last upload"
    )
    right = calm.lost == 0 and calm.in_dataset == calm.uploaded - calm.removed and calm.datasets[-1] == 1
    clean = not (calm.locked or calm.waiting or calm.leftovers or calm.errors)
    sys.exit(0 if right and clean and calm.kills == options.kills else 1)


if __name__ == "__main__":
    main()
