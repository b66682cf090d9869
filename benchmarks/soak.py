"""A device that sorts 20 marbles a second while everything around it fails at random, and is killed now and then.

    python -m benchmarks.soak BUNDLE PHOTOS [--minutes 35] [--seed 0] [--folder DIR] [--write]

`okko run` with all its parts in a process of its own (`tests.faults.device`), in real time: beam, supervised camera,
scheduled gate, journal and outbox with small bounds, an S3 that comes and goes, a dashboard that is asked every second,
a service manager that hears the watchdog. At the end the logs of the world are held against the journal, and the table
says what came of it. --write puts it into docs/reliability.md.
"""

from __future__ import annotations

import argparse
import bisect
import json
import logging
import random
import socket
import sqlite3
import statistics
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from pathlib import Path

import numpy as np

from benchmarks.tables import replace_section
from tests.edge.s3_fakes import Proxy
from tests.faults.devices import CREDENTIALS, DeviceProcess, Row, journal_rows, read_lives

DOCUMENT = Path(__file__).parents[1] / "docs" / "reliability.md"
JOURNAL_MB, OUTBOX_MB = 2.0, 8.0
WATCHDOG_S = 10.0
# What the device is told, and for how many seconds at least and at most.
FAULTS = {
    "stall": (0.5, 4.0),
    "hang": (0.5, 4.0),
    "gone": (0.5, 5.0),
    "corrupt": (0.1, 1.0),
    "odd": (0.1, 1.0),
    "black": (1.0, 1.5),
    "stale": (0.1, 1.0),
    "slow": (0.5, 3.0),
    "inference": (0.2, 1.0),
    "full": (0.5, 5.0),
    "readonly": (0.5, 5.0),
    "locked": (0.5, 5.0),
    "dashboard": (0.1, 0.2),
}
CLOCKS = {"1970": lambda: 1e6 - time.time(), "2100": lambda: 4_102_444_800 - time.time(), "now": lambda: 0.0}
NETWORKS = ("ok", "ok", "ok", "cut", "500", "lost", "slow")
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
max_mb = {journal_mb}
[outbox]
enabled = true
folder = "{folder}/outbox"
max_mb = {outbox_mb}
random_share = 0.005
near_threshold = 0.01
bucket = "s3://soak/marbles"
endpoint_url = "{s3}"
device = "soak"
retry_s = 1.0
[dashboard]
listen = "127.0.0.1:{port}"
"""


class Network:
    """How S3 behaves now; stands in for the proxy's list of faults, and has no end."""

    def __init__(self) -> None:
        self.mode = "ok"

    def popleft(self) -> str:
        """Returns what becomes of the next request."""
        return self.mode


