"""What the board's camera and USB cameras are asked for, what they deliver, and how they say what is wrong."""

# ruff: noqa: F811 (fixtures come by import and are named by arguments)

from __future__ import annotations

import builtins
import io
import os
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from linuxpy.video.raw import ControlID
from PIL import Image

from okko_edge.camera import CameraError, CameraTimeoutError, CorruptFrameError
from okko_edge.cameras import pi, pixels, v4l2
from okko_edge.cameras.pi import PiCamera
from okko_edge.cameras.v4l2 import V4l2Camera
from okko_edge.settings import CameraSettings
from tests.edge.test_camera_contract import HEIGHT, SETTINGS, WIDTH, pi_hardware, scene, webcam  # noqa: F401 (fixtures)

FIXED = {"width": WIDTH, "height": HEIGHT, "exposure_us": 3000, "gain": 4.0, "red_gain": 2.0, "blue_gain": 1.5}


def asked(hardware, **settings):
    """What picamera2 was asked for."""
    PiCamera(CameraSettings(**settings)).close()
    return hardware.given


def test_the_board_is_asked_for_one_small_stream_of_rgb_without_a_queue(pi_hardware):
    given = asked(pi_hardware, width=320, height=240)
    assert given["main"] == {"size": (320, 240), "format": "BGR888"}  # which lies in memory as R, G, B
    assert given["raw"] is None
    assert given["queue"] is False
    assert given["buffer_count"] in (3, 4)


def test_exposure_gain_white_balance_and_frame_rate_are_fixed(pi_hardware):
    assert asked(pi_hardware, frames_per_s=100, **FIXED)["controls"] == {
        "FrameDurationLimits": (10000, 10000),
        "AeEnable": False,
        "ExposureTime": 3000,
        "AnalogueGain": 4.0,
        "AwbEnable": False,
        "ColourGains": (2.0, 1.5),
    }


def test_nought_means_automatic(pi_hardware):
    controls = asked(pi_hardware, exposure_us=0, gain=0)["controls"]
    assert controls == {"FrameDurationLimits": (16667, 16667), "AeEnable": True, "AwbEnable": True}


def test_a_control_that_the_camera_does_not_have_is_left_out(pi_hardware):
    pi_hardware.controls = {"ExposureTime", "AfMode", "LensPosition"}
    controls = asked(pi_hardware, focus_dioptres=10, **FIXED)["controls"]
    assert controls == {"ExposureTime": 3000, "AfMode": 0, "LensPosition": 10.0}


@pytest.mark.parametrize("delivered", ["BGR888", "RGB888"])
def test_red_is_red_in_whatever_order_the_camera_delivers_it(pi_hardware, delivered):
    pi_hardware.format = delivered
    camera = PiCamera(SETTINGS)
    assert np.array_equal(camera.read(5.0).image, scene())
    camera.close()


@pytest.mark.parametrize("width", [62, 64])
def test_rows_with_and_without_padding_are_copied_out_of_the_cameras_memory(pi_hardware, width):
    pi_hardware.picture = np.random.default_rng(0).integers(0, 256, (HEIGHT, width, 3), np.uint8)
    camera = PiCamera(CameraSettings(width=width, height=HEIGHT))
    frame = camera.read(5.0)
    camera.read(5.0)
    assert np.array_equal(frame.image, pi_hardware.picture)
    assert frame.image.flags.owndata
    camera.close()


def test_a_format_that_okko_cannot_read_is_refused_by_name(pi_hardware):
    pi_hardware.format = "SRGGB10"
    with pytest.raises(CameraError, match="SRGGB10"):
        PiCamera(SETTINGS)
    assert pi_hardware.owner is None


def test_a_frame_is_as_old_as_the_beginning_of_its_exposure(pi_hardware):
    pi_hardware.exposure_us = 500_000
    camera = PiCamera(SETTINGS)
    assert camera.read(5.0).captured_at_s < time.monotonic() - 0.49
    camera.close()


