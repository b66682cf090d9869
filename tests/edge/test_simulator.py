from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from okko_edge.camera import Slot
from okko_edge.clock import SimulatedClock
from okko_edge.simulator import Belt, SimulatedCamera, SimulatedConveyor
from tests.edge.fakes import photo

SLOTS = [Slot(photo(100, seed=i), "OK", f"{i}.png") for i in range(3)]


BELT = Belt()


def frames(slots=SLOTS, belt=BELT, **settings):
    camera = SimulatedCamera(SimulatedConveyor(iter(slots), belt), clock=SimulatedClock(), **settings)
    return list(iter(camera.read, None))


def test_a_slot_at_rest_is_exactly_its_photo():
    at_rest = [frame for frame in frames(noise_levels=0) if frame.photo]
    assert {frame.photo for frame in at_rest} == {"0.png", "1.png", "2.png"}
    assert all(np.array_equal(frame.image, SLOTS[int(frame.photo[0])].image) for frame in at_rest)


def test_a_moving_belt_shows_the_seam_between_two_photos_and_claims_no_truth():
    moving = [frame for frame in frames(noise_levels=0) if frame.photo is None]
    assert all(frame.truth is None for frame in moving)
    halfway = moving[len(moving) // 2].image
    assert halfway.shape == SLOTS[0].image.shape
    before, after = SLOTS[0].image, SLOTS[1].image
    left, right = halfway[:, :4], halfway[:, -4:]
    assert any(np.array_equal(left, before[:, x : x + 4]) for x in range(before.shape[1] - 3))
    assert any(np.array_equal(right, after[:, x : x + 4]) for x in range(after.shape[1] - 3))


def test_photos_come_in_the_order_of_the_slots_and_the_camera_ends_after_the_last():
    seen = [frame.photo for frame in frames() if frame.photo]
    assert list(dict.fromkeys(seen)) == ["0.png", "1.png", "2.png"]


def test_frames_are_stamped_at_the_frame_rate():
    stamps = [frame.captured_at_s for frame in frames(frames_per_s=60)]
    assert stamps == pytest.approx(np.arange(len(stamps)) / 60)
    assert len(stamps) == 3 * 30


def test_noise_has_the_asked_strength_and_repeats_with_its_seed():
    grey = [Slot(np.full((60, 80, 3), 128, np.uint8), None, "grey")]
    once, again, other = (frames(grey, noise_levels=3, seed=seed) for seed in (7, 7, 8))
    still = [frame.image for frame in once if frame.photo]
    assert np.std(still) == pytest.approx(3, rel=0.05)
    assert all(np.array_equal(a.image, b.image) for a, b in zip(once, again, strict=True))
    assert not np.array_equal(once[-1].image, other[-1].image)
    assert not np.array_equal(still[-1], still[-2])


def test_photos_of_different_sizes_can_follow_each_other():
    slots = [Slot(photo(100, seed=i, size=size), None, str(i)) for i, size in enumerate([(48, 36), (100, 20), (1, 1)])]
    shapes = [frame.image.shape for frame in frames(slots) if frame.photo]
    assert list(dict.fromkeys(shapes)) == [(36, 48, 3), (20, 100, 3), (1, 1, 3)]


def test_the_belt_waits_for_a_machine_that_is_too_slow_instead_of_losing_frames():
    class SlowClock(SimulatedClock):
        def sleep_until(self, at_s):
            super().sleep_until(at_s)
            super().sleep_until(self.now_s() + 0.2)

    camera = SimulatedCamera(SimulatedConveyor(iter(SLOTS), Belt()), clock=SlowClock(), frames_per_s=30)
    seen = list(iter(camera.read, None))
    assert len(seen) == len(frames())
    assert min(b.captured_at_s - a.captured_at_s for a, b in pairwise(seen)) > 0.19


def test_a_closed_camera_gives_no_frames():
    camera = SimulatedCamera(SimulatedConveyor(iter(SLOTS), Belt()), clock=SimulatedClock())
    assert camera.read() is not None
    camera.close()
    assert camera.read() is None


@pytest.mark.parametrize(
    ("belt", "settings", "message"),
    [
        (Belt(), {"frames_per_s": 0}, "frames_per_s"),
        (Belt(), {"noise_levels": -1}, "noise_levels"),
        (Belt.at(20), {"frames_per_s": 30}, "at least 150"),
    ],
)
def test_a_camera_that_cannot_work_is_refused(belt, settings, message):
    with pytest.raises(ValueError, match=message):
        frames(belt=belt, **settings)


@pytest.mark.parametrize("settings", [{"slots_per_s": 0}, {"slots_per_s": 2, "move_s": 0.5}, {"move_s": 0}])
def test_a_belt_that_cannot_rest_is_refused(settings):
    with pytest.raises(ValueError, match=r"slots_per_s|move_s"):
        Belt(**settings)
