"""What the sorting path notices of updates: a belt with 20 marbles a second, and one new model after another.

    python -m benchmarks.update BUNDLE PHOTOS [--updates 12] [--first] [--folder-registry] [--write]

`okko run` sorts in real time in a process of its own (`tests.faults.device`), with a dashboard that nobody looks at.
All releases are BUNDLE under further versions, published in a registry before it begins; a web server on loopback
serves it. Each is downloaded, tested in a child process, shown marbles beside the model in service, and put in service.
Every marble's times, as the journal has them, are sorted by what went on when it was judged; what is compared stands
side by side in one run. --write puts the table into docs/reliability.md.
"""

from __future__ import annotations

import argparse
import functools
import http.server
import json
import os
import platform
import shutil
import sys
import tempfile
import threading
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from benchmarks.tables import replace_section
from okko_edge.journal.reading import JournalReader, Selection
from okko_edge.updater.shelf import Shelf
from okko_models.bundle import Bundle, write_bundle
from okko_models.registry.client import Client
from okko_models.registry.store import FolderStore
from okko_models.registry.transport import open_transport
from tests.faults.devices import DeviceProcess
from tests.models.registry.simulator import Simulator

DOCUMENT = Path(__file__).parents[1] / "docs" / "reliability.md"
GOAL = 0.20
RATE = 20
# From one look at the registry to the next: long enough for all of an update, and for a while without.
CYCLE_S = 30
SHADOW_MARBLES, PROBATION_MARBLES = 120, 60
AFTER_S = 3.0
RESAMPLES = 1000
QUIET, AFTER = "nothing", "after"
PHASES = (QUIET, "download", "self-test", "shadow", "switch", AFTER)
# What the goal names, taken together: each alone has so few marbles that its p99 is one of the slowest two or three.
BUSY = ("download", "self-test", "switch")
TOGETHER = "download, self-test or switch"
CONFIG = """
bundle = "{bundle}"
[camera]
source = "v4l2:/dev/belt"
[trigger]
kind = "gpio:17"
[gate]
kind = "sim"
travel_s = 0.3
[journal]
path = "{folder}/journal.sqlite"
[dashboard]
listen = "127.0.0.1:{port}"
[updates]
enabled = true
folder = "{folder}/models"
registry = "{registry}"
poll_s = {cycle_s}
shadow_marbles = {shadow}
probation_marbles = {probation}
"""


