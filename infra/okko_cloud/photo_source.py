"""Photos to learn from that are in a bucket: a dataset of what is at `s3://bucket/prefix`, for `okko train`.

On one machine the photos are fetched into a cache that later runs find again. With a crew of workers elsewhere nothing
is kept here: names decide what there is to learn from, and every worker streams its photos from the bucket; only the
few that this machine itself must see are read, each when it is opened. Finished work is kept beside the photos, in a
folder whose name begins with a dot, which is nobody's label and which starts no training.
"""

from __future__ import annotations

import functools
import hashlib
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PosixPath
from typing import TYPE_CHECKING, Final

from okko_cloud.bucket import BucketError, BucketPhotos, ChangedError, Listed, PhotoCache
from okko_cloud.labelling.layout import OWN
from okko_cloud.place import Place
from okko_cloud.snapshot import as_dataset, file_name, is_list, speaking_of, take_snapshot
from okko_train.backbone import cache_folder
from okko_train.dataset import load_dataset
from okko_train.engine import Engine
from okko_train.listing import list_files, list_photos
from okko_train.shards import StoreAt

if TYPE_CHECKING:
    from collections.abc import Iterator

    from okko_train.dataset import Dataset
    from okko_train.engine import Crew
    from okko_train.listing import Listing

SHARDS: Final = f"{OWN}/shards"
_TRIES: Final = 3


@dataclass(frozen=True)
class BucketReader:
    """Reads photos of a bucket, in whatever process; credentials are found as boto3 finds them there.

    Attributes:
        place: the bucket, what keys begin with, and which S3.
    """

    place: Place

    def identify(self, path: BucketPath) -> bytes:
        """Returns a digest of key, tag and size."""
        listed = path.listed
        text = f"{listed.key!r} {listed.etag} {listed.size}"
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()

    def address(self, path: BucketPath) -> Listed:
        """Returns the object."""
        return path.listed

    def read(self, address: Listed) -> bytes:
        """Returns a photo's file."""
        return _photos(self.place).read(address)


@functools.lru_cache(maxsize=4)
def _photos(place: Place) -> BucketPhotos:
    return BucketPhotos(place, prefix=place.prefix)


class BucketPath(PosixPath):
    """Where a photo would lie if it were here; its bytes come from the bucket whenever they are read."""

    reader: BucketReader
    listed: Listed

    @classmethod
    def of(cls, path: Path, reader: BucketReader, listed: Listed) -> BucketPath:
        """Returns the path of an object."""
        made = cls(path)
        made.reader, made.listed = reader, listed
        return made

    def read_bytes(self) -> bytes:
        """Returns the object's content.

        Raises:
            OkkoError: it cannot be read.
        """
        return self.reader.read(self.listed)


@contextmanager
def bucket_dataset(
    location: str,
    *,
    endpoint_url: str = "",
    group_by: str | None = None,
    workers: int,
    minimum_labels: int = 2,
    crew: Crew | None = None,
    shards: str = "",
) -> Iterator[Dataset]:
    """Yields what is at `s3://bucket/prefix`, laid out as a local folder would be.

    Args:
        location: where.
        endpoint_url: another S3 than Amazon's; empty: what boto3 finds in environment and files, or Amazon's.
        group_by: see `load_dataset`.
        workers: photos opened at a time on this machine.
        minimum_labels: see `load_dataset`.
        crew: who computes; None: this machine.
        shards: where the crew keeps what is finished; empty: beside the photos.

    Raises:
        OkkoError: there is no such bucket, it cannot be read, or what is there is no dataset.
    """
    place = Place.parse(location, endpoint_url)
    photos = BucketPhotos(place, prefix=place.prefix)
    with _naming(place):
        if crew is None:
            cache = PhotoCache(cache_folder() / "photos")
            try:
                with as_dataset(
                    photos,
                    cache,
                    cache_folder() / "work",
                    group_by=group_by,
                    workers=workers,
                    minimum_labels=minimum_labels,
                ) as (_, dataset):
                    yield dataset
            finally:
                cache.close()
            return
        store = StoreAt(shards or f"s3://{place.bucket}/{place.prefix}{SHARDS}", endpoint_url)
        reader = BucketReader(place)
        engine = Engine(reader, store, crew)
        with tempfile.TemporaryDirectory(prefix="okko-names-") as name, speaking_of(photos, Path(name)):
            listing = _listing(photos, reader, Path(name))
            yield load_dataset(
                listing, group_by=group_by, workers=workers, minimum_labels=minimum_labels, engine=engine
            )


@contextmanager
def bucket_file(location: str, endpoint_url: str = "") -> Iterator[Path]:
    """Yields the object at `s3://bucket/key` as a file on this disk, which lasts as long as the block.

    Raises:
        OkkoError: there is no such object, or it cannot be read.
    """
    place = Place.parse(location, endpoint_url)
    folder, _, name = place.prefix.rstrip("/").rpartition("/")
    photos = BucketPhotos(place, prefix=f"{folder}/" if folder else "")
    with _naming(place), tempfile.TemporaryDirectory(prefix="okko-") as here:
        found = next((listed for listed in photos.list(name) if listed.key == name), None)
        if found is None:
            raise BucketError(f"{photos}{name}: there is no such object; check the name (upper and lower case matter)")
        path = Path(here) / file_name(name)
        photos.download(found, path)
        with speaking_of(photos, Path(here)):
            yield path


def _listing(photos: BucketPhotos, reader: BucketReader, folder: Path) -> Listing:
    """What the names at the place say; where a list says it, names are written down as empty files beside the list."""
    root = folder.resolve()
    for _ in range(_TRIES):
        paths = {root / file_name(listed.key): listed for listed in take_snapshot(photos).listed}
        lists = {path for path, listed in paths.items() if is_list(listed.key)}
        if not lists:
            return list_files(root, ((BucketPath.of(path, reader, listed), "") for path, listed in paths.items()))
        try:
            for path, listed in paths.items():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(photos.read(listed) if path in lists else b"")
        except ChangedError:
            continue
        found = list_photos(root)
        there = tuple(
            replace(photo, path=BucketPath.of(photo.path, reader, paths[photo.path])) for photo in found.photos
        )
        return replace(found, photos=there)
    raise BucketError(f"{photos}: its lists change faster than they can be read; try again later")


@contextmanager
def _naming(place: Place) -> Iterator[None]:
    """Says which bucket is missing, where and how to go on."""
    try:
        yield
    except BucketError as error:
        if "NoSuchBucket" not in str(error):
            raise
        where = f" at {place.endpoint_url}" if place.endpoint_url else ""
        raise BucketError(
            f"there is no bucket {place.bucket}{where}; check its name, and --endpoint-url if it is not Amazon's"
        ) from error
