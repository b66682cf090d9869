"""Features of photos: computed by onnxruntime, photo by photo as on a device, and remembered.

The cache is keyed by the photo's digest and the model's, so a second training run on the same photos starts at once,
and nothing stale is ever found. A cache that cannot be used costs time and nothing else. Large sets are
`okko_train.engine`'s matter, which keeps features in shards instead.
"""

from __future__ import annotations

import contextlib
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from okko_models.classifier import make_session
from okko_models.photo import read_photo, shrink
from okko_train.backbone import cache_folder
from okko_train.feature_graph import FEATURES, IMAGE
from okko_train.shards import LONGEST_ALTERED_SIDE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from okko_train.augment import Augmentation
    from okko_train.dataset import Photo

_ASKED_AT_A_TIME = 500
_WRITTEN_AT_A_TIME = 256


def embed(
    photos: Sequence[Photo],
    model: bytes,
    digest: str,
    *,
    workers: int,
    output: str = FEATURES,
    augmentation: Augmentation | None = None,
    on_photo: Callable[[], None] = lambda: None,
) -> NDArray[np.float32]:
    """Returns (n_photos, n_features) features of `photos`, in order.

    Args:
        photos: that can be decoded.
        model: a serialised graph from `image` to `output`.
        digest: names the numbers that the model computes.
        workers: photos computed at a time, each on one thread, so that the result does not depend on it.
        output: name of the graph's output that is wanted.
        augmentation: what to do to each photo first.
        on_photo: called once for each photo.
    """
    key = digest if augmentation is None else f"{digest} {augmentation.digest}"
    with _Cache() as cache:
        known = cache.read(key, [photo.digest for photo in photos])
        missing = {photo.digest: photo for photo in photos if photo.digest not in known}
        for _ in range(len(photos) - len(missing)):
            on_photo()
        if missing:
            rows = compute(list(missing.values()), model, (output,), workers=workers, augmentation=augmentation)
            for photo_digest, (features,) in zip(missing, rows, strict=True):
                known[photo_digest] = features
                cache.write(key, photo_digest, features)
                on_photo()
    return np.stack([known[photo.digest] for photo in photos])


def compute(
    photos: Sequence[Photo],
    model: bytes,
    outputs: Sequence[str],
    *,
    workers: int,
    augmentation: Augmentation | None = None,
) -> Iterator[list[NDArray[np.float32]]]:
    """Yields the model's `outputs` for each photo, in order; each of `workers` threads runs one photo at a time."""
    session = make_session(model, threads=1)

    def run(photo: Photo) -> list[NDArray[np.float32]]:
        image = read_photo(photo.path)
        if augmentation is not None:
            image = augmentation(shrink(image, LONGEST_ALTERED_SIDE), photo.digest)
        values: list[NDArray[np.float32]] = session.run(outputs, {IMAGE: image[None]})
        return [value[0] for value in values]

    with ThreadPoolExecutor(workers) as pool:
        yield from pool.map(run, photos)


def remembered(kind: str, key: str, find: Callable[[], NDArray[np.float32]]) -> NDArray[np.float32]:
    """Returns what `find` found earlier under the same `kind` and `key`, or lets it find it now and remembers it."""
    with _Cache() as cache:
        known = cache.read(kind, [key])
        if key not in known:
            known[key] = find()
            cache.write(kind, key, known[key])
        return known[key]


class _Cache:
    """An SQLite file of vectors; every failure to read or write it counts as not knowing."""

    def __init__(self) -> None:
        self._path = cache_folder() / "features.sqlite"
        self._connection: sqlite3.Connection | None = None
        self._written = 0

    def __enter__(self) -> _Cache:
        with contextlib.suppress(sqlite3.Error, OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(self._path, timeout=5)
            self._execute(
                "CREATE TABLE IF NOT EXISTS features (model TEXT, photo TEXT, vector BLOB, PRIMARY KEY (model, photo))"
            )
        return self

    def __exit__(self, *_: object) -> None:
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.commit()
            self._connection.close()

    def read(self, model: str, photos: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        known: dict[str, NDArray[np.float32]] = {}
        for start in range(0, len(photos), _ASKED_AT_A_TIME):
            asked = photos[start : start + _ASKED_AT_A_TIME]
            places = ", ".join("?" * len(asked))
            statement = f"SELECT photo, vector FROM features WHERE model = ? AND photo IN ({places})"  # noqa: S608 (marks)
            known |= {
                photo: np.frombuffer(vector, np.float32) for photo, vector in self._execute(statement, model, *asked)
            }
        return known

    def write(self, model: str, photo: str, vector: NDArray[np.float32]) -> None:
        self._execute("INSERT OR REPLACE INTO features VALUES (?, ?, ?)", model, photo, vector.tobytes())
        self._written += 1
        # What is killed has then lost little, and others wait little for their turn to write.
        if self._written % _WRITTEN_AT_A_TIME == 0 and self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.commit()

    def _execute(self, statement: str, *values: object) -> list[Any]:
        if self._connection is None:
            return []
        try:
            return self._connection.execute(statement, values).fetchall()
        except sqlite3.Error:
            return []
