"""Training photos that travel in a bundle: small pictures with their embeddings, to be compared with a new photo.

They stand in `examples.npz`, which `numpy.load` opens; a device needs it for nothing. Where a model has learnt from
more photos than the file may hold, those are kept that leave no other one far from all of them (farthest-first
traversal: Gonzalez, 1985, "Clustering to minimize the maximum intercluster distance"). A bundle may come from anywhere,
so what is read is checked before it is believed.
"""

from __future__ import annotations

import io
import math
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from okko_models.bundle import EXAMPLES
from okko_models.errors import BundleError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from okko_models.bundle import Bundle

MOST_BYTES: Final = 2 << 20
"""Of the file that training writes."""
MOST_EXAMPLES: Final = 400
_MOST_READ: Final = 4 * MOST_BYTES
_MOST_COMPARED: Final = 1000
_LARGEST: Final = float(np.finfo(np.float16).max)
_ARRAYS: Final[dict[str, tuple[type[np.generic], int]]] = {
    "embedding": (np.float16, 2),
    "label": (np.uint16, 1),
    "digest": (np.uint8, 2),
    "name": (np.uint8, 1),
    "name_end": (np.uint32, 1),
    "photo": (np.uint8, 1),
    "photo_end": (np.uint32, 1),
    "usual_distance": (np.float32, 1),
    "learnt_from": (np.uint32, 1),
}


@dataclass(frozen=True)
class KeptPhoto:
    """A training photo that was kept.

    Attributes:
        name: in the dataset.
        label: index of its label.
        digest: SHA-256 of the photo's file, hexadecimal.
        jpeg: a small picture of what the model sees of it.
    """

    name: str
    label: int
    digest: str
    jpeg: bytes


@dataclass(frozen=True)
class Neighbour:
    """A kept training photo and how far it is.

    Attributes:
        photo: the training photo.
        distance: between the embeddings, as a multiple of how far training photos usually are from their nearest.
    """

    photo: KeptPhoto
    distance: float


@dataclass(frozen=True)
class Examples:
    """The training photos that were kept.

    Attributes:
        embeddings: (n, embedding_size) float16.
        photos: in the same order.
        usual_distance: median distance of a training photo from its nearest other one.
        learnt_from: number of photos that the model has learnt from.
    """

    embeddings: NDArray[np.float16]
    photos: tuple[KeptPhoto, ...]
    usual_distance: float
    learnt_from: int

    @classmethod
    def of(
        cls, photos: Sequence[KeptPhoto], embeddings: NDArray[np.float32], usual_distance: float, learnt_from: int
    ) -> Examples:
        """Returns the examples with their embeddings (n, embedding_size) as 16-bit numbers."""
        return cls(
            np.clip(embeddings, -_LARGEST, _LARGEST).astype(np.float16), tuple(photos), usual_distance, learnt_from
        )

    def nearest(self, embedding: NDArray[np.float32], number: int = 5) -> tuple[Neighbour, ...]:
        """Returns the photos whose embeddings lie nearest to `embedding` (embedding_size,), nearest first."""
        distances = np.linalg.norm(self.embeddings.astype(np.float32) - embedding, axis=1)
        rows = np.argsort(distances, kind="stable")[:number]
        return tuple(Neighbour(self.photos[row], float(distances[row]) / self.usual_distance) for row in rows)

    def encode(self) -> bytes:
        """Returns the content of the file, with as many photos, from the first on, as `MOST_BYTES` allow."""
        each = [len(photo.jpeg) + len(photo.name.encode("utf-8", "replace")) + 42 for photo in self.photos]
        sizes = np.cumsum(np.array(each) + 2 * self.embeddings.shape[1])
        kept = max(1, int((sizes < MOST_BYTES - 4096).sum()))
        photos = self.photos[:kept]
        names = [photo.name.encode("utf-8", "replace") for photo in photos]
        arrays = {
            "embedding": self.embeddings[:kept],
            "label": np.array([photo.label for photo in photos]),
            "digest": np.array([list(bytes.fromhex(photo.digest)) for photo in photos]),
            "name": np.frombuffer(b"".join(names), np.uint8),
            "name_end": np.cumsum([len(name) for name in names]),
            "photo": np.frombuffer(b"".join(photo.jpeg for photo in photos), np.uint8),
            "photo_end": np.cumsum([len(photo.jpeg) for photo in photos]),
            "usual_distance": np.array([self.usual_distance]),
            "learnt_from": np.array([self.learnt_from]),
        }
        buffer = io.BytesIO()
        typed: dict[str, Any] = {name: np.asarray(arrays[name], kind) for name, (kind, _) in _ARRAYS.items()}
        np.savez(buffer, **typed)
        return buffer.getvalue()


