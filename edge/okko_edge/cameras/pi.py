"""The camera on the board's ribbon cable, through picamera2: always running, scaled and turned into RGB by the ISP.

It asks for one stream of the size that is classified, with exposure, gain, white balance and frame rate fixed, and
without picamera2's queue, which hands out old frames (raspberrypi/picamera2#426, #787, #849). picamera2 comes with
Raspberry Pi OS, not from PyPI; nothing here imports it before a camera is opened.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from okko_edge.camera import CameraError, CameraTimeoutError, CorruptFrameError
from okko_edge.cameras.pixels import from_nv12, from_yuyv
from okko_edge.frame import Frame

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from okko_edge.settings import CameraSettings

# picamera2 names colours in the order of a number's bits: "BGR888" lies in memory as R, G, B, and "RGB888" as B, G, R.
# The ISP makes RGB for nothing; from YUV it would be the processor's work (docs/cameras.md has the figures).
_FORMAT = "BGR888"
# One frame is read, one is exposed, one waits; a fourth so that a late reader costs no frame. With one or two the frame
# rate halves (raspberrypi/picamera2#950).
_BUFFERS = 4
# Values of libcamera's AfMode control.
_FOCUS_FIXED, _FOCUS_CONTINUOUS = 0, 2
_SYSTEM_PACKAGES = Path("/usr/lib/python3/dist-packages")


def load() -> Any:
    """Imports picamera2.

    Raises:
        CameraError: it cannot be imported; the message says what to do.
    """
    # Otherwise libcamera writes a dozen lines about itself on each start.
    os.environ.setdefault("LIBCAMERA_LOG_LEVELS", "*:WARN")
    try:
        return importlib.import_module("picamera2")
    except Exception as error:  # a broken installation raises anything
        raise CameraError(f"picamera2 cannot be imported ({error}). {_remedy(error)}") from error


def _remedy(error: Exception) -> str:
    if "numpy" in str(error) and "size changed" in str(error):
        # raspberrypi/picamera2#1211: Raspberry Pi OS Bookworm compiles simplejpeg for numpy 1.
        return f"The system's simplejpeg is for an older numpy; run {sys.executable} -m pip install simplejpeg"
    if isinstance(error, ModuleNotFoundError) and (_SYSTEM_PACKAGES / "picamera2").is_dir():
        return (
            "The system has it, but this Python does not look there; make okko's environment with the system's Python: "
            "/usr/bin/python3 -m venv --system-site-packages DIR"
        )
    return (
        "On Raspberry Pi OS: sudo apt install python3-picamera2, and make okko's environment with "
        "/usr/bin/python3 -m venv --system-site-packages DIR"
    )


def why_not_available(number: int = 0) -> str | None:
    """Says why the board's camera `number` cannot be used and what to do; None if it can."""
    try:
        library = load()
        found = library.Picamera2.global_camera_info()
    except CameraError as error:
        return str(error)
    except Exception as error:  # libcamera raises anything
        return f"libcamera does not start: {error}. `rpicam-hello --list-cameras` says more"
    if number < len(found):
        return None
    return _absent(number, found)


def _absent(number: int, found: list[dict[str, Any]]) -> str:
    if found:
        names = ", ".join(f"pi:{index} ({info.get('Model', info['Id'])})" for index, info in enumerate(found))
        return f"there is no camera pi:{number}; this board has {names}"
    return (
        "no camera is connected to this board: check that the ribbon cable sits straight and locked at both ends, "
        "restart, and run rpicam-hello --list-cameras"
    )


