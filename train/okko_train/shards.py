"""One shard of a large set: a few hundred photos, opened once, computed, and kept under a name that says what they are.

This is what a worker does, wherever it runs; `okko_train.engine` says which shards there are. A finished shard is a
file named by the numbers it holds and the photos they are of, so whoever finds it need not compute it, and two workers
that compute the same one write the same file. What was damaged in the store is noticed by its digest and made again.
"""

from __future__ import annotations

import functools
import hashlib
import io
import threading
import zipfile
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

import numpy as np

from okko_models.classifier import make_session
from okko_models.errors import OkkoError
from okko_models.photo import PhotoError, decode_photo, shrink
from okko_models.registry.store import open_store
from okko_train.augment import Augmentation
from okko_train.duplicates import THUMBNAIL_SIDE, thumbnail

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    import onnxruntime
    from numpy.typing import NDArray

    from okko_models.registry.store import Store

_A = TypeVar("_A")
_B = TypeVar("_B")

LONGEST_ALTERED_SIDE: Final = 640
"""A photo is altered at no more than this size: beyond it the backbone sees no difference, and noise takes long."""

_READ_AHEAD: Final = 8
"""Photos fetched while others are computed; as many are in memory."""
_DIGEST_BYTES: Final = 32
_IMAGE: Final = "image"
_LOOK_BUILD: Final = "look build 1"
_SESSIONS = threading.Lock()

Part = dict[str, "NDArray[Any]"]
"""The content of a finished shard: arrays of one row a photo; `identity` (n, 32) uint8 says which photos."""


class Reader(Protocol):
    """Brings the bytes of photos; it travels to the workers."""

    def identify(self, path: Any) -> bytes:
        """Returns 32 bytes that change with the photo at `path` (as a dataset has it), without reading the photo."""

    def address(self, path: Any) -> Any:
        """Returns what `read` needs to know of the photo at `path`."""

    def read(self, address: Any) -> bytes:
        """Returns a photo's file.

        Raises:
            OkkoError: it cannot be read.
        """


@dataclass(frozen=True)
class StoreAt:
    """Where finished shards are kept: a folder that all workers see, or `s3://bucket/prefix`."""

    location: str
    endpoint_url: str = ""

    def open(self) -> Store:
        """Returns the store; one a process."""
        return _opened(self)


@functools.lru_cache(maxsize=4)
def _opened(at: StoreAt) -> Store:
    return open_store(at.location, endpoint_url=at.endpoint_url)


@dataclass(frozen=True)
class Pass:
    """One way to compute photos.

    Attributes:
        digest: names the numbers that the model computes.
        copy: number of the altered copy; None for the photo as it is.
    """

    digest: str
    copy: int | None = None

    @property
    def key(self) -> str:
        """Names the numbers that come out."""
        return self.digest if self.copy is None else f"{self.digest} {Augmentation(self.copy).digest}"

    @property
    def folder(self) -> str:
        """Where its shards are in the store."""
        return folder_of(self.key)


@dataclass(frozen=True)
class Task:
    """A shard to compute.

    Attributes:
        photos: digest and address of each photo, and the numbers of the passes that it lacks.
        passes: the ways to compute.
        model: name of the graph in the store.
        outputs: of the graph, put one after the other in a row.
        reader: brings the photos.
        store: keeps what is finished.
    """

    photos: tuple[tuple[str, Any, tuple[int, ...]], ...]
    passes: tuple[Pass, ...]
    model: str
    outputs: tuple[str, ...]
    reader: Reader
    store: StoreAt


@dataclass(frozen=True)
class Made:
    """What a worker says when a shard is finished.

    Attributes:
        parts: number of the pass and name in the store of each part.
        computed: rows that were computed now; the others were there.
    """

    parts: tuple[tuple[int, str], ...]
    computed: int


