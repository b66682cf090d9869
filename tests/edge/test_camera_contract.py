"""What every camera promises, asked of all of them: two without hardware, two with, and a supervised one."""

from __future__ import annotations

import itertools
import math
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest

from okko_edge.camera import CameraChoice, CameraError, CameraTimeoutError, FolderCamera, Slot
from okko_edge.cameras.opening import open_camera, why_not_available
from okko_edge.cameras.pi import PiCamera
from okko_edge.cameras.supervised import SupervisedCamera
from okko_edge.cameras.v4l2 import V4l2Camera
from okko_edge.clock import MonotonicClock
from okko_edge.events import Counters, Event
from okko_edge.settings import CameraSettings
from okko_edge.simulator import Belt, SimulatedCamera, SimulatedConveyor
from tests.edge.fake_picamera2 import Hardware
from tests.edge.fake_v4l2 import Webcam

WIDTH, HEIGHT = 62, 48  # no multiple of what hardware likes
SETTINGS = CameraSettings(width=WIDTH, height=HEIGHT, frames_per_s=60, stall_s=0.3)
HARDWARE = ("pi", "v4l2-mjpeg", "v4l2-yuyv", "supervised")


def scene():
    """Red on the left, blue on the right: swapped channels and swapped sides both show."""
    picture = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    picture[:, : WIDTH // 2] = (200, 60, 20)
    picture[:, WIDTH // 2 :] = (30, 90, 220)
    return picture


@pytest.fixture
def pi_hardware(monkeypatch):
    hardware = Hardware(scene())
    monkeypatch.setitem(sys.modules, "picamera2", hardware.module())
    return hardware


@pytest.fixture
def webcam(tmp_path, monkeypatch):
    webcam = Webcam(tmp_path / "video0", scene())
    webcam.install(monkeypatch)
    yield webcam
    webcam.end()


def make(kind, request):
    """Returns what opens a camera, and what is behind it and can misbehave, if anything is."""
    slots = (Slot(scene()) for _ in itertools.count())
    if kind == "folder":
        return lambda: FolderCamera(slots, clock=MonotonicClock(), frames_per_s=200), None
    if kind == "sim":
        conveyor = SimulatedConveyor(slots, Belt(slots_per_s=10, move_s=0.04))
        return lambda: SimulatedCamera(conveyor, clock=MonotonicClock(), frames_per_s=100, noise_levels=1), None
    if kind.startswith("v4l2"):
        webcam = request.getfixturevalue("webcam")
        if kind == "v4l2-yuyv":
            webcam.rates, webcam.padding = {"YUYV": 30.0}, 4
        return lambda: V4l2Camera(SETTINGS, str(webcam.path)), webcam
    hardware = request.getfixturevalue("pi_hardware")
    if kind == "pi":
        return lambda: PiCamera(SETTINGS), hardware
    return lambda: SupervisedCamera(lambda: PiCamera(SETTINGS), SETTINGS, Counters(), MonotonicClock()), hardware


@pytest.fixture(params=["folder", "sim", *HARDWARE])
def subject(request):
    opens, hardware = make(request.param, request)
    camera = opens()
    yield SimpleNamespace(camera=camera, opens=opens, hardware=hardware, kind=request.param)
    if hardware is not None:
        hardware.stalled = False
    camera.close()


@pytest.fixture(params=HARDWARE)
def late(request):
    """A camera that can be late."""
    opens, hardware = make(request.param, request)
    camera = opens()
    yield SimpleNamespace(camera=camera, opens=opens, hardware=hardware, kind=request.param)
    hardware.stalled = False
    camera.close()


def test_frames_are_rgb_as_the_scene_is(subject):
    differences = []
    for _ in range(30):
        image = subject.camera.read(5.0).image
        assert (image.shape, image.dtype, image.flags.c_contiguous) == ((HEIGHT, WIDTH, 3), np.uint8, True)
        differences.append(np.abs(image.astype(int) - scene()).mean())
    assert min(differences) < 3


def test_times_and_numbers_only_increase_and_no_frame_is_of_the_future(subject):
    start_s = time.monotonic()
    frames = [subject.camera.read(5.0) for _ in range(20)]
    assert all(a.captured_at_s < b.captured_at_s and a.sequence < b.sequence for a, b in itertools.pairwise(frames))
    assert frames[0].sequence >= 0
    assert start_s - 1 < frames[0].captured_at_s
    assert frames[-1].captured_at_s <= time.monotonic()


def test_a_frame_is_kept_as_it_was_whatever_the_camera_does_with_its_memory(subject):
    frames = [subject.camera.read(5.0) for _ in range(6)]
    before = [frame.image.copy() for frame in frames]
    for _ in range(10):
        subject.camera.read(5.0)
    assert all(np.array_equal(frame.image, image) for frame, image in zip(frames, before, strict=True))


def test_after_closing_there_is_nothing_and_closing_again_does_nothing(subject):
    assert subject.camera.read(5.0) is not None
    subject.camera.close()
    subject.camera.close()
    assert subject.camera.read(5.0) is None


def test_it_can_be_opened_again(subject):
    subject.camera.read(5.0)
    subject.camera.close()
    if subject.hardware is None:
        return  # a folder's photos and a belt's slots have gone by
    again = subject.opens()
    assert again.read(5.0) is not None
    again.close()


def test_a_late_frame_is_told_from_none_at_all_and_read_when_it_comes(late):
    first = late.camera.read(5.0)
    late.hardware.stalled = True
    waits = 0
    while waits < 8:  # more than there are buffers: giving up waiting must not lose one each time
        try:
            late.camera.read(0.01)
        except CameraTimeoutError:
            waits += 1
    late.hardware.stalled = False
    assert late.camera.read(5.0).captured_at_s > first.captured_at_s


def test_a_reader_that_was_away_gets_no_frame_from_before(late):
    late.camera.read(5.0)
    time.sleep(0.2)
    back_s = time.monotonic()
    frames = [late.camera.read(5.0) for _ in range(2)]
    assert frames[-1].captured_at_s > back_s - 0.1


def test_a_reader_that_gave_up_waiting_and_went_away_gets_no_frame_from_before(late):
    late.camera.read(5.0)
    late.hardware.stalled = True
    with pytest.raises(CameraTimeoutError):
        read_on(late.camera, 0.01)
    late.hardware.stalled = False
    time.sleep(0.2)
    back_s = time.monotonic()
    assert late.camera.read(5.0).captured_at_s > back_s - 0.1


@pytest.mark.parametrize("kind", ["pi", "v4l2-mjpeg"])
def test_a_camera_that_is_gone_is_an_error_and_closes_all_the_same(kind, request):
    opens, hardware = make(kind, request)
    camera = opens()
    camera.read(5.0)
    hardware.broken, hardware.unplugged = OSError("gone"), True
    with pytest.raises(CameraError, match="stopped"):
        camera.read(1.0)
    camera.close()
    hardware.broken, hardware.unplugged = None, False
    again = opens()
    assert again.read(5.0) is not None
    again.close()


@pytest.mark.parametrize("kind", ["pi", "v4l2-mjpeg"])
def test_whatever_the_hardware_does_the_supervised_camera_goes_on(kind, request):
    opens, hardware = make(kind, request)
    counters = Counters()
    camera = SupervisedCamera(opens, SETTINGS, counters, MonotonicClock(), first_pause_s=0.01)
    first = camera.read(5.0)
    hardware.stalled = True
    wait_until(lambda: counters[Event.CAMERA_STALLED] == 1)
    hardware.stalled = False
    wait_until(lambda: counters[Event.CAMERA_REOPENED] == 1)
    hardware.broken, hardware.unplugged, hardware.cameras = OSError("gone"), True, 0
    wait_until(lambda: counters[Event.CAMERA_FAILED] >= 2)
    hardware.broken, hardware.unplugged, hardware.cameras = None, False, 1
    wait_until(lambda: counters[Event.CAMERA_REOPENED] == 2)
    last = camera.read(5.0)
    assert last.captured_at_s > first.captured_at_s
    assert last.sequence > first.sequence
    camera.close()


def test_open_camera_gives_a_supervised_one_of_either_kind(pi_hardware, webcam):
    for choice in (CameraChoice("pi"), CameraChoice("v4l2", device=str(webcam.path))):
        assert why_not_available(choice) is None
        camera = open_camera(choice, SETTINGS, MonotonicClock(), Counters())
        assert camera.read(5.0).image.shape == (HEIGHT, WIDTH, 3)
        camera.close()
    with pytest.raises(ValueError, match="real camera"):
        open_camera(CameraChoice("sim"), SETTINGS, MonotonicClock(), Counters())


def test_settings_that_contradict_each_other_are_refused_before_anything_is_opened(pi_hardware):
    with pytest.raises(CameraError, match=r"red_gain is 1\.5 and camera\.blue_gain 0"):
        open_camera(CameraChoice("pi"), CameraSettings(red_gain=1.5), MonotonicClock(), Counters())
    assert pi_hardware.opened == 0


def read_on(camera, timeout_s):
    while True:
        camera.read(timeout_s)


def wait_until(reached, timeout_s=10.0):
    end_s = time.monotonic() + timeout_s
    while not reached():
        assert time.monotonic() < end_s, "never happened"
        time.sleep(0.01)


def test_a_time_that_is_no_number_never_leaves_a_camera(pi_hardware):
    pi_hardware.exposure_us = math.nan
    counters = Counters()
    camera = SupervisedCamera(lambda: PiCamera(SETTINGS), SETTINGS, counters, MonotonicClock())
    wait_until(lambda: counters[Event.CORRUPT_FRAME] > 2)
    with pytest.raises(CameraTimeoutError):
        camera.read(0.01)
    camera.close()
