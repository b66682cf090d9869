"""Near-duplicates: photos that show the same picture again, such as a burst of one marble or a re-saved copy.

Photos from a fixed rig all look alike, so likeness alone means nothing. Two photos count as the same picture when
every part of them agrees after brightness and a shift of a few pixels are allowed for (a different marble disagrees
strongly in one part, noise weakly in all), and when they are far more alike than photos of their label usually are.
The alignment is one step of Lucas and Kanade (1981). Only thumbnails are compared; a scratch thinner than a
fiftieth of the photo is not seen here. Up to `EXACT_UP_TO` photos each is compared with each; of more, each with its
neighbours in several random projection trees (Dasgupta and Freund, 2008), which takes about n log n steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import ArrayLike, NDArray

THUMBNAIL_SIDE: Final = 32
_BLOCK: Final = 4
_GRID: Final = THUMBNAIL_SIDE // _BLOCK

MOST_IN_A_BURST: Final = 50
"""As many photos or more that are all alike are no burst but how this rig's photos look."""
_CROWD_SHARE: Final = 3
"""So is a third of a label's photos: clusters then leave every label enough to divide."""

_LEAST_CROWD: Final = 5

_ALIKE: Final = 8.0
"""Largest root mean square difference (levels of 255) of block means of two photos of one picture, not yet aligned."""
_CROWD_FACTOR: Final = 0.5
"""Two photos of one picture differ less than this times what their label's photos differ in a crowd."""
_SAME: Final = 9.0
"""Largest difference (levels of 255) of any block's mean in two photos of one picture, aligned."""
_MOST_GAIN: Final = 4 / 3
_MOST_OFFSET: Final = 25.0
_MOST_SHIFT: Final = 1.0  # pixels of a thumbnail: a thirty-second of the photo
_SAME_ASPECT: Final = 1.02
_SATURATED: Final = 250.0
_ROWS_AT_A_TIME: Final = 1024
_THUMBNAILS_AT_A_TIME: Final = 4096

EXACT_UP_TO: Final = 12_000
"""Of more photos only neighbours are compared. Twins are so close that hardly any tree parts them, and never all do."""
_TREES: Final = 8
_LEAF: Final = 1024


@dataclass(frozen=True)
class NearDuplicates:
    """Photos that show the same picture.

    Attributes:
        clusters: (n,) cluster of each photo, 0 upwards in order of first appearance; most have one photo.
        pairs: (n_pairs, 2) indices of the photos found to be alike, the most alike first.
        differences: (n_pairs,) largest difference of any block of the two, in levels of 255.
        crowded: (n,) whether so many photos of the label look like this one that a burst could not be told from them.
    """

    clusters: NDArray[np.int64]
    pairs: NDArray[np.int64]
    differences: NDArray[np.float32]
    crowded: NDArray[np.bool_]

    def groups(self) -> list[list[int]]:
        """Indices of the photos of each cluster of two or more."""
        order = np.argsort(self.clusters, kind="stable")
        runs = np.split(order, np.flatnonzero(np.diff(self.clusters[order])) + 1)
        return [run.tolist() for run in runs if len(run) > 1]


