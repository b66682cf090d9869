"""A registry in memory with a clock of its own, that can go back in time and misbehave; and a device to read it."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

import msgspec

from okko_models.bundle import Bundle, write_bundle
from okko_models.registry.client import Client
from okko_models.registry.errors import MissingError, OfflineError
from okko_models.registry.keys import KeyRing
from okko_models.registry.publisher import Publisher
from okko_models.registry.root import init
from okko_models.registry.store import Stored

if TYPE_CHECKING:
    from pathlib import Path

DAY_S = 86_400
NOW = 1_780_000_000  # in May 2026


class MemoryStore:
    """The store's promises, in memory."""

    def __init__(self, files: dict[str, bytes] | None = None) -> None:
        self.files = dict(files or {})

    def __str__(self) -> str:
        return "memory"

    def get(self, key):
        data = self.files.get(key)
        return None if data is None else Stored(data, hashlib.sha256(data).hexdigest())

    def read(self, key, start):
        if key not in self.files:
            raise MissingError(f"no {key}")
        yield self.files[key][start:]

    def put_new(self, key, data):
        if key in self.files:
            return False
        self.files[key] = data
        return True

    def put_if(self, key, data, tag):
        found = self.get(key)
        if found is None or found.tag != tag:
            return False
        self.files[key] = data
        return True

    def list(self, prefix):
        return sorted(key for key in self.files if key.startswith(prefix))

    def delete(self, key):
        self.files.pop(key, None)


class Server:
    """What stands between a registry and a device: serves `files`, as it likes.

    `replies` says for a key what is sent instead: bytes, or a function from (key, start) to pieces; `pieces` is how
    many bytes go at a time; `cut_after` so many pieces of bundles the connection is lost; `asked` is what was read.
    """

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.replies: dict = {}
        self.offline = False
        self.cut_after: int | None = None
        self.pieces = 1 << 16
        self.seconds_per_piece = 0.0
        self.monotonic = 0.0
        self.asked: list[tuple[str, int]] = []

    def __str__(self) -> str:
        return "server"

    def read(self, key, start, size):
        if self.offline:
            raise OfflineError("no network")
        self.asked.append((key, start))
        reply = self.replies.get(key, self.files.get(key))
        if reply is None:
            raise MissingError(f"no {key}")
        if callable(reply):
            yield from reply(key, start)
            return
        data = reply[start:]
        for at in range(0, len(data), self.pieces):
            self.monotonic += self.seconds_per_piece
            if self.cut_after is not None and key.startswith("bundles/"):
                if self.cut_after <= 0:
                    raise OfflineError("connection lost")
                self.cut_after -= 1
            yield data[at : at + self.pieces]


class Simulator:
    """A registry whose publisher has all keys, and devices that read it through misbehaving servers."""

    def __init__(self, folder: Path, make_bundle, store=None) -> None:
        self.folder, self._make_bundle = folder, make_bundle
        self.store = store if store is not None else MemoryStore()
        self.time = float(NOW)
        self.publisher = self.someone("ada")
        self.root = init(self.publisher)
        self._devices = 0

    def someone(self, who: str, keys: str = "keys", store=None) -> Publisher:
        """Another publisher, with the same keys but trust of its own."""
        ring = KeyRing([self.folder / keys], lambda role: "correct horse")
        someone = Publisher(
            store if store is not None else self.store, ring, self.folder / f"trusted-{who}", who=who, clock=self.clock
        )
        if hasattr(self, "root"):
            someone.enroll(self.root)
        return someone

    def clock(self) -> float:
        return self.time

    def bundle(self, version: str) -> Bundle:
        """A bundle that differs from those of other versions."""
        return renamed(Bundle.open(self._make_bundle(f"{version}.okko")), version)

    def release(self, version: str) -> Bundle:
        """Publishes a new bundle as stable."""
        bundle = self.bundle(version)
        self.publisher.publish(bundle, "stable")
        return bundle

    def past(self) -> dict[str, bytes]:
        """All files as they are now, to be served later."""
        return dict(self.store.files)

    def device(self, files=None, *, clock=None, **limits) -> tuple[Client, Server]:
        """An enrolled device and the server that it reads."""
        self._devices += 1
        server = Server(self.store.files if files is None else files)
        client = Client(
            self.folder / f"device{self._devices}",
            server,
            clock=clock or self.clock,
            monotonic=lambda: server.monotonic,
            **limits,
        )
        client.enroll(self.root)
        return client, server


def renamed(bundle: Bundle, version: str) -> Bundle:
    contents = {name: bundle.read(name) for name in bundle.manifest.files}
    return write_bundle(bundle.path, msgspec.structs.replace(bundle.manifest, version=version), contents)


def tampered(data: bytes, **changes) -> bytes:
    """Signed metadata with other words and the old signatures."""
    metadata = json.loads(data)
    metadata["signed"] |= changes
    return json.dumps(metadata).encode()