class PiCamera:
    """A camera on the board, which runs from now on.

    Args:
        settings: size, exposure, gain, white balance, focus and frame rate; what the camera does not have is left out.
        number: which of the board's cameras.

    Raises:
        CameraError: it is not there, or does not start.
    """

    def __init__(self, settings: CameraSettings, number: int = 0) -> None:
        self._library = load()
        self._job: Any = None
        self._sequence = 0
        self._camera: Any = _claim(self._library, number)
        try:
            self._configure(settings)
            self._camera.start()
        except Exception as error:
            with contextlib.suppress(Exception):
                self.close()
            raise CameraError(f"the camera pi:{number} does not start: {error}") from error

    def read(self, timeout_s: float | None = None) -> Frame | None:
        """Waits for the next frame; None after `close`.

        Raises:
            CameraTimeoutError: none came in time.
            CorruptFrameError: the frame has no sensor timestamp.
            CameraError: picamera2 gave up.
        """
        if self._camera is None:
            return None
        try:
            request = self._next_request(timeout_s)
        except TimeoutError:
            raise CameraTimeoutError(f"no frame came in {timeout_s or 0:g} s") from None
        except Exception as error:
            self._job = None
            raise CameraError(f"the camera stopped: {error}") from error
        try:
            captured_at_s = _exposure_began_at_s(request.get_metadata())
            with self._library.MappedArray(request, "main", write=False) as mapped:
                image = self._to_rgb(mapped.array)
        except CameraError:
            raise
        except Exception as error:
            raise CameraError(f"the camera's frame cannot be read: {error}") from error
        finally:
            request.release()
        frame = Frame(image, captured_at_s, self._sequence)
        self._sequence += 1
        return frame

    def close(self) -> None:
        """Stops the camera."""
        camera, self._camera = self._camera, None
        if camera is None:
            return
        if self._job is not None:
            # Another thread may still wait for this frame; it would for ever.
            camera.cancel_all_and_flush()
            with contextlib.suppress(Exception):
                camera.wait(self._job, timeout=0).release()
            self._job = None
        camera.close()
        # A camera of picamera2 refers to itself in circles, and holds files until somebody looks for such circles.
        del camera
        gc.collect()

    def _configure(self, settings: CameraSettings) -> None:
        camera = self._camera
        asked = camera.create_video_configuration(
            main={"size": (settings.width, settings.height), "format": _FORMAT},
            raw=None,
            buffer_count=_BUFFERS,
            queue=False,
            controls={name: value for name, value in _controls(settings).items() if name in camera.camera_controls},
        )
        camera.configure(asked)
        got = camera.camera_configuration()
        self._format = got["main"]["format"]
        self._width = got["main"]["size"][0]
        self._full_range = str(getattr(got.get("colour_space"), "range", "")).endswith("Full")
        if self._format not in _FORMATS:
            raise CameraError(
                f"it delivers {self._format}, which okko cannot read; expected one of {', '.join(_FORMATS)}"
            )

    def _next_request(self, timeout_s: float | None) -> Any:
        camera = self._camera
        if self._job is not None:
            # The last read gave up waiting. A frame that came since is old by now.
            with contextlib.suppress(TimeoutError):
                camera.wait(self._job, timeout=0).release()
                self._job = None
        if self._job is None:
            self._job = camera.capture_request(wait=False)
        # A request that is waited for with a timeout of picamera2's own would be lost when it comes after all, and its
        # buffer with it: after four of them the camera stands still.
        request = camera.wait(self._job, timeout=timeout_s)
        self._job = None
        return request

    def _to_rgb(self, mapped: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Copies a picture out of the camera's memory, which it will overwrite."""
        if self._format == "NV12":
            return from_nv12(mapped[:, : self._width], full_range=self._full_range)
        if self._format == "YUYV":
            rows = mapped.reshape(mapped.shape[0], -1)[:, : 2 * self._width]
            return from_yuyv(rows, full_range=self._full_range)
        return np.array(mapped[..., _FORMATS[self._format]], order="C")


# Where red, green and blue are in a pixel as it lies in memory; the last two are of cameras without the board's ISP.
_FORMATS = {
    "BGR888": slice(0, 3),
    "RGB888": slice(None, None, -1),
    "XBGR8888": slice(0, 3),
    "XRGB8888": slice(2, None, -1),
    "MJPEG": slice(0, 3),
    "NV12": slice(0),
    "YUYV": slice(0),
}


def _claim(library: Any, number: int) -> Any:
    found = library.Picamera2.global_camera_info()
    if number >= len(found):
        raise CameraError(_absent(number, found))
    camera = library.Picamera2.__new__(library.Picamera2)
    try:
        camera.__init__(number)
    except Exception as error:
        # picamera2 leaves a pipe open here; after days of trying, a process may open no more files.
        with contextlib.suppress(AttributeError, OSError):
            camera.notifymeread.close()
            os.close(camera.notifyme_w)
        cause = error.__cause__ or error
        raise CameraError(f"the camera pi:{number} cannot be opened ({cause}); does another program use it?") from error
    return camera


def _controls(settings: CameraSettings) -> dict[str, Any]:
    period_us = round(1e6 / settings.frames_per_s)
    controls: dict[str, Any] = {
        "FrameDurationLimits": (period_us, period_us),
        "AeEnable": not (settings.exposure_us and settings.gain),
        "AwbEnable": not (settings.red_gain and settings.blue_gain),
        "AfMode": _FOCUS_FIXED if settings.focus_dioptres else _FOCUS_CONTINUOUS,
    }
    if settings.exposure_us:
        controls["ExposureTime"] = settings.exposure_us
    if settings.gain:
        controls["AnalogueGain"] = settings.gain
    if settings.red_gain and settings.blue_gain:
        controls["ColourGains"] = (settings.red_gain, settings.blue_gain)
    if settings.focus_dioptres:
        controls["LensPosition"] = settings.focus_dioptres
    return controls


def _exposure_began_at_s(metadata: dict[str, Any]) -> float:
    """When the first row began to collect light: libcamera stamps the end of its exposure, as picamera2 takes it."""
    stamp_ns = metadata.get("SensorTimestamp")
    if not stamp_ns:
        raise CorruptFrameError("the camera's frame has no sensor timestamp")
    return float(stamp_ns) / 1e9 - float(metadata.get("ExposureTime", 0)) / 1e6
