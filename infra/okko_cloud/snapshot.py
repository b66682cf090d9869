"""What is in the bucket at one moment, as a dataset: the listing decides, whatever events have said.

A listing has a digest of its own, so that a job learns from one request for each thousand photos that nothing has
changed. Which photos count is decided by their names alone, and the rest of okko sees an ordinary folder.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from okko_cloud.bucket import BucketError, ChangedError
from okko_cloud.labelling.layout import Layout
from okko_models.errors import OkkoError
from okko_models.photo import PHOTO_SUFFIXES, is_photo_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from okko_cloud.bucket import Listed, PhotoCache, Photos
    from okko_train.dataset import Dataset

_LIST_SUFFIXES: Final = (".csv", ".lst")
_LONGEST_PART: Final = 200  # bytes; file systems take 255
_TRIES: Final = 5


@dataclass(frozen=True)
class Snapshot:
    """The photos to learn from, and the lists that name them, as they were listed.

    Attributes:
        listed: sorted by key.
        digest: SHA-256 over keys, tags and sizes: it changes with any of them.
    """

    listed: tuple[Listed, ...]
    digest: str


def take_snapshot(photos: Photos) -> Snapshot:
    """Lists what there is to learn from.

    Raises:
        OkkoError: it cannot be listed.
    """
    listed = choose(photos.list())
    lines = "".join(f"{each.key!r} {each.etag} {each.size}\n" for each in listed)
    return Snapshot(listed, hashlib.sha256(lines.encode("utf-8", "surrogatepass")).hexdigest())


def choose(listed: Sequence[Listed]) -> tuple[Listed, ...]:
    """Returns photos with a label, and the lists that give them one.

    Where there is a list, it says which photos count. Else the folder is the label; photos that devices have sent, or
    that lie in `unlabelled`, have none yet.
    """
    visible = [each for each in listed if not any(part.startswith(".") for part in each.key.split("/"))]
    lists = [each for each in visible if is_list(each.key)]
    if lists:
        return tuple(each for each in visible if is_photo_name(Path(each.key)) or each in lists)
    layout = Layout([each.key for each in visible])
    chosen = []
    for each in visible:
        place = layout.place(each.key)
        if place is not None and place.label is not None:
            chosen.append(each)
    return tuple(chosen)


@contextmanager
def as_dataset(
    photos: Photos, cache: PhotoCache, scratch: Path, *, group_by: str | None, workers: int, minimum_labels: int = 2
) -> Iterator[tuple[Snapshot, Dataset]]:
    """Fetches what is new and gives all of it as a dataset, whose files last as long as the block.

    Args:
        photos: where they are.
        cache: what is here already.
        scratch: a folder on the cache's disk for the dataset's own folder.
        group_by: see `load_dataset`.
        workers: photos opened at a time.
        minimum_labels: see `load_dataset`.

    Raises:
        OkkoError: photos cannot be read, or are no dataset; or they change faster than they can be fetched.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    for _ in range(_TRIES):
        snapshot = take_snapshot(photos)
        try:
            digests = cache.fetch(photos, snapshot.listed)
        except ChangedError:
            continue
        with tempfile.TemporaryDirectory(dir=scratch, prefix=f"dataset-{os.getpid()}-") as name:
            folder = Path(name)
            expected = _lay_out(folder, snapshot, digests, cache)
            with speaking_of(photos, folder):
                dataset = _load(folder, group_by, workers, minimum_labels)
                damaged = _damaged(dataset, expected)
                if not damaged:
                    yield snapshot, dataset
                    return
            for digest in damaged:
                cache.forget(digest)
    raise BucketError(f"{photos}: the photos change faster than they can be fetched; try again later")


@contextmanager
def speaking_of(photos: Photos, folder: Path) -> Iterator[None]:
    """Lets messages name the bucket, not a folder that is gone when they are read."""
    try:
        yield
    except OkkoError as error:
        words = str(error).replace(str(folder.resolve()), str(photos)).replace(str(folder), str(photos))
        if words == str(error):
            raise
        raise OkkoError(words) from error


def file_name(key: str) -> Path:
    """Returns a path for a key: the key itself where every disk takes it, and never the same path for two keys.

    Parts that would lead elsewhere, be hidden or be too long are written with percent signs, and so is the percent
    sign. A folder that is called like a photo gets one at its end, so that a photo may have the same name.
    """
    *folders, last = key.split("/")
    parts = [_escaped(part) + ("%" if Path(part).suffix.lower() in _FILES else "") for part in folders]
    return Path(*parts, _escaped(last))


_FILES: Final = PHOTO_SUFFIXES | set(_LIST_SUFFIXES)


def _escaped(part: str) -> str:
    escaped = part.replace("%", "%25").replace("\0", "%00").replace("\\", "%5C")
    if not escaped:
        return "%"
    if escaped.startswith("."):
        escaped = f"%2E{escaped[1:]}"
    if len(escaped.encode("utf-8", "surrogatepass")) > _LONGEST_PART:
        digest = hashlib.sha256(part.encode("utf-8", "surrogatepass")).hexdigest()
        escaped = f"%{digest}{Path(part).suffix[:10]}"
    return escaped


def is_list(key: str) -> bool:
    """Whether a name is a list where `okko_train.listing` looks for one."""
    folder, _, name = key.rpartition("/")
    if not folder:
        return name == "photos.csv" or name.endswith(".lst")
    return name.endswith(".lst") and "/" not in folder and folder.endswith("_lst")


def _lay_out(folder: Path, snapshot: Snapshot, digests: list[str], cache: PhotoCache) -> dict[Path, str]:
    """Links every photo to where its key says; returns which content belongs where."""
    expected = {}
    for listed, digest in zip(snapshot.listed, digests, strict=True):
        path = folder / file_name(listed.key)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(cache.path(digest), path)
        except OSError:  # not every disk knows links
            shutil.copyfile(cache.path(digest), path)
        expected[path.resolve()] = digest
    return expected


def _load(folder: Path, group_by: str | None, workers: int, minimum_labels: int) -> Dataset:
    from okko_train.dataset import load_dataset

    return load_dataset(folder, group_by=group_by, workers=workers, minimum_labels=minimum_labels)


def _damaged(dataset: Dataset, expected: dict[Path, str]) -> set[str]:
    """Digests of photos that are not in the cache as they were fetched."""
    damaged = {expected[photo.path] for photo in dataset.photos if photo.digest != expected[photo.path]}
    unreadable = {skipped.name for skipped in dataset.skipped if skipped.kind == "unreadable"}
    for path, digest in expected.items():
        if path.relative_to(dataset.root).as_posix() in unreadable:
            with path.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                    damaged.add(digest)
    return damaged
