"""Photos in memory, a training that takes no time, and what kills a worker at a chosen point."""

from __future__ import annotations

import copy
import hashlib
import threading
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import onnx
from onnx import numpy_helper

from okko_cloud.bucket import ChangedError, Listed, PhotoCache
from okko_cloud.job import Job
from okko_cloud.place import Settings
from okko_cloud.publishing import FencedPublisher
from okko_models.bundle import write_bundle
from okko_models.manifest import DatasetEntry
from okko_models.registry.keys import KeyRing
from okko_models.registry.root import init
from tests.conftest import manifest, png, redness_model
from tests.models.registry.simulator import NOW, MemoryStore

if TYPE_CHECKING:
    from pathlib import Path


class Killed(BaseException):
    """The worker is no more."""


class MemoryPhotos:
    """A bucket's photos, in memory."""

    def __init__(self, files: dict[str, bytes] | None = None) -> None:
        self.files = dict(files or {})
        self.downloads: list[str] = []

    def __str__(self) -> str:
        return "memory"

    def list(self):
        return sorted(Listed(key, hashlib.md5(data).hexdigest(), len(data)) for key, data in list(self.files.items()))

    def download(self, listed, path):
        data = self.files.get(listed.key)
        if data is None or hashlib.md5(data).hexdigest() != listed.etag:
            raise ChangedError(f"{listed.key} changed")
        self.downloads.append(listed.key)
        path.write_bytes(data)
        return hashlib.sha256(data).hexdigest()


class Mortal:
    """Passes calls on to an object until its worker is killed, before the n-th call.

    Whoever was killed does nothing any more: every later call fails in the same way.
    """

    def __init__(self, inner, life: Life) -> None:
        self._inner, self._life = inner, life

    def __str__(self) -> str:
        return str(self._inner)

    def __getattr__(self, name):
        found = getattr(self._inner, name)

        def call(*arguments, **options):
            self._life.step(name)
            return found(*arguments, **options)

        return call


class Life:
    """How long a worker lives: until the n-th operation of its main thread, or for ever."""

    def __init__(self, ends_before: int | None = None) -> None:
        self.calls: list[str] = []
        self._dead = False
        self._end = ends_before
        self._thread = threading.get_ident()

    def step(self, name: str) -> None:
        if self._dead:
            raise Killed
        if threading.get_ident() == self._thread:
            self.calls.append(name)
            self._dead = len(self.calls) == self._end
            if self._dead:
                raise Killed


def colour_photo(number: int, label: str) -> bytes:
    """A photo that nobody else has: reddish if it is OK, bluish if not."""
    rng = np.random.default_rng([number, label == "OK"])
    strong, weak = rng.integers(200, 256), rng.integers(0, 40)
    first = (int(strong), int(rng.integers(0, 256)), int(weak))
    return patches(first if label == "OK" else first[::-1], rng)


def patches(colour, rng) -> bytes:
    """A photo of patches round a colour, so that no two are near-duplicates."""
    import io

    from PIL import Image

    pixels = np.clip(np.array(colour) + rng.integers(-60, 60, (8, 8, 3)), 0, 255).astype(np.uint8)
    pixels[..., 0] = np.clip(pixels[..., 0], 180, 255) if colour[0] > colour[2] else np.clip(pixels[..., 0], 0, 70)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((32, 32), Image.Resampling.NEAREST).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def photos(n: int, first: int = 0) -> dict[str, bytes]:
    """n photos of each label by key."""
    return {
        f"{label}/{number:04d}.png": colour_photo(number, label)
        for label in ("OK", "KO")
        for number in range(first, first + n)
    }


def stand_in(skill: float = 1.0, seen: list | None = None):
    """Training that takes no time: a model that goes by redness, rightly with skill 1, wrongly with -1."""

    def train(dataset, test, out, settings, *, command, earlier):
        if seen is not None:
            seen.append((dataset, frozenset(test), earlier))
        model = onnx.load_from_string(redness_model())
        for weight in model.graph.initializer:
            if weight.name != "axes":
                scaled = numpy_helper.to_array(weight) * np.float32(skill)
                weight.CopyFrom(numpy_helper.from_array(scaled, weight.name))
        data = model.SerializeToString()
        golden = {"golden/00.png": png((250, 10, 10)), "golden/01.png": png((10, 10, 250))}
        made = manifest(data, golden)
        made = msgspec.structs.replace(
            made,
            name=settings.name,
            version=f"skill{skill}-{dataset.digest[:8]}",
            dataset=DatasetEntry(dataset.digest, dataset.counts(), None, len(test)),
            provenance=msgspec.structs.replace(made.provenance, command=command),
        )
        write_bundle(out, made, {"model.onnx": data, **golden})

    return train


class World:
    """A place in memory: photos, records, registry, and workers that come and go."""

    def __init__(self, folder: Path, files: dict[str, bytes] | None = None) -> None:
        self.folder = folder
        self.photos = MemoryPhotos(files)
        self.store = MemoryStore()
        self.registry = MemoryStore()
        self.time = float(NOW)
        self.said: list[str] = []
        self.workers = 0
        # One ring for all workers: opening a key file takes long, on purpose.
        self.ring = KeyRing([folder / "keys"], lambda role: "correct horse")
        self.root = init(FencedPublisher(self.registry, self.ring, folder / "trusted-ada", who="ada", clock=self.clock))

    def copy(self, folder: Path) -> World:
        """The same place in another folder, with a life of its own."""
        other = copy.copy(self)
        other.folder, other.said = folder, []
        other.photos = MemoryPhotos(self.photos.files)
        other.store, other.registry = MemoryStore(self.store.files), MemoryStore(self.registry.files)
        return other

    def clock(self) -> float:
        return self.time

    def publisher(self, registry=None, name: str = "reader") -> FencedPublisher:
        found = FencedPublisher(
            registry or self.registry, self.ring, self.folder / f"trusted-{name}", who=name, clock=self.clock
        )
        found.enroll(self.root)
        return found

    def job(self, *, train=None, life: Life | None = None, settings: Settings | None = None, **options) -> Job:
        """A new worker's job, on a disk of its own unless `folder` says otherwise."""
        self.workers += 1
        name = f"worker{self.workers}"
        life = life or Life()
        folder = options.pop("folder", self.folder / name)
        return Job(
            photos=Mortal(self.photos, life),
            store=Mortal(self.store, life),
            publisher=self.publisher(Mortal(self.registry, life), name),
            settings=settings or Settings(name="marbles", confidence=0.9),
            cache=PhotoCache(folder / "photos"),
            folder=folder,
            train=train or stand_in(),
            say=self.said.append,
            clock=self.clock,
            workers=1,
            **options,
        )
