"""Datasets to label, in a folder and in a bucket, and everything that stands around one."""

from __future__ import annotations

import contextlib
import io
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from okko_cloud.labelling.app import App
from okko_cloud.labelling.book import Book
from okko_cloud.labelling.catalogue import Catalogue
from okko_cloud.labelling.desk import Desk, Person
from okko_cloud.labelling.layout import OWN
from okko_cloud.labelling.leases import Leases
from okko_cloud.labelling.looking import Eye
from okko_cloud.labelling.photos import FolderPhotos
from okko_cloud.labelling.photos_s3 import S3Photos
from okko_cloud.labelling.server import Helpers, Server
from okko_models.registry.s3 import S3Store
from okko_models.registry.store import FolderStore

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from okko_cloud.labelling.photos import Photos
    from okko_models.classifier import Classifier
    from okko_models.registry.store import Store

ANNA, BERT = Person("Anna", "session-anna"), Person("Bert", "session-bert")


def png(red: int, seed: int = 0, size: tuple[int, int] = (64, 48)) -> bytes:
    """A photo of which the model of `tests/conftest.py` says OK the surer the redder; each seed another photo."""
    pixels = np.random.default_rng(seed).integers(0, 40, (size[1], size[0], 3)).astype(np.uint8)
    pixels[:, :, 0] = red
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


class Clock:
    """A clock that is turned by hand, for both kinds of time."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


class Folder:
    """A dataset in a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def place(self) -> str:
        return str(self.root)

    def put(self, files: Mapping[str, bytes]) -> None:
        for key, data in files.items():
            (self.root / key).parent.mkdir(parents=True, exist_ok=True)
            (self.root / key).write_bytes(data)

    def delete(self, key: str) -> None:
        (self.root / key).unlink()

    def files(self) -> dict[str, bytes]:
        paths = (path for path in self.root.rglob("*") if path.is_file() and OWN not in path.parts)
        return {path.relative_to(self.root).as_posix(): path.read_bytes() for path in paths}

    def own(self) -> set[str]:
        found = {path.relative_to(self.root / OWN).as_posix() for path in (self.root / OWN).rglob("*.json")}
        return {name for name in found if not name.startswith(".")}

    def open(self) -> tuple[Photos, Store]:
        return FolderPhotos(self.root), FolderStore(self.root / OWN)


class Bucket:
    """A dataset in a bucket."""

    def __init__(self, client: Any, name: str, prefix: str = "sets/marbles/") -> None:
        self.client, self.name, self.prefix = client, name, prefix
        client.create_bucket(Bucket=name)

    @property
    def place(self) -> str:
        return f"s3://{self.name}/{self.prefix}"

    def put(self, files: Mapping[str, bytes]) -> None:
        for key, data in files.items():
            self.client.put_object(Bucket=self.name, Key=self.prefix + key, Body=data)

    def delete(self, key: str) -> None:
        self.client.delete_object(Bucket=self.name, Key=self.prefix + key)

    def files(self) -> dict[str, bytes]:
        return {key: data for key, data in self._all().items() if not key.startswith(OWN)}

    def own(self) -> set[str]:
        return {key.removeprefix(f"{OWN}/") for key in self._all() if key.startswith(OWN)}

    def _all(self) -> dict[str, bytes]:
        found = {}
        for page in self.client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=self.prefix):
            for entry in page.get("Contents", []):
                with contextlib.suppress(self.client.exceptions.NoSuchKey):  # it was moved meanwhile
                    body = self.client.get_object(Bucket=self.name, Key=entry["Key"])["Body"].read()
                    found[entry["Key"].removeprefix(self.prefix)] = body
        return found

    def open(self) -> tuple[Photos, Store]:
        return (
            S3Photos(self.name, self.prefix, client=self.client),
            S3Store(self.name, f"{self.prefix}{OWN}/", client=self.client),
        )


@dataclass
class Room:
    """One `okko label`: what it is made of."""

    photos: Photos
    book: Book
    leases: Leases
    catalogue: Catalogue
    desk: Desk
    clock: Clock

    def look(self) -> Room:
        """Looks at all photos, as the threads beside the page would."""
        while self.catalogue.look_at_next():
            pass
        return self

    def queue(self) -> list[tuple[str, str]]:
        """Names and reasons, in the order in which they are shown."""
        return [(entry.key, entry.worth.reason.value) for entry in self.catalogue.queue() if entry.worth]


def enter(place: Folder | Bucket, model: Classifier | None = None, *, clock: Clock | None = None, **asks: Any) -> Room:
    """Starts all of `okko label` but its page."""
    clock = clock or Clock()
    photos, store = place.open()
    book, leases = Book(store), Leases(store, unix_s=clock)
    of_model = model.bundle.manifest.labels if model else ()
    catalogue = Catalogue(photos, book, Eye(photos, model), of_model=of_model, **asks)
    return Room(
        photos, book, leases, catalogue, Desk(catalogue, photos, book, leases, now_s=clock, unix_s=clock), clock
    )


@contextlib.contextmanager
def serve(room: Room, who: str) -> Iterator[str]:
    """Serves a room's page; gives its address."""
    app = App(room.desk, place=str(room.photos), who=who, model=None)
    server, helpers = Server(app, 0), Helpers(room.catalogue, app)
    try:
        yield server.url
    finally:
        server.close()
        helpers.close()
        room.desk.close()


def bucket_name() -> str:
    return f"photos-{uuid.uuid4().hex[:12]}"
