"""A belt with numbered marbles, a beam, and a camera that misbehaves on demand: what a device sees of the world.

Every marble has a number and a known truth, and every frame carries the number of the marble that it shows; so a
verdict can be matched with its marble, and not only counted.
"""

from __future__ import annotations

import math
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from okko_edge.camera import CameraError, CameraTimeoutError, CorruptFrameError
from okko_edge.frame import Frame

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from okko_edge.clock import Clock

CAMERA_FAULTS = ("stall", "hang", "gone", "corrupt", "odd", "black", "stale")
"""No frames; a driver that does not come back; unplugged; broken frames; frames of another shape; dark; old ones."""


class Faults:
    """What is wrong now, and until when."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._spans: dict[str, tuple[float, float]] = {}

    def add(self, name: str, for_s: float, *, after_s: float = 0.0) -> None:
        """Lets a fault begin after some time, and last."""
        begin_s = self._now_s() + after_s
        self._spans[name] = (begin_s, begin_s + for_s)

    def __contains__(self, name: str) -> bool:
        begin_s, end_s = self._spans.get(name, (math.inf, math.inf))
        return begin_s <= self._now_s() < end_s


@dataclass(frozen=True)
class Marble:
    """A marble that has come into view: its number, when, and the photo of it."""

    number: int
    at_s: float
    photo: int


class Belt:
    """Carries one marble after another into view, each until the next comes.

    Args:
        photos: what marbles look like, each with its truth; a marble's number decides which photo is its.
        start_s: when marble 0 comes.
        period_s: from one marble to the next.
    """

    def __init__(
        self, photos: Sequence[tuple[NDArray[np.uint8], str]], *, start_s: float = 0.0, period_s: float = 0.05
    ) -> None:
        self.photos = photos
        self.start_s = start_s
        self.period_s = period_s
        self.in_view: Marble | None = None

    def marble(self, number: int, at_s: float) -> Marble:
        """Returns a marble; the order of the photos is a fixed mess."""
        return Marble(number, at_s, number * 2_654_435_761 % 2**32 % len(self.photos))

    def due_s(self, number: int) -> float:
        """Returns when a marble is to come."""
        return self.start_s + number * self.period_s

    def next_number(self, now_s: float) -> int:
        """Returns the number of the next marble to come."""
        return max(0, math.ceil((now_s - self.start_s) / self.period_s))


class BeltCamera:
    """A camera above the belt; with a real clock, for one thread, and another for `close`.

    Args:
        belt: what it looks at.
        faults: `CAMERA_FAULTS`.
        clock: stamps the frames.
        frames_per_s: its frame rate.

    Raises:
        CameraError: it is gone.
    """

    def __init__(self, belt: Belt, faults: Faults, clock: Clock, *, frames_per_s: float = 60.0) -> None:
        if "gone" in faults:
            raise CameraError("there is no camera here")
        self._belt = belt
        self._faults = faults
        self._clock = clock
        self._period_s = 1 / frames_per_s
        self._due_s = clock.now_s()
        self._sequence = 0
        self._closed = threading.Event()

    def read(self, timeout_s: float | None = None) -> Frame | None:
        end_s = math.inf if timeout_s is None else self._clock.now_s() + timeout_s
        self._clock.sleep_until(min(self._due_s, end_s))
        while "hang" in self._faults and not self._closed.is_set():
            self._clock.sleep_until(self._clock.now_s() + 0.01)
        while "stall" in self._faults or self._belt.in_view is None or self._clock.now_s() < self._due_s:
            if self._clock.now_s() >= end_s:
                raise CameraTimeoutError("no frame")
            self._clock.sleep_until(min(self._clock.now_s() + 0.01, end_s))
        if self._closed.is_set():
            return None
        now_s = self._clock.now_s()
        self._due_s = max(self._due_s + self._period_s, now_s)
        self._sequence += 1
        if "gone" in self._faults:
            raise CameraError("the camera was unplugged")
        return self._frame(now_s)

    def _frame(self, now_s: float) -> Frame:
        marble = self._belt.in_view
        assert marble is not None
        photo, truth = self._belt.photos[marble.photo]
        image = photo.copy()
        # No two frames of a real camera are equal to the last bit.
        image[0, :3] = np.frombuffer(np.uint64(self._sequence + (marble.number << 20)).tobytes(), np.uint8)[:3]
        image[0, 3:6, 0] = np.frombuffer(np.uint64(marble.number).tobytes(), np.uint8)[:3]
        if "corrupt" in self._faults:
            raise CorruptFrameError("half a picture")
        if "odd" in self._faults:
            image = image[::2]
        if "black" in self._faults:
            image = np.random.default_rng(self._sequence).integers(0, 3, image.shape, dtype=np.uint8)
        if "stale" in self._faults:
            now_s -= 1.0
        return Frame(image, now_s, self._sequence, truth, str(marble.number))

    def close(self) -> None:
        self._closed.set()


class Beam:
    """A trigger that knows when marbles came, as a beam sensor does, whatever the camera sees.

    Args:
        belt: what passes.
        clock: says what has passed.
        count: so many marbles, and no more.
    """

    def __init__(self, belt: Belt, clock: Clock, count: int) -> None:
        self.told: list[Marble] = []
        self._belt = belt
        self._clock = clock
        self._count = count

    def see(self, frame: Frame) -> Sequence[float]:
        return self.poll(self._clock.now_s())

    def poll(self, now_s: float) -> Sequence[float]:
        come: list[float] = []
        while len(self.told) < self._count and self._belt.due_s(len(self.told)) <= now_s:
            marble = self._belt.marble(len(self.told), self._belt.due_s(len(self.told)))
            self.told.append(marble)
            come.append(marble.at_s)
        return come

    def close(self) -> None:
        pass


def make_faulty(classify: Callable, faults: Faults, clock: Clock) -> Callable:
    """Returns a `classify` that is "slow" (takes 0.7 s) or fails ("inference") when the faults say so."""

    def faulty(*arguments):
        if "slow" in faults:
            clock.sleep_until(clock.now_s() + 0.7)
        if "inference" in faults:
            raise RuntimeError("out of memory")
        return classify(*arguments)

    return faulty
