"""Whether probabilities mean what they say: the expected calibration error, honest for few photos.

The plain estimate (Naeini et al., 2015, "Obtaining well calibrated probabilities using Bayesian binning") compares the
mean stated probability with the share found in bins. From few photos it is far above the truth: even a perfectly
calibrated model seems off by what chance alone puts into each bin. So three numbers are given: the plain one, what a
perfectly calibrated model would have shown on as many photos, and the estimate with most of that bias taken out (Kumar,
Liang and Ma, 2019, "Verified uncertainty calibration", on the l1 error), with its interval.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import scipy.special

from okko_models.manifest import Interval

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST_BINS: Final = 15
_PHOTOS_A_BIN: Final = 10
_MOST_SAMPLES: Final = 1000
_FEWEST_SAMPLES: Final = 200
_DRAWN_AT_A_TIME: Final = 4_000_000
_DRAWS: Final = 4_000_000
"""Random numbers drawn in all: with very many photos fewer samples do, as each varies less."""


@dataclass(frozen=True)
class CalibrationError:
    """How far the stated probability is from the share found, on average over the photos; all in [0, 1].

    Attributes:
        corrected: without most of the bias that comes from few photos, with its 95 % interval; the interval begins at
            0 exactly if a perfectly calibrated model could have shown as much as `plain`.
        plain: the mean over equally filled bins as it stands.
        if_perfect: what `plain` would be on average if every probability were exactly right.
        bins: how many equally filled bins were compared.
    """

    corrected: Interval
    plain: float
    if_perfect: float
    bins: int


def calibration_error(probability: NDArray[np.floating], happened: NDArray[np.bool_]) -> CalibrationError:
    """Compares stated probabilities of an event with whether it happened.

    With d the difference between stated and happened, the plain error is the sum over the bins of abs(sum of d), by
    the number of photos. In a bin of n photos the mean of d is normal round its true value with variance
    mean(p (1 - p)) / n; the expected excess of its absolute value is subtracted.

    Args:
        probability: (n,) stated, in [0, 1].
        happened: (n,) bool.

    Raises:
        ValueError: no photos.
    """
    n = len(probability)
    if n == 0:
        raise ValueError("probability is empty: there is nothing to compare")
    bins = equal_bins(probability)
    members = np.zeros((n, len(bins)))
    for column, rows in enumerate(bins):
        members[rows, column] = 1
    stated = probability.astype(np.float64)
    difference = stated - happened
    sums = np.abs(difference @ members)
    noise = np.sqrt((stated * (1 - stated)) @ members)
    plain = float(sums.sum() / n)
    corrected = max(0.0, float((2 * sums - _mean_absolute(sums, noise)).sum() / n))
    random = np.random.default_rng(0)
    samples = int(np.clip(_DRAWS // n, _FEWEST_SAMPLES, _MOST_SAMPLES))
    at_a_time = max(1, _DRAWN_AT_A_TIME // n)
    some = [min(at_a_time, samples - first) for first in range(0, samples, at_a_time)]
    perfect = np.concatenate(
        [np.abs((stated - (random.random((k, n), np.float32) < stated)) @ members).sum(axis=1) / n for k in some]
    )
    again = np.concatenate(
        [np.abs((random.multinomial(n, np.full(n, 1 / n), k) * difference) @ members).sum(axis=1) / n for k in some]
    )
    # A bootstrap sample has the noise once more, so its errors are moved back onto the estimate.
    low, high = np.quantile(again, (0.025, 0.975)) - again.mean() + corrected
    low = 0.0 if plain <= np.quantile(perfect, 0.95) else max(low, 0.0)
    return CalibrationError(
        corrected=Interval(corrected, float(min(low, corrected)), float(np.clip(high, corrected, 1.0))),
        plain=plain,
        if_perfect=float(perfect.mean()),
        bins=len(bins),
    )


def equal_bins(probability: NDArray[np.floating]) -> list[NDArray[np.intp]]:
    """Returns the rows of each bin: equally many photos a bin, by rising probability, at most `MOST_BINS` bins."""
    count = max(1, min(MOST_BINS, len(probability) // _PHOTOS_A_BIN))
    return np.array_split(np.argsort(probability, kind="stable"), count)


def _mean_absolute(mean: NDArray[np.float64], deviation: NDArray[np.float64]) -> NDArray[np.float64]:
    """Expected absolute value of a normal variable (the folded normal's mean; Leone et al., 1961)."""
    ratio = np.divide(mean, deviation, out=np.full_like(mean, np.inf), where=deviation > 0)
    flat = deviation * np.sqrt(2 / np.pi) * np.exp(-(ratio**2) / 2)
    return np.asarray(flat + mean * scipy.special.erf(ratio / np.sqrt(2)))
