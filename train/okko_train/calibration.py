"""From scores to a decision: calibrated probabilities, and the thresholds that cost the user least.

Both are fitted on predictions for photos that the predicting network has not seen (out-of-fold), never on the test
split. Calibration is temperature scaling (Guo et al., 2017, "On calibration of modern neural networks", section 4.2),
with one summand a label where that pays (Platt, 1999, for two labels).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import scipy.optimize

from okko_models.decision import Costs, DecisionRule

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_COSTS_AT_A_TIME = 4_000_000
_TEMPERATURES = np.geomspace(0.05, 20.0, 241)


def softmax(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """Returns (n, k) probabilities of (n, k) logits; rows sum to 1."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    exponentials = np.exp(shifted)
    return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True))


def losses(probability: NDArray[np.floating], truth: NDArray[np.integer]) -> NDArray[np.float64]:
    """Returns (n,) log losses: the negative logarithm of the true label's probability, in nats."""
    return np.asarray(-np.log(np.maximum(probability[np.arange(len(truth)), truth], 1e-12)), np.float64)


def log_loss(probability: NDArray[np.floating], truth: NDArray[np.integer]) -> float:
    """Returns the mean of `losses`."""
    return float(losses(probability, truth).mean())


@dataclass(frozen=True)
class Calibration:
    """What makes probabilities of scores: softmax(scores / temperature + shift).

    Attributes:
        temperature: above 1 for a network that is too sure of itself.
        shift: one summand a label, the first one 0; all 0 unless some label is named too often.
    """

    temperature: float
    shift: tuple[float, ...]

    def __call__(self, logits: NDArray[np.floating]) -> NDArray[np.float64]:
        """Returns (n, n_labels) probabilities of (n, n_labels) scores."""
        return softmax(logits / self.temperature + np.array(self.shift))


def fit_calibration(
    logits: NDArray[np.floating], truth: NDArray[np.integer], folds: NDArray[np.integer]
) -> Calibration:
    """Returns the calibration that fits best; it shifts labels only if that foretells the other folds better.

    Args:
        logits: (n, k) scores of photos that the network has not seen.
        truth: (n,) index of the true label.
        folds: (n,) number of the fold that each photo belongs to.
    """
    saving = 0.0
    for fold in np.unique(folds):
        learn, rest = folds != fold, folds == fold
        plain, shifted = (fit(logits[learn], truth[learn]) for fit in (_without_shift, _with_shift))
        saving += float((losses(plain(logits[rest]), truth[rest]) - losses(shifted(logits[rest]), truth[rest])).sum())
    return (_with_shift if saving > 0 else _without_shift)(logits, truth)


def _without_shift(logits: NDArray[np.floating], truth: NDArray[np.integer]) -> Calibration:
    return Calibration(fit_temperature(logits, truth), (0.0,) * logits.shape[1])


def _with_shift(logits: NDArray[np.floating], truth: NDArray[np.integer]) -> Calibration:
    smoothed = _smoothed(truth, logits.shape[1])

    def calibration(values: NDArray[np.float64]) -> Calibration:
        return Calibration(float(np.exp(values[0])), (0.0, *values[1:].tolist()))

    def misfit(values: NDArray[np.float64]) -> float:
        return _misfit(calibration(values)(logits), smoothed)

    start = np.zeros(logits.shape[1])
    start[0] = np.log(fit_temperature(logits, truth))
    bounds = [(np.log(_TEMPERATURES[0]), np.log(_TEMPERATURES[-1])), *[(-20.0, 20.0)] * (logits.shape[1] - 1)]
    return calibration(scipy.optimize.minimize(misfit, start, method="L-BFGS-B", bounds=bounds).x)


def fit_temperature(logits: NDArray[np.floating], truth: NDArray[np.integer]) -> float:
    """Returns the temperature T that makes softmax(logits / T) fit the truth best.

    One photo's worth of doubt a label is added to the fit, so that a separable set does not end in certainty.

    Args:
        logits: (n, k) scores of photos that the network has not seen.
        truth: (n,) index of the true label.
    """
    smoothed = _smoothed(truth, logits.shape[1])
    return float(_TEMPERATURES[int(np.argmin([_misfit(softmax(logits / t), smoothed) for t in _TEMPERATURES]))])


def _smoothed(truth: NDArray[np.integer], k: int) -> NDArray[np.float64]:
    n = len(truth)
    smoothed = np.full((n, k), 1 / (n + k))
    smoothed[np.arange(n), truth] += n / (n + k)
    return smoothed


def _misfit(probability: NDArray[np.float64], smoothed: NDArray[np.float64]) -> float:
    return float(-(smoothed * np.log(np.maximum(probability, 1e-12))).sum())


def choose_rule(
    probability_of_ok: NDArray[np.floating], truly_ok: NDArray[np.bool_], ok_labels: Sequence[str], costs: Costs
) -> DecisionRule:
    """Returns the decision rule whose thresholds cost least on the given photos.

    With few photos many thresholds cost the same or differ by chance, so the search starts from the thresholds that are
    optimal for calibrated probabilities (Chow, 1970) and leaves them only for a saving beyond one standard error.

    Args:
        probability_of_ok: (n,) calibrated, from networks that have not seen the photos.
        truly_ok: (n,) bool.
        ok_labels: names of the good labels.
        costs: what mistakes cost.
    """
    start = _optimal_if_calibrated(costs)
    cuts = np.unique(np.concatenate([np.quantile(probability_of_ok, np.linspace(0, 1, 101)), [0.0, 1.0]]))
    middles = np.clip((cuts[1:] + cuts[:-1]) / 2, 0, 1)
    pairs = [start, *((ko, ok) for i, ko in enumerate(middles) for ok in middles[i:])]
    at_a_time = max(1, _COSTS_AT_A_TIME // len(truly_ok))
    means = [
        _costs_of(np.array(pairs[first : first + at_a_time]), probability_of_ok, truly_ok, costs).mean(axis=1)
        for first in range(0, len(pairs), at_a_time)
    ]
    best = int(np.concatenate(means).argmin())
    cost = _costs_of(np.array([start, pairs[best]]), probability_of_ok, truly_ok, costs)
    saving = cost[0] - cost[1]
    standard_error = saving.std() / np.sqrt(len(saving))
    ko_threshold, ok_threshold = pairs[best] if saving.mean() > standard_error else start
    return DecisionRule(
        tuple(ok_labels), ok_threshold=float(ok_threshold), ko_threshold=float(ko_threshold), costs=costs
    )


def _optimal_if_calibrated(costs: Costs) -> tuple[float, float]:
    indifferent = costs.false_ok / (costs.false_ok + costs.false_ko)
    ok_from = 1 - costs.uncertain / costs.false_ok if costs.false_ok > 0 else 0.0
    ko_below = costs.uncertain / costs.false_ko if costs.false_ko > 0 else 1.0
    return (ko_below, ok_from) if ko_below < ok_from else (indifferent, indifferent)


def _costs_of(
    pairs: NDArray[np.float64], of_ok: NDArray[np.floating], truly_ok: NDArray[np.bool_], costs: Costs
) -> NDArray[np.float64]:
    ko_threshold, ok_threshold = pairs[:, :1], pairs[:, 1:]
    says_ok = of_ok >= ok_threshold
    says_ko = ~says_ok & (of_ok < ko_threshold)
    mistakes = says_ok * (~truly_ok * costs.false_ok) + says_ko * (truly_ok * costs.false_ko)
    return np.asarray(mistakes + (~says_ok & ~says_ko) * costs.uncertain)
