"""The supervised camera, with a camera behind it that does whatever a test asks of it."""

from __future__ import annotations

import itertools
import threading
import time

import numpy as np
import pytest

from okko_edge.camera import CameraError, CameraTimeoutError, CorruptFrameError
from okko_edge.cameras import supervised
from okko_edge.cameras.supervised import SupervisedCamera
from okko_edge.clock import MonotonicClock
from okko_edge.events import Counters, Event
from okko_edge.frame import Frame
from okko_edge.settings import CameraSettings

SETTINGS = CameraSettings(stall_s=0.2)
GOOD = np.zeros((4, 6, 3), np.uint8)


class Behind:
    """What is behind the supervised camera; each attribute is called by the thread that reads it."""

    def __init__(self):
        self.opened = self.closed = 0
        self.on_open = self.on_close = lambda: None
        self.on_read = self.good
        self.reader = None

    def open(self):
        self.opened += 1
        self.on_open()
        return self

    def read(self, timeout_s=None):
        self.reader = threading.current_thread()
        return self.on_read()

    def close(self):
        self.closed += 1
        self.on_close()

    @staticmethod
    def good():
        time.sleep(0.002)
        return Frame(GOOD, time.monotonic(), 0)

    @staticmethod
    def late():
        time.sleep(0.01)
        raise CameraTimeoutError("late")


def raising(error):
    def call():
        raise error

    return call


def wait_until(reached, timeout_s=10.0):
    end_s = time.monotonic() + timeout_s
    while not reached():
        assert time.monotonic() < end_s, "never happened"
        time.sleep(0.005)


@pytest.fixture
def behind():
    return Behind()


@pytest.fixture
def counters():
    return Counters()


@pytest.fixture
def start(behind, counters, monkeypatch):
    monkeypatch.setattr(supervised, "_CLOSING_S", 0.1)
    started = []

    def start(settings=SETTINGS, **options):
        options = {"first_pause_s": 0.01, "longest_pause_s": 0.05, "opening_s": 0.3} | options
        started.append(SupervisedCamera(behind.open, settings, counters, MonotonicClock(), **options))
        return started[-1]

    yield start
    for camera in started:
        camera.close()


def counted(counters):
    return {name: count for name, count in counters.snapshot().items() if count}


def test_the_newest_frame_wins_and_the_number_tells_how_many_nobody_saw(start):
    camera = start()
    first = camera.read(5.0)
    time.sleep(0.1)
    away_s = time.monotonic()
    second = camera.read(5.0)
    assert second.captured_at_s > away_s - 0.05
    assert second.sequence > first.sequence + 5


def test_no_frame_is_read_twice(start):
    camera = start()
    numbers = [camera.read(5.0).sequence for _ in range(20)]
    assert all(a < b for a, b in itertools.pairwise(numbers))


def test_a_stalled_camera_is_counted_closed_and_opened_anew(start, behind, counters):
    camera = start()
    before = camera.read(5.0)
    behind.on_read = behind.late
    wait_until(lambda: counters[Event.CAMERA_STALLED] == 1)
    assert "no frame came for 0.2 s" in camera.trouble
    behind.on_read = behind.good
    wait_until(lambda: counters[Event.CAMERA_REOPENED] == 1)
    after = camera.read(5.0)
    assert after.captured_at_s > before.captured_at_s
    assert after.sequence > before.sequence
    assert camera.trouble is None
    assert counted(counters) == {"camera_stalls": 1, "camera_reopened": 1}
    assert (behind.opened, behind.closed) == (2, 1)


def test_a_frame_from_before_a_stall_is_never_handed_out_after_it(start, behind, counters):
    camera = start()
    camera.read(5.0)
    time.sleep(0.02)  # there is one in the box now
    behind.on_read = behind.late
    wait_until(lambda: counters[Event.CAMERA_STALLED] == 1)
    with pytest.raises(CameraTimeoutError):
        camera.read(0.01)


def test_a_camera_that_vanishes_is_tried_until_it_is_back(start, behind, counters):
    camera = start()
    camera.read(5.0)
    behind.on_open = raising(CameraError("there is no camera"))
    behind.on_read = raising(OSError("no such device"))
    wait_until(lambda: counters[Event.CAMERA_FAILED] >= 4)
    with pytest.raises(CameraTimeoutError, match="there is no camera"):
        camera.read(0)
    behind.on_open, behind.on_read = lambda: None, behind.good
    assert camera.read(5.0) is not None
    assert counters[Event.CAMERA_REOPENED] == 1
    assert counters[Event.CAMERA_STALLED] == 0


def test_a_camera_that_was_not_there_at_first_is_no_reopened_one(start, behind, counters):
    behind.on_open = raising(CameraError("not yet"))
    camera = start()
    wait_until(lambda: counters[Event.CAMERA_FAILED] >= 2)
    behind.on_open = lambda: None
    assert camera.read(5.0) is not None
    assert counters[Event.CAMERA_REOPENED] == 0


@pytest.mark.parametrize("hangs", ["on_read", "on_close", "on_open"])
def test_a_call_that_never_returns_holds_nobody_up(start, behind, counters, hangs):
    never = threading.Event()
    hang = lambda: never.wait() and None  # noqa: E731
    camera = start()
    camera.read(5.0)
    if hangs == "on_read":
        behind.on_read = hang
        wait_until(lambda: counters[Event.CAMERA_STALLED] == 1)
        behind.on_read = behind.good
    else:
        setattr(behind, hangs, hang)
        behind.on_read = raising(OSError("gone"))
        opened = behind.opened
        wait_until(lambda: behind.opened > opened)
        wait_until(lambda: counters[Event.CAMERA_FAILED] >= (2 if hangs == "on_open" else 1))
        setattr(behind, hangs, lambda: None)
        behind.on_read = behind.good
    assert camera.read(5.0) is not None
    behind.on_close = hang
    camera.close()
    assert camera.read() is None
    never.set()