def compute_shard(task: Task) -> Made:
    """Computes a shard and stores it, one part a pass; what is stored already is not computed again.

    Raises:
        OkkoError: photos or the store cannot be read or written, or a photo is not the one it was.
    """
    store = task.store.open()
    wanted: dict[int, list[str]] = {}
    for digest, _, lacks in task.photos:
        for number in lacks:
            wanted.setdefault(number, []).append(digest)
    names = {number: part_name(task.passes[number].folder, digests) for number, digests in wanted.items()}
    to_do = {number for number, name in names.items() if load_part(store, name) is None}
    if not to_do:
        return Made(tuple(names.items()), 0)
    session = _session(task.store, task.model)
    rows: dict[int, list[NDArray[np.float32]]] = {number: [] for number in to_do}
    photos = [photo for photo in task.photos if to_do & set(photo[2])]
    for (digest, address, lacks), data in _ahead(lambda photo: task.reader.read(photo[1]), photos):
        if hashlib.sha256(data).hexdigest() != digest:
            raise OkkoError(f"{address}: the photo is another one than when training began; start again")
        image = decode_photo(data, name=str(address)).pixels
        for number in sorted(to_do & set(lacks)):
            copy = task.passes[number].copy
            shown = image if copy is None else Augmentation(copy)(shrink(image, LONGEST_ALTERED_SIDE), digest)
            values = session.run(task.outputs, {_IMAGE: shown[None]})
            rows[number].append(np.concatenate([np.ravel(value[0]) for value in values]).astype(np.float32))
    for number in sorted(to_do):
        identity = np.stack([np.frombuffer(bytes.fromhex(digest), np.uint8) for digest in wanted[number]])
        store.put_new(names[number], encode_part({"identity": identity, "rows": np.stack(rows[number])}))
    return Made(tuple(names.items()), sum(map(len, rows.values())))


LOOKS: Final = hashlib.sha256(_LOOK_BUILD.encode()).hexdigest()[:32]
"""Where in the store the findings of `look_at_shard` are."""


@dataclass(frozen=True)
class LookTask:
    """Photos to be opened for the first time: identity and address of each one; and as in `Task`."""

    photos: tuple[tuple[bytes, Any], ...]
    reader: Reader
    store: StoreAt


def look_at_shard(task: LookTask) -> Made:
    """Opens photos, and stores what `look_at` says of each one.

    Raises:
        OkkoError: the bucket or the store cannot be read or written.
    """
    store = task.store.open()
    name = part_name(LOOKS, [identity.hex() for identity, _ in task.photos])
    if load_part(store, name) is not None:
        return Made(((0, name),), 0)

    def read(photo: tuple[bytes, Any]) -> bytes | Look:
        try:
            return task.reader.read(photo[1])
        except PhotoError as error:  # this file alone; what ails a whole bucket is another error
            return Look(problem=str(error).removeprefix(f"{photo[1]}: "))

    looks = [data if isinstance(data, Look) else look_at(data) for _, data in _ahead(read, task.photos)]
    identity = np.stack([np.frombuffer(identity, np.uint8) for identity, _ in task.photos])
    store.put_new(name, encode_part({"identity": identity, **_columns(looks)}))
    return Made(((0, name),), len(looks))


@dataclass(frozen=True)
class Look:
    """What opening a photo told: `problem` says why it cannot be used, "" when it can."""

    problem: str = ""
    digest: str = ""
    pixel_digest: str = ""
    width: int = 0
    height: int = 0
    thumbnail: NDArray[np.uint8] | None = None


def look_at(data: bytes, *, decode: bool = True) -> Look:
    """Opens a photo's file."""
    digest = hashlib.sha256(data).hexdigest()
    if not decode:
        return Look(digest=digest)
    try:
        decoded = decode_photo(data, name=_NAMELESS)
    except PhotoError as error:
        return Look(problem=str(error).removeprefix(f"{_NAMELESS}: "))
    pixels = decoded.pixels
    pixel_digest = hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()
    return Look("", digest, pixel_digest, decoded.width, decoded.height, thumbnail(pixels))


_NAMELESS: Final = "photo"