def thumbnail(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(height, width, 3) photo to (32, 32, 3) thumbnail by area average, both uint8."""
    size = (THUMBNAIL_SIDE, THUMBNAIL_SIDE)
    return np.array(Image.fromarray(pixels).resize(size, Image.Resampling.BOX), dtype=np.uint8)


def find_near_duplicates(thumbnails: NDArray[np.uint8], labels: ArrayLike, aspects: ArrayLike) -> NearDuplicates:
    """Finds photos of the same picture.

    A cluster has at most `MOST_IN_A_BURST` photos and at most a third of any label's photos (or one of them), so
    however alike photos are, every label stays divisible; where a chain of likeness would join more, its weakest
    links are left out.

    Args:
        thumbnails: (n, 32, 32, 3) uint8, from `thumbnail`.
        labels: (n,) label of each photo.
        aspects: (n,) width / height of each photo; photos of different shape are never the same picture.
    """
    names, label_of = np.unique(np.asarray(labels), return_inverse=True)
    n_photos = np.bincount(label_of, minlength=len(names))
    crowd = np.clip(n_photos // _CROWD_SHARE, 1, MOST_IN_A_BURST)
    candidates, crowded = _candidates(_blocks(thumbnails), label_of, crowd, np.asarray(aspects, np.float32))
    differences = _aligned_difference(thumbnails, candidates)
    same = np.flatnonzero(differences <= _SAME)
    same = same[np.argsort(differences[same], kind="stable")]
    pairs = candidates[same]
    return NearDuplicates(_clusters(pairs, label_of, crowd), pairs, differences[same], crowded)


def _blocks(thumbnails: NDArray[np.uint8]) -> NDArray[np.float32]:
    blocks = np.empty((len(thumbnails), _GRID * _GRID * 3), np.float32)
    for start in range(0, len(thumbnails), _THUMBNAILS_AT_A_TIME):
        some = thumbnails[start : start + _THUMBNAILS_AT_A_TIME].astype(np.float32)
        fine = some.reshape(len(some), _GRID, _BLOCK, _GRID, _BLOCK, 3)
        blocks[start : start + len(some)] = fine.mean(axis=(2, 4)).reshape(len(some), -1)
    return blocks


def _candidates(
    blocks: NDArray[np.float32],
    label_of: NDArray[np.int64],
    crowd: NDArray[np.int64],
    aspects: NDArray[np.float32],
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """(n_pairs, 2) pairs worth a closer look, and (n,) which photos stand in a crowd.

    The difference of two photos here is the root mean square residual after the best gain and offset: with
    correlation r and standard deviation s it is s sqrt(1 - r^2).
    """
    n, width = blocks.shape
    mean = blocks.mean(axis=1)
    spread = blocks.std(axis=1)
    unit = (blocks - mean[:, None]) / np.maximum(spread * np.sqrt(width), 1e-6)[:, None]
    typical = np.full(n, np.inf, dtype=np.float32)
    found: list[NDArray[np.int64]] = []
    apart: list[NDArray[np.float32]] = []
    for rows, others in _to_compare(unit):
        difference = np.sqrt(np.maximum(1 - (unit[rows] @ unit[others].T) ** 2, 0))
        difference *= np.maximum(spread[rows, None], spread[others])
        difference[rows[:, None] == others] = np.inf
        for label, size in enumerate(crowd):
            own = np.flatnonzero(label_of[rows] == label)
            peers = difference[np.ix_(own, np.flatnonzero(label_of[others] == label))]
            # Fewer among the neighbours than make a crowd: then the crowd is farther away than all of them.
            if peers.shape[1] > 1 and peers.shape[1] >= size:
                nearest = np.partition(peers, size - 1, axis=1)[:, size - 1]
                typical[rows[own]] = np.minimum(typical[rows[own]], nearest)
        first, second = np.nonzero(difference < np.minimum(_CROWD_FACTOR * typical[rows, None], _ALIKE))
        found.append(np.stack([rows[first], others[second]], axis=1))
        apart.append(difference[first, second])
    pairs = np.concatenate(found) if found else np.zeros((0, 2), dtype=np.int64)
    differences = np.concatenate(apart) if apart else np.zeros(0, np.float32)
    # Another tree may have found a nearer crowd; and the same pair once more.
    close = differences < np.minimum(_CROWD_FACTOR * typical[pairs[:, 0]], _ALIKE)
    pairs = np.unique(pairs[close], axis=0)
    # A pair that satisfies both photos' limits was found twice, once from each side.
    one, other = pairs[:, 0], pairs[:, 1]
    gain = np.maximum(spread[one], spread[other]) / np.maximum(np.minimum(spread[one], spread[other]), 1e-6)
    shape = np.maximum(aspects[one], aspects[other]) / np.minimum(aspects[one], aspects[other])
    fits = (gain <= _MOST_GAIN) & (np.abs(mean[one] - mean[other]) <= _MOST_OFFSET) & (shape <= _SAME_ASPECT)
    pairs = np.sort(pairs[fits], axis=1)
    unique, times = np.unique(pairs, axis=0, return_counts=True)
    return unique[times == 2], (typical < _ALIKE) & (crowd[label_of] >= _LEAST_CROWD)


def _to_compare(unit: NDArray[np.float32]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yields photos, and those that they are to be compared with: all of them, or their neighbours in some tree.

    Whoever is compared with a photo has it among those that it is compared with.

    Args:
        unit: (n, d) of length 1; pictures that are alike point the same way.
    """
    n = len(unit)
    everything = np.arange(n)
    if n <= EXACT_UP_TO:
        for start in range(0, n, _ROWS_AT_A_TIME):
            yield everything[start : start + _ROWS_AT_A_TIME], everything
        return
    for tree in range(_TREES):
        random = np.random.default_rng(tree)
        branches = [everything]
        while branches:
            rows = branches.pop()
            if len(rows) <= _LEAF:
                yield rows, rows
                continue
            one, other = random.choice(rows, 2, replace=False)
            along = unit[rows] @ (unit[one] - unit[other])
            middle = len(rows) // 2
            order = np.argpartition(along, middle)
            branches += [rows[order[:middle]], rows[order[middle:]]]


def _aligned_difference(thumbnails: NDArray[np.uint8], pairs: NDArray[np.int64]) -> NDArray[np.float32]:
    """(n_pairs,) largest difference of a block's mean after each photo is fitted to the other."""
    differences = np.zeros(len(pairs), dtype=np.float32)
    for start in range(0, len(pairs), _ROWS_AT_A_TIME):
        some = slice(start, start + _ROWS_AT_A_TIME)
        one = thumbnails[pairs[some, 0]].astype(np.float32)
        other = thumbnails[pairs[some, 1]].astype(np.float32)
        differences[some] = np.maximum(_largest_block(one, other), _largest_block(other, one))
    return differences


def _largest_block(one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float32]:
    """Fits gain, offset and a small shift of `one` to `other`, both (m, side, side, 3); (m,) what remains."""
    m = len(one)
    down, right = np.gradient(one, axis=(1, 2))
    # Saturated pixels say only "at least this bright": they neither steer the fit nor count as too dark.
    weight = ((one < _SATURATED) & (other < _SATURATED)).reshape(m, -1, 1).astype(np.float32)
    terms = np.stack([down, right, one, np.ones_like(one)], axis=-1).reshape(m, -1, 4)
    change = (other - one).reshape(m, -1, 1)
    weighted = (terms * weight).transpose(0, 2, 1)
    ridge = np.eye(4, dtype=np.float32)
    fit = np.linalg.solve(weighted @ terms + ridge, weighted @ change)[..., 0]
    most = np.array([_MOST_SHIFT, _MOST_SHIFT, _MOST_GAIN - 1, _MOST_OFFSET], dtype=np.float32)
    predicted = np.clip(one.reshape(m, -1) + (terms @ np.clip(fit, -most, most)[..., None])[..., 0], 0, 255)
    rest = other.reshape(m, -1) - predicted
    rest[(one.reshape(m, -1) >= _SATURATED) & (rest > 0)] = 0
    means = rest.reshape(m, _GRID, _BLOCK, _GRID, _BLOCK, 3).mean(axis=(2, 4))
    largest: NDArray[np.float32] = np.abs(means).max(axis=(1, 2, 3))
    return largest


def _clusters(pairs: NDArray[np.int64], label_of: NDArray[np.int64], crowd: NDArray[np.int64]) -> NDArray[np.int64]:
    """Joins pairs, the most alike first, and leaves out those that would make a cluster too large."""
    cluster = np.arange(len(label_of))
    members = {index: [index] for index in range(len(label_of))}
    for one, other in pairs.tolist():
        low, high = sorted((int(cluster[one]), int(cluster[other])))
        if low == high:
            continue
        joined = members[low] + members[high]
        if (np.bincount(label_of[joined], minlength=len(crowd)) <= crowd).all():
            members[low] = joined
            cluster[members.pop(high)] = low
    _, numbers = np.unique(cluster, return_inverse=True)
    return numbers.astype(np.int64)
