"""Uploads the outbox to S3 when there is a network: each frame exactly once, whatever happens in between.

Keys are made of the frame's digest and every write is conditional, so trying again is always safe: what S3 has already
is refused there and counts as done. A thread of its own tries, waits longer after each failure, and is content to be
offline for days. Nothing here is on the sorting path.
"""

from __future__ import annotations

import contextlib
import random
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import msgspec

from okko_edge.events import Event
from okko_edge.frame_file import FrameFileError, decode
from okko_edge.outbox.s3 import UploadError
from okko_edge.outbox.worth import is_precious

if TYPE_CHECKING:
    from collections.abc import Callable

    from okko_edge.events import Counters
    from okko_edge.outbox.s3 import Target
    from okko_edge.outbox.store import Item, OutboxFolder

LONGEST_PAUSE_S = 3600.0
_JSON = "application/json"
_CLOSE_S = 2.0


class Puts(Protocol):
    """What the uploader asks of S3; `okko_edge.outbox.s3.S3` is one."""

    target: Target

    def put_new(self, name: str, data: bytes, content_type: str, /) -> bool:
        """Writes an object unless it is there; returns whether it was written; raises `UploadError`."""


@dataclass(frozen=True, slots=True)
class Uploaded:
    """What one round came to.

    Attributes:
        frames: frames that S3 has now and that were waiting before.
        labels: labels likewise.
        waiting: frames of which something still waits.
        error: why the round ended early; None if it did not.
    """

    frames: int
    labels: int
    waiting: int
    error: str | None


def pause_s(failures: int, first_s: float, lot: float) -> float:
    """Returns how long to wait after so many failures in a row: doubling up to an hour, less up to half by lot.

    Args:
        failures: at least 1.
        first_s: the first pause.
        lot: a random number in [0, 1), so that many devices do not come back at the same moment.
    """
    longest_s = max(first_s, LONGEST_PAUSE_S)
    return min(longest_s, first_s * 2.0 ** min(failures - 1, 32)) * (1 - lot / 2)


def keys(item: Item) -> tuple[str, str, str]:
    """Returns the keys of a frame's image, sidecar and label, without what all keys begin with."""
    base = f"{item.sidecar.device}/{item.sidecar.digest}"
    revision = item.label.revision if item.label else 0
    return f"{base}.png", f"{base}.json", f"{base}.label-{revision}.json"


class Uploader:
    """Uploads what waits in an outbox, in rounds; a thread of its own after `start`.

    Args:
        store: the outbox's folder.
        s3: where to.
        retry_s: the first pause after a failure.
        warn: takes one sentence for the user; called once for each time that the network is away.
        counters: hears of uploads and failures.
        lot: gives a random number in [0, 1).
    """

    def __init__(
        self,
        store: OutboxFolder,
        s3: Puts,
        *,
        retry_s: float,
        warn: Callable[[str], None],
        counters: Counters,
        lot: Callable[[], float] = random.random,
    ) -> None:
        self._store = store
        self._s3 = s3
        self._target = str(s3.target)
        self._retry_s = retry_s
        self._warn = warn
        self._counters = counters
        self._lot = lot
        self._failed: dict[str, int] = {}
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begins to upload what waits and what will come."""
        self._thread = threading.Thread(target=self._work, name="uploader", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Says that there may be something new to upload; returns at once."""
        self._wake.set()

    def close(self) -> None:
        """Ends after the object in hand, or in 2 seconds; the rest is uploaded after the next start."""
        self._stop.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(_CLOSE_S)

    def upload_waiting(self) -> Uploaded:
        """Uploads everything that waits, the most valuable first; ends at the first failure."""
        frames = labels = 0
        error: str | None = None
        for item in self._waiting():
            if self._stop.is_set():
                break
            try:
                frame, label = self._upload(item)
            except (UploadError, OSError) as failure:
                # At the end of the next round, so that one bad object does not keep the others waiting.
                self._failed[item.sidecar.digest] = self._failed.get(item.sidecar.digest, 0) + 1
                self._counters.add(Event.UPLOAD_FAILED)
                error = str(failure)
                break
            self._failed.pop(item.sidecar.digest, None)
            frames += frame
            labels += label
            self._counters.add(Event.UPLOADED, frame + label)
        return Uploaded(frames, labels, len(self._waiting()), error)

    def _waiting(self) -> list[Item]:
        waiting = [item for item in self._store.items() if item.waits_for(self._target)]
        return sorted(waiting, key=self._urgency)

    def _urgency(self, item: Item) -> tuple[int, bool, tuple[float, ...], int]:
        rank, score = item.value
        failed = self._failed.get(item.sidecar.digest, 0)
        return failed, not is_precious(item.value), (-rank, -score), item.sidecar.sequence

    def _upload(self, item: Item) -> tuple[bool, bool]:
        """Uploads what S3 lacks of a frame; returns whether that was the frame, and whether a label."""
        image_key, sidecar_key, label_key = keys(item)
        digest = item.sidecar.digest
        new_frame = item.sent is None or item.sent.target != self._target
        if new_frame:
            image = self._store.image(digest)
            if image is None:
                return False, False  # it was removed to make room, meanwhile
            try:
                decode(image, digest=digest, name=f"{digest}.png")
            except FrameFileError:
                self._store.remove(digest)
                self._counters.add(Event.OUTBOX_LOST)
                return False, False
            self._s3.put_new(image_key, image, "image/png")
            # Last, so that a sidecar in S3 always has its image.
            self._s3.put_new(sidecar_key, msgspec.json.encode(item.sidecar), _JSON)
        new_label = item.label is not None and (
            new_frame or item.sent is None or item.label.revision > item.sent.label_revision
        )
        if item.label is not None and new_label:
            self._s3.put_new(label_key, msgspec.json.encode(item.label), _JSON)
        self._store.set_sent(digest, self._target, item.label.revision if item.label else 0)
        return new_frame, new_label

    def _work(self) -> None:
        failures = 0
        told = False
        while not self._stop.is_set():
            self._wake.clear()
            try:
                done = self.upload_waiting()
            except Exception as error:  # the thread must live as long as the agent
                self._counters.add(Event.UPLOAD_FAILED)
                done = Uploaded(0, 0, 0, f"{type(error).__name__}: {error}")
            if done.error is None:
                failures, told = 0, False
                if not self._stop.is_set():
                    self._wake.wait()
                continue
            failures = 1 if done.frames or done.labels else failures + 1
            if not told:
                told = True
                with contextlib.suppress(Exception):
                    self._warn(f"{done.waiting} frames wait in the outbox, will be uploaded later ({done.error})")
            self._stop.wait(pause_s(failures, self._retry_s, self._lot()))
