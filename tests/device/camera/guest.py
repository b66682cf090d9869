"""What runs inside: okko's camera on the virtual one, claim by claim. Started by `virtual.py`, never by hand."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
import types
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from okko_edge.camera import CameraError, CameraTimeoutError
from okko_edge.cameras import pi
from okko_edge.cameras.supervised import SupervisedCamera
from okko_edge.clock import MonotonicClock
from okko_edge.events import Counters, Event
from okko_edge.settings import CameraSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# Half of a JPEG's colour is thrown away before it gets here, so single pixels differ; the mean may not.
_MEAN_LEVELS, _PIXEL_LEVELS = 1.5, 4.0


def adapt() -> None:
    """Adds what the virtual camera lacks beside one of a Raspberry Pi.

    A module for screens that PyPI does not have; raw modes; memory in one piece (its NV12 has two planes); RGB (it has
    only NV12, and says that it is of limited range, while its planes are those of the JPEG, of full range). And time:
    its first frames come before picamera2 has noted that it started, so picamera2 would keep their memory for ever.
    """
    screens = types.ModuleType("pykms")
    screens.PixelFormat = type("PixelFormat", (), {"__getattr__": lambda self, name: name})()  # type: ignore[attr-defined]
    sys.modules["pykms"] = screens
    library = pi.load()
    libcamera: Any = sys.modules["libcamera"]
    allocators = __import__("picamera2.allocators", fromlist=["LibcameraAllocator"])

    class Virtual(library.Picamera2):  # type: ignore[misc, name-defined]
        def __init__(self, number: int = 0) -> None:
            super().__init__(number)
            self.allocator = allocators.LibcameraAllocator(self.camera)

        def start_(self) -> None:
            with self.request_lock:
                super().start_()

        def _get_raw_modes(self) -> list[dict[str, Any]]:
            stream = self.camera.generate_configuration([libcamera.StreamRole.VideoRecording]).at(0)
            shapes = [
                (str(shape), size) for shape in stream.formats.pixel_formats for size in stream.formats.sizes(shape)
            ]
            return [{"format": name, "size": (size.width, size.height)} for name, size in shapes]

        def create_video_configuration(self, main: dict[str, Any] | None = None, **rest: Any) -> Any:
            rest.setdefault("colour_space", libcamera.ColorSpace.Sycc())
            return super().create_video_configuration(main={**(main or {}), "format": "NV12"}, **rest)

    library.Picamera2 = Virtual


class Claims:
    """A table of what was claimed and what was seen."""

    def __init__(self) -> None:
        self.failed = 0

    def show(self, claim: str, seen: str, *, holds: bool) -> None:
        """Prints a line."""
        self.failed += not holds
        print(f"{'ok  ' if holds else 'FAIL'}  {claim:<58}  {seen}", flush=True)


def main() -> int:
    """Runs all claims; returns 1 if one does not hold."""
    photos = [np.asarray(Image.open(path).convert("RGB")) for path in sorted(Path(sys.argv[1]).glob("*.jpg"))]
    settings = CameraSettings(width=int(sys.argv[2]), height=int(sys.argv[3]), frames_per_s=60, stall_s=0.5)
    logging.disable()  # refusals are wanted here, and are shown by the claims
    adapt()
    libcamera: Any = sys.modules["libcamera"]
    version = libcamera.CameraManager.singleton().version
    print(f"Python {sys.version.split()[0]}, picamera2 0.3.38, libcamera {version}, numpy {np.__version__}")
    claims = Claims()
    said = pi.why_not_available()
    claims.show("the camera is available", str(said), holds=said is None)
    said = pi.why_not_available(7) or ""
    claims.show("another is not, and the reason names those that are", said, holds="pi:0 (marbles)" in said)
    pictures(claims, settings, photos)
    in_use(claims, settings)
    supervised(claims, settings)
    return 1 if claims.failed else 0


def pictures(claims: Claims, settings: CameraSettings, photos: list[np.ndarray]) -> None:
    """Shapes, colours and times of frames; reading late; opening again."""
    with _open(settings) as camera:
        frames = []
        for _ in range(60):
            before_s = time.monotonic()
            frames.append((camera.read(2.0), before_s, time.monotonic()))
    shapes = {(frame.image.shape, str(frame.image.dtype), frame.image.flags.c_contiguous) for frame, _, _ in frames}
    expected = {((settings.height, settings.width, 3), "uint8", True)}
    claims.show("60 frames are RGB, uint8, contiguous, as large as asked", str(shapes), holds=shapes == expected)
    errors = [min(_differences(frame.image, photo) for photo in photos) for frame, _, _ in frames]
    mean, pixel = max(error[0] for error in errors), max(error[1] for error in errors)
    seen = f"mean colour within {mean:.2f} levels, pixels within {pixel:.2f} on average"
    claims.show("each is one of the photos", seen, holds=mean <= _MEAN_LEVELS and pixel <= _PIXEL_LEVELS)
    swapped = min(_differences(frames[0][0].image[..., ::-1], photo)[0] for photo in photos)
    claims.show("with red and blue swapped it would not be", f"{swapped:.2f} levels", holds=swapped > 2 * _MEAN_LEVELS)
    times = np.array([frame.captured_at_s for frame, _, _ in frames])
    least_s = float(np.diff(times).min())
    claims.show("times only increase", f"by {least_s * 1e3:.2f} ms at least", holds=least_s > 0)
    ages_s = np.array([after_s - frame.captured_at_s for frame, _, after_s in frames])
    seen = f"frames are {ages_s.min() * 1e3:.1f} to {ages_s.max() * 1e3:.1f} ms old"
    claims.show("times are on the monotonic clock", seen, holds=bool((ages_s > 0).all() and (ages_s < 0.5).all()))
    memory = {frame.image.__array_interface__["data"][0] for frame, _, _ in frames}
    claims.show("no two share memory", f"{len(memory)} places", holds=len(memory) == len(frames))


def in_use(claims: Claims, settings: CameraSettings) -> None:
    """A camera that another holds, again and again; and one that is opened again and again."""
    message, before = "", 0
    with _open(settings) as camera:
        for attempt in range(20):
            try:
                pi.PiCamera(settings).close()
            except CameraError as error:
                message = str(error)
            if attempt == 0:
                before = _descriptors()
        leaked = _descriptors() - before
        frame = camera.read(2.0)
    claims.show("a second opening is refused", message, holds="does another program use it" in message)
    claims.show(
        "19 more leave no file open, and the first still runs", f"{leaked} files", holds=leaked <= 0 and bool(frame)
    )
    before, start_s = _descriptors(), time.monotonic()
    for _ in range(10):
        with _open(settings) as camera:
            camera.read(2.0)
    each_ms = (time.monotonic() - start_s) * 100
    leaked = _descriptors() - before
    claims.show("it opens again ten times", f"{each_ms:.0f} ms each, {leaked} files left open", holds=leaked <= 0)


def supervised(claims: Claims, settings: CameraSettings) -> None:
    """The camera stops under the reader, as when a ribbon cable comes loose."""
    counters = Counters()
    opened: list[pi.PiCamera] = []
    # picamera2's own thread does not survive it; that is one of the things to survive.
    threading.excepthook = lambda ended: print(f"      a thread of picamera2 ends: {ended.exc_value}")

    def open_one() -> pi.PiCamera:
        opened.append(pi.PiCamera(settings))
        return opened[-1]

    camera = SupervisedCamera(open_one, settings, counters, MonotonicClock())
    before = camera.read(5.0)
    stopped_s = time.monotonic()
    opened[0]._camera.camera.stop()
    longest_s, after = _read_until(camera, lambda: counters[Event.CAMERA_REOPENED] == 1)
    gap_s = time.monotonic() - stopped_s
    counts = {name: count for name, count in counters.snapshot().items() if count}
    seen = f"frames again after {gap_s:.2f} s, {counts}"
    # Silence, or an error from picamera2: it depends on where its thread was just then.
    holds = counts in ({"camera_stalls": 1, "camera_reopened": 1}, {"camera_failures": 1, "camera_reopened": 1})
    claims.show("a stopped camera is noticed and opened anew", seen, holds=holds)
    claims.show("no read took longer than its 0.1 s", f"{longest_s * 1e3:.0f} ms", holds=longest_s < 0.15)
    holds = before is not None and after is not None and after.captured_at_s > before.captured_at_s
    claims.show(
        "frames go on counting",
        f"{before and before.sequence} -> {after and after.sequence}",
        holds=holds and after.sequence > before.sequence,
    )
    start_s = time.monotonic()
    camera.close()
    left = [thread.name for thread in threading.enumerate() if thread.name.startswith("camera")]
    claims.show("it closes", f"in {time.monotonic() - start_s:.2f} s, threads left: {left}", holds=not left)


def _read_until(camera: SupervisedCamera, reached: Callable[[], bool]) -> tuple[float, Any]:
    """Reads until then, and one frame more; returns the longest time that a read took, and that frame."""
    longest_s, end_s = 0.0, time.monotonic() + 20
    while time.monotonic() < end_s:
        done = reached()
        start_s = time.monotonic()
        frame = None
        with contextlib.suppress(CameraTimeoutError):
            frame = camera.read(0.1)
        longest_s = max(longest_s, time.monotonic() - start_s)
        if done and frame is not None:
            return longest_s, frame
    return longest_s, None


@contextlib.contextmanager
def _open(settings: CameraSettings) -> Iterator[pi.PiCamera]:
    camera = pi.PiCamera(settings)
    try:
        yield camera
    finally:
        camera.close()


def _differences(image: np.ndarray, photo: np.ndarray) -> tuple[float, float]:
    """Largest difference of the mean colours, and mean difference of the pixels, in levels."""
    difference = image.astype(float) - photo.astype(float)
    return float(np.abs(difference.mean((0, 1))).max()), float(np.abs(difference).mean())


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)