def read_examples(bundle: Bundle) -> Examples | None:
    """Returns the examples of a bundle, None if it has none.

    Raises:
        BundleError: the file is not what `Examples.encode` writes, or does not fit the rest of the bundle.
    """
    if EXAMPLES not in bundle.manifest.files:
        return None
    data = bundle.read(EXAMPLES)
    try:
        if len(data) > _MOST_READ:
            raise ValueError(f"it has {len(data)} bytes, at most {_MOST_READ} are read")
        return _decode(data, len(bundle.manifest.labels), bundle.manifest.model.embedding_size)
    except (ValueError, KeyError, EOFError, OverflowError, zipfile.BadZipFile, NotImplementedError) as error:
        raise BundleError(
            f"{bundle.path / EXAMPLES} does not hold training photos as okko writes them ({error}); train it again"
        ) from error


def _decode(data: bytes, n_labels: int, embedding_size: int) -> Examples:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        arrays = {name: _array(archive, name, kind, n_axes) for name, (kind, n_axes) in _ARRAYS.items()}
    n = len(arrays["embedding"])
    if any(len(arrays[name]) != n for name in ("label", "digest", "name_end", "photo_end")) or n == 0:
        raise ValueError("its arrays do not have one row a photo")
    if arrays["embedding"].shape[1] != embedding_size or not np.isfinite(arrays["embedding"]).all():
        raise ValueError(f"its embeddings are not {embedding_size} numbers each, as the manifest says")
    if arrays["digest"].shape[1] != 32 or arrays["label"].max() >= n_labels:
        raise ValueError("it has labels that the manifest does not name, or digests that are none")
    usual, learnt_from = arrays["usual_distance"].tolist(), arrays["learnt_from"].tolist()
    if len(usual) != 1 or len(learnt_from) != 1 or not (math.isfinite(usual[0]) and usual[0] > 0):
        raise ValueError("it does not say how far training photos are from each other")
    names, photos = (_cut(arrays[part], arrays[f"{part}_end"]) for part in ("name", "photo"))
    examples = tuple(
        KeptPhoto(printable(name.decode("utf-8", "replace")), label, bytes(digest).hex(), jpeg)
        for name, label, digest, jpeg in zip(
            names, arrays["label"].tolist(), arrays["digest"].tolist(), photos, strict=True
        )
    )
    return Examples(arrays["embedding"], examples, usual[0], learnt_from[0])


def _array(archive: zipfile.ZipFile, name: str, kind: type[np.generic], n_axes: int) -> NDArray[Any]:
    """One array, without believing its header: nothing is unpacked, and nothing larger than the file is made."""
    entry = archive.getinfo(f"{name}.npy")
    if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > _MOST_READ:
        raise ValueError(f"its array {name} is compressed or too large")
    stream = io.BytesIO(archive.read(entry))
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError(f"its array {name} is of an unknown version")
    shape, by_column, found = np.lib.format.read_array_header_1_0(stream)
    if found != np.dtype(kind) or len(shape) != n_axes or by_column or min(shape) < 0:
        raise ValueError(f"its array {name} has the shape {shape} and the type {found}")
    return np.frombuffer(stream.getvalue(), found, offset=stream.tell()).reshape(shape)


def _cut(joined: NDArray[np.uint8], ends: NDArray[np.uint32]) -> list[bytes]:
    if (np.diff(ends.astype(np.int64), prepend=0) < 0).any() or ends[-1] != len(joined):
        raise ValueError("its names or photos end beyond their end")
    starts = [0, *ends[:-1].tolist()]
    return [joined[start:end].tobytes() for start, end in zip(starts, ends.tolist(), strict=True)]


def printable(text: str) -> str:
    """Returns `text` without what a terminal would obey, and no longer than a line."""
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text[:300])


def choose_examples(embeddings: NDArray[np.float32], most: int = MOST_EXAMPLES) -> list[int]:
    """Returns at most `most` rows, so that no row of `embeddings` (n, embedding_size) is far from all of them.

    The first is the one nearest to the mean; each next one is the one farthest from those before it.
    """
    if len(embeddings) == 0:
        return []
    rows = [int(np.linalg.norm(embeddings - embeddings.mean(axis=0), axis=1).argmin())]
    distance = np.linalg.norm(embeddings - embeddings[rows[0]], axis=1)
    while len(rows) < min(most, len(embeddings)):
        distance[rows[-1]] = -1
        rows.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(embeddings - embeddings[rows[-1]], axis=1))
    return rows


def usual_distance(embeddings: NDArray[np.float32]) -> float:
    """Returns the median distance of a row of `embeddings` (n, embedding_size) from its nearest other one."""
    squares = (embeddings**2).sum(axis=1)
    nearest = []
    for row in range(0, len(embeddings), -(-len(embeddings) // _MOST_COMPARED)):
        away = squares + squares[row] - 2 * embeddings @ embeddings[row]
        away[row] = np.inf
        nearest.append(math.sqrt(max(0.0, float(away.min()))))
    usual = float(np.median(nearest)) if len(embeddings) > 1 else 1.0
    # Where most photos are there twice, a distance is no multiple of anything.
    return usual if usual > 1e-6 else 1.0
