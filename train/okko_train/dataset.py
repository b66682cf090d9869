"""A dataset: photos with labels, named by their content, with everything that is unusable left out and named.

Loading opens each photo once, keeps a thumbnail of it for `okko_train.duplicates`, and lets go of the pixels, so
memory does not grow with the photos' size; thumbnails of very many photos lie on the disk. How labels are laid out is
`okko_train.listing`'s matter; what the findings mean for training is `okko_train.data_check`'s.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Final

import numpy as np

from okko_models.host import processors
from okko_models.photo import PhotoError, read_bytes
from okko_train.duplicates import THUMBNAIL_SIDE, NearDuplicates, find_near_duplicates
from okko_train.engine import MANY, empty, here, release
from okko_train.listing import DatasetError, ListedPhoto, Listing, SkippedPhoto, list_photos
from okko_train.progress import progress
from okko_train.shards import Look, look_at
from okko_train.splits import joint_groups

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from okko_train.engine import Engine

__all__ = ["Dataset", "DatasetError", "Photo", "SkippedPhoto", "load_dataset"]

MINIMUM_PER_LABEL: Final = 4
"""Fewer photos of a label cannot be shared out among training, choosing and testing."""

MINIMUM_GROUPS: Final = 3
"""Each label needs a group to test on, and two to choose hyperparameters with."""

_MOST_WORKERS: Final = 8
_ROWS_AT_A_TIME: Final = 4096


@dataclass(frozen=True)
class Photo:
    """A photo that can be trained on.

    Attributes:
        path: where it lies, absolute.
        name: relative to the dataset's folder, with forward slashes.
        label: its class, for example OK.
        group: photos of one group stay on one side of a split; None where the dataset has no groups or names none.
        digest: SHA-256 of the file's bytes, hexadecimal.
        width: in pixels, upright; 0 where photos were not decoded.
        height: in pixels, upright; 0 where photos were not decoded.
        attributes: further columns of the list that names it.
    """

    path: Path
    name: str
    label: str
    group: str | None
    digest: str
    width: int = 0
    height: int = 0
    attributes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Dataset:
    """Photos with labels.

    Attributes:
        root: the dataset's folder, absolute.
        source: where the labels stand: "sub-folders", or the name of the list.
        photos: usable photos in order of name.
        skipped: files that are not used, with the reason, in order of name.
        labels: the labels of `photos`, sorted.
        digest: SHA-256 over the sorted pairs of photo digest and label, hexadecimal. The same photos with the same
            labels have the same digest wherever they lie and whatever they are called.
        group_by: the column that `Photo.group` comes from.
        thumbnails: (n_photos, side, side, 3) uint8, in the order of `photos`; None where photos were not decoded.
        engine: what computes on all photos, shard by shard; None where they are few and lie here.
    """

    root: Path
    source: str
    photos: tuple[Photo, ...]
    skipped: tuple[SkippedPhoto, ...]
    labels: tuple[str, ...]
    digest: str
    group_by: str | None = None
    thumbnails: NDArray[np.uint8] | None = field(default=None, repr=False, compare=False)
    engine: Engine | None = field(default=None, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.photos)

    @property
    def targets(self) -> NDArray[np.int64]:
        """(n_photos,) index of each photo's label in `labels`."""
        number = {label: index for index, label in enumerate(self.labels)}
        return np.array([number[photo.label] for photo in self.photos], dtype=np.int64)

    def counts(self) -> dict[str, int]:
        """Number of photos of each label."""
        counted = Counter(photo.label for photo in self.photos)
        return {label: counted[label] for label in self.labels}

    @cached_property
    def near_duplicates(self) -> NearDuplicates:
        """Photos that show the same picture again (none are found where photos were not decoded)."""
        if self.thumbnails is None:
            n = len(self.photos)
            nothing = np.zeros((0, 2), np.int64), np.zeros(0, np.float32), np.zeros(n, np.bool_)
            return NearDuplicates(np.arange(n), *nothing)
        aspects = [photo.width / photo.height for photo in self.photos]
        found = find_near_duplicates(self.thumbnails, self.targets, aspects)
        release(self.thumbnails)
        return found

    def split_groups(self) -> NDArray[np.int64]:
        """(n_photos,) group numbers for a split: the user's groups, joined with the near-duplicates."""
        return joint_groups([photo.group for photo in self.photos], self.near_duplicates.clusters)

    def groups_per_label(self) -> dict[str, int]:
        """In how many of `split_groups` each label occurs."""
        pairs = set(zip(self.targets.tolist(), self.split_groups().tolist(), strict=True))
        counted = Counter(label for label, _ in pairs)
        return {label: counted[index] for index, label in enumerate(self.labels)}

    def check_trainable(self) -> None:
        """Refuses what cannot be trained on.

        Raises:
            DatasetError: fewer than two labels, fewer than `MINIMUM_PER_LABEL` photos of one, or fewer than
                `MINIMUM_GROUPS` groups that have it.
        """
        _check_labels(self.root, self.labels, self.skipped, minimum=2)
        counts = self.counts()
        few = {label: count for label, count in counts.items() if count < MINIMUM_PER_LABEL}
        if few:
            found = ", ".join(f"{count} of {label}" for label, count in counts.items())
            raise DatasetError(
                f"{self.root}: too few photos: {found}{_because(self.skipped)}. Training needs at least "
                f"{MINIMUM_PER_LABEL} usable photos of each label (and 50 or more to be any good); "
                f"add photos of {', '.join(few)}."
            )
        for label, n_groups in self.groups_per_label().items():
            if n_groups < MINIMUM_GROUPS:
                by = f" (grouped by {self.group_by})" if self.group_by else ""
                raise DatasetError(
                    f"{self.root}: the {counts[label]} photos of {label} are in {n_groups} groups{by}; photos that "
                    f"look nearly the same count as one. At least {MINIMUM_GROUPS} are needed, so that a model can be "
                    "tested on photos unlike those it learnt from. Add photos of other objects or days"
                    + (", or group by something else." if self.group_by else ".")
                )


