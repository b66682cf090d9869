"""The outbox: hears every decision, and keeps the frames that a person's label would teach the model most.

The sorting path judges a frame (a few comparisons) and puts a reference into a short queue; a thread of its own
compresses and writes. The dashboard's corrections come in here too, and `okko_edge.outbox.uploader` takes from here.
"""

from __future__ import annotations

import contextlib
import queue
import random
import socket
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from okko_edge.clock import MonotonicClock
from okko_edge.events import Event
from okko_edge.frame_file import digest_of, encode
from okko_edge.outbox.store import OutboxFolder, Sidecar
from okko_edge.outbox.worth import Reason, Worth, judge
from okko_edge.sorter import Judge
from okko_models.errors import OkkoError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from okko_edge.clock import Clock
    from okko_edge.events import Counters
    from okko_edge.outbox.store import Item
    from okko_edge.settings import OutboxSettings
    from okko_edge.sorter import Decision
    from okko_models.decision import DecisionRule

_CLOSE_S = 10.0


class OutboxError(OkkoError):
    """The outbox cannot be read, or cannot take what it was asked to take."""


@dataclass(frozen=True, slots=True)
class _Heard:
    decision: Decision
    worth: Worth
    unix_s: float


class Outbox:
    """Keeps frames worth a label; a listener.

    On the sorting path nothing that goes wrong is raised: frames that were worth keeping and are not kept are counted,
    and the first reason is told.

    Args:
        settings: size, random share, what is near a threshold, the device's name.
        folder: where the frames are kept; made if missing.
        labels: the model's labels, in the order of its probabilities.
        rule: the model's decision rule.
        bundle_digest: which model.
        warn: takes one sentence for the user.
        counters: hears of frames kept, lost, and removed to make room.
        clock: says when a frame was decided on.
        lot: gives a random number in [0, 1).
        capacity: how many frames may wait in memory.

    Raises:
        OutboxError: the folder cannot be read or made.
    """

    def __init__(
        self,
        settings: OutboxSettings,
        *,
        folder: Path,
        labels: Sequence[str],
        rule: DecisionRule,
        bundle_digest: str,
        warn: Callable[[str], None],
        counters: Counters,
        clock: Clock | None = None,
        lot: Callable[[], float] = random.random,
        capacity: int = 8,
    ) -> None:
        self.on_change: Callable[[], None] = lambda: None
        self._settings = settings
        self._judge = Judge(bundle_digest, tuple(labels), rule)
        self._device = device_name(settings)
        self._warn = warn
        self._warned = False
        self._counters = counters
        self._clock = clock or MonotonicClock()
        self._lot = lot
        try:
            self.store = OutboxFolder(folder, int(settings.max_mb * 1_000_000))
        except OSError as error:
            raise OutboxError(
                f"{folder} cannot be used as outbox ({error.strerror or error}); set another outbox.folder"
            ) from error
        self._queue: queue.Queue[_Heard | None] = queue.Queue(capacity)
        self._thread = threading.Thread(target=self._keep_until_closed, name="outbox", daemon=True)
        self._thread.start()

    def change_model(self, judge: Judge) -> None:
        """Takes labels of another model from now on; what a decision says of its own model goes first."""
        self._judge = judge

    def hear(self, decision: Decision) -> None:
        """Takes a decision; returns at once."""
        said = decision.classification
        if decision.frame is None or said is None:
            return
        worth = judge(
            decision.verdict,
            said,
            (decision.judge or self._judge).rule,
            near=self._settings.near_threshold,
            random_share=self._settings.random_share,
            lot=self._lot(),
        )
        if worth is None:
            return
        try:
            self._queue.put_nowait(_Heard(decision, worth, self._clock.unix_s()))
        except queue.Full:
            self._counters.add(Event.OUTBOX_LOST)

    def label(self, digest: str, label: str) -> bool:
        """Records what a person says that a frame shows; returns whether the frame is kept here.

        Raises:
            OutboxError: the model has no such label, or the disk cannot be written.
        """
        self._check(label)
        try:
            known = self.store.set_label(digest, label, self._clock.unix_s())
        except OSError as error:
            raise OutboxError(f"the label cannot be stored ({error.strerror or error})") from error
        if known:
            self.on_change()
        return known

    def keep(self, decision: Decision, label: str) -> None:
        """Keeps a decision's frame with a person's label, whatever it was worth before.

        Raises:
            OutboxError: the decision has no frame, the model no such label, or there is no room.
        """
        self._check(label)
        if decision.frame is None:
            raise OutboxError("there is no frame to label: none was taken of this marble")
        try:
            kept = self._keep(_Heard(decision, Worth(Reason.CORRECTED), self._clock.unix_s()), labelled=True)
        except OSError as error:
            raise OutboxError(f"the frame cannot be stored ({error.strerror or error})") from error
        if not kept:
            raise OutboxError("the outbox is full of frames that are worth as much; raise outbox.max_mb or upload them")
        self.label(digest_of(decision.frame.image), label)

    def recent(self, n: int) -> list[Item]:
        """Returns the latest frames, newest first."""
        return self.store.items()[: -n - 1 : -1]

    def image(self, digest: str) -> bytes | None:
        """Returns a frame as PNG; None when it is not kept."""
        return self.store.image(digest)

    def close(self) -> None:
        """Writes what waits, for 10 seconds at most."""
        with contextlib.suppress(queue.Full):
            self._queue.put(None, timeout=_CLOSE_S)
        self._thread.join(_CLOSE_S)
        if not self._thread.is_alive():
            self.store.close()

    def _keep_until_closed(self) -> None:
        while (heard := self._queue.get()) is not None:
            try:
                self._keep(heard)
            except Exception as error:  # a frame that cannot be kept is lost, and nothing else
                self._counters.add(Event.OUTBOX_LOST)
                self._tell(str(error))

    def _keep(self, heard: _Heard, *, labelled: bool = False) -> bool:
        frame, said = heard.decision.frame, heard.decision.classification
        judging = heard.decision.judge or self._judge
        assert frame is not None
        digest = digest_of(frame.image)
        if self.store.get(digest) is not None:
            return True
        sidecar = Sidecar(
            digest=digest,
            sequence=0,
            unix_s=heard.unix_s,
            device=self._device,
            bundle_digest=judging.digest,
            number=heard.decision.number,
            verdict=heard.decision.verdict.value,
            label=said.label if said else None,
            probability=dict(zip(judging.labels, said.probability.tolist(), strict=True)) if said else None,
            probability_of_ok=said.probability_of_ok if said else None,
            novelty=said.novelty if said else None,
            reason=heard.worth.reason,
            score=heard.worth.score,
        )
        gone = self.store.add(sidecar, encode(frame.image), labelled=labelled)
        if gone is None:
            self._counters.add(Event.OUTBOX_LOST)
            return False
        self._counters.add(Event.OUTBOX_EVICTED, len(gone))
        self._counters.add(Event.OUTBOX_KEPT)
        self.on_change()
        return True

    def _check(self, label: str) -> None:
        if label not in self._judge.labels:
            raise OutboxError(f"{label!r} is none of the model's labels: {', '.join(self._judge.labels)}")

    def _tell(self, why: str) -> None:
        if not self._warned:
            self._warned = True
            with contextlib.suppress(Exception):
                self._warn(f"frames worth a label are not kept in {self.store.folder} ({why}); sorting goes on without")


def device_name(settings: OutboxSettings) -> str:
    """Returns this device's name, fit to be part of a key: letters, digits, dot, dash and underscore."""
    name = settings.device or socket.gethostname() or "okko"
    return "".join(letter if letter.isascii() and (letter.isalnum() or letter in "._-") else "-" for letter in name)
