"""A set that outgrows one machine: 100,000 synthetic photos in S3, trained on by a local Dask cluster of two workers.

    python -m benchmarks.scale --photos 2000 --pilot 500         a few minutes
    python -m benchmarks.scale --photos 100000 --write           an hour or two on two cores

Photos are drawn (two labels, small JPEGs), put into an embedded S3 (SeaweedFS), and trained on by `okko train s3://...
--dask ADDRESS` in a process of its own. While all photos are looked at, one worker is killed. Measured are the peak
memory (VmHWM) of each worker and of the client, the rate of the two workers and of one process on the same photos, and
how many finished shards were computed again. `--write` puts the figures into docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw

from benchmarks.tables import replace_section

if TYPE_CHECKING:
    from collections.abc import Iterator

BUCKET, PREFIX = "okko", "scale"
WIDTH, HEIGHT = 160, 120
MEMORY_LIMIT = "1.5GB"
WORKERS = 2
_DOCUMENT = Path(__file__).parents[1] / "docs" / "benchmarks.md"
_UPLOADED_AT_A_TIME = 5000
_BEFORE_THE_STRETCH = 0.2
_MILLION_PHOTOS = 10
_GB_A_WORKER = 2
_FEATURES = 2000
_MB = 1e6


def draw(number: int) -> tuple[str, bytes]:
    """Returns label and JPEG of the synthetic photo of this number: a marble, whole (OK) or with a notch (KO)."""
    random = np.random.default_rng([3, number])
    label = "KO" if number % 2 else "OK"
    light = random.uniform(0.7, 1.2)
    slope = np.linspace(-20, 20, WIDTH) * random.uniform(-1, 1) + np.linspace(-15, 15, HEIGHT)[:, None]
    scene = np.clip((105 + slope)[..., None] * light * np.array([1.0, 0.95, 0.9]), 0, 255).astype(np.uint8)
    image = Image.fromarray(scene)
    paint = ImageDraw.Draw(image)
    x, y, r = random.uniform(60, 100), random.uniform(45, 75), random.uniform(24, 36)
    colour = tuple(int(value) for value in random.uniform(30, 255, 3) * light / 1.2)
    paint.ellipse((x - r, y - r, x + r, y + r), fill=colour)
    shine = tuple(min(255, value + 70) for value in colour)
    paint.ellipse((x - r / 2, y - r / 2, x - r / 5, y - r / 5), fill=shine)
    if label == "KO":
        start, width = random.uniform(0, 360), random.uniform(8, 40)
        paint.pieslice((x - r - 1, y - r - 1, x + r + 1, y + r + 1), start, start + width, fill=(60, 55, 50))
    noisy = np.asarray(image, np.float32) + random.normal(0, 4, (HEIGHT, WIDTH, 1)).astype(np.float32)
    buffer = io.BytesIO()
    Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=85)
    return label, buffer.getvalue()


def upload(count: int, place: Any) -> float:
    """Draws photos and puts them into the bucket; returns their size in bytes."""
    from okko_cloud.bucket import CONNECTIONS

    client = place.client(connections=CONNECTIONS)
    total = 0

    def put(number: int) -> int:
        label, data = draw(number)
        client.put_object(Bucket=place.bucket, Key=f"{place.prefix}{label}/{number:07}.jpg", Body=data)
        return len(data)

    with ThreadPoolExecutor(CONNECTIONS) as pool:
        for start in range(0, count, _UPLOADED_AT_A_TIME):
            total += sum(pool.map(put, range(start, min(start + _UPLOADED_AT_A_TIME, count))))
            print(f"uploaded {min(start + _UPLOADED_AT_A_TIME, count)} of {count}", flush=True)
    return total


@dataclass
class Memory:
    """Watches the peak resident memory of processes, however they end."""

    peaks: dict[str, int] = field(default_factory=dict)
    _stop: threading.Event = field(default_factory=threading.Event)

    def watch(self, name: str, pid: int) -> None:
        """Begins to watch a process."""
        threading.Thread(target=self._follow, args=(name, pid), daemon=True).start()

    def stop(self) -> None:
        """Ends all watching."""
        self._stop.set()

    def _follow(self, name: str, pid: int) -> None:
        while not self._stop.wait(0.25):
            try:
                lines = Path(f"/proc/{pid}/status").read_text().splitlines()
            except OSError:
                return
            for line in lines:
                if line.startswith("VmHWM:"):
                    self.peaks[name] = int(line.split()[1]) * 1024


@dataclass(frozen=True)
class Rate:
    """Photos computed, network runs (a photo as it is and each altered copy), and how long it took."""

    photos: int
    runs: int
    seconds: float


def rate(place: Any, count: int, crew: Any, store: Path) -> Rate:
    """Looks at `count` photos and one altered copy each, streamed from S3, with whatever crew, as training does."""
    from okko_cloud.bucket import BucketPhotos
    from okko_cloud.photo_source import BucketPath, BucketReader
    from okko_train.dataset import Photo
    from okko_train.engine import Engine, Wanted
    from okko_train.feature_graph import FEATURES, Recipe, View, feature_model
    from okko_train.shards import Pass, StoreAt

    reader = BucketReader(place)
    photos = []
    for listed in BucketPhotos(place, prefix=place.prefix).list():
        if not listed.key.startswith("."):
            path = BucketPath.of(Path("/nowhere") / listed.key, reader, listed)
            digest = _sha256(draw(int(Path(listed.key).stem))[1])
            photos.append(Photo(path, listed.key, listed.key.split("/")[0], None, digest))
        if len(photos) == count:
            break
    recipe = Recipe(View(crop=None, size=224))
    engine = Engine(reader, StoreAt(str(store)), crew)
    wanted = [Wanted.all_of(Pass(recipe.digest, copy), photos) for copy in (None, 0)]
    model = feature_model(recipe).SerializeToString()
    began = time.monotonic()
    engine.vectors(wanted, model, (FEATURES,))
    return Rate(count, 2 * count, time.monotonic() - began)


def _sha256(data: bytes) -> str:
    import hashlib

    return hashlib.sha256(data).hexdigest()


def client(arguments: list[str], pilot: int | None) -> None:
    """Runs `okko train` in this process."""
    from okko_cloud import photo_source
    from okko_train import training
    from okko_train.commands.train import train
    from okko_train.pilot import choose_pilot

    if pilot:
        training.choose_pilot = lambda task: choose_pilot(task, pilot)  # type: ignore[assignment]
    train.main(arguments, obj=lambda: photo_source, standalone_mode=False)


@dataclass(frozen=True)
class Shards:
    """What workers told of the shards they finished.

    Attributes:
        finished: number of parts that were finished before the worker was killed.
        again: how often a part was computed that had been finished before.
        parts: number of all parts.
        looked_per_s: photos opened a second, at the beginning.
        runs_per_s: network runs a second, while all photos were looked at.
    """

    finished: int
    again: int
    parts: int
    looked_per_s: float
    runs_per_s: float


def events(watcher: Any) -> list[tuple[float, dict[str, Any]]]:
    """Returns what workers told the scheduler, with the time."""
    return [(at, event) for at, event in watcher.get_events("okko") if "parts" in event]


def kill_one(watcher: Any, cluster: Any, enough: int, training: subprocess.Popen[bytes]) -> float:
    """Waits until `enough` rows were computed, and kills the first worker; returns when."""
    while sum(event["computed"] for _, event in events(watcher)) < enough:
        if training.poll() is not None:
            raise SystemExit("okko train ended before a worker could be killed; lower --kill-at")
        time.sleep(1)
    pid = next(iter(cluster.workers.values())).process.pid
    os.kill(pid, signal.SIGKILL)
    print(f"killed worker {pid}", flush=True)
    return time.time()


def count_shards(told: list[tuple[float, dict[str, Any]]], killed_at: float) -> Shards:
    """Says what was computed twice, and how fast the workers were."""
    from okko_train.shards import LOOKS

    computed = [(at, event["computed"], event["parts"]) for at, event in told if event["computed"]]
    times = Counter(name for _, _, parts in computed for name in parts)

    rows: Counter[str] = Counter()
    for _, count, parts in computed:
        rows[parts[0].split("/")[0]] += count

    def per_second(folder: str) -> float:
        stretch = [(at, count) for at, count, parts in computed if parts[0].startswith(folder)]
        # The pilot's photos were looked at by the same model, some time before all others.
        done = np.cumsum([count for _, count in stretch])
        stretch = stretch[int(np.searchsorted(done, _BEFORE_THE_STRETCH * done[-1])) :]
        return sum(count for _, count in stretch[1:]) / max(stretch[-1][0] - stretch[0][0], 1e-9)

    most = max(rows.keys() - {LOOKS}, key=lambda folder: rows[folder])
    return Shards(
        finished=sum(len(parts) for at, _, parts in computed if at < killed_at),
        again=sum(count - 1 for count in times.values()),
        parts=len(times),
        looked_per_s=per_second(LOOKS),
        runs_per_s=per_second(most),
    )


@contextlib.contextmanager
def cluster_of(workers: int, memory: Memory) -> Iterator[Any]:
    """Yields a local cluster of worker processes whose memory is watched, also of those that come later."""
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        processes=True,
        memory_limit=MEMORY_LIMIT,
        dashboard_address=None,
        silence_logs=40,
    ) as cluster:
        seen: set[int] = set()
        ended = threading.Event()

        def find() -> None:
            for number in itertools.count():
                for nanny in list(cluster.workers.values()):
                    process = nanny.process
                    if process is not None and process.pid and process.pid not in seen:
                        seen.add(process.pid)
                        memory.watch(f"worker {len(seen)}", process.pid)
                if ended.wait(0.5) or number > 1_000_000:
                    return

        threading.Thread(target=find, daemon=True).start()
        try:
            yield cluster
        finally:
            ended.set()


def measure(options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Runs everything; returns the figures."""
    from distributed import Client

    from okko_cloud.local.seaweed import SeaweedFS
    from okko_cloud.place import Place
    from okko_train.dask_crew import connect
    from okko_train.engine import Threads

    server = SeaweedFS(scratch / "s3")
    server.start(Place(BUCKET), "http://127.0.0.1:9/", "none")
    os.environ |= {
        "AWS_SHARED_CREDENTIALS_FILE": str(server.credentials),
        "AWS_CONFIG_FILE": str(server.config),
        "OKKO_CACHE": str(scratch / "cache"),
        "OMP_NUM_THREADS": "1",
    }
    figures: dict[str, Any] = {}
    memory = Memory()
    try:
        place = Place(BUCKET, f"{PREFIX}/", server.endpoint)
        began = time.monotonic()
        figures["bytes"] = upload(options.photos, place)
        figures["upload_s"] = time.monotonic() - began
        with cluster_of(WORKERS, memory) as cluster:
            compared = min(options.compared, options.photos)
            figures["one"] = rate(place, compared, Threads(1), scratch / "one")
            print(figures["one"], flush=True)
            with connect(cluster.scheduler_address) as crew:
                figures["two"] = rate(place, compared, crew, scratch / "two")
            print(figures["two"], flush=True)
            with Client(cluster.scheduler_address, set_as_default=False) as watcher:
                before = len(events(watcher))
                arguments = [f"s3://{BUCKET}/{PREFIX}", "--out", str(scratch / "model.okko"), "--json"]
                arguments += ["--endpoint-url", server.endpoint, "--dask", cluster.scheduler_address]
                command = [sys.executable, "-m", "benchmarks.scale", "--client", json.dumps(arguments)]
                command += ["--pilot", str(options.pilot)] if options.pilot else []
                began = time.monotonic()
                with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
                    memory.watch("client", process.pid)
                    try:
                        earlier = sum(event["computed"] for _, event in events(watcher))
                        enough = earlier + round(options.kill_at * options.photos)
                        killed_at = kill_one(watcher, cluster, enough, process)
                        output, _ = process.communicate()
                    finally:
                        process.kill()
                figures["train_s"] = time.monotonic() - began
                if process.returncode:
                    raise SystemExit(f"okko train ended with {process.returncode}")
                figures["result"] = json.loads(output)
                figures["shards"] = count_shards(events(watcher)[before:], killed_at)
        figures["memory"] = dict(memory.peaks)
    finally:
        memory.stop()
        server.stop()
    return figures


