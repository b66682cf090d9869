"""Bursts and copies are found; marbles that merely lie in the same slot of the same rig are not taken for one."""

import io
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from okko_train.duplicates import MOST_IN_A_BURST, find_near_duplicates, thumbnail

Pixels = NDArray[np.uint8]


def belt(seed: int = 0) -> Image.Image:
    """320x240: slats and a frame, the same in every photo of one rig."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", (320, 240), tuple(rng.integers(90, 130, 3).tolist()))
    draw = ImageDraw.Draw(image)
    for x in range(0, 320, 40):
        draw.rectangle((x, 40, x + 6, 200), fill=(60, 60, 66))
    draw.rectangle((0, 0, 320, 36), fill=tuple(rng.integers(120, 230, 3).tolist()))
    draw.rectangle((0, 204, 320, 240), fill=tuple(rng.integers(20, 90, 3).tolist()))
    return image


def marble(seed: int, rig: int = 0) -> Pixels:
    """A marble of random colour and place on the belt, blurred and noisy like a photo."""
    rng = np.random.default_rng(seed)
    image = belt(rig)
    x, y, radius = rng.integers(145, 175), rng.integers(105, 135), rng.integers(24, 30)
    colour = tuple(rng.integers(0, 256, 3).tolist())
    ImageDraw.Draw(image).ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
    return noisy(np.array(image.filter(ImageFilter.GaussianBlur(1))), rng)


def noisy(pixels: NDArray[np.uint8], rng: np.random.Generator, level: float = 3) -> Pixels:
    return np.clip(pixels + rng.normal(0, level, pixels.shape), 0, 255).astype(np.uint8)


def jpeg(pixels: Pixels, quality: int) -> Pixels:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return np.array(Image.open(buffer))


def resized(pixels: Pixels) -> Pixels:
    return np.array(Image.fromarray(pixels).resize((200, 150), Image.Resampling.BICUBIC))


def brighter(pixels: Pixels) -> Pixels:
    return np.clip(pixels * 1.1 + 3, 0, 255).astype(np.uint8)


def shifted(pixels: Pixels) -> Pixels:
    return np.pad(pixels, ((2, 0), (2, 0), (0, 0)), mode="edge")[:-2, :-2]


def seen_again(pixels: Pixels) -> Pixels:
    return jpeg(brighter(noisy(shifted(pixels), np.random.default_rng(9))), 75)


def clusters_of(photos: list[Pixels], labels: list[int] | None = None) -> list[list[int]]:
    thumbnails = np.stack([thumbnail(photo) for photo in photos])
    aspects = [photo.shape[1] / photo.shape[0] for photo in photos]
    return find_near_duplicates(thumbnails, labels or [0] * len(photos), aspects).groups()


@pytest.mark.parametrize("change", [lambda pixels: jpeg(pixels, 60), resized, brighter, shifted, seen_again])
def test_a_changed_copy_is_found_among_photos_of_the_same_rig(change: Callable[[Pixels], Pixels]) -> None:
    photos = [marble(seed) for seed in range(30)]
    copies = [change(photos[index]) for index in (3, 8, 20)]
    assert clusters_of(photos + copies) == [[3, 30], [8, 31], [20, 32]]


def test_a_burst_is_one_cluster() -> None:
    photos = [marble(seed) for seed in range(30)]
    rng = np.random.default_rng(1)
    burst = [noisy(np.roll(photos[4], step % 3 - 1, axis=1), rng) for step in range(6)]
    assert clusters_of(photos + burst) == [[4, *range(30, 36)]]


def test_different_marbles_of_one_rig_are_different_pictures() -> None:
    assert clusters_of([marble(seed) for seed in range(80)]) == []


def test_a_copy_with_another_label_is_found_as_well() -> None:
    photos = [marble(seed) for seed in range(20)]
    assert clusters_of([*photos, seen_again(photos[2])], [0] * 10 + [1] * 11) == [[2, 20]]


def test_photos_that_all_look_the_same_are_a_crowd_and_no_burst() -> None:
    rng = np.random.default_rng(0)
    empty = np.array(belt())
    photos = [noisy(empty, rng) for _ in range(60)] + [marble(seed) for seed in range(60)]
    found = find_near_duplicates(np.stack([thumbnail(photo) for photo in photos]), [0] * 60 + [1] * 60, [4 / 3] * 120)
    assert found.groups() == []
    assert found.crowded.tolist() == [True] * 60 + [False] * 60


@pytest.mark.parametrize(("n", "most"), [(120, 40), (210, MOST_IN_A_BURST)])
def test_a_long_chain_of_likeness_is_cut_so_that_every_label_stays_divisible(n: int, most: int) -> None:
    # A shadow creeps over the belt: each photo is like the one before, the last unlike the first.
    ramp = np.clip(np.arange(320)[None, :, None] / 2, 0, 160)
    photos = [np.clip(np.array(belt()) + ramp * step / 60, 0, 255).astype(np.uint8) for step in range(n)]
    sizes = [len(cluster) for cluster in clusters_of(photos)]
    assert most / 2 < max(sizes) <= most
    assert sum(sizes) > n / 2


def test_photos_of_another_shape_are_another_picture() -> None:
    photos = [marble(seed) for seed in range(12)]
    wide = np.array(Image.fromarray(photos[0]).resize((320, 200)))
    assert clusters_of([*photos, wide]) == []


def test_one_colour_alone_is_not_like_another() -> None:
    greys = [np.full((24, 32, 3), level, dtype=np.uint8) for level in range(0, 256, 20)]
    assert clusters_of(greys) == []


def test_pairs_come_with_their_difference_the_most_alike_first() -> None:
    photos = [marble(seed) for seed in range(30)]
    photos += [seen_again(photos[5]), jpeg(photos[9], 90)]
    found = find_near_duplicates(np.stack([thumbnail(photo) for photo in photos]), [0] * 32, [4 / 3] * 32)
    assert found.pairs.tolist() == [[9, 31], [5, 30]]
    assert 0 < found.differences[0] < found.differences[1] < 9


def test_the_order_of_photos_changes_nothing() -> None:
    photos = [marble(seed) for seed in range(30)]
    photos += [seen_again(photos[5]), jpeg(photos[9], 90)]
    order = np.random.default_rng(2).permutation(32)
    shuffled = [sorted(order[cluster].tolist()) for cluster in clusters_of([photos[index] for index in order])]
    assert sorted(shuffled) == clusters_of(photos)


@pytest.mark.parametrize("n", [0, 1, 2])
def test_hardly_any_photos_are_no_trouble(n: int) -> None:
    found = find_near_duplicates(np.zeros((n, 32, 32, 3), dtype=np.uint8), [0] * n, [1.0] * n)
    assert found.clusters.tolist() == list(range(n))