class Manager:
    """Listens to the watchdog as systemd does."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "notify"
        self.longest_s = 0.0
        self.beats = 0
        self._last_s: float | None = None
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self.path))
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while True:
            said, now_s = self._socket.recv(4096).decode(), time.monotonic()
            if "WATCHDOG=1" in said:
                self.beats += 1
                if self._last_s is not None:
                    self.longest_s = max(self.longest_s, now_s - self._last_s)
                self._last_s = now_s
            else:
                self._last_s = None if "STOPPING=1" in said else now_s

    def forget(self) -> None:
        """Says that the process has been killed."""
        self._last_s = None


class Soak:
    """One soak; `run` it, then ask for the `table`."""

    def __init__(self, bundle: Path, photos: Path, folder: Path, seed: int) -> None:
        from moto.server import ThreadedMotoServer

        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self.folder, self.photos = folder, photos
        self.random = random.Random(seed)
        self.network = Network()
        moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        moto.start()
        self.s3 = self._make_bucket("http://{}:{}".format(*moto.get_host_and_port()))
        proxy = Proxy("http://{}:{}".format(*moto.get_host_and_port()))
        proxy.faults = self.network
        self.proxy = proxy
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.config = CONFIG.format(
            bundle=bundle, folder=folder, journal_mb=JOURNAL_MB, outbox_mb=OUTBOX_MB, s3=proxy.url, port=self.port
        )
        self.manager = Manager(folder)
        self.start_s = time.monotonic()
        self.injected: Counter[str] = Counter()
        self.black: list[tuple[float, float]] = []
        self.events: Counter[str] = Counter()
        self.last_events: Counter[str] = Counter()
        self.rows: dict[int, Row] = {}
        self.rows_vanished = 0
        self.oldest = 0
        self.restarts_s: list[float] = []
        self.ended: list[str] = []
        self.reports: list[dict | None] = []
        self.memory: list[list[tuple[float, float]]] = []
        self.largest = Counter[str]()
        self.asked: Counter[str] = Counter()
        self.device = self._start()

    @staticmethod
    def _make_bucket(url: str):
        import boto3

        client = boto3.client(
            "s3",
            endpoint_url=url,
            region_name="us-east-1",
            aws_access_key_id=CREDENTIALS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
        )
        client.create_bucket(Bucket="soak")
        client.put_bucket_versioning(Bucket="soak", VersioningConfiguration={"Status": "Enabled"})
        return client

    def _start(self) -> DeviceProcess:
        self.memory.append([])
        return DeviceProcess(
            self.folder,
            self.config,
            photos=self.photos,
            start_s=self.start_s,
            environment={
                "NOTIFY_SOCKET": str(self.manager.path),
                "WATCHDOG_USEC": str(int(WATCHDOG_S * 1e6)),
                "OMP_NUM_THREADS": "1",
            },
        )

    def run(self, minutes: float) -> None:
        """Lets it all happen."""
        end_s = self.start_s + minutes * 60
        fault_s = ask_s = look_s = self.start_s + 5
        # One long life in the middle, in which memory would be seen to grow; before and after it short ones.
        long_begin_s, long_end_s = self.start_s + 0.3 * minutes * 60, self.start_s + 0.75 * minutes * 60
        life_end_s = self.start_s + 60
        while (now_s := time.monotonic()) < end_s:
            if self.device.process.poll() is not None:
                raise RuntimeError(f"the device ended by itself: {(self.folder / 'said.txt').read_text()[-2000:]}")
            if now_s >= fault_s:
                self._break_something()
                fault_s = now_s + self.random.uniform(1, 12)
            if now_s >= ask_s:
                self._ask()
                ask_s = now_s + 1
            if now_s >= look_s:
                self._look()
                look_s = now_s + 2
            if now_s >= life_end_s:
                self._end_life("SIGTERM" if self.random.random() < 0.25 else "SIGKILL")
                life_end_s = time.monotonic() + self.random.uniform(8, 90)
                if long_begin_s < life_end_s < long_end_s:
                    life_end_s = long_end_s
                print(f"{(now_s - self.start_s) / 60:.1f} min, {len(self.ended)} processes", file=sys.stderr)
            time.sleep(0.1)
        self.network.mode = "ok"
        time.sleep(3)
        self._end_life("SIGTERM", last=True)

    def _break_something(self) -> None:
        for _ in range(self.random.choice((1, 1, 1, 2, 3))):
            kind = self.random.choice((*FAULTS, "clock", "network"))
            if kind == "clock":
                name = self.random.choice(list(CLOCKS))
                self.device.fault("clock", CLOCKS[name]())
                kind = f"clock to {name}"
            elif kind == "network":
                self.network.mode = self.random.choice(NETWORKS)
                kind = f"S3 {self.network.mode}"
            else:
                for_s = self.random.uniform(*FAULTS[kind])
                if kind == "locked":
                    threading.Thread(target=self._lock, args=(for_s,), daemon=True).start()
                else:
                    self.device.fault(kind, for_s)
                if kind == "black":
                    self.black.append((time.monotonic(), time.monotonic() + for_s))
            self.injected[kind] += 1

    def _lock(self, for_s: float) -> None:
        try:
            connection = sqlite3.connect(self.folder / "journal.sqlite", timeout=5, isolation_level=None)
            connection.execute("BEGIN IMMEDIATE")
            time.sleep(for_s)
            connection.execute("ROLLBACK")
            connection.close()
        except sqlite3.OperationalError:
            self.injected["locked, in vain"] += 1

    def _ask(self) -> None:
        for page in ("/", "/state", "/metrics", "/live.jpg"):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{page}", timeout=3) as answer:
                    said = answer.read()
                if page == "/state":
                    self.last_events = Counter(json.loads(said)["events"])
                self.asked["answered"] += 1
            except OSError:
                self.asked["not answered"] += 1

    def _look(self) -> None:
        try:
            status = Path(f"/proc/{self.device.process.pid}/status").read_text()
            mb = int(status.split("VmRSS:")[1].split()[0]) / 1000
            self.memory[-1].append((time.monotonic(), mb))
        except (OSError, IndexError):
            pass
        for name, files in (("journal", self.folder.glob("journal.sqlite*")), ("outbox", self._outbox_files())):
            size = 0
            for file in files:
                try:
                    size += file.stat().st_size
                except OSError:
                    continue
            self.largest[name] = max(self.largest[name], size)
        self.rows.update(journal_rows(self.folder / "journal.sqlite", max(self.rows, default=0)))

    def _outbox_files(self):
        return [path for path in (self.folder / "outbox").rglob("*") if path.is_file()]

    def _end_life(self, how: str, *, last: bool = False) -> None:
        device = self.device
        self._look()
        if how == "SIGTERM":
            report = device.terminate()
            ended_s = time.monotonic()
            self.reports.append(report)
            self.events.update(report["events"])
        else:
            self.events.update(self.last_events)
            ended_s = device.kill()
            self.reports.append(None)
        self.manager.forget()
        self.last_events = Counter()
        self.ended.append(how)
        self._compare_committed()
        if last:
            return
        self.device = self._start()
        self.device.wait_for_verdicts(1)
        if how == "SIGKILL":
            self.restarts_s.append(self.device.life.verdicts[0][1] - ended_s)

    def _compare_committed(self) -> None:
        """Every row that was seen must be there as it was, unless it was the oldest and deleted for room."""
        now = journal_rows(self.folder / "journal.sqlite")
        self.oldest = max(self.oldest, min(now, default=0))
        self.rows_vanished += sum(place >= self.oldest and now.get(place) != row for place, row in self.rows.items())
        self.rows.update(now)

    def table(self) -> str:
        """Judges, and returns the section of the document."""
        lives = read_lives(self.folder / "world.log")
        journals: list[dict[int, Row]] = [{} for _ in lives]
        starts_s = [life.start_s for life in lives]
        for row in self.rows.values():
            journals[bisect.bisect(starts_s, row.at_s) - 1][row.number] = row
        came = sum(len(life.came) for life in lives)
        verdicts = sum(len(life.verdicts) for life in lives)
        positions = Counter(position for life in lives for _, _, position in life.verdicts)
        one_each = sum(life.exactly_one_each for life in lives)
        tails = {
            how: [life.undecided for life, end in zip(lives, self.ended, strict=True) if end == how]
            for how in ("SIGKILL", "SIGTERM")
        }
        wrong_moves = missing = neighbours = unsafe = contradicted = dark_ok = 0
        for life, rows in zip(lives, journals, strict=True):
            moved = [position for _, position in life.moves]
            said = [position for _, _, position in life.verdicts]
            wrong_moves += sum(a != b for a, b in zip(moved, said, strict=False))
            missing += sum(number not in rows for number in range(1, max(rows, default=0) + 1))
            for number, row in rows.items():
                marble = life.came[number - 1]
                contradicted += row.verdict != said[number - 1]
                unsafe += row.error is not None and row.verdict != "KO"
                alone = row.photo is not None and row.error is None and row.outcome == "marble"
                neighbours += alone and int(row.photo) != marble[0]
                dark = any(begin + 0.3 < marble[1] < end - 0.3 for begin, end in self.black)
                dark_ok += dark and row.verdict == "OK"
        longest = max(self.memory, key=len)
        begin_s, end_s = longest[0][0], longest[-1][0]
        # What a process needs for all of its parts is taken in its first minutes; what leaks, for ever.
        late = np.array([(at_s / 60, mb) for at_s, mb in longest if at_s > (begin_s + end_s) / 2])
        slope = np.polyfit(late[:, 0], late[:, 1], 1)[0] if len(late) > 2 else float("nan")
        minutes = {int((at_s - begin_s) / 60): mb for at_s, mb in longest}
        versions = self._versions()
        lost = self.events["journal_lost"]
        killed, orderly = self.ended.count("SIGKILL"), self.ended.count("SIGTERM")
        agreeing = sum(
            report is not None
            and len(life.verdicts) == report["marbles"] == report["journal"]["written"] + report["journal"]["lost"]
            for life, report in zip(lives, self.reports, strict=True)
        )
        rows_table = [
            ("duration", f"{(time.monotonic() - self.start_s) / 60:.1f} min, belt of 20 marbles/s"),
            ("processes", f"{len(lives)}: {killed} ended by SIGKILL, {orderly} by SIGTERM"),
            ("marbles in view of a running process", f"{came:,}"),
            ("verdicts", f"{verdicts:,} ({', '.join(f'{name} {n:,}' for name, n in sorted(positions.items()))})"),
            ("processes with exactly one verdict for each marble, in order", f"{one_each} of {len(lives)}"),
            (
                "marbles between view and verdict at the end of a process",
                f"SIGKILL {sum(tails['SIGKILL'])} in {killed}, SIGTERM {sum(tails['SIGTERM'])} in {orderly}",
            ),
            ("of those that ended by SIGTERM: whose report agrees with the world", f"{agreeing} of {orderly}"),
            ("moves of the gate that were not the verdict's", f"{wrong_moves}"),
            ("verdicts of a marble by the frame of another", f"{neighbours}"),
            ("errors that did not go to KO", f"{unsafe}"),
            ("black frames called OK", f"{dark_ok}"),
            (
                "journal: rows read / committed rows that vanished or changed",
                f"{len(self.rows):,} / {self.rows_vanished}",
            ),
            ("journal: rows that contradict the gate", f"{contradicted}"),
            ("journal: gaps before the last row / counted as lost", f"{missing} / {lost}"),
            ("journal: largest size, of at most", f"{self.largest['journal'] / 1e6:.2f} of {JOURNAL_MB:g} MB"),
            ("outbox: largest size, of at most", f"{self.largest['outbox'] / 1e6:.2f} of {OUTBOX_MB:g} MB"),
            ("S3: objects / objects written twice", f"{len(versions):,} / {sum(n > 1 for n in versions.values())}"),
            (
                "from SIGKILL to the first verdict of the next process",
                f"median {statistics.median(self.restarts_s):.2f} s, longest {max(self.restarts_s):.2f} s"
                if self.restarts_s
                else "none",
            ),
            (
                "watchdog: beats, longest silence of a process",
                f"{self.manager.beats:,}, {self.manager.longest_s:.1f} s of {WATCHDOG_S:g} s",
            ),
            ("dashboard: answers / none", f"{self.asked['answered']:,} / {self.asked['not answered']:,}"),
            (
                "memory of the longest process",
                f"{(end_s - begin_s) / 60:.1f} min, at most {max(mb for _, mb in longest):.1f} MB; slope of its second "
                f"half {slope * 1000:+.0f} kB/min",
            ),
        ]
        counted = ", ".join(f"{name} {count:,}" for name, count in self.events.items() if count)
        injected = ", ".join(f"{name} {count}" for name, count in sorted(self.injected.items()))
        return "\n".join(
            [
                "| what | result |",
                "|---|---|",
                *(f"| {name} | {value} |" for name, value in rows_table),
                "",
                f"Injected: {injected}.",
                "",
                "Memory of the longest process at the end of each minute, MB: "
                + ", ".join(f"{mb:.0f}" for mb in minutes.values())
                + ".",
                "",
                f"Counted by okko (of a killed process: until shortly before): {counted}.",
            ]
        )

    def _versions(self) -> Counter[str]:
        found: Counter[str] = Counter()
        for page in self.s3.get_paginator("list_object_versions").paginate(Bucket="soak"):
            found.update(version["Key"] for version in page.get("Versions", []))
        return found


def main(arguments: list[str]) -> None:
    """Soaks, prints the table and says whether all promises were kept."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--minutes", type=float, default=35.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--write", action="store_true", help="put the table into docs/reliability.md")
    asked = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        folder = asked.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        soak = Soak(asked.bundle.resolve(), asked.photos.resolve(), folder, asked.seed)
        soak.run(asked.minutes)
        text = soak.table()
        (folder / "result.md").write_text(text)
    print(text)
    if asked.write:
        replace_section(DOCUMENT, "soak", text)


if __name__ == "__main__":
    main(sys.argv[1:])