def load_dataset(
    path: Path | str | Listing,
    *,
    group_by: str | None = None,
    decode: bool = True,
    workers: int | None = None,
    minimum_labels: int = 2,
    engine: Engine | None = None,
) -> Dataset:
    """Reads a dataset: a folder with a sub-folder for each label, a photos.csv, or SageMaker `.lst` files.

    - `photos.csv` (columns `file` and `label`, further ones at will) is believed over sub-folders; photos that it
      does not name are skipped.
    - `.lst` lines are index, label, path. Numeric labels take the name of the folder that holds their photos where
      each has a folder of its own; otherwise the number is the label.
    - Skipped with a reason: what cannot be decoded, further copies of a photo, photos with two labels (all copies).

    Args:
        path: the folder, or the list itself; or what `list_photos` found.
        group_by: a column of the list; photos with the same value stay together in splits.
        decode: opens every photo. Otherwise only the bytes are compared and unreadable photos go unnoticed.
        workers: photos opened at a time; one for each processor when omitted.
        minimum_labels: how many labels the usable photos must have.
        engine: what opens the photos, and computes on them later; when omitted, this process does, and in shards only
            if there are more than `MANY`.

    Raises:
        DatasetError: the folder or its list cannot be used, or no two labels are left.
        OkkoError: the engine failed.
    """
    listing = path if isinstance(path, Listing) else list_photos(path)
    _check_group_by(listing, group_by)
    workers = workers or min(_MOST_WORKERS, processors())
    if engine is None and len(listing.photos) > MANY:
        engine = here(workers)
    looks, thumbnails = _look_at_all(listing, workers, engine, decode=decode)
    usable, skipped = _sort_out(listing.photos, looks)
    kept = sorted(usable, key=lambda index: listing.photos[index].name)
    photos = tuple(_photo(listing.photos[index], looks[index], group_by) for index in kept)
    labels = tuple(sorted({photo.label for photo in photos}))
    all_skipped = tuple(sorted([*listing.skipped, *skipped]))
    _check_labels(listing.root, labels, all_skipped, minimum=minimum_labels)
    return Dataset(
        root=listing.root,
        source=listing.source,
        photos=photos,
        skipped=all_skipped,
        labels=labels,
        digest=_digest(photos),
        group_by=group_by,
        thumbnails=_in_order(thumbnails, kept) if decode and photos else None,
        engine=engine,
    )


def _look_at_all(
    listing: Listing, workers: int, engine: Engine | None, *, decode: bool
) -> tuple[list[Look], NDArray[np.uint8]]:
    """What opening each photo told, without thumbnails, and these in one array (n, side, side, 3)."""
    n = len(listing.photos)
    looks = [Look()] * n
    thumbnails = empty((n if decode else 0, THUMBNAIL_SIDE, THUMBNAIL_SIDE, 3), np.uint8)
    with progress("Reading photos", total=n) as advance:
        if engine is not None and decode:
            found = engine.look([photo.path for photo in listing.photos], advance)
        else:
            found = _looked_at(listing.photos, workers, advance, decode=decode)
        for index, look in found:
            if look.thumbnail is not None:
                thumbnails[index] = look.thumbnail
            looks[index] = replace(look, thumbnail=None)
    release(thumbnails)
    return looks, thumbnails