@dataclass(frozen=True)
class Marble:
    """What the journal says of a marble: when, and the milliseconds of the path, of the model, and since the frame."""

    at_s: float
    path_ms: float
    inference_ms: float
    since_frame_ms: float


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A web server that writes no log."""

    def log_message(self, *_) -> None:
        """Says nothing."""


class Releases:
    """A registry with so many releases of a bundle, of which one after the other goes into `stable`."""

    def __init__(self, bundle: Bundle, folder: Path, count: int) -> None:
        self.registry = folder / "registry"
        self._simulator = Simulator(folder / "publisher", None, FolderStore(self.registry))
        self._simulator.time = time.time()
        self.root = self._simulator.root
        self.digests = []
        contents = {name: bundle.read(name) for name in bundle.manifest.files}
        for number in range(1, count + 1):
            manifest = msgspec.structs.replace(bundle.manifest, version=f"{bundle.manifest.version}-{number}")
            release = write_bundle(folder / "release.okko", manifest, contents)
            self._simulator.publisher.publish(release, "candidate")
            self.digests.append(release.digest)
        shutil.rmtree(folder / "release.okko")

    def release(self, number: int) -> None:
        """Puts a release in service."""
        self._simulator.publisher.promote(self.digests[number], "stable")

    def serve(self) -> str:
        """Serves the registry on loopback; returns its address."""
        handler = functools.partial(Quiet, directory=str(self.registry))
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"


class Run:
    """One measurement."""

    def __init__(self, bundle: Path, photos: Path, folder: Path, updates: int, *, http: bool, first: bool) -> None:
        self.folder, self.phases = folder, folder / "phases"
        self.releases = Releases(Bundle.open(bundle), folder, updates)
        self.memory_mb: list[float] = []
        Client(folder / "models" / "trust", open_transport("http://localhost")).enroll(self.releases.root)
        config = CONFIG.format(
            bundle=bundle,
            folder=folder,
            port=18_080,
            registry=self.releases.serve() if http else self.releases.registry,
            cycle_s=CYCLE_S,
            shadow=SHADOW_MARBLES,
            probation=PROBATION_MARBLES,
        )
        self.device = DeviceProcess(
            folder,
            config,
            photos=photos,
            period_s=1 / RATE,
            environment={
                "OKKO_PHASES": str(self.phases),
                "OKKO_FIRST": "yes" if first else "",
                "OMP_NUM_THREADS": "1",
            },
            program="benchmarks.update_probe",
        )
        self.first = first
        self.report: dict = {}

    def measure(self) -> None:
        """Releases one model after another, and ends the device."""
        self.device.wait_for_verdicts(5 * RATE)
        self._look()
        for number in range(len(self.releases.digests)):
            self.releases.release(number)
            print(f"release {number + 1} of {len(self.releases.digests)}", file=sys.stderr)
            self.device.wait_for("the switch", lambda _, n=number: len(self.spans("switch")) > n, 6 * CYCLE_S)
            time.sleep(AFTER_S + 2)
            self._look()
        time.sleep(5)
        self.report = self.device.terminate()

    def spans(self, name: str) -> list[tuple[float, float]]:
        """Returns when a step of an update went on."""
        lines = self.phases.read_text().splitlines() if self.phases.exists() else []
        shelf = Shelf(self.folder / "models")
        if any(rejection for rejection in shelf.state.rejected):
            raise RuntimeError(f"a release was rejected: {shelf.state.rejected[0].reason}")
        return [(float(begin), float(end)) for kind, begin, end in map(str.split, lines) if kind == name]

    def marbles(self) -> dict[str, list[Marble]]:
        """Returns the marbles by what went on; those of the first seconds, in which all is cold, are left out."""
        spans = {name: self.spans(name) for name in PHASES}
        spans[AFTER] = [(end, end + AFTER_S) for _, end in spans["switch"]]
        found: dict[str, list[Marble]] = defaultdict(list)
        with JournalReader(self.folder / "journal.sqlite") as reader:
            for row in reader.decisions(Selection()):
                if row.number <= 2 * RATE:
                    continue
                since_ms = (row.monotonic_s - (row.frame_captured_at_s or row.monotonic_s)) * 1000
                marble = Marble(row.monotonic_s, row.path_ms, row.inference_ms, since_ms)
                began_s = marble.at_s - marble.path_ms / 1000
                during = [name for name in PHASES if any(a <= marble.at_s and began_s <= b for a, b in spans[name])]
                together = [TOGETHER] if set(during) & set(BUSY) else []
                for name in [*during, *together] or [QUIET]:
                    found[name].append(marble)
        return found

    def _look(self) -> None:
        status = Path(f"/proc/{self.device.process.pid}/status").read_text()
        self.memory_mb.append(int(status.split("VmRSS:")[1].split()[0]) / 1000)


def interval(marbles: list[Marble], quiet: list[Marble]) -> str:
    """Returns by how much the p99 of the path grows, as the 95 % interval over resampled marbles."""
    rng = np.random.default_rng(0)
    now, base = (np.array([marble.path_ms for marble in each]) for each in (marbles, quiet))
    ratios = [
        np.percentile(rng.choice(now, len(now)), 99) / np.percentile(rng.choice(base, len(base)), 99)
        for _ in range(RESAMPLES)
    ]
    low, high = np.percentile(ratios, (2.5, 97.5)) - 1
    return f"{low:+.0%} to {high:+.0%}"


def table(run: Run, bundle: Bundle) -> str:
    """Judges, and returns the section of the document."""
    found, life = run.marbles(), run.device.life
    quiet = found[QUIET]
    base = np.percentile([marble.path_ms for marble in quiet], 99)
    beside = np.percentile([marble.path_ms - marble.inference_ms for marble in quiet], 99)
    lines = [
        "| while this goes on | marbles | path without the model, ms: p50 | p99 | whole path, ms: p50 | p99 | "
        "p99 grows by | 95 % interval | slower than 99 % of those without | frame to gate command, ms: p99 |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    growths = {}
    for name in (*PHASES, TOGETHER):
        if not (marbles := found[name]):
            continue
        own = np.percentile([marble.path_ms - marble.inference_ms for marble in marbles], (50, 99))
        whole = np.percentile([marble.path_ms for marble in marbles], (50, 99))
        frame = np.percentile([marble.since_frame_ms for marble in marbles], 99)
        slower = np.mean([marble.path_ms > base for marble in marbles])
        growths[name] = whole[1] / base - 1
        lines.append(
            f"| {name} | {len(marbles):,} | {own[0]:.2f} | {own[1]:.2f} | {whole[0]:.2f} | {whole[1]:.2f} | "
            f"{growths[name]:+.0%} | {interval(marbles, quiet)} | {slower:.1%} | {frame:.2f} |"
        )
    together = growths[TOGETHER]
    worst = max((name for name in growths if name != QUIET), key=lambda name: growths[name])
    events = {name: count for name, count in run.report["events"].items() if count}
    journal, manifest = run.report["journal"], bundle.manifest
    size_mb = sum(entry.size for entry in manifest.files.values()) / 1e6
    return "\n".join(
        [
            "### What the sorting path notices of updates",
            "",
            "`python -m benchmarks.update BUNDLE PHOTOS`: a device in real time, one new model after another from a "
            "registry on loopback; its marbles by what went on when they were judged, the times those of the journal.",
            "",
            f"{len(run.releases.digests)} updates, {manifest.name} ({manifest.model.precision}, {size_mb:.1f} MB), 1 "
            f"thread, {RATE} marbles/s, {os.cpu_count()} cores of {platform.machine()}, load {os.getloadavg()[1]:.1f}"
            f"{', the agent before all other programs' if run.first else ''}.",
            "",
            *lines,
            "",
            f"Goal: the p99 of the path grows by less than {GOAL:.0%} during download, self-test and switch: "
            f"{together:+.0%}, {'met' if together < GOAL else 'missed'}; the most of any step was "
            f"{growths[worst]:+.0%} ({worst}). p99 of all but the model without an update: {beside:.2f} ms.",
            "",
            f"{len(life.came) - life.undecided:,} marbles, {len(life.verdicts):,} verdicts, exactly one each and in "
            f"order: {'yes' if life.exactly_one_each else 'NO'}; {run.report['errors']} errors; journal "
            f"{journal['written']:,} written, {journal['lost']} lost; counted: {json.dumps(events)}. Resident before "
            f"the first update {run.memory_mb[0]:.0f} MB, after the first {run.memory_mb[1]:.0f} MB, after the last "
            f"{run.memory_mb[-1]:.0f} MB.",
        ]
    )


def main(arguments: list[str]) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.update", description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--updates", type=int, default=12)
    parser.add_argument("--first", action="store_true", help="the agent before all other programs (SCHED_FIFO)")
    parser.add_argument("--folder-registry", action="store_true", help="read the registry as a folder, not over HTTP")
    parser.add_argument("--write", action="store_true", help="put the table into docs/reliability.md")
    asked = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        bundle = asked.bundle.resolve()
        http = not asked.folder_registry
        run = Run(bundle, asked.photos.resolve(), Path(temporary), asked.updates, http=http, first=asked.first)
        try:
            run.measure()
        finally:
            if run.device.process.poll() is None:
                run.device.kill()
        text = table(run, Bundle.open(bundle))
    print(text)
    if asked.write:
        replace_section(DOCUMENT, "update", text)


if __name__ == "__main__":
    main(sys.argv[1:])
