import numpy as np
import pytest

from okko_train.augment import Augmentation
from okko_train.region import find_place

RNG = np.random.default_rng(0)
DIGEST = "0123456789abcdef" * 4


def maps_with_signal_at(column, row, n=80, side=14):
    """Noise everywhere, and the label in one cell."""
    truth = np.arange(n) % 2
    maps = RNG.normal(0, 1, (n, 6, side, side)).astype(np.float16)
    maps[:, :3, row, column] += (3 * (2 * truth - 1))[:, None]
    return maps, truth.astype(np.int64), np.arange(n) // 2 % 4


def found(maps, truth, folds, *, groups=None, aspect=1.0):
    """Where `find_place` looks; each photo is a group of its own unless told."""
    return find_place([maps], truth, folds, np.arange(len(truth)) if groups is None else groups, aspect)


@pytest.mark.parametrize(("column", "row"), [(4, 7), (10, 5), (7, 10)])
def test_the_place_that_tells_the_labels_apart_is_found(column, row):
    maps, truth, folds = maps_with_signal_at(column, row)
    place = found(maps, truth, folds)
    assert place.x == pytest.approx((column + 0.5) / 14, abs=0.11)
    assert place.y == pytest.approx((row + 0.5) / 14, abs=0.11)


@pytest.mark.parametrize(("n", "near"), [(8, 0.15), (80, 0.06)])
def test_where_nothing_tells_the_labels_apart_the_place_is_near_the_middle(n, near):
    distances = []
    for seed in range(10):
        random = np.random.default_rng(seed)
        maps = random.normal(0, 1, (n, 6, 14, 14)).astype(np.float16)
        place = found(maps, random.permutation(np.arange(n) % 2), np.arange(n) % 4, aspect=4 / 3)
        distances.append(max(abs(place.x - 0.5), abs(place.y - 0.5)))
    assert np.mean(distances) < near


def test_what_suits_one_rig_alone_does_not_move_the_place():
    truth, rigs, folds = np.arange(120) % 2, np.arange(120) // 20, np.arange(120) // 2 % 4
    maps = RNG.normal(0, 1, (120, 6, 14, 14)).astype(np.float16)
    maps[:, :3, 7, 7] += (2 * (2 * truth - 1))[:, None]
    maps[rigs == 0, :3, 3, 3] += (9 * (2 * truth - 1))[rigs == 0][:, None]
    place = found(maps, truth, folds, groups=rigs)
    assert (place.x, place.y) == (0.5, 0.5)


def test_three_labels_are_told_apart_as_well():
    maps, _, folds = maps_with_signal_at(0, 0)
    truth = RNG.integers(0, 3, 80)
    maps[:, :3, 9, 9] += 4 * np.eye(3)[truth]
    place = found(maps, truth, folds)
    assert place.x == pytest.approx(9.5 / 14, abs=0.11)
    assert place.y == pytest.approx(9.5 / 14, abs=0.11)


def test_a_copy_is_another_picture_of_the_same_size_and_always_the_same_one():
    image = RNG.integers(0, 256, (90, 120, 3), np.uint8)
    first, again, second = (
        Augmentation(0)(image, DIGEST),
        Augmentation(0)(image, DIGEST),
        Augmentation(1)(image, DIGEST),
    )
    assert first.shape == image.shape
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(first, again)
    assert (first != image).any()
    assert (first != second).any()


@pytest.mark.parametrize("size", [(1, 1), (2, 500), (500, 3)])
def test_photos_of_any_shape_can_be_altered(size):
    for copy in range(4):
        assert Augmentation(copy)(np.zeros((*size, 3), np.uint8), DIGEST).shape == (*size, 3)


def test_what_is_in_the_middle_stays_in_the_middle():
    image = np.zeros((100, 100, 3), np.uint8)
    image[40:60, 40:60] = 200
    for copy in range(10):
        bright = np.argwhere(Augmentation(copy)(image, DIGEST).sum(axis=2) > 150)
        assert np.abs(bright.mean(axis=0) - 49.5).max() < 6