@dataclass(frozen=True)
class Estimate:
    """What a set of `_MILLION_PHOTOS` would take, from measured rates and list prices.

    Attributes:
        processor_h: hours of one processor, for opening, looking, and the test.
        compute_usd: Fargate tasks of one processor and `_GB_A_WORKER` GB for so long.
        requests_usd: every photo fetched to be opened and to be looked at, a fifth once more for the test.
        shards_gb: finished shards beside the photos.
    """

    processor_h: float
    compute_usd: float
    requests_usd: float
    shards_gb: float


def estimate(looked_per_s: float, runs_per_s: float, *, workers: int, features: int) -> Estimate:
    """Returns what ten million photos would take.

    Args:
        looked_per_s: photos opened a second by all workers.
        runs_per_s: network runs a second by all workers.
        workers: so many processors worked.
        features: numbers that are kept of a photo.
    """
    from okko_cloud.aws.cost import load_prices
    from okko_train.pilot import MOST_LEARNT_FROM

    prices = load_prices()
    photos = _MILLION_PHOTOS * 1_000_000
    runs = 1.2 * photos + MOST_LEARNT_FROM
    processor_h = workers * (photos / looked_per_s + runs / runs_per_s) / 3600
    hourly = prices["fargate_vcpu_hour"] + _GB_A_WORKER * prices["fargate_gb_hour"] + prices["public_address_hour"]
    return Estimate(processor_h, processor_h * hourly, 2.2 * photos * prices["s3_get"], photos * features * 4 / 1e9)


