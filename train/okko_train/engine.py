"""Computing on the photos of a large set: divided into shards, done by a crew, kept so that nothing is done twice.

A crew is this machine's threads or a Dask cluster. What is computed depends on a photo and on nothing else, so it does
not matter who did it, in which order, or in how many tries: the numbers are those of one machine. In memory there is
never more than a few shards; arrays that are large lie on the disk.
"""

from __future__ import annotations

import hashlib
import mmap
import tempfile
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

import numpy as np

from okko_models.errors import OkkoError
from okko_models.photo import read_bytes
from okko_train.backbone import cache_folder
from okko_train.shards import (
    LOOKS,
    LookTask,
    Made,
    Pass,
    StoreAt,
    Task,
    compute_shard,
    load_part,
    look_at_shard,
    looks_in,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from numpy.typing import DTypeLike, NDArray

    from okko_train.dataset import Photo
    from okko_train.shards import Look, Reader

_A = TypeVar("_A")
_B = TypeVar("_B")
_Number = TypeVar("_Number", bound=np.generic)

MANY: Final = 6_000
"""A set of more photos is worked on in shards, on one machine too."""

_MOST_IN_A_SHARD: Final = 512
_FEWEST_IN_A_SHARD: Final = 8
_SHARDS_A_WORKER: Final = 4
"""At least so many, where that gives shards of a sensible size: the last ones to end keep few workers waiting."""
_WAITING_A_WORKER: Final = 3
_MOST_BYTES_IN_MEMORY: Final = 128 << 20


class Pool(Protocol):
    """Takes tasks; `concurrent.futures.Executor` is one."""

    def submit(self, work: Callable[..., _B], /, *arguments: Any) -> Future[_B]: ...  # noqa: D102


class Crew(Protocol):
    """Who computes."""

    @property
    def size(self) -> int:
        """How many tasks are worked on at a time."""

    @property
    def elsewhere(self) -> bool:
        """Whether its workers are other processes, perhaps on other machines."""

    def pool(self) -> AbstractContextManager[Pool]:
        """Returns a pool for one piece of work; errors of the crew itself leave the block as OkkoErrors."""


@dataclass(frozen=True)
class Threads:
    """A crew of this process's threads."""

    size: int
    elsewhere: bool = False

    def pool(self) -> AbstractContextManager[Pool]:
        """Returns a pool of threads."""
        return ThreadPoolExecutor(self.size)


@dataclass(frozen=True)
class FolderReader:
    """Reads photos of a folder that every worker sees at the same path."""

    def identify(self, path: Path) -> bytes:
        """Returns a digest of what the file system says of the file: number, size and time of change, not its name."""
        try:
            status = path.stat()
        except OSError:
            text = f"{path} is not there"
        else:
            text = f"{status.st_dev} {status.st_ino} {status.st_size} {status.st_mtime_ns}"
        return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()

    def address(self, path: Path) -> Path:
        """Returns the path."""
        return path

    def read(self, address: Path) -> bytes:
        """Returns a photo's file."""
        return read_bytes(address, name=str(address))


@dataclass(frozen=True, eq=False)
class Wanted:
    """Rows to be computed.

    Attributes:
        by: how.
        photos: of which photos.
        rows: (n_photos,) where they go in the result.
        n_rows: of the result.
    """

    by: Pass
    photos: Sequence[Photo]
    rows: NDArray[np.int64]
    n_rows: int

    @classmethod
    def all_of(cls, by: Pass, photos: Sequence[Photo]) -> Wanted:
        """Wants all photos, in order."""
        return cls(by, photos, np.arange(len(photos)), len(photos))


@dataclass(frozen=True)
class Engine:
    """Computes on photos, shard by shard.

    Attributes:
        reader: brings the photos.
        store: keeps what is finished.
        crew: computes.
    """

    reader: Reader
    store: StoreAt
    crew: Crew

    def vectors(
        self,
        wanted: Sequence[Wanted],
        model: bytes,
        outputs: Sequence[str],
        on_photo: Callable[[], None] = lambda: None,
    ) -> list[NDArray[np.float32]]:
        """Returns an array (n_rows, n_numbers) for each of `wanted`; rows that nobody wants are 0.

        Args:
            wanted: which photos, and how.
            model: a serialised graph.
            outputs: of the graph; each one's numbers follow those of the one before.
            on_photo: called for each row that is there.

        Raises:
            OkkoError: a photo changed meanwhile, photos or the store fail, or the crew does.
        """
        store = self.store.open()
        filling = [_Filling(each, on_photo) for each in wanted]
        for each in filling:
            for name in store.list(f"{each.wanted.by.folder}/"):
                each.take(store, name)
        lacking: dict[str, tuple[Any, list[int]]] = {}
        for number, each in enumerate(filling):
            for photo in each.lacking():
                if photo.digest not in lacking:
                    lacking[photo.digest] = (self.reader.address(photo.path), [])
                lacking[photo.digest][1].append(number)
        if lacking:
            name = f"models/{hashlib.sha256(model).hexdigest()}.onnx"
            store.put_new(name, model)
            passes = tuple(each.by for each in wanted)
            items = [(digest, address, tuple(lacks)) for digest, (address, lacks) in sorted(lacking.items())]
            tasks = (
                Task(tuple(some), passes, name, tuple(outputs), self.reader, self.store) for some in self._shards(items)
            )
            for made in run(self.crew, compute_shard, tasks):
                for number, part in made.parts:
                    filling[number].take(store, part)
        return [self._complete(each) for each in filling]

    def look(self, paths: Sequence[Path], on_photo: Callable[[], None] = lambda: None) -> Iterator[tuple[int, Look]]:
        """Yields what opening each photo tells, with its number in `paths`, in any order.

        Raises:
            OkkoError: as for `vectors`.
        """
        store = self.store.open()
        numbers: dict[bytes, list[int]] = {}
        for number, path in enumerate(paths):
            numbers.setdefault(self.reader.identify(path), []).append(number)

        def found(name: str) -> Iterator[tuple[int, Look]]:
            for identity, look in looks_in(load_part(store, name) or {"identity": np.empty((0, 32), np.uint8)}):
                for number in numbers.pop(identity, ()):
                    on_photo()
                    yield number, look

        for name in store.list(f"{LOOKS}/"):
            yield from found(name)
        items = sorted((identity, self.reader.address(paths[each[0]])) for identity, each in numbers.items())
        tasks = (LookTask(tuple(some), self.reader, self.store) for some in self._shards(items))
        for made in run(self.crew, look_at_shard, tasks):
            for _, name in made.parts:
                yield from found(name)
        if numbers:
            raise self._unseen(len(numbers))

    def _shards(self, items: Sequence[_A]) -> Iterator[Sequence[_A]]:
        size = -(-len(items) // (_SHARDS_A_WORKER * self.crew.size))
        size = min(max(size, _FEWEST_IN_A_SHARD), _MOST_IN_A_SHARD)
        for start in range(0, len(items), size):
            yield items[start : start + size]

    def _complete(self, filling: _Filling) -> NDArray[np.float32]:
        if lacking := len(filling.lacking()):
            raise self._unseen(lacking)
        return np.zeros((filling.wanted.n_rows, 0), np.float32) if filling.array is None else filling.array

    def _unseen(self, lacking: int) -> OkkoError:
        return OkkoError(
            f"workers said they had finished, but {lacking} photos are missing in {self.store.location}; it must be "
            "one place that this machine and all workers see: name it with --shards"
        )


def here(workers: int) -> Engine:
    """Returns an engine of this process's threads, which keeps finished shards in okko's cache."""
    return Engine(FolderReader(), StoreAt(str(cache_folder() / "shards")), Threads(workers))


def run(crew: Crew, work: Callable[[_A], Made], tasks: Iterable[_A]) -> Iterator[Made]:
    """Yields what comes of each task as it ends; few tasks are given out at a time, however many there are.

    Raises:
        OkkoError: a task raised it, or the crew failed.
    """
    with crew.pool() as pool:
        running: set[Future[Made]] = set()
        try:
            for task in tasks:
                running.add(pool.submit(work, task))
                if len(running) >= _WAITING_A_WORKER * crew.size:
                    ended, running = wait(running, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in ended)
            while running:
                ended, running = wait(running, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in ended)
        finally:
            for future in running:
                future.cancel()


def empty(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """Returns an array of zeros: in memory, or on the disk (in okko's cache, without a name) if it is large.

    Raises:
        OkkoError: there is no room on the disk.
    """
    if int(np.prod(shape)) * np.dtype(dtype).itemsize <= _MOST_BYTES_IN_MEMORY:
        return np.zeros(shape, dtype)
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            return np.memmap(file, dtype, "w+", shape=shape)
    except OSError as error:
        raise OkkoError(
            f"{folder} has no room for {shape} numbers ({error.strerror or error}); name another folder with the "
            "environment variable OKKO_CACHE"
        ) from error


def some_rows(array: NDArray[_Number], rows: NDArray[np.int64]) -> NDArray[_Number]:
    """Returns a copy of some rows of an array that may lie on the disk, and keeps nothing else of it in memory."""
    found = np.array(array[rows])
    release(array)
    return found


def release(array: NDArray[Any]) -> None:
    """Lets go of the memory in which parts of an array on the disk are kept; its content stays."""
    if isinstance(array, np.memmap) and array._mmap is not None and hasattr(mmap, "MADV_DONTNEED"):  # type: ignore[attr-defined]
        array._mmap.madvise(mmap.MADV_DONTNEED)  # type: ignore[attr-defined]  # numpy offers no other way


@dataclass
class _Filling:
    """A result that is being filled from parts."""

    wanted: Wanted
    on_photo: Callable[[], None]
    array: NDArray[np.float32] | None = None
    places: dict[bytes, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rows = self.wanted.rows.tolist()
        self.places = {bytes.fromhex(photo.digest): row for photo, row in zip(self.wanted.photos, rows, strict=True)}

    def take(self, store: Any, name: str) -> None:
        part = load_part(store, name)
        if part is None:
            return
        found = [(number, self.places.pop(bytes(each), None)) for number, each in enumerate(part["identity"])]
        numbers = [number for number, row in found if row is not None]
        if not numbers:
            return
        if self.array is None:
            self.array = empty((self.wanted.n_rows, part["rows"].shape[1]), np.float32)
        self.array[[row for _, row in found if row is not None]] = part["rows"][numbers]
        release(self.array)
        for _ in numbers:
            self.on_photo()

    def lacking(self) -> list[Photo]:
        return [photo for photo in self.wanted.photos if bytes.fromhex(photo.digest) in self.places]
