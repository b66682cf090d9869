"""Divides labelled photos into parts: stratified by label, groups kept whole, the same seed giving the same parts.

Whole groups are dealt out to the parts, largest first, each to the part that then is closest to its share of every
label; where a part then lacks a label altogether, single groups are moved or swapped. It is the greedy idea of
scikit-learn's StratifiedGroupKFold, with unequal shares and with that repair, because with three or four groups greed
alone often leaves a part without one of the labels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

_TRIES: Final = 24
_FEW_GROUPS: Final = 100
"""Up to here it is worth trying several divisions; with more groups the first one is close to perfect."""
_ABOUT_AS_GOOD: Final = 0.02
"""A division this much worse in its worst share is taken as well, so that different seeds give different divisions."""
_LABEL_MISSING: Final = 1e3


def stratified_split(
    labels: ArrayLike, groups: ArrayLike | None = None, *, fraction: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Holds out a fraction of the photos.

    Args:
        labels: (n,) label of each photo, of any type that can be compared.
        groups: (n,) group of each photo; a group is never divided. Each photo by itself when omitted.
        fraction: share of each label to hold out, between 0 and 1. Whole groups may make it more or less.
        seed: the same seed gives the same split.

    Returns:
        Ascending indices of the rest (n - m,) and of the photos held out (m,). Both contain every label, the rest
        in two groups where there are three, so that it can be divided once more.

    Raises:
        ValueError: an argument is out of range, or no split has every label on both sides.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"fraction must be between 0 and 1, not {fraction}")
    part = _divide(labels, groups, np.array([1 - fraction, fraction]), seed, in_first=2)
    return np.flatnonzero(part == 0), np.flatnonzero(part == 1)


def stratified_folds(labels: ArrayLike, groups: ArrayLike | None = None, *, k: int, seed: int) -> NDArray[np.int64]:
    """Divides the photos into k folds of about equal size.

    Args:
        labels: (n,) label of each photo, of any type that can be compared.
        groups: (n,) group of each photo; a group is never divided. Each photo by itself when omitted.
        k: number of folds, at least 2; `most_folds` says how many are possible.
        seed: the same seed gives the same folds.

    Returns:
        (n,) fold of each photo, 0 to k - 1. Every fold contains every label.

    Raises:
        ValueError: an argument is out of range, or no division has every label in every fold.
    """
    if k < 2:
        raise ValueError(f"k must be at least 2, not {k}")
    return _divide(labels, groups, np.full(k, 1 / k), seed)


def most_folds(labels: ArrayLike, groups: ArrayLike | None = None) -> int:
    """The number of groups of the label that has fewest: no more folds than this can each have every label."""
    counts = _counts(*_codes(labels, groups))
    return int((counts > 0).sum(axis=0).min())


def joint_groups(user_groups: Sequence[str | None], clusters: ArrayLike) -> NDArray[np.int64]:
    """Groups that keep together what either the user's groups or the clusters keep together.

    Args:
        user_groups: (n,) group of each photo, None for a photo in no group.
        clusters: (n,) cluster of each photo.

    Returns:
        (n,) group numbers, 0 upwards in order of first appearance.

    Raises:
        ValueError: the lengths differ.
    """
    cluster_of = np.asarray(clusters)
    if len(user_groups) != len(cluster_of):
        raise ValueError(f"clusters must have {len(user_groups)} entries like user_groups, not {len(cluster_of)}")
    pairs = []
    first: dict[tuple[str, object], int] = {}
    for index, (group, cluster) in enumerate(zip(user_groups, cluster_of.tolist(), strict=True)):
        pairs.append((first.setdefault(("cluster", cluster), index), index))
        if group is not None:
            pairs.append((first.setdefault(("group", group), index), index))
    return _connected(len(cluster_of), pairs)


def _connected(n: int, pairs: Sequence[tuple[int, int]]) -> NDArray[np.int64]:
    """(n,) number of the connected component of each node, 0 upwards in order of first appearance."""
    above = list(range(n))

    def top(node: int) -> int:
        while above[node] != node:
            above[node] = above[above[node]]
            node = above[node]
        return node

    for one, other in pairs:
        low, high = sorted((top(one), top(other)))
        above[high] = low
    return _in_order([top(node) for node in range(n)])


def _in_order(values: ArrayLike) -> NDArray[np.int64]:
    """Numbers for values, 0 upwards in order of first appearance: what a group is called changes nothing."""
    _, first, inverse = np.unique(np.asarray(values), return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[inverse.reshape(-1)]


def _codes(
    labels: ArrayLike, groups: ArrayLike | None
) -> tuple[NDArray[np.str_], NDArray[np.int64], NDArray[np.int64]]:
    names, label_of = np.unique(np.asarray(labels), return_inverse=True)
    if label_of.ndim != 1 or len(label_of) == 0:
        raise ValueError("labels must be a non-empty list")
    group_of = np.arange(len(label_of)) if groups is None else _in_order(groups)
    if len(group_of) != len(label_of):
        raise ValueError(f"groups must have {len(label_of)} entries like labels, not {len(group_of)}")
    return names, label_of.astype(np.int64), group_of


def _counts(names: NDArray[np.str_], label_of: NDArray[np.int64], group_of: NDArray[np.int64]) -> NDArray[np.float64]:
    counts = np.zeros((group_of.max() + 1, len(names)))
    np.add.at(counts, (group_of, label_of), 1)
    return counts


def _divide(
    labels: ArrayLike, groups: ArrayLike | None, shares: NDArray[np.float64], seed: int, *, in_first: int = 1
) -> NDArray[np.int64]:
    """The part of each photo. The first part gets `in_first` groups of each label where there are enough."""
    names, label_of, group_of = _codes(labels, groups)
    counts = _counts(names, label_of, group_of)
    n_groups = (counts > 0).sum(axis=0)
    scarce = int(n_groups.argmin())
    if n_groups[scarce] < len(shares):
        raise ValueError(
            f"label {names[scarce]} has {n_groups[scarce]} groups of photos; {len(shares)} parts that all have it "
            f"need {len(shares)}"
        )
    required = np.ones((len(shares), len(names)))
    required[0] = np.clip(n_groups - len(shares) + 1, 1, in_first)
    wanted = np.concatenate([np.broadcast_to(shares[:, None], required.shape), required], axis=1)
    tally = np.concatenate([counts / counts.sum(axis=0), counts > 0], axis=1)
    part_of_group, complete = _assign(tally, wanted, np.random.default_rng(seed))
    if not complete:
        raise ValueError(
            f"no division into {len(shares)} parts that all have every label was found: the groups are too few or "
            "too mixed; take fewer parts or smaller groups"
        )
    return part_of_group[group_of]


# Below, a tally (..., 2 n_labels) is the share of each label's photos, then the number of groups that have the label.
# Tallies of groups add up to the tally of a part, which is compared with the part's wanted one: the shares should be
# equal, the numbers at least as large.


def _assign(
    tally: NDArray[np.float64], wanted: NDArray[np.float64], rng: np.random.Generator
) -> tuple[NDArray[np.int64], bool]:
    """Deals out the groups several times and takes the first outcome that is about as good as the best.

    Args:
        tally: (n_groups, 2 n_labels) of each group.
        wanted: (n_parts, 2 n_labels) of each part.
        rng: where the order of dealing comes from.

    Returns:
        (n_groups,) the part of each group, and whether every part has every label.
    """
    n_labels = tally.shape[1] // 2
    outcomes: list[tuple[float, NDArray[np.int64]]] = []
    for _ in range(_TRIES if len(tally) <= _FEW_GROUPS else 1):
        part = _complete(tally, wanted, _deal(tally[:, :n_labels], wanted[:, :n_labels], rng))
        filled = _filled(tally, part, len(wanted))
        farthest = float(np.abs(filled - wanted)[:, :n_labels].max())
        outcomes.append((float(_missing(filled, wanted).sum()) + farthest, part))
    best = min(badness for badness, _ in outcomes)
    chosen = next(part for badness, part in outcomes if badness <= best + _ABOUT_AS_GOOD)
    return chosen, bool((_filled(tally, chosen, len(wanted))[:, n_labels:] > 0).all())


def _deal(weights: NDArray[np.float64], shares: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Gives each group, the large ones first, to the part that is then closest to its shares."""
    order = np.argsort(-weights.max(axis=1) * rng.uniform(0.5, 1, len(weights)))
    ties = rng.permutation(len(shares))
    part = np.zeros(len(weights), dtype=np.int64)
    lacking = shares.copy()
    for group in order:
        # How the sum of squares of all that is lacking changes, for each part that could get the group.
        change = (weights[group] * (weights[group] - 2 * lacking)).sum(axis=1)
        part[group] = ties[change[ties].argmin()]
        lacking[part[group]] -= weights[group]
    return part