def section(figures: dict[str, Any], photos: int) -> str:
    """Returns the section for docs/benchmarks.md."""
    one, two, shards, memory = (figures[name] for name in ("one", "two", "shards", "memory"))
    result, peak = figures["result"], max(value for name, value in memory.items() if name.startswith("worker"))
    rows = [
        ("photos in S3", f"{photos:,}, {figures['bytes'] / _MB:.0f} MB, put there in {figures['upload_s']:.0f} s"),
        ("`okko train s3://... --dask`", f"{figures['train_s'] / 60:.0f} minutes, {result['trials']} trials"),
        ("accuracy on the test photos", f"{result['test']['accuracy']:.4f} of {result['test']['n']:,}"),
        ("peak memory of a worker (VmHWM)", f"{peak / _MB:.0f} MB (limit {MEMORY_LIMIT})"),
        ("peak memory of the client (VmHWM)", f"{memory['client'] / _MB:.0f} MB"),
        (f"one process, {one.photos:,} photos and a copy each", f"{one.runs / one.seconds:.0f} network runs a second"),
        ("two workers, the same photos", f"{two.runs / two.seconds:.0f} network runs a second"),
        ("two workers, opening all photos", f"{shards.looked_per_s:.0f} photos a second"),
        ("two workers, looking at all photos", f"{shards.runs_per_s:.0f} network runs a second"),
        ("a worker killed (SIGKILL) when", f"{shards.finished} of {shards.parts} parts of shards were finished"),
        ("finished parts computed again", f"{shards.again}"),
    ]
    lines = [
        "## A set that outgrows one machine",
        "",
        f"`python -m benchmarks.scale --photos {photos} --write`; synthetic photos of {WIDTH} x {HEIGHT} pixels, an S3 "
        "server (SeaweedFS), two workers and the client on the same two processors. See [scale](scale.md).",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in rows),
    ]
    return "\n".join(lines)


def main() -> None:
    """Measures, prints, and writes the section if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=100_000)
    parser.add_argument("--compared", type=int, default=5000, help="photos for the rate of one process")
    parser.add_argument("--pilot", type=int, help="choose on so many photos; the product's own number unless given")
    parser.add_argument("--kill-at", type=float, default=2.0, help="kill a worker after so many runs a photo")
    parser.add_argument("--folder", type=Path, help="for everything; a temporary one unless given")
    parser.add_argument("--write", action="store_true", help="put the figures into docs/benchmarks.md")
    parser.add_argument("--client", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.client:
        client(json.loads(options.client), options.pilot)
        return
    with tempfile.TemporaryDirectory(prefix="okko-scale-") as name:
        figures = measure(options, options.folder or Path(name))
    print(json.dumps(figures, default=str, indent=1))
    shards = figures["shards"]
    print(estimate(shards.looked_per_s, shards.runs_per_s, workers=WORKERS, features=_FEATURES))
    text = section(figures, options.photos)
    print(text)
    if options.write:
        replace_section(_DOCUMENT, "scale", text)


if __name__ == "__main__":
    main()
