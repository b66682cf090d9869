"""A photo in front of the camera: what this program shows on the kernel's virtual screen, its virtual camera sees.

The kernel's `vivid` driver connects the two as an HDMI cable would. Run as a program it shows the photos that are named
on its standard input, one a line, each until the next comes.
"""

from __future__ import annotations

import sys
import threading

import numpy as np
from linuxpy.ioctl import ioctl
from linuxpy.video import raw
from linuxpy.video.device import BufferType, Device, VideoOutput
from PIL import Image

CAMERA, SCREEN = "/dev/video0", "/dev/video1"
WIDTH, HEIGHT = 640, 480
_CONNECTED_TO, _TO_THE_OUTPUT = 15790193, 2
_SIGNAL, _CURRENT, _SELECTED = 15790142, 0, 4
_TIMINGS, _640_480_AT_60 = 15790143, 0
_OVERLAY, _NO_TEXT = 15790082 - 1, 2


def connect() -> None:
    """Connects camera and screen, with 640 x 480 pixels on the cable and no text across the picture."""
    with Device(CAMERA) as camera, Device(SCREEN) as screen:
        camera.controls[_OVERLAY].value = _NO_TEXT
        camera.controls[_SIGNAL].value = _SELECTED
        camera.controls[_TIMINGS].value = _640_480_AT_60
        timings = raw.v4l2_dv_timings()
        ioctl(camera, raw.IOC.QUERY_DV_TIMINGS, timings)
        camera.controls[_SIGNAL].value = _CURRENT
        for device in (camera, screen):
            ioctl(device, raw.IOC.S_DV_TIMINGS, timings)
        screen.set_format(BufferType.VIDEO_OUTPUT, WIDTH, HEIGHT, "YUYV")
        camera.controls[_CONNECTED_TO].value = _TO_THE_OUTPUT


def photo(path: str) -> bytes:
    """Reads a photo as WIDTH x HEIGHT of YUYV, ITU-R BT.601, limited range."""
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("YCbCr").resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)).astype(np.float32)
    luma = 16 + pixels[:, :, 0] * (219 / 255)
    chroma = 128 + (pixels[:, :, 1:].reshape(HEIGHT, WIDTH // 2, 2, 2).mean(axis=2) - 128) * (224 / 255)
    packed = np.empty((HEIGHT, WIDTH, 2), np.uint8)
    packed[:, :, 0] = np.rint(luma)
    packed[:, :, 1] = np.rint(chroma).reshape(HEIGHT, WIDTH)
    return packed.tobytes()


def main() -> None:
    """Shows what is asked for."""
    connect()
    shown = [b"\x80" * (2 * WIDTH * HEIGHT)]

    def show() -> None:
        with Device(SCREEN) as screen, VideoOutput(screen) as output:
            while True:
                output.write(shown[0])  # waits for the next picture of the cable

    threading.Thread(target=show, daemon=True).start()
    for line in sys.stdin:
        shown[0] = photo(line.strip())
        print("shown", flush=True)


if __name__ == "__main__":
    main()
