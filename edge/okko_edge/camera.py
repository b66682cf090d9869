"""Cameras: where frames come from, and the one place that reads what `--camera` says.

A camera hands over frames one after another and knows when each was taken. It does not judge them. Every camera
follows the same protocol, so the sorting path cannot tell a simulated one from a real one.
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

KINDS = {"sim": "sim:DATA", "folder": "folder:DIR"}


class CameraError(OkkoError):
    """A camera that cannot be opened, or gives no frames any more."""


class Camera(Protocol):
    """A source of frames."""

    def read(self) -> Frame | None:
        """Waits for the next frame; None when there will be no more. Raises `CameraError`."""

    def close(self) -> None:
        """Lets go of the camera; nothing is read afterwards."""


@dataclass(frozen=True)
class CameraChoice:
    """Which camera was asked for: its kind (a key of `KINDS`) and the folder behind it."""

    kind: str
    folder: Path

    @classmethod
    def parse(cls, text: str) -> CameraChoice:
        """Reads what `--camera` says, for example "sim:photos" or "folder:/srv/photos".

        Raises:
            ValueError: no such kind of camera, or no folder named.
        """
        kind, colon, place = text.partition(":")
        expected = " or ".join(KINDS.values())
        if kind not in KINDS:
            raise ValueError(f"there is no camera {text!r}; expected {expected}")
        if not colon or not place:
            raise ValueError(f"camera {text!r} names no folder; expected {KINDS[kind]}, for example {kind}:photos")
        return cls(kind, Path(place).expanduser())

    def __str__(self) -> str:
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

    def read(self) -> Frame | None:
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
