"""USB cameras, through the kernel's Video4Linux and the package linuxpy.

The newest picture wins: what the driver filled while nobody looked is thrown away. Compressed pictures (MJPEG) are
preferred to YUYV, because decompressing is cheaper than converting and more of them fit through USB. Sensors on the
board's ribbon cable need the ISP and are not for this module. Nothing here imports linuxpy before a camera is opened.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from okko_edge.camera import CameraError, CameraTimeoutError, CorruptFrameError
from okko_edge.cameras.pixels import from_jpeg, from_yuyv
from okko_edge.frame import Frame

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from okko_edge.settings import CameraSettings

_BUFFERS = 4
# By rank: see the module. The four letters are what set_format takes.
_FORMATS = {"MJPEG": "MJPG", "YUYV": "YUYV"}
# Parts of the Pi that are video devices but no cameras, or cameras that need an ISP.
_NO_CAMERAS = ("bcm2835-codec", "bcm2835-isp", "pispbe", "rp1-cfe", "unicam", "rpi-hevc-dec", "rpivid")
# Values of the control EXPOSURE_AUTO: by hand, and the two that choose the exposure time.
_MANUAL, _AUTOMATIC = 1, (3, 0)
_EXPOSURE_UNIT_US = 100


def load() -> Any:
    """Imports linuxpy's module for video devices.

    Raises:
        CameraError: it is not installed.
    """
    try:
        return importlib.import_module("linuxpy.video.device")
    except ImportError as error:
        raise CameraError(
            f'USB cameras need the package linuxpy, which cannot be imported ({error}); run: pip install "okko[usb]"'
        ) from error


def why_not_available(device: str = "") -> str | None:
    """Says why the camera cannot be used and what to do; None if it can. `device` as in `V4l2Camera`."""
    try:
        library = load()
        with contextlib.closing(_open(library, device or _first_camera(library))) as opened:
            _choose_format(library, opened, 640, 480, 30.0)
    except CameraError as error:
        return str(error)
    return None


class V4l2Camera:
    """A USB camera, which runs from now on.

    Args:
        settings: size (the nearest that the camera has), frame rate, exposure, gain (in the camera's own units), white
            balance and focus.
        device: the device's file, such as /dev/video0 or a link to it below /dev/v4l/by-id; empty for the first.

    Attributes:
        notes: what the camera cannot do of what was asked, in words.

    Raises:
        CameraError: it is not there, is in use, or delivers nothing that can be read.
    """

    def __init__(self, settings: CameraSettings, device: str = "") -> None:
        self._library = load()
        self.notes: list[str] = []
        self._path = device or _first_camera(self._library)
        self._sequence = 0
        self._capture: Any = None
        self._device: Any = _open(self._library, self._path)
        try:
            self._start(settings)
        except OSError as error:
            self.close()
            raise CameraError(f"{self._path} does not start: {error.strerror}{_in_use(error)}") from error
        except BaseException:
            self.close()
            raise

    def read(self, timeout_s: float | None = None) -> Frame | None:
        """Waits for the next frame; None after `close`.

        Raises:
            CameraTimeoutError: none came in time.
            CorruptFrameError: the picture is damaged.
            CameraError: the camera is gone, or its pictures are stamped with another clock.
        """
        if self._device is None:
            return None
        try:
            picture = self._newest(timeout_s)
        except (OSError, ValueError, AttributeError) as error:  # unplugged, or closed under the reader
            raise CameraError(f"{self._path} stopped: {error}") from error
        flag = self._library.BufferFlag
        if picture.flags & flag.TIMESTAMP_MASK != flag.TIMESTAMP_MONOTONIC:
            raise CameraError(
                f"{self._path} does not stamp its pictures with the monotonic clock, so nobody can tell old ones; "
                "for a USB camera, see that the module uvcvideo is loaded without the option clock"
            )
        if picture.flags & flag.ERROR:
            raise CorruptFrameError(f"{self._path} sent a picture with errors")
        frame = Frame(self._to_rgb(picture.data), picture.timestamp, self._sequence)
        self._sequence += 1
        return frame

    def close(self) -> None:
        """Stops the camera and gives its memory back; while that is mapped, the kernel keeps its number in use."""
        device, self._device = self._device, None
        capture, self._capture = self._capture, None
        if capture is not None:
            with contextlib.suppress(OSError):
                capture.stream_off()
            if capture.buffer is not None:
                with contextlib.suppress(OSError):
                    capture.disarm()
        if device is not None:
            with contextlib.suppress(OSError):
                device.close()

    def _start(self, settings: CameraSettings) -> None:
        name = _choose_format(self._library, self._device, settings.width, settings.height, settings.frames_per_s)
        capture = self._library.VideoCapture(self._device, size=_BUFFERS)
        capture.set_format(settings.width, settings.height, _FORMATS[name])
        self._format = capture.get_format()
        if self._format.pixel_format != self._library.PixelFormat[name]:
            raise CameraError(f"{self._path} offers {name} but does not deliver it")
        try:
            capture.set_fps(settings.frames_per_s)
        except OSError:
            self.notes.append("its frame rate cannot be set")
        self._set_controls(settings)
        self._capture = capture
        capture.open()

    def _newest(self, timeout_s: float | None) -> Any:
        while True:
            pictures = [self._oldest(timeout_s)]
            if pictures[0] is None:
                raise CameraTimeoutError(f"no frame came in {timeout_s or 0:g} s")
            while len(pictures) < _BUFFERS and (more := self._oldest(0)) is not None:
                pictures.append(more)
            # With every buffer full the driver had to throw away what came last, so the newest may be old as well.
            if len(pictures) < _BUFFERS:
                return pictures[-1]

    def _oldest(self, timeout_s: float | None) -> Any:
        """The driver's next picture, None if there is none in time."""
        with contextlib.suppress(BlockingIOError):  # a driver may announce a picture and have none
            return self._capture.buffer.frame_reader.read(timeout_s)
        return None

    def _to_rgb(self, data: bytes) -> NDArray[np.uint8]:
        width, height, stride = self._format.width, self._format.height, self._format.bytes_per_line
        if self._format.pixel_format == self._library.PixelFormat.MJPEG:
            return from_jpeg(data, width, height)
        stride = max(stride, 2 * width)
        if len(data) < stride * height:
            raise CorruptFrameError(f"{self._path} sent {len(data)} bytes instead of {stride * height}")
        rows = np.frombuffer(data, dtype=np.uint8, count=stride * height).reshape(height, stride)
        return from_yuyv(rows[:, : 2 * width])

    def _set_controls(self, settings: CameraSettings) -> None:
        by_hand = bool(settings.exposure_us)
        automatic = _MANUAL if by_hand else _AUTOMATIC[0]
        if not self._set("EXPOSURE_AUTO", automatic, *(() if by_hand else _AUTOMATIC[1:])) and by_hand:
            self.notes.append("its exposure cannot be fixed")
        # Otherwise the camera exposes longer than a frame lasts when it is dark, and delivers fewer.
        self._set("EXPOSURE_AUTO_PRIORITY", 0)
        if by_hand and not self._set("EXPOSURE_ABSOLUTE", max(1, round(settings.exposure_us / _EXPOSURE_UNIT_US))):
            self.notes.append("its exposure time cannot be set")
        if settings.gain:
            self._set("AUTOGAIN", 0)
            if not self._set("GAIN", round(settings.gain)):
                self.notes.append("its gain cannot be set")
        fixed = bool(settings.red_gain and settings.blue_gain)
        self._set("AUTO_WHITE_BALANCE", int(not fixed))
        if fixed and not (
            self._set("RED_BALANCE", round(settings.red_gain)) and self._set("BLUE_BALANCE", round(settings.blue_gain))
        ):
            self.notes.append("its white balance is fixed, but not at gains of its own")
        self._set("FOCUS_AUTO", int(not settings.focus_dioptres))
        if settings.focus_dioptres and not self._set("FOCUS_ABSOLUTE", round(settings.focus_dioptres)):
            self.notes.append("its focus cannot be set")

    def _set(self, name: str, *values: int) -> bool:
        """Sets a control to the first of the values that it takes; says whether it has the control and took one."""
        with contextlib.suppress(KeyError, RuntimeWarning):
            control = self._device.controls[int(self._library.ControlID[name])]
            for value in values:
                with contextlib.suppress(OSError, AttributeError, ValueError):
                    control.value = value
                    return True
        return False


def _in_use(error: OSError) -> str:
    return "; does another program use it?" if error.errno == errno.EBUSY else ""


def _open(library: Any, path: str) -> Any:
    device = library.Device(path)
    try:
        device.open()
    except PermissionError:
        raise CameraError(
            f"{path} may not be opened: add the user to the group video (sudo usermod -aG video USER) and log in again"
        ) from None
    except OSError as error:
        raise CameraError(f"{path} cannot be opened: {error.strerror}; `ls /dev/video*` lists what there is") from error
    return device


def _first_camera(library: Any) -> str:
    """The first device that is a camera and needs no ISP; those on USB first.

    Raises:
        CameraError: there is none.
    """
    found = []
    for path in sorted(Path("/dev").glob("video*"), key=lambda path: (len(path.name), path.name)):
        with (
            contextlib.suppress(CameraError, OSError, ValueError),
            contextlib.closing(_open(library, str(path))) as device,
        ):
            info = device.info
            if library.Capability.VIDEO_CAPTURE in info.device_capabilities and not info.driver.startswith(_NO_CAMERAS):
                found.append((info.driver != "uvcvideo", str(path)))
    if not found:
        raise CameraError("there is no USB camera: plug one in, and see what `ls /dev/video*` and `lsusb` list")
    return min(found, key=lambda each: each[0])[1]


def _choose_format(library: Any, device: Any, width: int, height: int, frames_per_s: float) -> str:
    """Returns the key of `_FORMATS` that reaches the frame rate, or comes nearest.

    Raises:
        CameraError: the device delivers nothing that can be read.
    """
    try:
        if library.Capability.VIDEO_CAPTURE not in device.info.device_capabilities:
            raise CameraError(f"{device.filename} is no camera; `v4l2-ctl --list-devices` says what is")
        offered = [each.pixel_format for each in device.info.buffer_formats(library.BufferType.VIDEO_CAPTURE)]
        rates = {}
        for name in _FORMATS:
            if library.PixelFormat[name] in offered:
                rows = device.info.fps_intervals(library.PixelFormat[name], width, height)
                rates[name] = float(max((max(row.min_fps, row.max_fps) for row in rows), default=0))
    except OSError as error:
        raise CameraError(f"{device.filename} is no camera: {error}") from error
    if not rates:
        names = ", ".join(sorted({each.name for each in offered})) or "nothing"
        raise CameraError(f"{device.filename} delivers {names}; expected {' or '.join(_FORMATS)}")
    return max(rates, key=lambda name: min(rates[name], frames_per_s))