def _columns(looks: Sequence[Look]) -> Part:
    nothing = "00" * _DIGEST_BYTES
    blank = np.zeros((THUMBNAIL_SIDE, THUMBNAIL_SIDE, 3), np.uint8)
    return {
        "problem": np.array([look.problem for look in looks], np.str_),
        "digest": _as_bytes([look.digest or nothing for look in looks]),
        "pixel_digest": _as_bytes([look.pixel_digest or nothing for look in looks]),
        "size": np.array([(look.width, look.height) for look in looks], np.int64),
        "thumbnail": np.stack([blank if look.thumbnail is None else look.thumbnail for look in looks]),
    }


def looks_in(part: Part) -> Iterator[tuple[bytes, Look]]:
    """Yields identity and look of each photo of a part that `look_at_shard` stored."""
    for row, identity in enumerate(part["identity"]):
        problem = str(part["problem"][row])
        if problem:
            yield bytes(identity), Look(problem=problem)
            continue
        width, height = part["size"][row].tolist()
        digest, pixel_digest = (bytes(part[name][row]).hex() for name in ("digest", "pixel_digest"))
        yield bytes(identity), Look("", digest, pixel_digest, width, height, part["thumbnail"][row])


# --- parts ---


def folder_of(key: str) -> str:
    """Returns where shards of numbers called `key` are in the store."""
    return hashlib.sha256(key.encode()).hexdigest()[:32]


def part_name(folder: str, digests: Iterable[str]) -> str:
    """Returns the name of the part that holds just these photos."""
    return f"{folder}/{hashlib.sha256(''.join(sorted(digests)).encode()).hexdigest()[:40]}.npz"


def encode_part(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Returns a part as a file that `numpy.load` opens, with a digest of its content."""
    buffer = io.BytesIO()
    kept: dict[str, Any] = {**arrays, "check": np.frombuffer(_check(arrays), np.uint8)}
    np.savez(buffer, **kept)
    return buffer.getvalue()


def decode_part(data: bytes) -> Part:
    """Returns what `encode_part` was given.

    Raises:
        ValueError: the file is damaged, or none.
    """
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            arrays: Part = dict(archive)
    except (OSError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise ValueError(f"no part: {error}") from error
    check = arrays.pop("check", None)
    if check is None or bytes(check) != _check(arrays):
        raise ValueError("its content is not what its digest says")
    return arrays


def load_part(store: Store, name: str) -> Part | None:
    """Returns a part, None if it is not there; a damaged one is removed and counts as not there.

    Raises:
        OkkoError: the store cannot be read.
    """
    found = store.get(name)
    if found is None:
        return None
    try:
        return decode_part(found.data)
    except ValueError:
        store.delete(name)
        return None


def _check(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    seen = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        seen.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        seen.update(array.view(np.uint8).reshape(-1).data)
    return seen.digest()


def _as_bytes(digests: Sequence[str]) -> NDArray[np.uint8]:
    return np.frombuffer(bytes.fromhex("".join(digests)), np.uint8).reshape(-1, _DIGEST_BYTES)


def _session(store: StoreAt, model: str) -> onnxruntime.InferenceSession:
    # Threads of one worker share a session, and none is made twice.
    with _SESSIONS:
        return _made_session(store, model)


@functools.lru_cache(maxsize=2)
def _made_session(store: StoreAt, model: str) -> onnxruntime.InferenceSession:
    found = store.open().get(model)
    if found is None:
        raise OkkoError(
            f"{store.location} has no {model}, which was put there a moment ago; do all workers see the same place? "
            "Name one that they do with --shards"
        )
    if hashlib.sha256(found.data).hexdigest() not in model:
        raise OkkoError(
            f"{store.location}/{model} is not what its name says; remove it, and it will be put there again"
        )
    return make_session(found.data, threads=1)


def _ahead(read: Callable[[_A], _B], items: Iterable[_A]) -> Iterator[tuple[_A, _B]]:
    """Yields each item with what was read of it, in order; a few are read while others are worked on."""
    with ThreadPoolExecutor(_READ_AHEAD) as pool:
        waiting: deque[tuple[_A, Future[_B]]] = deque()
        for item in items:
            waiting.append((item, pool.submit(read, item)))
            if len(waiting) > _READ_AHEAD:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()
