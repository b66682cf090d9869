from __future__ import annotations

import numpy as np
import pytest

from okko_edge.camera import Slot
from okko_edge.clock import SimulatedClock
from okko_edge.frame import Frame
from okko_edge.simulator import Belt, SimulatedCamera, SimulatedConveyor
from okko_edge.trigger import EveryFrame, MotionTrigger, thumbnail
from tests.edge.fakes import photo


def triggered(images, *, speed=2.0, frames_per_s=30.0, noise=1.5, trigger=None):
    """The photos at which the trigger fires when `images` pass on a belt; None for one that is not at rest."""
    slots = [Slot(image, None, str(number)) for number, image in enumerate(images)]
    belt = Belt.at(speed)
    camera = SimulatedCamera(
        SimulatedConveyor(iter(slots), belt), clock=SimulatedClock(), frames_per_s=frames_per_s, noise_levels=noise
    )
    trigger = trigger or MotionTrigger(settle_s=min(0.06, belt.rest_s / 3))
    return [frame.photo for frame in iter(camera.read, None) for _ in trigger.see(frame)]


def numbers(count):
    return [str(number) for number in range(count)]


@pytest.mark.parametrize("noise", [0, 1.5, 4, 8])
def test_every_marble_triggers_once_at_rest_whatever_the_noise(noise):
    greys = np.random.default_rng(0).integers(30, 220, 30)
    images = [photo(int(grey), seed=i, size=(320, 240)) for i, grey in enumerate(greys)]
    assert triggered(images, noise=noise) == numbers(30)


@pytest.mark.parametrize(("speed", "frames_per_s"), [(0.5, 30), (2, 25), (2, 120), (20, 150), (20, 240)])
def test_belt_speed_and_frame_rate_change_nothing(speed, frames_per_s):
    images = [photo(100 + 50 * (i % 2), seed=i) for i in range(12)]
    assert triggered(images, speed=speed, frames_per_s=frames_per_s) == numbers(12)


@pytest.mark.parametrize("grey", [0, 96, 128, 255])
def test_the_same_blank_photo_again_and_again_is_as_many_marbles(grey):
    assert triggered([np.full((240, 320, 3), grey, np.uint8)] * 20) == numbers(20)


def test_nearly_identical_neighbours_are_two_marbles():
    empty = photo(100, seed=1, size=(320, 240))
    almost = empty.copy()
    almost[100:104, 100:104] += 1
    assert triggered([empty, almost] * 10) == numbers(20)


@pytest.mark.parametrize("size", [(8, 8), (31, 23), (2000, 30), (30, 2000)])
def test_photos_of_any_shape_trigger(size):
    assert triggered([photo(60 + 90 * (i % 2), seed=i, size=size) for i in range(8)]) == numbers(8)


def still(trigger, count, *, start=0, noise=2.0, image=None):
    """How often the trigger fires on frames of one resting scene at 30 frames per second."""
    random = np.random.default_rng(start)
    image = photo(120, seed=0, size=(160, 120)) if image is None else image
    fired = 0
    for index in range(start, start + count):
        noisy = np.clip(image + random.normal(0, noise, image.shape), 0, 255).astype(np.uint8)
        fired += len(trigger.see(Frame(noisy, index / 30, index)))
    return fired


def test_a_marble_that_is_in_view_at_the_start_is_sorted_once_however_long_it_stays():
    assert still(MotionTrigger(), 300) == 1


def test_a_belt_at_rest_stays_quiet_when_the_camera_becomes_noisier():
    trigger = MotionTrigger()
    still(trigger, 200, noise=1)
    # The camera may be unsure until the quiet frames are forgotten, and must then be sure again.
    assert still(trigger, 200, start=200, noise=6) <= 1
    other = photo(60, seed=5, size=(160, 120))
    assert still(trigger, 30, start=400, noise=6, image=other) == 1


def test_frames_that_the_camera_hands_out_twice_do_not_blind_the_trigger():
    trigger = MotionTrigger()
    still(trigger, 20, noise=6)
    still(trigger, 2, start=20, noise=0)
    belt = [photo(60, seed=5, size=(160, 120)), photo(180, seed=6, size=(160, 120))]
    assert still(trigger, 8, start=22, noise=6, image=belt[0]) == 1
    assert still(trigger, 8, start=30, noise=6, image=belt[1]) == 1


def test_a_view_that_never_rests_never_triggers():
    trigger = MotionTrigger()
    random = np.random.default_rng(0)
    fired = [
        trigger.see(Frame(random.integers(0, 256, (240, 320, 3)).astype(np.uint8), index / 30, index))
        for index in range(60)
    ]
    assert fired == [()] * 60


def test_the_time_of_arrival_is_when_the_view_had_settled():
    trigger = MotionTrigger(settle_s=0.1)
    image = photo(100, seed=0)
    times = [trigger.see(Frame(image, at_s, 0)) for at_s in (5.0, 5.05, 5.11, 5.2)]
    assert times == [(), (), (5.11,), ()]


def test_a_folder_camera_triggers_at_every_frame():
    assert EveryFrame().see(Frame(photo(1, seed=0), 3.5, 0)) == (3.5,)


def test_a_spot_is_the_average_of_its_pixels():
    image = np.zeros((24, 64, 3), np.uint8)
    image[:, 32:] = (30, 60, 90)
    assert thumbnail(image).shape == (24, 32)
    assert thumbnail(image)[0, 15] == 0
    assert thumbnail(image)[0, 16] == 60


def test_a_settling_time_of_zero_is_refused():
    with pytest.raises(ValueError, match="settle_s"):
        MotionTrigger(settle_s=0)