def _complete(tally: NDArray[np.float64], wanted: NDArray[np.float64], part: NDArray[np.int64]) -> NDArray[np.int64]:
    """Moves single groups, or swaps two, for as long as a part misses a label and that helps."""
    part = part.copy()
    groups = np.arange(len(tally))
    while _missing(filled := _filled(tally, part, len(wanted)), wanted).any():
        before = _cost(filled, wanted)
        left = _cost(filled[part] - tally, wanted[part]) - before[part]
        moves = left[:, None] + _cost(filled + tally[:, None], wanted) - before
        moves[groups, part] = 0
        group, target = np.unravel_index(moves.argmin(), moves.shape)
        if moves[group, target] < -_LABEL_MISSING / 2:
            part[group] = target
            continue
        if len(tally) > _FEW_GROUPS:
            break
        half = _cost((filled[part] - tally)[:, None] + tally, wanted[part, None]) - before[part, None]
        swaps = np.where(part[:, None] == part, 0, half + half.T)
        one, other = np.unravel_index(swaps.argmin(), swaps.shape)
        if swaps[one, other] >= -_LABEL_MISSING / 2:
            break
        part[one], part[other] = part[other], part[one]
    return part


def _filled(tally: NDArray[np.float64], part: NDArray[np.int64], n_parts: int) -> NDArray[np.float64]:
    """(n_parts, 2 n_labels) tally of each part."""
    filled = np.zeros((n_parts, tally.shape[1]))
    np.add.at(filled, part, tally)
    return filled


def _missing(filled: NDArray[np.float64], wanted: NDArray[np.float64]) -> NDArray[np.float64]:
    """(..., 2 n_labels) tallies to (...) numbers of groups that are still needed."""
    n_labels = wanted.shape[-1] // 2
    missing: NDArray[np.float64] = np.maximum(wanted - filled, 0)[..., n_labels:].sum(axis=-1)
    return missing


def _cost(filled: NDArray[np.float64], wanted: NDArray[np.float64]) -> NDArray[np.float64]:
    """(..., 2 n_labels) tallies to (...) costs: squared deviations of shares, and much for each missing group."""
    n_labels = wanted.shape[-1] // 2
    squares: NDArray[np.float64] = ((filled - wanted)[..., :n_labels] ** 2).sum(axis=-1)
    return squares + _LABEL_MISSING * _missing(filled, wanted)
