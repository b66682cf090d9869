"""How good a model is on labelled photos: counts, rates with their confidence intervals, and money.

Pure: probabilities and truth in, one `Evaluation` out. Intervals are 95 %: Wilson's for a share (Wilson, 1927), and the
percentile bootstrap for what is not a simple share (Efron and Tibshirani, 1993).
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from okko_models.decision import NOVELTY_LIMIT, Verdict
from okko_models.manifest import Interval
from okko_train.calibration_error import calibration_error

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from okko_models.decision import DecisionRule
    from okko_train.calibration_error import CalibrationError

_Z_95 = 1.959964
_BOOTSTRAP_SAMPLES = 2000
_ROWS_AT_A_TIME = 4_000_000


@dataclass(frozen=True)
class Evaluation:
    """What a model did on n labelled photos.

    Attributes:
        n: number of photos.
        labels: label names, in the order of the confusion matrix.
        confusion: (n_labels, n_labels) counts; row = true label, column = most probable label.
        accuracy: share of photos whose most probable label is the true one.
        balanced_accuracy: mean over the labels of the share recognised.
        verdicts: how many photos got each verdict.
        false_ok: bad photos with verdict OK.
        false_ko: good photos with verdict KO.
        cost_per_photo: mean cost of the verdicts, in the currency of the rule's costs.
        calibration_error: how far the probability of OK is from the share that is good.
        probability_of_ok: (n,) for plots.
        truly_ok: (n,) bool, for plots.
        novelty: (n,) how unlike training each photo is, 1 the limit.
    """

    n: int
    labels: tuple[str, ...]
    confusion: NDArray[np.int64]
    accuracy: Interval
    balanced_accuracy: Interval
    verdicts: dict[str, int]
    false_ok: int
    false_ko: int
    cost_per_photo: Interval
    calibration_error: CalibrationError
    probability_of_ok: NDArray[np.float64]
    truly_ok: NDArray[np.bool_]
    novelty: NDArray[np.floating]

    @property
    def novel(self) -> Interval:
        """The share of photos that are unlike anything in training."""
        return share_interval(int((~(self.novelty <= NOVELTY_LIMIT)).sum()), self.n)


def evaluate(
    probability: NDArray[np.floating],
    truth: NDArray[np.integer],
    labels: Sequence[str],
    rule: DecisionRule,
    novelty: NDArray[np.floating] | None = None,
) -> Evaluation:
    """Compares predictions with the truth.

    Args:
        probability: (n, n_labels), rows sum to 1.
        truth: (n,) index of the true label.
        labels: n_labels names.
        rule: turns the probability of OK into verdicts.
        novelty: (n,) how unlike training each photo is; None where nothing can tell.

    Raises:
        ValueError: no photos.
    """
    n, n_labels = probability.shape
    if n == 0:
        raise ValueError("there are no photos to evaluate")
    predicted = probability.argmax(axis=1)
    confusion = np.zeros((n_labels, n_labels), np.int64)
    np.add.at(confusion, (truth, predicted), 1)
    ok_columns = [labels.index(label) for label in rule.ok_labels]
    of_ok = probability[:, ok_columns].sum(axis=1, dtype=np.float64)
    truly_ok = np.isin(truth, ok_columns)
    novelty = np.zeros(n) if novelty is None else novelty
    verdicts = [rule.verdict(value, new) for value, new in zip(of_ok.tolist(), novelty.tolist(), strict=True)]
    costs = np.array([rule.costs.of(each, truly_ok=ok) for each, ok in zip(verdicts, truly_ok.tolist(), strict=True)])
    called_ok = np.array([verdict is Verdict.OK for verdict in verdicts])
    called_ko = np.array([verdict is Verdict.KO for verdict in verdicts])
    correct = predicted == truth
    counts = Counter(verdicts)
    return Evaluation(
        n=n,
        labels=tuple(labels),
        confusion=confusion,
        accuracy=share_interval(int(correct.sum()), n),
        balanced_accuracy=_balanced_accuracy(correct, truth),
        verdicts={verdict.value: counts[verdict] for verdict in Verdict},
        false_ok=int((called_ok & ~truly_ok).sum()),
        false_ko=int((called_ko & truly_ok).sum()),
        cost_per_photo=_bootstrap(lambda rows: costs[rows].mean(axis=1), n, float(costs.mean())),
        calibration_error=calibration_error(of_ok, truly_ok),
        probability_of_ok=of_ok,
        truly_ok=truly_ok,
        novelty=novelty,
    )


def costs_of(
    probability_of_ok: NDArray[np.floating], truly_ok: NDArray[np.bool_], rule: DecisionRule
) -> NDArray[np.float64]:
    """Returns (n,) costs of the verdicts that `rule` gives, in the currency of its costs."""
    outcomes = zip(probability_of_ok.tolist(), truly_ok.tolist(), strict=True)
    return np.array([rule.costs.of(rule.verdict(value), truly_ok=ok) for value, ok in outcomes])


def clearly_better(losses: NDArray[np.float64], than: NDArray[np.float64], groups: NDArray[np.int64]) -> bool:
    """Says whether losses are smaller than others on the same photos by more than one standard error.

    Args:
        losses: (n_photos,).
        than: (n_photos,) the others.
        groups: (n_photos,) see `standard_errors`.
    """
    difference = than - losses
    return bool(difference.mean() > standard_errors(difference[None], groups)[0])


def standard_errors(values: NDArray[np.float64], groups: NDArray[np.int64]) -> NDArray[np.float64]:
    """Returns the standard error (n,) of each row's mean, where photos of one group may err together.

    The sandwich estimator of Liang and Zeger (1986), "Longitudinal data analysis using generalized linear models", with
    the correction g / (g - 1) for g groups; infinite for one group, which says nothing of others.

    Args:
        values: (n, n_photos).
        groups: (n_photos,) photos with the same number are of one group, such as one rig.
    """
    _, of_group = np.unique(groups, return_inverse=True)
    n_groups = int(of_group.max()) + 1
    if n_groups == 1:
        return np.full(len(values), np.inf)
    sums = np.zeros((n_groups, len(values)))
    np.add.at(sums, of_group, (values - values.mean(axis=1, keepdims=True)).T)
    return np.asarray(np.sqrt((sums**2).sum(axis=0) * n_groups / (n_groups - 1)) / values.shape[1])


def share_interval(hits: int, n: int) -> Interval:
    """Returns hits / n with Wilson's 95 % interval, which stays inside [0, 1] and is honest for few photos."""
    share, z2 = hits / n, _Z_95**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z_95 * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return Interval(share, max(0.0, centre - half), min(1.0, centre + half))


def _balanced_accuracy(correct: NDArray[np.bool_], truth: NDArray[np.integer]) -> Interval:
    present = np.unique(truth)
    shares = [share_interval(int(correct[truth == label].sum()), int((truth == label).sum())) for label in present]
    mean = sum(share.value for share in shares) / len(shares)
    # The labels are independent samples, so the distances to their bounds add up in squares (Newcombe, 1998).
    below = math.sqrt(sum((share.value - share.low) ** 2 for share in shares)) / len(shares)
    above = math.sqrt(sum((share.high - share.value) ** 2 for share in shares)) / len(shares)
    return Interval(mean, max(0.0, mean - below), min(1.0, mean + above))


def _bootstrap(statistic: Callable[[NDArray[np.integer]], NDArray[np.float64]], n: int, value: float) -> Interval:
    random, at_a_time = np.random.default_rng(0), max(1, _ROWS_AT_A_TIME // n)
    samples = [
        statistic(random.integers(0, n, (min(at_a_time, _BOOTSTRAP_SAMPLES - start), n)))
        for start in range(0, _BOOTSTRAP_SAMPLES, at_a_time)
    ]
    low, high = np.quantile(np.concatenate(samples), (0.025, 0.975))
    return Interval(value, float(low), float(high))