def test_what_an_abandoned_thread_finds_at_last_is_not_handed_out(start, behind, counters):
    never = threading.Event()

    def hang():
        never.wait()
        return Frame(np.full_like(GOOD, 99), time.monotonic(), 0)

    camera = start()
    camera.read(5.0)
    behind.on_read = hang
    wait_until(lambda: counters[Event.CAMERA_STALLED] == 1)
    behind.on_read = behind.good
    camera.read(5.0)
    never.set()
    assert all(camera.read(5.0).image.max() == 0 for _ in range(20))


def test_a_driver_that_always_hangs_does_not_fill_the_memory_with_threads(start, behind):
    never = threading.Event()
    behind.on_open = never.wait
    camera = start(opening_s=0.02)
    wait_until(lambda: "driver hangs" in (camera.trouble or ""))
    opened = behind.opened
    time.sleep(0.2)
    assert behind.opened == opened <= 4
    never.set()
    behind.on_open = lambda: None
    assert camera.read(5.0) is not None


@pytest.mark.parametrize(
    "bad",
    [
        None,
        lambda now_s: Frame(None, now_s, 0),
        lambda now_s: Frame(GOOD.tolist(), now_s, 0),
        lambda now_s: Frame(GOOD.astype(np.float32), now_s, 0),
        lambda now_s: Frame(GOOD[..., 0], now_s, 0),
        lambda now_s: Frame(np.zeros((4, 6, 4), np.uint8), now_s, 0),
        lambda now_s: Frame(np.zeros((0, 6, 3), np.uint8), now_s, 0),
        lambda now_s: Frame(np.zeros((6, 4, 3), np.uint8), now_s, 0),
        lambda now_s: Frame(GOOD[:, ::-1], now_s, 0),
        lambda now_s: Frame(GOOD, float("nan"), 0),
        lambda now_s: Frame(GOOD, float("-inf"), 0),
        lambda now_s: Frame(GOOD, now_s + 60, 0),
        lambda now_s: raising(CorruptFrameError("damaged"))(),
    ],
)
def test_what_is_no_picture_is_refused_and_counted_and_the_next_good_one_is_taken(start, behind, counters, bad):
    camera = start(CameraSettings(stall_s=5.0))
    before = camera.read(5.0)
    behind.on_read = lambda: bad and bad(time.monotonic())
    wait_until(lambda: counters[Event.CORRUPT_FRAME] >= 3)
    behind.on_read = behind.good
    frames = [camera.read(5.0) for _ in range(3)]
    assert all(frame.image is GOOD and frame.captured_at_s > before.captured_at_s for frame in frames)
    assert set(counted(counters)) == {"corrupt_frames"}
    assert behind.opened == 1


def test_a_camera_that_gives_nothing_but_rubbish_is_opened_anew(start, behind, counters):
    start()
    behind.on_read = lambda: None
    wait_until(lambda: counters[Event.CAMERA_STALLED] >= 1)
    wait_until(lambda: behind.opened >= 2)


@pytest.mark.parametrize("earlier_s", [0.0, 1.0])
def test_a_frame_no_newer_than_the_one_before_is_refused_and_counted(start, behind, counters, earlier_s):
    camera = start(CameraSettings(stall_s=30.0))
    newest = camera.read(5.0)
    behind.on_read = lambda: Frame(GOOD, newest.captured_at_s - earlier_s, 0)
    wait_until(lambda: counters[Event.STALE_FRAME] >= 2)
    behind.on_read = behind.good
    assert camera.read(5.0).captured_at_s > newest.captured_at_s


def test_a_frame_that_the_driver_kept_too_long_is_refused_and_counted(start, behind, counters):
    behind.on_read = lambda: Frame(GOOD, time.monotonic() - 40, 0)
    camera = start(CameraSettings(stall_s=30.0))
    wait_until(lambda: counters[Event.STALE_FRAME] >= 2)
    with pytest.raises(CameraTimeoutError):
        camera.read(0)
    behind.on_read = behind.good
    assert camera.read(5.0) is not None


def test_a_camera_may_have_another_size_after_it_was_opened_anew(start, behind, counters):
    camera = start()
    camera.read(5.0)
    behind.on_read = lambda: Frame(np.zeros((8, 8, 3), np.uint8), time.monotonic(), 0)
    wait_until(lambda: counters[Event.CAMERA_REOPENED] == 1)
    assert camera.read(5.0).image.shape == (8, 8, 3)


def test_closing_ends_its_threads_and_the_camera_and_wakes_who_waits(start, behind):
    behind.on_read = behind.late
    camera = start(CameraSettings(stall_s=60.0))
    got = []
    waiting = threading.Thread(target=lambda: got.append(camera.read()))
    waiting.start()
    wait_until(lambda: behind.reader is not None)
    camera.close()
    waiting.join(5.0)
    assert got == [None]
    behind.reader.join(5.0)
    assert not behind.reader.is_alive()
    assert behind.closed == 1


def test_no_memory_for_a_thread_is_a_failure_like_any_other(start, behind, counters, monkeypatch):
    real = threading.Thread.start
    refused = []

    def start_thread(thread):
        if thread.name == "camera" and len(refused) < 2:
            refused.append(thread)
            raise RuntimeError("can't start new thread")
        real(thread)

    monkeypatch.setattr(threading.Thread, "start", start_thread)
    camera = start()
    assert camera.read(5.0) is not None
    assert counters[Event.CAMERA_FAILED] == 2