def test_a_frame_without_a_sensor_timestamp_is_corrupt(pi_hardware):
    pi_hardware.stamped = False
    camera = PiCamera(SETTINGS)
    with pytest.raises(CorruptFrameError, match="timestamp"):
        camera.read(5.0)
    pi_hardware.stamped = True
    assert camera.read(5.0) is not None
    camera.close()


def test_a_hundred_failed_openings_leave_no_file_open(pi_hardware):
    camera = PiCamera(SETTINGS)
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for _ in range(100):
        with pytest.raises(CameraError, match=r"busy.*does another program use it"):
            PiCamera(SETTINGS)
    assert len(os.listdir("/proc/self/fd")) <= before  # noqa: PTH208
    camera.close()


def test_closing_from_elsewhere_frees_a_reader_that_waits_for_ever(pi_hardware):
    pi_hardware.stalled = True
    camera = PiCamera(SETTINGS)
    ended = []

    def read():
        with pytest.raises(CameraError):
            camera.read()
        ended.append(True)

    reader = threading.Thread(target=read)
    reader.start()
    time.sleep(0.05)
    camera.close()
    reader.join(5.0)
    assert ended == [True]


def test_the_board_says_which_cameras_it_has(pi_hardware):
    assert pi.why_not_available() is None
    assert "pi:0 (imx0)" in pi.why_not_available(1)
    pi_hardware.cameras = 0
    assert "ribbon cable" in pi.why_not_available()
    with pytest.raises(CameraError, match="ribbon cable"):
        PiCamera(SETTINGS)


@pytest.mark.parametrize(
    ("error", "system", "advice"),
    [
        (ModuleNotFoundError("No module named 'picamera2'"), False, "apt install python3-picamera2"),
        (ModuleNotFoundError("No module named 'picamera2'"), True, "--system-site-packages"),
        (ValueError("numpy.dtype size changed, may indicate binary incompatibility"), True, "pip install simplejpeg"),
    ],
)
def test_a_missing_picamera2_is_explained_with_what_to_do(monkeypatch, tmp_path, error, system, advice):
    def refuse(name):
        raise error

    monkeypatch.setattr(pi.importlib, "import_module", refuse)
    monkeypatch.setattr(pi, "_SYSTEM_PACKAGES", tmp_path)
    if system:
        (tmp_path / "picamera2").mkdir()
    assert advice in pi.why_not_available()
    with pytest.raises(CameraError, match=advice):
        PiCamera(SETTINGS)


def opened(webcam, **settings):
    return V4l2Camera(CameraSettings(**({"width": WIDTH, "height": HEIGHT} | settings)), str(webcam.path))


@pytest.mark.parametrize(
    ("rates", "wanted", "chosen"),
    [
        ({"YUYV": 30.0, "MJPEG": 30.0}, 30, "MJPEG"),
        ({"YUYV": 30.0, "MJPEG": 60.0}, 60, "MJPEG"),
        ({"YUYV": 60.0, "MJPEG": 30.0}, 60, "YUYV"),
        ({"GREY": 90.0, "YUYV": 30.0}, 60, "YUYV"),
    ],
)
def test_the_format_that_reaches_the_frame_rate_is_taken_and_mjpeg_if_both_do(webcam, rates, wanted, chosen):
    webcam.rates = rates
    opened(webcam, frames_per_s=wanted).close()
    assert webcam.format[2].name == chosen


def test_a_usb_camera_that_delivers_nothing_readable_is_refused_by_name(webcam):
    webcam.rates = {"GREY": 30.0}
    with pytest.raises(CameraError, match="delivers GREY; expected MJPEG or YUYV"):
        opened(webcam)
    assert "delivers GREY" in v4l2.why_not_available(str(webcam.path))


