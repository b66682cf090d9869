"""Takes one photo of each marble and stores it under the label that a person says the marbles have.

The same camera, trigger and rules as for sorting say when a marble is there and which frame shows it; no model is asked
and no gate moves. Photos are PNG, because training then sees exactly the pixels that the model will see, and because a
photo's digest is that of the frame, as in journal and outbox. Their names end in a part of the digest, so that none
ever overwrites another, whatever the clock of a Pi says.
"""

from __future__ import annotations

import contextlib
import errno
import queue
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from okko_edge.camera import CameraError, CameraTimeoutError, CorruptFrameError
from okko_edge.events import Event
from okko_edge.frame_file import digest_of, encode, write_whole
from okko_edge.sorter import Outcome, Sorter
from okko_edge.trigger import MotionTrigger, thumbnail
from okko_models.classifier import Classification
from okko_models.decision import Verdict
from okko_models.errors import OkkoError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from okko_edge.clock import Clock
    from okko_edge.events import Counters
    from okko_edge.rig import Rig
    from okko_edge.settings import Settings
    from okko_edge.sorter import Decision

_PATIENCE_S: Final = 0.05
_WAITING: Final = 4
_CLOSE_S: Final = 30.0


class CaptureError(OkkoError):
    """Photos cannot be stored there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Captured:
    """What a run came to.

    Attributes:
        folder: where the photos are.
        stored: how many photos were stored.
        black: marbles whose frame was black; none was stored.
        repeated: marbles for which the camera gave the very frame of the one before; none was stored.
        missed: marbles of which no fresh frame came.
        crowded: frames with more than one marble; none was stored.
        nearly_equal: photos that were stored and look like the one before.
        events: what was counted beside, by the names of `Event`.
        stopped: whether a person ended the run.
        failure: why it ended early, None if it did not.
    """

    folder: str
    stored: int
    black: int
    repeated: int
    missed: int
    crowded: int
    nearly_equal: int
    events: dict[str, int]
    stopped: bool
    failure: str | None


def check_label(label: str) -> str:
    """Returns a label that can be a folder's name.

    Raises:
        CaptureError: it cannot.
    """
    name = label.strip()
    if not name or name.startswith(".") or len(name) > 64 or any(c in "/\\" or not c.isprintable() for c in name):
        raise CaptureError(
            f"{label!r} cannot be a label; expected a name of at most 64 letters without / and \\, such as OK"
        )
    return name


def looks_like(one: NDArray[np.float32], other: NDArray[np.float32]) -> bool:
    """Whether two frames show nearly the same, by their thumbnails, whatever the lamp does to all of it.

    Args:
        one: (rows, columns) float32, as `okko_edge.trigger.thumbnail` gives it.
        other: the same of another frame.
    """
    if one.shape != other.shape:
        return False
    change = one - other
    changed = np.abs(change - np.median(change)) > MotionTrigger.LEAST_CHANGE
    return bool(np.count_nonzero(changed) <= MotionTrigger.MOVING_SHARE * change.size)


class Capture:
    """Stores a photo of each marble.

    Args:
        folder: where to; made if missing.
        settings: of which the section sorting is read.
        rig: camera, trigger, clock, and a gate that nothing is asked of.
        counters: hear of what goes wrong.
        count: stop after so many photos; None: when the camera has no more.
        label: what the marbles are; two marbles at once are stored only if that is what they are.
        tell: takes one sentence for the user.

    Raises:
        CaptureError: the folder cannot be made.
    """

    def __init__(
        self,
        folder: Path,
        *,
        settings: Settings,
        rig: Rig,
        counters: Counters,
        count: int | None,
        label: str,
        tell: Callable[[str], None],
    ) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CaptureError(f"{folder} cannot be made ({error.strerror or error}); name another folder") from error
        self._folder, self._rig, self._counters, self._count, self._tell = folder, rig, counters, count, tell
        self._may_be_two = label in settings.sorting.two_labels
        self._sorter = Sorter(
            classifier=_NoModel(),
            trigger=rig.trigger,
            gate=rig.gate,
            clock=rig.clock,
            deadline_s=settings.sorting.deadline_s,
            counters=counters,
        )
        self._clock: Clock = rig.clock
        self._stopped = False
        self._failure: str | None = None
        self._taken = self._stored = 0
        self._black = self._repeated = self._missed = self._crowded = self._nearly_equal = 0
        self._last: tuple[str, NDArray[np.float32]] | None = None
        self._told: set[str] = set()
        self._queue: queue.Queue[tuple[str, NDArray[np.uint8]] | None] = queue.Queue(_WAITING)

    def stop(self) -> None:
        """Lets the run end after the marble in hand; may be called from a signal handler."""
        self._stopped = True

    def run(self) -> Captured:
        """Stores photos until there are enough, the camera has no more, it or the disk fails, or `stop` is called."""
        writer = threading.Thread(target=self._write_until_closed, name="capture", daemon=True)
        writer.start()
        try:
            while not self._stopped and self._failure is None and (self._count is None or self._taken < self._count):
                try:
                    frame = self._rig.camera.read(_PATIENCE_S)
                except CameraTimeoutError:
                    decisions = self._sorter.tick()
                except CorruptFrameError:
                    self._counters.add(Event.CORRUPT_FRAME)
                    decisions = self._sorter.tick()
                except CameraError as error:
                    self._failure = str(error)
                    break
                else:
                    if frame is None:
                        break
                    decisions = self._sorter.see(frame)
                for decision in decisions:
                    self._hear(decision)
        finally:
            self._hand_over(None)
            writer.join(_CLOSE_S)
        if self._failure is None and not self._stopped:
            self._failure = self._shortfall()
        return Captured(
            folder=str(self._folder),
            stored=self._stored,
            black=self._black,
            repeated=self._repeated,
            missed=self._missed,
            crowded=self._crowded,
            nearly_equal=self._nearly_equal,
            events=self._counters.snapshot(),
            stopped=self._stopped,
            failure=self._failure,
        )

    def _hear(self, decision: Decision) -> None:
        if self._count is not None and self._taken >= self._count:
            return
        frame = decision.frame
        if frame is None:
            self._missed += 1
            self._tell_once("missed", "a marble passed of which no fresh frame came; it is not stored")
            return
        if decision.classification is None:
            self._black += 1
            self._tell_once("black", f"not stored: {decision.error}")
            return
        if decision.outcome is Outcome.TWO and not self._may_be_two:
            self._crowded += 1
            self._tell_once("crowded", "not stored: more than one marble in view")
            return
        digest, look = digest_of(frame.image), thumbnail(frame.image)
        if self._last is not None and self._last[0] == digest:
            self._repeated += 1
            self._tell_once("repeated", "not stored: the camera gave the very same frame again; does it still run?")
            return
        self._taken += 1
        if self._last is not None and looks_like(self._last[1], look):
            self._nearly_equal += 1
            self._tell_once("equal", f"photo {self._taken} looks like the one before; did the belt or the camera stop?")
        self._last = (digest, look)
        moment = time.strftime("%Y%m%d-%H%M%S", time.gmtime(self._clock.unix_s()))
        self._hand_over((f"{moment}-{self._taken:06d}-{digest[:12]}.png", frame.image))

    def _hand_over(self, photo: tuple[str, NDArray[np.uint8]] | None) -> None:
        """Waits for the disk if it is slower than the belt: a photo that is late is better than none."""
        while self._failure is None or photo is None:
            with contextlib.suppress(queue.Full):
                self._queue.put(photo, timeout=_PATIENCE_S)
                return

    def _write_until_closed(self) -> None:
        while (photo := self._queue.get()) is not None:
            if self._failure is not None:
                continue
            name, image = photo
            try:
                write_whole(self._folder / name, encode(image))
            except OSError as error:
                self._failure = self._why(error)
            except Exception as error:  # whatever it is, the run must end and say so
                self._failure = f"a photo could not be stored ({type(error).__name__}: {error})"
            else:
                self._stored += 1

    def _why(self, error: OSError) -> str:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            what = "the disk is full; make room and start again"
        else:
            what = f"cannot be written ({error.strerror or error})"
        return f"{self._folder}: {what}. The {self._stored} photos before are stored"

    def _shortfall(self) -> str | None:
        if not self._stored:
            return "no photo was stored: the camera showed no marble that could be"
        if self._count is not None and self._stored < self._count:
            return f"only {self._stored} of {self._count} photos were stored: the camera has no more marbles"
        return None

    def _tell_once(self, what: str, sentence: str) -> None:
        if what not in self._told:
            self._told.add(what)
            self._tell(sentence)


class _NoModel:
    """Nobody is asked what a frame shows; the person at the belt knows."""

    _nothing = Classification(Verdict.UNCERTAIN, "", np.zeros(0, np.float32), 0.5, np.zeros(0, np.float32))

    def classify(self, _: NDArray[np.uint8], /) -> Classification:
        return self._nothing
