"""Whether a new model goes into service: it must cost less than the one in service, surely, on photos neither learnt.

Both models judge the same test photos, so their costs are compared photo by photo. How sure the saving is, is said by
an exact test: if neither model were better, each difference might as well have had the other sign (Fisher, 1935, "The
Design of Experiments", section 21). Photos of one burst count as one. Pure, but for `measure`, which runs the models.
"""

from __future__ import annotations

import math
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np

from okko_models.decision import Verdict
from okko_models.manifest import Interval

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from okko_models.bundle import Bundle
    from okko_models.decision import Costs
    from okko_train.dataset import Photo

MOST_SLOWER: Final = 1.5
"""A new model may take so many times as long for a photo as the one in service."""
_NOISE_MS: Final = 2.0
"""So small a difference is nobody's concern, and cannot be measured on a busy machine."""
_ALL_SIGNS: Final = 16
"""With so many differences every combination of signs is tried; with more, `_DRAWS` of them are drawn."""
_DRAWS: Final = 20_000
_SAMPLES: Final = 2000
_CONSTANT: Final = {verdict: f"always saying {verdict.value}" for verdict in Verdict}


class Comparison(msgspec.Struct, frozen=True):
    """Two ways to judge the same photos.

    Attributes:
        photos: how many.
        differing: on how many of them (bursts counted once) the costs differ.
        new_cost: per photo, in the user's currency.
        old_cost: per photo.
        saving: old less new per photo, with its 95 % interval by the bootstrap.
        confidence: that the new way is cheaper: 1 less the probability of so large a saving if neither were.
    """

    photos: int
    differing: int
    new_cost: float
    old_cost: float
    saving: Interval
    confidence: float


class Judged(msgspec.Struct, frozen=True):
    """What a model did on the test photos.

    Attributes:
        costs: of each verdict, in the user's currency.
        latency_ms: median processor time for one photo, on one thread of this machine.
        golden_difference: largest difference of the golden frames in probability here; infinite if beyond the bound.
    """

    costs: tuple[float, ...]
    latency_ms: float
    golden_difference: float


class Ruling(msgspec.Struct, frozen=True):
    """The gate's word.

    Attributes:
        passed: whether the new model is to go into service.
        reason: why, or why not, in one sentence.
        against: digest of the bundle in service; empty: there was none.
        comparison: with the one in service; without one, with the cheapest verdict that needs no model.
        latency_ms: of the new model, for one photo.
        old_latency_ms: of the one in service; None without one.
        required: how sure it had to be.
    """

    passed: bool
    reason: str
    against: str
    comparison: Comparison
    latency_ms: float
    old_latency_ms: float | None
    required: float


def compare(new: Sequence[float], old: Sequence[float], groups: Sequence[int]) -> Comparison:
    """Compares what two models cost on the same photos.

    Args:
        new: n costs of the new model.
        old: n costs of the other.
        groups: n numbers; photos with the same one show the same object.

    Raises:
        ValueError: there are no photos, or the lengths differ.
    """
    if not len(new) == len(old) == len(groups) or not len(new):
        raise ValueError(
            f"new, old and groups must be equally long and not empty: {len(new)}, {len(old)}, {len(groups)}"
        )
    difference = np.array(old, np.float64) - np.array(new, np.float64)
    number = np.unique(np.array(groups), return_inverse=True)[1]
    of_group: NDArray[np.float64] = np.bincount(number, weights=difference).astype(np.float64)
    size = np.bincount(number)
    rows = np.random.default_rng(0).integers(0, len(of_group), (_SAMPLES, len(of_group)))
    low, high = np.quantile(of_group[rows].sum(axis=1) / size[rows].sum(axis=1), (0.025, 0.975))
    differing = of_group[np.abs(of_group) > 1e-12]
    return Comparison(
        photos=len(new),
        differing=len(differing),
        new_cost=float(np.mean(new)),
        old_cost=float(np.mean(old)),
        saving=Interval(float(difference.mean()), float(low), float(high)),
        confidence=1 - chance(differing),
    )


def chance(differences: NDArray[np.float64]) -> float:
    """Returns how probable so large a sum is if each sign is a coin's; 1 if there are no differences.

    Args:
        differences: (m,) not 0.
    """
    m = len(differences)
    if m == 0:
        return 1.0
    least = differences.sum() * (1 - 1e-9 * np.sign(differences.sum()))
    if m <= _ALL_SIGNS:
        signs = 1 - 2 * ((np.arange(2**m)[:, None] >> np.arange(m)) & 1)
        return float((signs @ differences >= least).mean())
    signs = np.random.default_rng(0).choice(np.array([-1.0, 1.0]), (_DRAWS, m))
    # What was seen is one of the draws: so the test never claims more than it may (Phipson and Smyth, 2010).
    return float(((signs @ differences >= least).sum() + 1) / (_DRAWS + 1))


