"""What `benchmarks.cloud_storm` blows through: the parts of `okko cloud up` in one process, and a post for events."""

from __future__ import annotations

import heapq
import http.client
import os
import sys
import threading
import time
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from okko_cloud.bucket import BucketPhotos
from okko_cloud.debounce import Debounce
from okko_cloud.local.jobs import JobProcess
from okko_cloud.local.queue import LocalQueue
from okko_cloud.local.receiver import Receiver
from okko_cloud.local.worker import Worker
from okko_cloud.place import Place
from okko_cloud.snapshot import take_snapshot

if TYPE_CHECKING:
    import random
    from pathlib import Path

PLACE = Place("okko")
TOKEN = "storm"
GIVE_UP_S = 600.0


class Loop:
    """The queue, receiver and worker of `okko cloud up`, which can be killed and begun anew."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._turn = threading.Lock()
        self._stop = threading.Event()
        self.photos = BucketPhotos(PLACE)
        self._begin()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _begin(self) -> None:
        self.queue = LocalQueue(self._folder / "queue.sqlite")
        self.queue.give_up_running(time.time())
        self.receiver = Receiver(
            PLACE.bucket, PLACE.prefix, TOKEN, lambda n: self.queue.heard(n, time.time()), lambda _: None
        )
        self._job: JobProcess | None = None
        self.worker = Worker(
            self.queue,
            Debounce(quiet_s=1, at_most_s=4),
            self._start,
            lambda: take_snapshot(self.photos).digest,
            look_every_s=5,
            retry_s=0.5,
            longest_retry_s=1,
            say=lambda _: None,
        )

    def _start(self) -> JobProcess:
        command = [sys.executable, "-m", "benchmarks.cloud_storm", "--job", str(self._folder)]
        self._job = JobProcess(command, os.environ, self._folder / "jobs.log", max_s=GIVE_UP_S)
        return self._job

    def _run(self) -> None:
        while not self._stop.wait(0.05):
            with self._turn:
                self.worker.step(time.time())

    def kill(self, lot: random.Random) -> bool:
        """Kills the job that runs, or the job and the loop; returns whether one ran."""
        with self._turn:
            if self._job is None or not self.worker.busy or self._job.poll() is not None:
                return False
            self._job.kill()
            if lot.random() < 0.5:
                self.receiver.close()
                self.queue.close()
                self._begin()
        return True

    def is_calm(self) -> bool:
        """Whether nothing runs and nothing waits."""
        with self._turn:
            return not self.worker.busy and not self.queue.waiting()[0].changes

    def close(self) -> None:
        """Ends it."""
        self._stop.set()
        self._thread.join(10)
        self.worker.stop(time.time())
        self.receiver.close()
        self.queue.close()


class Post:
    """Delivers events when their time has come, as SQS does: until somebody has taken them."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._waiting: list[tuple[float, int, bytes]] = []
        self._turn = threading.Condition()
        self._closed = False
        self._under_way = 0
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(4)]
        for thread in self._threads:
            thread.start()

    def send(self, body: bytes, at: float) -> None:
        """Delivers a message at a moment of the monotonic clock."""
        with self._turn:
            heapq.heappush(self._waiting, (at, len(self._waiting), body))
            self._turn.notify()

    def is_empty(self) -> bool:
        """Whether everything was delivered."""
        with self._turn:
            return not self._waiting and not self._under_way

    def close(self) -> None:
        """Ends it."""
        with self._turn:
            self._closed = True
            self._turn.notify_all()
        for thread in self._threads:
            thread.join(10)

    def _work(self) -> None:
        while True:
            with self._turn:
                while not self._closed and not (self._waiting and self._waiting[0][0] <= time.monotonic()):
                    self._turn.wait(0.05)
                if self._closed:
                    return
                body = heapq.heappop(self._waiting)[2]
                self._under_way += 1
            try:
                self._deliver(body)
            finally:
                with self._turn:
                    self._under_way -= 1

    def _deliver(self, body: bytes) -> None:
        while not self._closed:
            connection = http.client.HTTPConnection(urlsplit(self._loop.receiver.url).netloc, timeout=5)
            try:
                connection.request("POST", "/", body, {"Authorization": f"Bearer {TOKEN}"})
                if connection.getresponse().status == 200:
                    return
            except (OSError, http.client.HTTPException):
                time.sleep(0.05)
            finally:
                connection.close()