def _looked_at(
    photos: tuple[ListedPhoto, ...], workers: int, advance: Callable[[], None], *, decode: bool
) -> Iterator[tuple[int, Look]]:
    with ThreadPoolExecutor(workers) as pool:
        for index, look in enumerate(pool.map(lambda photo: _look_at(photo, decode=decode), photos)):
            advance()
            yield index, look


def _look_at(photo: ListedPhoto, *, decode: bool) -> Look:
    try:
        return look_at(read_bytes(photo.path, name=photo.name), decode=decode)
    except PhotoError as error:
        return Look(problem=str(error).removeprefix(f"{photo.name}: "))


def _in_order(thumbnails: NDArray[np.uint8], kept: list[int]) -> NDArray[np.uint8]:
    """The thumbnails of these photos, a few at a time where they lie on the disk."""
    if kept == list(range(len(thumbnails))):
        return thumbnails
    ordered = empty((len(kept), *thumbnails.shape[1:]), np.uint8)
    for start in range(0, len(kept), _ROWS_AT_A_TIME):
        some = slice(start, start + _ROWS_AT_A_TIME)
        ordered[some] = thumbnails[kept[some]]
    release(ordered)
    release(thumbnails)
    return ordered


def _sort_out(photos: tuple[ListedPhoto, ...], looks: list[Look]) -> tuple[list[int], list[SkippedPhoto]]:
    """Indices of the photos to use, and why the others are not."""
    skipped = []
    same: defaultdict[str, list[int]] = defaultdict(list)
    for index in sorted(range(len(photos)), key=lambda index: photos[index].name):
        look = looks[index]
        if look.problem:
            skipped.append(SkippedPhoto(photos[index].name, look.problem, "unreadable"))
        else:
            # Equal bytes have equal pixels, so the pixels decide wherever they were looked at.
            same[look.pixel_digest or look.digest].append(index)
    usable = []
    for copies in same.values():
        first, *others = copies
        labels = sorted({photos[index].label for index in copies})
        if len(labels) > 1:
            for index in copies:
                twin = next(other for other in copies if photos[other].label != photos[index].label)
                reason = f"conflicting labels: the same photo as {photos[twin].name} ({photos[twin].label})"
                skipped.append(SkippedPhoto(photos[index].name, reason, "conflicting labels"))
            continue
        usable.append(first)
        for index in others:
            what = "duplicate of" if looks[index].digest == looks[first].digest else "the same pixels as"
            skipped.append(SkippedPhoto(photos[index].name, f"{what} {photos[first].name}", "duplicate"))
    return usable, skipped


def _photo(listed: ListedPhoto, look: Look, group_by: str | None) -> Photo:
    group = (listed.attributes[group_by] or None) if group_by else None
    return Photo(
        path=listed.path,
        name=listed.name,
        label=listed.label,
        group=group,
        digest=look.digest,
        width=look.width,
        height=look.height,
        attributes=listed.attributes,
    )


def _digest(photos: tuple[Photo, ...]) -> str:
    pairs = sorted((photo.digest, photo.label) for photo in photos)
    # Digests have a fixed length and labels no line breaks, so no two sets of pairs give the same text.
    return hashlib.sha256("".join(f"{digest} {label}\n" for digest, label in pairs).encode()).hexdigest()


def _check_group_by(listing: Listing, group_by: str | None) -> None:
    if group_by is None or group_by in listing.columns:
        return
    if listing.columns:
        there = f"{listing.source} has the columns {', '.join(listing.columns)}"
    else:
        there = f"the labels come from {listing.source}, without further columns"
    raise DatasetError(
        f"{listing.root}: no column {group_by} to group by; {there}. Name one of the columns of a photos.csv."
    )


def _check_labels(root: Path, labels: tuple[str, ...], skipped: tuple[SkippedPhoto, ...], *, minimum: int) -> None:
    if len(labels) >= minimum:
        return
    found = f"photos of {labels[0]} alone" if labels else "no usable photo"
    raise DatasetError(
        f"{root}: found {found}{_because(skipped)}. At least two labels are needed, each with photos of its own."
    )


def _because(skipped: tuple[SkippedPhoto, ...]) -> str:
    if not skipped:
        return ""
    return f" ({len(skipped)} files skipped, the first: {skipped[0].name}: {skipped[0].reason.rstrip('.')})"
