"""Cameras: where frames come from, and the one place that reads what `--camera` says.

A camera hands over frames one after another and knows when each was taken. It does not judge them. Every camera
follows the same protocol, so the sorting path cannot tell a simulated one from a real one; those with hardware behind
them are in `okko_edge.cameras`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from okko_edge.frame import Frame
from okko_models.errors import OkkoError
from okko_models.photo import PhotoError, read_photo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import numpy as np
    from numpy.typing import NDArray

    from okko_edge.clock import Clock
    from okko_edge.photos import StoredPhoto

KINDS = {"sim": "sim:DATA", "folder": "folder:DIR", "pi": "pi or pi:N", "v4l2": "v4l2 or v4l2:/dev/videoN"}
HARDWARE = ("pi", "v4l2")


class CameraError(OkkoError):
    """A camera that cannot be opened, or gives no frames any more."""


class CameraTimeoutError(CameraError):
    """No frame came in the time that the reader had. Nothing is wrong yet: the next `read` may return one."""


class CorruptFrameError(CameraError):
    """A frame came, but it is no picture or has no time. The camera runs on: the next `read` may return a good one."""


class Camera(Protocol):
    """A source of frames, read by one thread.

    A frame's image is its own memory, which no later frame overwrites. Its time is on the monotonic clock and later
    than that of the frame before; its sequence number is higher, and a gap means frames that nobody saw.
    """

    def read(self, timeout_s: float | None = None) -> Frame | None:
        """Waits for the next frame.

        Args:
            timeout_s: how long at most, seconds; None for as long as it takes. A camera that is never late (a folder,
                a simulation) need not look at it.

        Returns:
            The frame; None when there will be no more, ever: after the last photo, or after `close`.

        Raises:
            CameraTimeoutError: none came in time.
            CorruptFrameError: one came that cannot be used.
            CameraError: the camera is gone; it must be closed, and another opened in its place.
        """

    def close(self) -> None:
        """Lets go of the camera; a second time does nothing."""


@dataclass(frozen=True)
class CameraChoice:
    """Which camera was asked for.

    Attributes:
        kind: a key of `KINDS`.
        folder: sim and folder: where the photos are.
        number: pi: which of the cameras on the board, from 0.
        device: v4l2: the device's file; empty for the first USB camera.
    """

    kind: str
    folder: Path = Path()
    number: int = 0
    device: str = ""

    @classmethod
    def parse(cls, text: str) -> CameraChoice:
        """Reads what `--camera` says, for example "pi", "v4l2:/dev/video0", "sim:photos" or "folder:/srv/photos".

        Raises:
            ValueError: no such kind of camera, or not the place that its kind needs.
        """
        kind, colon, place = text.partition(":")
        if kind not in KINDS:
            raise ValueError(f"there is no camera {text!r}; expected {' or '.join(KINDS.values())}")
        if kind in HARDWARE and not colon:
            return cls(kind)
        if kind == "pi":
            if not (place.isascii() and place.isdigit()):
                raise ValueError(f"camera {text!r} names no camera of the board; expected {KINDS[kind]}, such as pi:1")
            return cls(kind, number=int(place))
        if not place:
            what = "device" if kind == "v4l2" else "folder"
            example = "v4l2:/dev/video0" if kind == "v4l2" else f"{kind}:photos"
            raise ValueError(f"camera {text!r} names no {what}; expected {KINDS[kind]}, for example {example}")
        return cls(kind, device=place) if kind == "v4l2" else cls(kind, Path(place).expanduser())

    @property
    def is_hardware(self) -> bool:
        """Whether there is a real camera behind it, which can stall, vanish and come back."""
        return self.kind in HARDWARE

    def __str__(self) -> str:
        if self.kind == "pi":
            return f"pi:{self.number}" if self.number else "pi"
        if self.kind == "v4l2":
            return f"v4l2:{self.device}" if self.device else "v4l2"
        return f"{self.kind}:{self.folder}"


@dataclass(frozen=True, eq=False)
class Slot:
    """What one place of the belt shows: an image (height, width, 3) uint8 RGB, its truth and its name if known."""

    image: NDArray[np.uint8]
    truth: str | None = None
    photo: str | None = None


def load_slots(photos: Iterable[StoredPhoto], skip: Callable[[PhotoError], None]) -> Iterator[Slot]:
    """Reads photos one at a time as they are needed; one that cannot be read is given to `skip` and left out."""
    for photo in photos:
        try:
            image = read_photo(photo.path, name=photo.name)
        except PhotoError as error:
            skip(error)
            continue
        yield Slot(image, photo.label, photo.name)


class FolderCamera:
    """Shows photos one after another, each for one frame.

    Args:
        slots: what to show.
        clock: says when a frame was taken.
        frames_per_s: how fast.
    """

    def __init__(self, slots: Iterator[Slot], *, clock: Clock, frames_per_s: float) -> None:
        if not frames_per_s > 0:
            raise ValueError(f"frames_per_s must be positive, not {frames_per_s}")
        self._slots = slots
        self._clock = clock
        self._period_s = 1 / frames_per_s
        self._due_s = clock.now_s()
        self._sequence = 0

    def read(self, timeout_s: float | None = None) -> Frame | None:  # noqa: ARG002 (a photo is never late)
        """Returns the next photo as a frame, None after the last."""
        slot = next(self._slots, None)
        if slot is None:
            return None
        self._clock.sleep_until(self._due_s)
        now_s = self._clock.now_s()
        self._due_s = now_s + self._period_s
        frame = Frame(slot.image, now_s, self._sequence, slot.truth, slot.photo)
        self._sequence += 1
        return frame

    def close(self) -> None:
        """Shows nothing any more."""
        self._slots = iter(())
