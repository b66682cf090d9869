"""A kernel with one USB camera, below the real linuxpy: it answers the ioctls that linuxpy sends to the device's file.

The file is a named pipe, so that waiting for it works as with a device: one byte lies in it for each picture that the
driver has filled. Modelled is what drivers do: a queue of buffers that is handed out oldest first and overwritten, no
picture without a free buffer, ENODEV after unplugging, EBUSY while buffers of the last reader are
mapped.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
from linuxpy.video import device as v4l2
from linuxpy.video import raw
from PIL import Image

if TYPE_CHECKING:
    from pathlib import Path

IOC = raw.IOC
_MAX = 640 * 480 * 4


class Webcam:
    """The camera and its driver.

    Attributes:
        picture: what it sees, (height, width, 3) RGB.
        rates: frames in a second, by pixel format ("MJPEG", "YUYV", "GREY") that it offers.
        stalled: it sends nothing.
        unplugged: it is gone.
        corrupt: it marks its pictures as damaged; cut: it sends half of each.
        monotonic: whether it stamps pictures with the monotonic clock.
        controls: value by control, of those that it has.
        padding: bytes at the end of each row of YUYV.
    """

    def __init__(self, path: Path, picture: np.ndarray, *, frames_per_s: float = 200.0) -> None:
        os.mkfifo(path)
        self.path = path
        self.picture = picture
        self.rates = {"MJPEG": 60.0, "YUYV": 30.0}
        self.stalled = self.unplugged = self.corrupt = self.cut = False
        self.monotonic = True
        names = ("EXPOSURE_AUTO", "EXPOSURE_ABSOLUTE", "EXPOSURE_AUTO_PRIORITY", "GAIN", "AUTO_WHITE_BALANCE")
        self.controls = dict.fromkeys((raw.ControlID[name] for name in names), -1)
        self.padding = 0
        self.format: tuple[int, int, Any] = (0, 0, None)
        self.maps: list[_Memory] = []
        self.free: list[int] = []
        self.filled: list[tuple[int, int, float, int]] = []
        self.streaming = False
        self._number = 0
        self._lock = threading.RLock()
        self._own = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._expose, args=(1 / frames_per_s,), daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Takes the machine away."""
        self._end.set()
        self._thread.join()
        os.close(self._own)

    def install(self, monkeypatch: Any) -> None:
        """Puts it below linuxpy."""
        monkeypatch.setattr(v4l2, "ioctl", self._ioctl)
        monkeypatch.setattr(v4l2, "mem_map", self._map)

    def _expose(self, period_s: float) -> None:
        while not self._end.wait(period_s):
            with self._lock:
                if self.unplugged:
                    self._ring()  # whoever waits is woken
                elif self.streaming and self.free and not self.stalled:
                    index = self.free.pop(0)
                    data = self._encoded()
                    self.maps[index].memory[: len(data)] = data
                    self.filled.append((index, len(data), time.monotonic(), self._number))
                    self._number += 1
                    self._ring()

    def _ring(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(self._own, b"!")

    def _encoded(self) -> bytes:
        width, height, pixels = self.format
        picture = self.picture[:height, :width]
        if pixels == raw.PixelFormat.MJPEG:
            file = io.BytesIO()
            Image.fromarray(picture).save(file, "JPEG", quality=95, subsampling=0)
            data = file.getvalue()
        else:
            r, g, b = np.moveaxis(picture.astype(float), 2, 0)
            luma = 0.299 * r + 0.587 * g + 0.114 * b
            u, v = (b - luma) / 1.772, (r - luma) / 1.402
            rows = np.zeros((height, width * 2 + self.padding), np.uint8)
            rows[:, 0 : 2 * width : 2] = np.rint(16 + luma * 219 / 255)
            rows[:, 1 : 2 * width : 4] = np.rint(128 + u * 224 / 255)[:, ::2]
            rows[:, 3 : 2 * width : 4] = np.rint(128 + v * 224 / 255)[:, ::2]
            data = rows.tobytes()
        return data[: len(data) // 2] if self.cut else data

    def _map(self, file: Any, length: int, offset: int) -> _Memory:
        return self.maps[offset]

    def _ioctl(self, file: Any, request: Any, argument: Any = None) -> Any:
        if not os.path.samestat(os.fstat(file.fileno()), os.fstat(self._own)):
            raise OSError(errno.ENOTTY, os.strerror(errno.ENOTTY))
        with self._lock:
            if self.unplugged:
                raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
            answer = getattr(self, "_" + request.name.lower(), None)
            if answer is None:
                raise OSError(errno.ENOTTY, os.strerror(errno.ENOTTY))
            answer(argument)
            return argument

    def _querycap(self, caps: Any) -> None:
        caps.driver, caps.card, caps.bus_info = b"uvcvideo", b"Webcam", b"usb-1"
        caps.capabilities = raw.Capability.VIDEO_CAPTURE | raw.Capability.STREAMING | raw.Capability.DEVICE_CAPS
        caps.device_caps = raw.Capability.VIDEO_CAPTURE | raw.Capability.STREAMING

    def _enum_fmt(self, description: Any) -> None:
        description.pixelformat = raw.PixelFormat[self._nth(list(self.rates), description.index)]

    def _enum_frameintervals(self, interval: Any) -> None:
        rate = self._nth([self.rates[raw.PixelFormat(interval.pixel_format).name]], interval.index)
        interval.type = raw.Frmivaltypes.DISCRETE
        interval.discrete.numerator, interval.discrete.denominator = 1, int(rate)

    def _s_fmt(self, given: Any) -> None:
        if self.maps and any(each.mapped for each in self.maps):
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        height, width = self.picture.shape[:2]
        self.format = (width, height, raw.PixelFormat(given.fmt.pix.pixelformat))

    def _g_fmt(self, asked: Any) -> None:
        pix = asked.fmt.pix
        pix.width, pix.height, pix.pixelformat = self.format
        pix.bytesperline = 2 * pix.width + self.padding if self.format[2] == raw.PixelFormat.YUYV else 0
        pix.sizeimage = _MAX

    def _s_parm(self, given: Any) -> None:
        pass

    def _query_ext_ctrl(self, query: Any) -> None:
        following = bool(query.id & raw.ControlFlag.NEXT_CTRL)
        number = query.id & ~(raw.ControlFlag.NEXT_CTRL | raw.ControlFlag.NEXT_COMPOUND)
        left = sorted(each for each in self.controls if (each > number if following else each == number))
        if not left:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        control = left[0]
        query.id, query.name = control, raw.ControlID(control).name.encode()
        query.minimum, query.maximum, query.step = 0, 1000, 1
        is_menu = control == raw.ControlID.EXPOSURE_AUTO
        query.type = raw.CtrlType.MENU if is_menu else raw.CtrlType.INTEGER

    def _querymenu(self, menu: Any) -> None:
        if menu.index not in (1, 3):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        menu.name = {1: b"Manual Mode", 3: b"Aperture Priority Mode"}[menu.index]

    def _s_ext_ctrls(self, given: Any) -> None:
        for index in range(given.count):
            control, value = given.controls[index].id, given.controls[index].value
            if control == raw.ControlID.EXPOSURE_AUTO and value not in (1, 3):
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
            self.controls[control] = value

    def _reqbufs(self, given: Any) -> None:
        if any(each.mapped for each in self.maps):
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        self.maps = [_Memory() for _ in range(given.count)]
        self._forget()

    def _querybuf(self, buffer: Any) -> None:
        buffer.length, buffer.m.offset = _MAX, buffer.index

    def _qbuf(self, buffer: Any) -> None:
        self.maps[buffer.index].memory[:64] = b"\x55" * 64  # the next picture is written here at once
        self.free.append(buffer.index)

    def _dqbuf(self, buffer: Any) -> None:
        if not self.filled:
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        os.read(self._own, 1)
        index, size, at_s, number = self.filled.pop(0)
        buffer.index, buffer.bytesused, buffer.sequence = index, size, number
        buffer.timestamp.secs, buffer.timestamp.usecs = int(at_s), int(at_s % 1 * 1e6)
        buffer.flags = raw.BufferFlag.TIMESTAMP_MONOTONIC if self.monotonic else 0
        if self.corrupt:
            buffer.flags |= raw.BufferFlag.ERROR

    def _streamon(self, _: Any) -> None:
        self.streaming = True

    def _streamoff(self, _: Any) -> None:
        self.streaming = False
        self._forget()

    def _forget(self) -> None:
        self.free, self.filled = [], []
        with contextlib.suppress(BlockingIOError):
            os.read(self._own, 1 << 16)

    @staticmethod
    def _nth(values: list[Any], index: int) -> Any:
        if index >= len(values):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return values[index]


class _Memory:
    """A buffer of the driver, mapped."""

    def __init__(self) -> None:
        self.memory = bytearray(_MAX)
        self.mapped = True

    def __getitem__(self, part: slice) -> bytes:
        return bytes(self.memory[part])

    def close(self) -> None:
        self.mapped = False
