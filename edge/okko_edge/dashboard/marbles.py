"""What the dashboard holds of the latest marbles and of the camera's view: never more than a fixed amount of memory.

`Marbles.hear` and `LiveView.see` run on the sorting path's thread and only keep references. Pictures are made where
they are asked for, and not more often than anyone can see: nobody watches, nothing is encoded.
"""

from __future__ import annotations

import io
import time
from collections import OrderedDict, deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from okko_edge.frame_file import digest_of

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from okko_edge.frame import Frame
    from okko_edge.sorter import Decision

KEPT = 50
FRAME_BYTES = 12 << 20
"""Frames take up to this much: all fifty at 320x240, the latest thirteen at 640x480."""
_HOLD_S = 5.0
_OPENED = 4
THUMBNAIL = 176
LIVE = 640
LIVE_EVERY_S = 0.2


@dataclass(slots=True, eq=False)
class Marble:
    """One marble in the list.

    Attributes:
        decision: what was decided, without the frame.
        at_s: when it was heard of, seconds on the clock of `Marbles`.
        frame: what was looked at; None once it is too old to be held.
        digest: SHA-256 of the frame's pixels, once someone asked for it.
        correction: the label that a person gave it.
    """

    decision: Decision
    at_s: float
    frame: Frame | None
    digest: str | None = None
    correction: str | None = None


class Marbles:
    """The latest marbles.

    Args:
        now_s: seconds on a clock that never jumps.
        frame_bytes: how much memory their frames may take.
    """

    def __init__(self, now_s: Callable[[], float] = time.monotonic, *, frame_bytes: int = FRAME_BYTES) -> None:
        self.now_s = now_s
        self._marbles: deque[Marble] = deque(maxlen=KEPT)
        self._with_frame: deque[Marble] = deque()
        self._frame_bytes = frame_bytes
        self._held_bytes = 0
        self._opened: OrderedDict[int, tuple[Marble, Frame]] = OrderedDict()
        self._held: dict[int, tuple[Marble, Frame]] = {}
        self._held_until_s = 0.0

    def hear(self, decision: Decision) -> None:
        """Takes a decision; for the sorting path's thread only."""
        # The list must not hold what the frame budget has let go, so the frame is kept apart from the facts.
        marble = Marble(replace(decision, frame=None), self.now_s(), decision.frame)
        if decision.frame is not None:
            self._with_frame.append(marble)
            self._held_bytes += decision.frame.image.nbytes
            # The newest is held whatever its size: the camera holds it anyway.
            while len(self._with_frame) > 1 and (self._held_bytes > self._frame_bytes or len(self._with_frame) > KEPT):
                oldest = self._with_frame.popleft()
                if oldest.frame is not None:
                    self._held_bytes -= oldest.frame.image.nbytes
                    oldest.frame = None
        self._marbles.append(marble)
        if self._held and self.now_s() > self._held_until_s:
            self._held = {}

    def hold(self) -> None:
        """Keeps the frames that are there now for five seconds more; to be repeated while someone studies them."""
        if not self._held:
            marbles = self._marbles.copy()
            self._held = {marble.decision.number: (marble, marble.frame) for marble in marbles if marble.frame}
        self._held_until_s = self.now_s() + _HOLD_S

    def latest(self, count: int) -> list[Marble]:
        """Returns up to `count` marbles, newest first."""
        return list(self._marbles.copy())[: -count - 1 : -1]

    def find(self, number: int) -> Marble | None:
        """Returns the marble of this number, if it is still in the list or was opened."""
        for marble in self._marbles.copy():
            if marble.decision.number == number:
                return marble
        kept = self._opened.get(number) or self._held.get(number)
        return kept[0] if kept else None

    def frame_of(self, marble: Marble) -> Frame | None:
        """Returns the marble's frame, if it is still held; and names it by its digest from then on."""
        number = marble.decision.number
        kept = self._opened.get(number) or self._held.get(number)
        frame = kept[1] if kept and kept[0] is marble else marble.frame
        if frame is not None and marble.digest is None:
            marble.digest = digest_of(frame.image)
        return frame

    def open(self, marble: Marble) -> Frame | None:
        """Like `frame_of`; and holds the frame while a person looks at it, though many marbles pass meanwhile."""
        frame = self.frame_of(marble)
        if frame is not None:
            self._opened[marble.decision.number] = (marble, frame)
            self._opened.move_to_end(marble.decision.number)
            while len(self._opened) > _OPENED:
                self._opened.popitem(last=False)
        return frame


class LiveView:
    """The newest frame, and a picture of it.

    Args:
        now_s: seconds on a clock that never jumps.

    Attributes:
        encoded: how many pictures were made.
    """

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self.encoded = 0
        self._now_s = now_s
        self._newest: tuple[Frame, float] | None = None
        self._picture: tuple[bytes, float, Frame] | None = None
        self._seen = 0
        self._rate = (0, now_s(), 0.0)

    def see(self, frame: Frame) -> None:
        """Takes the camera's newest frame; for the camera's thread only."""
        self._newest = (frame, self._now_s())
        self._seen += 1

    @property
    def newest(self) -> tuple[Frame, float] | None:
        """The newest frame and its age in seconds."""
        newest = self._newest
        return newest and (newest[0], self._now_s() - newest[1])

    def frames_per_s(self) -> float:
        """Returns the camera's rate since it was last asked, a second ago or more."""
        seen, since_s, rate = self._rate
        now_s = self._now_s()
        if now_s - since_s >= 1:
            rate = (self._seen - seen) / (now_s - since_s)
            self._rate = (self._seen, now_s, rate)
        return rate

    def jpeg(self) -> bytes | None:
        """Returns a picture of the newest frame, or the one before if that is younger than a fifth of a second."""
        newest = self._newest
        if newest is None:
            return None
        now_s = self._now_s()
        if self._picture and (now_s - self._picture[1] < LIVE_EVERY_S or self._picture[2] is newest[0]):
            return self._picture[0]
        self._picture = (encode(newest[0].image, LIVE), now_s, newest[0])
        self.encoded += 1
        return self._picture[0]


def encode(image: NDArray[np.uint8], width: int) -> bytes:
    """Returns a JPEG of an image (height, width, 3), made smaller by a whole number until it is at most 2 `width`."""
    from PIL import Image

    step = max(1, image.shape[1] // width)
    picture = Image.fromarray(image)
    if step > 1:
        picture = picture.reduce(step)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()
