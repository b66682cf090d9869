"""A picamera2 that behaves as the real one does where it hurts, and misbehaves on demand.

What is modelled was read in picamera2 0.3.38: buffers that are overwritten as soon as they are released, padded rows,
formats named against their order in memory, jobs that keep a frame for a reader who has gone, one opening at a time,
a pipe that a failed opening leaves behind, controls that are refused when the camera does not have them.
"""

from __future__ import annotations

import enum
import os
import threading
import time
import types
from concurrent.futures import CancelledError, Future
from typing import Any

import numpy as np

# Bytes of one pixel in memory, by picamera2's name of the format.
ORDER = {"BGR888": (0, 1, 2), "RGB888": (2, 1, 0)}
_ROW_ALIGNMENT = 64


class Range(enum.Enum):
    """libcamera.ColorSpace.Range."""

    Full = 0
    Limited = 1


class Hardware:
    """The board: what is plugged in, and what goes wrong with it.

    Attributes:
        picture: what the sensor sees, (height, width, 3) RGB.
        cameras: how many are connected.
        stalled: the sensor sends nothing.
        broken: the next use of the camera raises this.
        hangs: closing never ends until `unhang` is set.
        stamped: whether frames carry a sensor timestamp.
        controls: names that the camera has.
        format: what the camera delivers instead of what was asked for.
        exposure_us: what it reports.
        given: the configuration that was asked for.
    """

    def __init__(self, picture: np.ndarray, *, frames_per_s: float = 200.0) -> None:
        self.picture = picture
        self.cameras = 1
        self.stalled = False
        self.broken: Exception | None = None
        self.hangs = False
        self.unhang = threading.Event()
        self.stamped = True
        self.controls = {"FrameDurationLimits", "AeEnable", "ExposureTime", "AnalogueGain", "AwbEnable", "ColourGains"}
        self.format: str | None = None
        self.exposure_us = 2000
        self.given: dict[str, Any] = {}
        self.period_s = 1 / frames_per_s
        self.owner: Any = None
        self.opened = 0

    def module(self) -> types.ModuleType:
        """Something to put into sys.modules["picamera2"]."""
        hardware = self

        class Picamera2(_Camera):
            board = hardware

        module = types.ModuleType("picamera2")
        module.Picamera2 = Picamera2  # type: ignore[attr-defined]
        module.MappedArray = _MappedArray  # type: ignore[attr-defined]
        return module


class _Camera:
    board: Hardware

    def __init__(self, camera_num: int = 0) -> None:
        self.notifyme_r, self.notifyme_w = os.pipe2(os.O_NONBLOCK)
        self.notifymeread = os.fdopen(self.notifyme_r, "rb")
        if self.board.owner is not None:
            raise RuntimeError("Camera __init__ sequence did not complete.") from OSError("Device or resource busy")
        self.board.owner = self
        self.board.opened += 1
        self.lock = threading.Lock()
        self.jobs: list[Future[Any]] = []
        self.free: list[_Buffer] = []
        self.running = False
        self.camera_controls = dict.fromkeys(self.board.controls, (0, 1, 0))

    @classmethod
    def global_camera_info(cls) -> list[dict[str, Any]]:
        return [
            {"Model": f"imx{index}", "Id": f"/base/i2c/{index}", "Num": index} for index in range(cls.board.cameras)
        ]

    def create_video_configuration(self, **given: Any) -> dict[str, Any]:
        for name in given.get("controls", {}):
            if name not in self.camera_controls:
                raise RuntimeError(f"Control {name} is not advertised by libcamera")
        return given

    def configure(self, given: dict[str, Any]) -> None:
        self.board.given = given
        width, height = (size - size % 2 for size in given["main"]["size"])
        shape = self.board.format or given["main"]["format"]
        stride = -(-width * (3 if shape in ORDER else 1) // _ROW_ALIGNMENT) * _ROW_ALIGNMENT
        self.config = {
            "main": {"format": shape, "size": (width, height), "stride": stride},
            "colour_space": types.SimpleNamespace(range=Range.Limited),
        }
        self.free = [_Buffer(self, np.empty((height * 3 // 2, stride), np.uint8)) for _ in range(given["buffer_count"])]

    def camera_configuration(self) -> dict[str, Any]:
        return self.config

    def start(self) -> None:
        self.running = True
        self.thread = threading.Thread(target=self._expose, daemon=True)
        self.thread.start()

    def capture_request(self, wait: Any = None) -> Any:
        assert wait is False, "a job that is waited for by its own timeout keeps the frame"
        if self.board.broken is not None:
            raise self.board.broken
        job: Future[Any] = Future()
        with self.lock:
            self.jobs.append(job)
        return job

    def wait(self, job: Any, timeout: float | None = None) -> Any:
        return job.result(timeout)

    def cancel_all_and_flush(self) -> None:
        with self.lock:
            for job in self.jobs:
                job.set_exception(CancelledError())
            self.jobs = []

    def close(self) -> None:
        if self.board.hangs:
            self.board.unhang.wait()
        if self.running:
            self.running = False
            self.thread.join()
        self.notifymeread.close()
        os.close(self.notifyme_w)
        self.board.owner = None

    def _expose(self) -> None:
        while self.running:
            time.sleep(self.board.period_s)
            with self.lock:
                # Frames that nobody asked for are thrown away (queue=False); without a free buffer there is no frame.
                if self.board.stalled or not self.free or not self.jobs:
                    continue
                buffer = self.free.pop(0)
                buffer.fill(self.config["main"], self.board)
                self.jobs.pop(0).set_result(buffer)


class _Buffer:
    """A CompletedRequest."""

    def __init__(self, camera: _Camera, memory: np.ndarray) -> None:
        self.camera, self.memory = camera, memory

    def fill(self, config: dict[str, Any], board: Hardware) -> None:
        width, height = config["size"]
        self.memory[:] = 0xAA
        picture = board.picture[:height, :width]
        if config["format"] == "NV12":
            self.memory[:height, :width] = picture.mean(2)
            self.memory[height:, :width] = 128
        elif config["format"] in ORDER:
            self.memory[:height, : 3 * width] = picture[..., ORDER[config["format"]]].reshape(height, 3 * width)
        self.metadata = {"ExposureTime": board.exposure_us}
        if board.stamped:
            self.metadata["SensorTimestamp"] = time.monotonic_ns()

    def get_metadata(self) -> dict[str, Any]:
        return dict(self.metadata)

    def release(self) -> None:
        self.memory[:] = 0x55  # the next frame is written here at once
        with self.camera.lock:
            self.camera.free.append(self)


class _MappedArray:
    def __init__(self, request: _Buffer, stream: str, reshape: bool = True, write: bool = True) -> None:
        assert stream == "main"
        config = request.camera.config["main"]
        width, height = config["size"]
        if config["format"] in ORDER:
            rows = request.memory[:height, : 3 * width]
            self.array = np.lib.stride_tricks.as_strided(rows, (height, width, 3), (rows.strides[0], 3, 1))
        else:
            self.array = request.memory[:, :width]

    def __enter__(self) -> _MappedArray:
        return self

    def __exit__(self, *_: object) -> None:
        del self.array
