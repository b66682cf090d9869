"""Features of photos: computed by onnxruntime, photo by photo as on a device, and remembered.

The cache is keyed by the photo's digest and the model's, so a second training run on the same photos starts at once,
and nothing stale is ever found. A cache that cannot be used costs time and nothing else.
"""

from __future__ import annotations

import contextlib
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from okko_models.classifier import make_session
from okko_models.photo import read_photo
from okko_train.backbone import cache_folder
from okko_train.feature_graph import FEATURES, IMAGE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from okko_train.dataset import Photo


def embed(
    photos: Sequence[Photo],
    model: bytes,
    digest: str,
    *,
    workers: int,
    on_photo: Callable[[], None] = lambda: None,
) -> NDArray[np.float32]:
    """Returns (n_photos, n_features) features of `photos`, in order.

    Args:
        photos: that can be decoded.
        model: a serialised graph from `image` to `features`.
        digest: names the numbers that the model computes.
        workers: photos computed at a time, each on one thread, so that the result does not depend on it.
        on_photo: called once for each photo.
    """
    with _Cache(cache_folder() / "features.sqlite") as cache:
        known = cache.read(digest)
        missing = {photo.digest: photo for photo in photos if photo.digest not in known}
        for _ in range(len(photos) - len(missing)):
            on_photo()
        if missing:
            computed = compute(list(missing.values()), model, FEATURES, workers=workers)
            for photo_digest, features in zip(missing, computed, strict=True):
                known[photo_digest] = features
                cache.write(digest, photo_digest, features)
                on_photo()
    return np.stack([known[photo.digest] for photo in photos])


def compute(photos: Sequence[Photo], model: bytes, output: str, *, workers: int) -> Iterator[NDArray[np.float32]]:
    """Yields the model's `output` for each photo, in order; each of `workers` threads runs one photo at a time."""
    session = make_session(model, threads=1)

    def run(photo: Photo) -> NDArray[np.float32]:
        (values,) = session.run((output,), {IMAGE: read_photo(photo.path)[None]})
        row: NDArray[np.float32] = values[0]
        return row

    with ThreadPoolExecutor(workers) as pool:
        yield from pool.map(run, photos)


class _Cache:
    """An SQLite file of feature vectors; every failure to read or write it counts as not knowing."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None

    def __enter__(self) -> _Cache:
        with contextlib.suppress(sqlite3.Error, OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(self._path, timeout=5)
            self._connection.execute(
                "CREATE TABLE IF NOT EXISTS features (model TEXT, photo TEXT, vector BLOB, PRIMARY KEY (model, photo))"
            )
        return self

    def __exit__(self, *_: object) -> None:
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.commit()
            self._connection.close()

    def read(self, model: str) -> dict[str, NDArray[np.float32]]:
        if self._connection is None:
            return {}
        try:
            rows = self._connection.execute("SELECT photo, vector FROM features WHERE model = ?", (model,)).fetchall()
        except sqlite3.Error:
            return {}
        return {photo: np.frombuffer(vector, np.float32) for photo, vector in rows}

    def write(self, model: str, photo: str, vector: NDArray[np.float32]) -> None:
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute(
                    "INSERT OR REPLACE INTO features VALUES (?, ?, ?)", (model, photo, vector.tobytes())
                )