def test_exposure_and_white_balance_of_a_usb_camera_are_fixed_as_far_as_it_can(webcam):
    webcam.controls[ControlID.RED_BALANCE] = webcam.controls[ControlID.BLUE_BALANCE] = -1
    camera = opened(webcam, exposure_us=4000, gain=7, red_gain=20, blue_gain=30)
    camera.close()
    assert {ControlID(name).name: value for name, value in webcam.controls.items()} == {
        "EXPOSURE_AUTO": 1,
        "EXPOSURE_ABSOLUTE": 40,  # in units of 100 microseconds
        "EXPOSURE_AUTO_PRIORITY": 0,
        "GAIN": 7,
        "AUTO_WHITE_BALANCE": 0,
        "RED_BALANCE": 20,
        "BLUE_BALANCE": 30,
    }
    assert camera.notes == []


def test_nought_leaves_a_usb_camera_automatic(webcam):
    opened(webcam, exposure_us=0, gain=0).close()
    assert webcam.controls[ControlID.EXPOSURE_AUTO] == 3
    assert webcam.controls[ControlID.AUTO_WHITE_BALANCE] == 1
    assert webcam.controls[ControlID.GAIN] == -1


def test_what_a_usb_camera_cannot_do_is_noted_and_it_runs_all_the_same(webcam):
    webcam.controls = {}
    camera = opened(webcam, focus_dioptres=5)
    assert camera.read(5.0) is not None
    camera.close()
    assert camera.notes == [
        "its exposure cannot be fixed",
        "its exposure time cannot be set",
        "its gain cannot be set",
        "its focus cannot be set",
    ]


@pytest.mark.parametrize(("pixels_are", "fault"), [("MJPEG", "corrupt"), ("MJPEG", "cut"), ("YUYV", "cut")])
def test_a_damaged_picture_is_corrupt_and_the_next_good_one_is_read(webcam, pixels_are, fault):
    webcam.rates = {pixels_are: 30.0}
    camera = opened(webcam)
    setattr(webcam, fault, True)
    time.sleep(0.05)
    with pytest.raises(CorruptFrameError):
        camera.read(5.0)
    setattr(webcam, fault, False)
    time.sleep(0.05)
    frame = camera.read(5.0)
    assert np.abs(frame.image.astype(int) - scene()).mean() < 3
    camera.close()


def test_a_driver_with_another_clock_is_refused_because_nobody_can_tell_old_frames(webcam):
    webcam.monotonic = False
    camera = opened(webcam)
    with pytest.raises(CameraError, match="monotonic clock"):
        camera.read(5.0)
    camera.close()


def test_when_the_driver_has_filled_every_buffer_they_are_all_thrown_away(webcam):
    camera = opened(webcam)
    camera.read(5.0)
    time.sleep(0.1)
    webcam.stalled = True
    time.sleep(0.02)
    assert len(webcam.filled) == 4
    with pytest.raises(CameraTimeoutError):
        camera.read(0.01)
    webcam.stalled = False
    back_s = time.monotonic()
    assert camera.read(5.0).captured_at_s >= back_s - 0.01
    camera.close()


def test_after_unplugging_nothing_is_left_mapped_so_that_the_camera_can_come_back_by_its_name(webcam):
    camera = opened(webcam)
    camera.read(5.0)
    webcam.unplugged = True
    camera.close()
    assert not any(each.mapped for each in webcam.maps)


def test_a_usb_camera_in_use_says_so(webcam):
    first = opened(webcam)
    with pytest.raises(CameraError, match="does another program use it"):
        opened(webcam)
    assert first.read(5.0) is not None
    first.close()


def test_what_is_no_usb_camera_is_explained(monkeypatch, tmp_path):
    assert "cannot be opened: No such file" in v4l2.why_not_available(str(tmp_path / "video9"))
    assert "is no camera" in v4l2.why_not_available("/dev/null")
    monkeypatch.setattr(v4l2.Path, "glob", lambda self, pattern: iter(()))
    assert "there is no USB camera" in v4l2.why_not_available()
    monkeypatch.setattr(builtins, "open", refuse_permission)
    assert "group video" in v4l2.why_not_available("/dev/null")
    monkeypatch.setitem(sys.modules, "linuxpy.video.device", None)
    assert 'pip install "okko[usb]"' in v4l2.why_not_available()


