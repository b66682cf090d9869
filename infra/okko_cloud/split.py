"""The frozen test split: a photo once put aside for the test stays there, and one learnt from never gets there.

Only so can two models be compared that were made at different times. Photos are known by their content, so names and
labels may change. New photos that look nearly like known ones go where those are; the others are dealt out by lot, in
an order that nothing but their content and the seed decides.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
import numpy as np

from okko_cloud.place import TRAINING
from okko_models.damaged import decode_json
from okko_models.errors import OkkoError
from okko_models.registry.errors import ConflictError
from okko_train.preparation import TEST_FRACTION
from okko_train.splits import stratified_split

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from okko_models.registry.store import Store
    from okko_train.dataset import Dataset

SPLIT: Final = f"{TRAINING}split.json"
_TRIES: Final = 20

Sha256 = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]


class Frozen(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which photos are for the test and which to learn from, by the SHA-256 of their files.

    Attributes:
        seed: of the lot.
        test: photos that no model ever learns from.
        learn: photos that models may have learnt from.
    """

    seed: int
    test: frozenset[Sha256] = frozenset()
    learn: frozenset[Sha256] = frozenset()


def extend(frozen: Frozen, dataset: Dataset) -> Frozen:
    """Returns the split with all photos of the dataset in it; those that are in it stay where they are.

    Raises:
        OkkoError: the photos cannot be divided.
    """
    digests = [photo.digest for photo in dataset.photos]
    in_test = deal(
        dataset.targets,
        dataset.split_groups(),
        digests,
        known=[(digest in frozen.test) - (digest in frozen.learn) for digest in digests],
        seed=frozen.seed,
    )
    test = {digest for digest, put_aside in zip(digests, in_test.tolist(), strict=True) if put_aside}
    return Frozen(frozen.seed, frozen.test | test, frozen.learn | (set(digests) - test))


def deal(
    labels: NDArray[np.int64], groups: NDArray[np.int64], digests: Sequence[str], *, known: Sequence[int], seed: int
) -> NDArray[np.bool_]:
    """Says which photos are for the test.

    Args:
        labels: (n,) number of each photo's label.
        groups: (n,) photos of one group stay together as far as the known ones are together.
        digests: n names that depend on nothing but a photo's content.
        known: n numbers: 1 for photos that are for the test, -1 for those to learn from, 0 for new ones.
        seed: another seed, another lot.

    Returns:
        (n,) whether each photo is for the test.
    """
    sides = np.array(known, np.int64)
    in_test: NDArray[np.bool_] = sides > 0
    if not sides.any():
        try:
            _, put_aside = stratified_split(labels, groups, fraction=TEST_FRACTION, seed=seed)
        except ValueError:
            pass  # too few groups to have every label on both sides; dealing them out still is better than nothing
        else:
            in_test[put_aside] = True
            return in_test
    rows_of: dict[int, list[int]] = {}
    for row, group in enumerate(groups.tolist()):
        rows_of.setdefault(group, []).append(row)
    fresh = []
    for rows in sorted(rows_of.values(), key=lambda rows: _lot(seed, min(digests[row] for row in rows))):
        if (sides[rows] == 0).all():
            fresh.append(rows)
        elif (sides[rows] > 0).any():
            # What looks like a test photo must not be learnt from.
            in_test[[row for row in rows if sides[row] == 0]] = True
    of_label = np.bincount(labels)
    for rows in fresh:
        lacking = TEST_FRACTION * of_label - np.bincount(labels[in_test], minlength=len(of_label))
        share = np.bincount(labels[rows], minlength=len(of_label))
        # To the test if that brings every label of the group nearer to its share than leaving it out.
        if (share[share > 0] / 2 <= lacking[share > 0]).all():
            in_test[rows] = True
    return in_test


def _lot(seed: int, digest: str) -> str:
    return hashlib.sha256(f"{seed} {digest}".encode()).hexdigest()


def load(store: Store, seed: int) -> Frozen:
    """Returns the place's split; an empty one where there is none.

    Raises:
        OkkoError: the file cannot be understood, or the store fails.
    """
    found = store.get(SPLIT)
    return _decode(store, found.data) if found else Frozen(seed)


def freeze(store: Store, dataset: Dataset, seed: int) -> Frozen:
    """Returns the place's split with all photos of the dataset in it, after it was stored.

    Raises:
        OkkoError: see `load`; or others change it all the time.
    """
    for _ in range(_TRIES):
        found = store.get(SPLIT)
        before = _decode(store, found.data) if found else Frozen(seed)
        after = extend(before, dataset)
        if found is not None and after == before:
            return after
        data = msgspec.json.encode(after, order="deterministic")
        if store.put_new(SPLIT, data) if found is None else store.put_if(SPLIT, data, found.tag):
            return after
    raise ConflictError(f"{store}/{SPLIT} is changed by others all the time; try again")


def _decode(store: Store, data: bytes) -> Frozen:
    try:
        return decode_json(data, Frozen)
    except msgspec.DecodeError as error:
        raise OkkoError(
            f"{store}/{SPLIT}: {error}. It says which photos no model may learn from, so bring an earlier version back"
        ) from error
