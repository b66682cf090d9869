"""Where to look: the place in the photos that tells the labels apart best, found from the photos themselves.

Under a fixed camera the object to judge is always at the same place, but seldom exactly in the middle, and its
neighbours are in view. The backbone's maps say what is where; for each place of a grid, a ridge regression on the
features round it is cross-validated. It takes seconds, and the place becomes part of the exported graph.

Who sets up a camera aims at what matters, so of the places that do equally well, as far as these photos can tell, the
one nearest to the middle is taken: the fewer the photos, the nearer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from okko_train.metrics import standard_errors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

PLACES: Final = np.linspace(0.2, 0.8, 7)
"""Along each side, as a share of it."""
_BELL: Final = 0.12
"""Standard deviation of the bell curve round a place, as a share of the photo's height."""
_RIDGE: Final = 0.1
_STANDARD_ERRORS: Final = 2.0
"""A place that is worse by less is as good, as far as one can tell."""


@dataclass(frozen=True)
class Place:
    """A point in the photos, as shares of their width and height from the upper left corner."""

    x: float
    y: float


def find_place(
    maps: Sequence[NDArray[np.floating]],
    truth: NDArray[np.int64],
    folds: NDArray[np.int64],
    groups: NDArray[np.int64],
    aspect: float,
) -> Place:
    """Returns the place nearest to the middle among those whose surroundings predict the labels as well as the best.

    As well means: within two standard errors of the paired difference, over groups (after the one-standard-error rule;
    Breiman et al., 1984, "Classification and regression trees", 3.4.3). What suits a few rigs best need not suit the
    next one, and with ten photos chance finds a best place anywhere.

    Args:
        maps: feature maps (n_photos, channels, side, side) of the whole photo, of one depth each.
        truth: (n_photos,) index of the label.
        folds: (n_photos,) number of the cross-validation fold.
        groups: (n_photos,) photos with the same number are of one kind, such as one rig.
        aspect: width of the photos by their height.
    """
    targets = np.eye(truth.max() + 1)[truth]
    targets = (targets - targets.mean(axis=0)) / np.sqrt(np.maximum(targets.mean(axis=0), 1e-9))
    places = [Place(float(x), float(y)) for y in PLACES for x in PLACES]
    surroundings = [_surroundings(each, places, aspect) for each in maps]
    errors = np.empty((len(places), len(truth)))
    for index in range(len(places)):
        features = np.concatenate([_standardised(each[:, :, index]) for each in surroundings], axis=1)
        errors[index] = _ridge_errors(features, targets, folds)
    worse = errors - errors[errors.mean(axis=1).argmin()]
    as_good = worse.mean(axis=1) <= _STANDARD_ERRORS * standard_errors(worse, groups)

    def distance(index: int) -> tuple[float, float]:
        place = places[index]
        return round(float(np.hypot((place.x - 0.5) * aspect, place.y - 0.5)), 6), float(worse[index].mean())

    return places[min(np.flatnonzero(as_good).tolist(), key=distance)]


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


def _ridge_errors(
    features: NDArray[np.float32], targets: NDArray[np.float64], folds: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Squared error (n_photos,) of kernel ridge regression on photos that it has not seen."""
    kernel = (features @ features.T).astype(np.float64)
    errors = np.empty(len(folds))
    for fold in np.unique(folds):
        learn, rest = folds != fold, folds == fold
        ridge = kernel[np.ix_(learn, learn)] + _RIDGE * np.eye(int(learn.sum()))
        predicted = kernel[np.ix_(rest, learn)] @ np.linalg.solve(ridge, targets[learn])
        errors[rest] = ((predicted - targets[rest]) ** 2).sum(axis=1)
    return errors
