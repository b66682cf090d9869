"""Thresholds with a promise: a stated share of mistakes that holds for objects like the training photos.

Conformal prediction, class by class (Mondrian; Vovk, Gammerman and Shafer, 2005, "Algorithmic learning in a random
world", section 4.5): a verdict may be OK only where the label "bad" can be ruled out, KO only where "good" can, and is
UNCERTAIN elsewhere. The scores are those of photos that their network has not seen, from cross-validation (Vovk, 2015,
"Cross-conformal predictors"), so no photo is spent on it and the test split stays untouched. That costs the theorem its
exactness; the tests see on photos of one rig, divided again and again, that the promise holds all the same. For an
introduction see Angelopoulos and Bates, 2023, "Conformal prediction: a gentle introduction".
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np
import scipy.stats

from okko_models.decision import DecisionRule, Promise
from okko_models.errors import OkkoError

if TYPE_CHECKING:
    from numpy.typing import NDArray

CONFIDENCE: Final = 0.9
"""The error rate of one model varies with the photos that it was calibrated on; so often it is as low as promised."""
_MARGIN: Final = 1e-6
"""More than float32 rounds; no photo that the promise rests on may slip over a threshold on another processor."""


def keep_promise(
    rule: DecisionRule, probability_of_ok: NDArray[np.floating], truly_ok: NDArray[np.bool_], max_error: float
) -> DecisionRule:
    """Returns `rule` with its thresholds moved apart until mistakes are as rare as asked.

    Thresholds that are already strict enough stay; moving them outwards can only make mistakes rarer, so the costs
    decide wherever the promise lets them.

    Args:
        rule: chosen by costs.
        probability_of_ok: (n,) from networks that have not seen the photos.
        truly_ok: (n,) bool.
        max_error: largest share of bad objects called OK, and of good ones called KO.

    Raises:
        OkkoError: there are too few photos for that; see `check_promise`.
    """
    good, bad = probability_of_ok[truly_ok], probability_of_ok[~truly_ok]
    check_promise(max_error, len(good), len(bad))
    highest_bad = np.sort(bad)[::-1][strays_allowed(len(bad), max_error)]
    lowest_good = np.sort(good)[strays_allowed(len(good), max_error)]
    return msgspec.structs.replace(
        rule,
        ok_threshold=float(np.clip(highest_bad + _MARGIN, rule.ok_threshold, 1.0)),
        ko_threshold=float(np.clip(lowest_good - _MARGIN, 0.0, rule.ko_threshold)),
        promise=Promise(max_error, CONFIDENCE, len(good), len(bad)),
    )


def check_promise(max_error: float, good: int, bad: int) -> None:
    """Sees whether so many photos suffice for the promise.

    Raises:
        OkkoError: they do not; says what would.
    """
    fewer = min(good, bad)
    if fewer < photos_needed(max_error):
        reachable = math.ceil(1000 * least_error(fewer)) / 1000 if fewer else 1.0
        raise OkkoError(
            f"--max-error {max_error:g} cannot be promised: {good} good and {bad} bad photos are left to learn from "
            f"after the test was put aside, and {photos_needed(max_error)} of each are needed. Take more photos"
            + (f", or ask for --max-error {reachable:g}" if reachable < 0.5 else "")
        )


def strays_allowed(n: int, max_error: float) -> int:
    """Returns how many of n photos may lie beyond the threshold for new ones to do so no oftener than `max_error`.

    With k strays, the rate at which new photos of the same kind stray is distributed like Beta(k + 1, n - k) (Vovk,
    2012, "Conditional validity of inductive conformal predictors", proposition 2a), at worst. It must be at most
    `max_error` with probability `CONFIDENCE`. That includes what conformal prediction asks of the mean rate,
    (k + 1) / (n + 1) <= max_error, where the 1 is the new photo itself.

    Raises:
        ValueError: not even no stray is few enough.
    """
    strays = np.arange(n)
    kept = scipy.stats.beta.cdf(max_error, strays + 1, n - strays) >= CONFIDENCE
    kept &= strays + 1 <= max_error * (n + 1)
    if not kept.any():
        raise ValueError(f"n is {n}; an error of {max_error:g} needs {photos_needed(max_error)} photos or more")
    return int(strays[kept].max())


def photos_needed(max_error: float) -> int:
    """Returns the number of photos of good and of bad ones each, without any stray, that the promise needs."""
    return math.ceil(max(math.log(1 - CONFIDENCE) / math.log1p(-max_error), 1 / max_error - 1))


def least_error(n: int) -> float:
    """Returns the smallest error rate that n photos can promise."""
    return max(1 - math.pow(1 - CONFIDENCE, 1 / n), 1 / (n + 1))
