"""Where a registry's files lie: a folder here, a bucket in `s3`, the same names in both.

Everything is written once and never changed, but for one file; that one is replaced only by somebody who has seen its
present content (compare and swap). These few operations are all that a registry asks of a store.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from okko_models.registry.errors import MissingError, RegistryError
from okko_models.registry.files import TEMPORARY, locked, write_durably

if TYPE_CHECKING:
    from collections.abc import Iterator

CHUNK_BYTES: Final = 1 << 16
_LOCK: Final = ".lock"
_KEY: Final = re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9._-]*/){0,4}[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, slots=True)
class Stored:
    """A file's content, and a tag that changes with it."""

    data: bytes
    tag: str


class Store(Protocol):
    """Files by name; each method raises `RegistryError` where the store fails, `OfflineError` where it is not there."""

    def get(self, key: str) -> Stored | None:
        """Returns a file, or None."""

    def read(self, key: str, start: int) -> Iterator[bytes]:
        """Yields a file from byte `start` on; raises `MissingError` if there is none."""

    def put_new(self, key: str, data: bytes) -> bool:
        """Writes a file unless there is one; returns whether it was written. Half a file is never seen."""

    def put_if(self, key: str, data: bytes, tag: str) -> bool:
        """Replaces a file if its tag is still `tag`; returns whether it was replaced."""

    def list(self, prefix: str) -> list[str]:
        """Returns the names that begin with `prefix`, sorted."""

    def delete(self, key: str) -> None:
        """Removes a file, if it is there."""


def check_key(key: str) -> str:
    """Returns `key`.

    Raises:
        RegistryError: it is no name of a file in a registry, and could lead out of it.
    """
    if not _KEY.fullmatch(key):
        raise RegistryError(f"{key!r} is no name of a file in a registry")
    return key


class FolderStore:
    """A registry in a folder; several processes on one machine may write it.

    Args:
        folder: the folder; it is made when the first file is written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __str__(self) -> str:
        return str(self.folder)

    def get(self, key: str) -> Stored | None:
        """Returns a file, or None."""
        try:
            data = self._path(key).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise self._failed(key, error) from error
        return Stored(data, hashlib.sha256(data).hexdigest())

    def read(self, key: str, start: int) -> Iterator[bytes]:
        """Yields a file from byte `start` on."""
        try:
            with self._path(key).open("rb") as file:
                file.seek(start)
                while chunk := file.read(CHUNK_BYTES):
                    yield chunk
        except (FileNotFoundError, NotADirectoryError) as error:
            raise MissingError(f"{self.folder} has no {key}") from error
        except OSError as error:
            raise self._failed(key, error) from error

    def put_new(self, key: str, data: bytes) -> bool:
        """Writes a file unless there is one."""
        path = self._path(key)
        try:
            with locked(self.folder / _LOCK, wait=True):
                if path.exists():
                    return False
                write_durably(path, data)
        except OSError as error:
            raise self._failed(key, error) from error
        return True

    def put_if(self, key: str, data: bytes, tag: str) -> bool:
        """Replaces a file if its tag is still `tag`."""
        try:
            with locked(self.folder / _LOCK, wait=True):
                found = self.get(key)
                if found is None or found.tag != tag:
                    return False
                write_durably(self._path(key), data)
        except OSError as error:
            raise self._failed(key, error) from error
        return True

    def list(self, prefix: str) -> list[str]:
        """Returns the names that begin with `prefix`, sorted."""
        names = (path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*") if path.is_file())
        return sorted(name for name in names if name.startswith(prefix) and _KEY.fullmatch(name))

    def delete(self, key: str) -> None:
        """Removes a file, if it is there, and its folder if that is then empty."""
        path = self._path(key)
        try:
            with locked(self.folder / _LOCK, wait=True):
                path.unlink(missing_ok=True)
                while path.parent != self.folder and path.parent.is_dir() and not any(path.parent.iterdir()):
                    path = path.parent
                    path.rmdir()
        except OSError as error:
            raise self._failed(key, error) from error

    def delete_leftovers(self) -> int:
        """Removes what interrupted writes left behind; returns how many."""
        with locked(self.folder / _LOCK, wait=True):
            leftovers = list(self.folder.rglob(f"{TEMPORARY}*"))
            for path in leftovers:
                path.unlink(missing_ok=True)
        return len(leftovers)

    def _path(self, key: str) -> Path:
        return self.folder / check_key(key)

    def _failed(self, key: str, error: OSError) -> RegistryError:
        return RegistryError(f"{self.folder / key}: {error.strerror or error}; the registry was left as it was")


def open_store(location: str, *, endpoint_url: str = "") -> Store:
    """Returns the store of a registry.

    Args:
        location: a folder, or `s3://bucket/prefix`.
        endpoint_url: another S3 than Amazon's; empty: Amazon's.

    Raises:
        RegistryError: the location is neither, or boto3 is missing.
    """
    if location.startswith("s3://"):
        from okko_models.registry.s3 import S3Store

        return S3Store.parse(location, endpoint_url=endpoint_url)
    if "://" in location:
        raise RegistryError(f"{location} cannot be written; give a folder or s3://BUCKET/PREFIX")
    return FolderStore(Path(location))
