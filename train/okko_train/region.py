"""Where to look: the place in the photos that tells the labels apart best, found from the photos themselves.

Under a fixed camera the object to judge is always at the same place, but seldom exactly in the middle, and its
neighbours are in view. The backbone's maps say what is where; for each place of a grid, a ridge regression on the
features round it is cross-validated. It takes seconds, and the place becomes part of the exported graph.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

PLACES: Final = np.linspace(0.2, 0.8, 7)
"""Along each side, as a share of it."""
_BELL: Final = 0.12
"""Standard deviation of the bell curve round a place, as a share of the photo's height."""
_RIDGE: Final = 0.1
_BEST: Final = 3
"""So many best places are averaged: the grid is coarse, and neighbours of the best place are nearly as good."""


@dataclass(frozen=True)
class Place:
    """A point in the photos, as shares of their width and height from the upper left corner."""

    x: float
    y: float


def find_place(
    maps: Sequence[NDArray[np.floating]], truth: NDArray[np.int64], folds: NDArray[np.int64], aspect: float
) -> Place:
    """Returns the place whose surroundings predict the labels best.

    Args:
        maps: feature maps (n_photos, channels, side, side) of the whole photo, of one depth each.
        truth: (n_photos,) index of the label.
        folds: (n_photos,) number of the cross-validation fold.
        aspect: width of the photos by their height.
    """
    targets = np.eye(truth.max() + 1)[truth]
    targets = (targets - targets.mean(axis=0)) / np.sqrt(np.maximum(targets.mean(axis=0), 1e-9))
    places = [Place(float(x), float(y)) for y in PLACES for x in PLACES]
    errors = np.zeros(len(places))
    surroundings = [_surroundings(each, places, aspect) for each in maps]
    for index in range(len(places)):
        features = np.concatenate([_standardised(each[:, :, index]) for each in surroundings], axis=1)
        errors[index] = _ridge_error(features, targets, folds)
    best = np.argsort(errors)[:_BEST]
    return Place(float(np.mean([places[i].x for i in best])), float(np.mean([places[i].y for i in best])))


def _surroundings(maps: NDArray[np.floating], places: Sequence[Place], aspect: float) -> NDArray[np.float32]:
    """Averages (n, channels, side, side) maps round each place: (n, channels, n_places)."""
    n, channels, side, _ = maps.shape
    at = (np.arange(side) + 0.5) / side
    bells = np.stack(
        [
            np.exp(-((at[:, None] - place.y) ** 2 + ((at - place.x) * aspect) ** 2) / (2 * _BELL**2)).ravel()
            for place in places
        ]
    )
    bells /= bells.sum(axis=1, keepdims=True)
    flat = maps.reshape(n * channels, side * side).astype(np.float32)
    return (flat @ bells.T.astype(np.float32)).reshape(n, channels, len(places))


def _standardised(features: NDArray[np.float32]) -> NDArray[np.float32]:
    spread = features.std(axis=0)
    scaled = (features - features.mean(axis=0)) / (spread + 0.05 * spread.mean() + 1e-6)
    return np.asarray(scaled / np.sqrt(features.shape[1]), np.float32)


def _ridge_error(features: NDArray[np.float32], targets: NDArray[np.float64], folds: NDArray[np.int64]) -> float:
    """Mean squared error of kernel ridge regression on photos that it has not seen."""
    kernel = (features @ features.T).astype(np.float64)
    error = 0.0
    for fold in np.unique(folds):
        learn, rest = folds != fold, folds == fold
        ridge = kernel[np.ix_(learn, learn)] + _RIDGE * np.eye(int(learn.sum()))
        predicted = kernel[np.ix_(rest, learn)] @ np.linalg.solve(ridge, targets[learn])
        error += float(((predicted - targets[rest]) ** 2).sum())
    return error / len(folds)