def cheapest_constant(truly_ok: Sequence[bool], costs: Costs) -> tuple[str, list[float]]:
    """Returns what a model must be worth at least: the cheapest way to give every object the same verdict.

    Args:
        truly_ok: n, whether each object is good.
        costs: what verdicts cost.

    Returns:
        The way in words, and its n costs.
    """
    ways = {words: [costs.of(verdict, truly_ok=ok) for ok in truly_ok] for verdict, words in _CONSTANT.items()}
    return min(ways.items(), key=lambda way: sum(way[1]))


def rule(
    new: Judged,
    old: Judged | None,
    against: str,
    *,
    truly_ok: Sequence[bool],
    groups: Sequence[int],
    costs: Costs,
    confidence: float,
    max_latency_ms: float | None,
) -> Ruling:
    """Decides.

    Args:
        new: the candidate on the test photos.
        old: the model in service on the same ones; None: there is none.
        against: its digest, or empty.
        truly_ok: n, whether each photo shows a good object.
        groups: see `compare`.
        costs: what verdicts cost.
        confidence: how sure the saving must be.
        max_latency_ms: see `okko_cloud.place.Settings`.
    """
    words, other = ("the model in service", list(old.costs)) if old else cheapest_constant(truly_ok, costs)
    comparison = compare(new.costs, other, groups)
    limit_ms = math.inf if max_latency_ms is None else max_latency_ms
    if old:
        limit_ms = min(limit_ms, max(MOST_SLOWER * old.latency_ms, old.latency_ms + _NOISE_MS))
    figures = (
        f"{comparison.new_cost:.4g} a photo against {comparison.old_cost:.4g} of {words}, "
        f"on {comparison.photos} test photos"
    )
    if len(set(truly_ok)) < 2:
        passed, reason = False, "the test photos are all good or all bad, so nothing can be compared"
    elif not math.isfinite(new.golden_difference):
        passed, reason = False, "its golden frames come out differently on this machine"
    elif new.latency_ms > limit_ms:
        passed, reason = False, f"it takes {new.latency_ms:.1f} ms for a photo; at most {limit_ms:.1f} ms are allowed"
    elif not comparison.saving.value > 0:
        passed, reason = False, f"it costs no less: {figures}"
    elif comparison.confidence < confidence:
        passed = False
        reason = (
            f"it costs less ({figures}), but that may be chance: {comparison.confidence:.1%} sure, "
            f"{confidence:.1%} are asked for"
        )
    else:
        passed, reason = True, f"it costs less: {figures}; {comparison.confidence:.1%} sure"
    return Ruling(
        passed=passed,
        reason=reason,
        against=against,
        comparison=comparison,
        latency_ms=new.latency_ms,
        old_latency_ms=old.latency_ms if old else None,
        required=confidence,
    )


def measure(
    bundles: Sequence[Bundle], photos: Sequence[Photo], truly_ok: Sequence[bool], costs: Costs, *, workers: int = 1
) -> list[Judged]:
    """Runs models on the test photos, in turn on each photo, so that a busy machine slows them all alike.

    Args:
        bundles: the models.
        photos: the test photos.
        truly_ok: n, whether each shows a good object.
        costs: what verdicts cost.
        workers: photos judged at a time, each on one thread, whose processor time is what counts.

    Raises:
        OkkoError: a model or a photo cannot be read.
    """
    from okko_models.classifier import Classifier
    from okko_models.errors import SelfTestError
    from okko_models.photo import read_photo
    from okko_train.progress import progress

    classifiers = [Classifier(bundle, threads=1) for bundle in bundles]
    golden = []
    for classifier in classifiers:
        try:
            golden.append(classifier.self_test())
        except SelfTestError:
            golden.append(math.inf)

    def judge(photo: Photo, ok: bool) -> list[tuple[float, float]]:
        image, found = read_photo(photo.path), []
        for classifier in classifiers:
            begin = time.thread_time()
            verdict = classifier.classify(image).verdict
            found.append((costs.of(verdict, truly_ok=ok), time.thread_time() - begin))
        return found

    rows = []
    with (
        progress("Comparing with the model in service", len(photos)) as done,
        ThreadPoolExecutor(workers) as pool,
    ):
        for row in pool.map(judge, photos, truly_ok):
            rows.append(row)
            done()
    paid, took = np.array(rows).transpose(2, 1, 0)
    return [
        Judged(tuple(each_paid.tolist()), 1e3 * float(np.median(each_took)), worst)
        for each_paid, each_took, worst in zip(paid, took, golden, strict=True)
    ]