def refuse_permission(*_, **__):
    raise PermissionError


def test_the_first_usb_camera_is_found(webcam, monkeypatch):
    monkeypatch.setattr(v4l2.Path, "glob", lambda self, pattern: iter([Path("/dev/null"), webcam.path]))
    camera = V4l2Camera(SETTINGS)
    assert camera.read(5.0) is not None
    camera.close()


def formula(luma, u, v, full_range):
    """BT.601 in floating point."""
    luma, u, v = (np.asarray(each, float) for each in (luma, u, v))
    if not full_range:
        luma, u, v = (luma - 16) * 255 / 219, (u - 128) * 255 / 224 + 128, (v - 128) * 255 / 224 + 128
    u, v = u - 128, v - 128
    return np.clip(np.stack([luma + 1.402 * v, luma - 0.344136 * u - 0.714136 * v, luma + 1.772 * u], axis=-1), 0, 255)


@pytest.mark.parametrize("full_range", [False, True])
def test_luma_and_chroma_become_rgb_by_the_formula_of_the_standard(full_range):
    random = np.random.default_rng(0)
    luma = random.integers(0, 256, (40, 60), np.uint8)
    u, v = random.integers(0, 256, (2, 40, 30), np.uint8)
    yuyv = np.empty((40, 120), np.uint8)
    yuyv[:, ::2], yuyv[:, 1::4], yuyv[:, 3::4] = luma, u, v
    expected = formula(luma, u.repeat(2, axis=1), v.repeat(2, axis=1), full_range)
    assert np.abs(pixels.from_yuyv(yuyv, full_range=full_range) - expected).max() <= 2
    small_u, small_v = u[::2], v[::2]
    nv12 = np.vstack([luma, np.stack([small_u, small_v], axis=-1).reshape(20, 60)])
    expected = formula(luma, *(each.repeat(2, axis=0).repeat(2, axis=1) for each in (small_u, small_v)), full_range)
    assert np.abs(pixels.from_nv12(nv12, full_range=full_range) - expected).max() <= 2


def test_white_black_and_the_ends_of_the_range_are_exact():
    rows = np.array([[16, 128, 235, 128], [0, 128, 255, 128]], np.uint8)
    assert pixels.from_yuyv(rows)[..., 0].tolist() == [[0, 255], [0, 255]]
    assert pixels.from_yuyv(rows, full_range=True)[..., 0].tolist() == [[16, 235], [0, 255]]


def test_a_motion_jpeg_without_its_huffman_tables_is_read():
    file = io.BytesIO()
    Image.fromarray(scene()).save(file, "JPEG", quality=95, subsampling=0)
    data = file.getvalue()
    stripped, at = data[:2], 2
    while data[at + 1] != 0xDA:
        size = 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        stripped += b"" if data[at + 1] == 0xC4 else data[at : at + size]
        at += size
    stripped += data[at:]
    assert len(stripped) < len(data)
    assert np.abs(pixels.from_jpeg(stripped, WIDTH, HEIGHT).astype(int) - scene()).mean() < 3


@pytest.mark.parametrize("data", [b"", b"\xff\xd8", b"no picture", b"\x89PNG\r\n\x1a\n"])
def test_bytes_that_are_no_jpeg_are_corrupt(data):
    with pytest.raises(CorruptFrameError, match="damaged"):
        pixels.from_jpeg(data, 8, 8)


def test_a_jpeg_of_another_size_is_corrupt():
    file = io.BytesIO()
    Image.new("RGB", (8, 16)).save(file, "JPEG")
    with pytest.raises(CorruptFrameError, match="8 x 16 pixels instead of 8 x 8"):
        pixels.from_jpeg(file.getvalue(), 8, 8)
