"""A dataset's photos in a folder: listed, read, and moved so that no photo is ever lost or overwritten.

A move makes the photo's second name first (a hard link, which fails where there is a file already) and then takes away
the first, so that it lies in at least one place whatever happens in between. `okko_cloud.labelling.photos_s3` does the
same in a bucket.
"""

from __future__ import annotations

import errno
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from okko_cloud.labelling.layout import OWN, with_digest
from okko_models.errors import OkkoError
from okko_models.registry.files import locked, sync_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

MOST_BYTES: Final = 64 << 20
"""Larger files are shown as unreadable; no camera's photo is that large."""

_MOVING: Final = ".moving"
_NO_LINKS: Final = {errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS}


class LabellingError(OkkoError):
    """A photo cannot be read or moved."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A file of a dataset: its name below the dataset's folder with forward slashes, and its size in bytes."""

    key: str
    size: int


class Photos(Protocol):
    """Where a dataset's files lie; each method raises an `OkkoError` where that place fails."""

    def list_all(self) -> list[Listed]:
        """Returns every file that does not begin with a dot, nor its folders."""

    def load(self, key: str) -> bytes | None:
        """Returns a file; None if there is none (any more)."""

    def move(self, key: str, to_key: str, data: bytes) -> str:
        """Moves a photo, whose content is `data`, without overwriting another.

        Where the same photo is there already, this one is deleted.

        Returns:
            Where it is now: `to_key`, or if another photo is there, the same with a part of the digest.
        """


class FolderPhotos:
    """A dataset in a folder.

    Args:
        root: the folder.

    Raises:
        LabellingError: there is none.
    """

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise LabellingError(f"{root} is no folder; expected one with a sub-folder of photos for each label")
        self._root = root.resolve()

    def __str__(self) -> str:
        return str(self._root)

    def list_all(self) -> list[Listed]:
        """Returns every file that does not begin with a dot, nor its folders; links that lead outside are left out."""
        return sorted(self._walk(self._root, ""), key=lambda file: file.key)

    def _walk(self, folder: Path, above: str) -> Iterator[Listed]:
        try:
            entries = list(os.scandir(folder))
        except OSError as error:
            raise self._failed(above or ".", error) from error
        for entry in entries:
            key = f"{above}{entry.name}"
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from self._walk(Path(entry.path), f"{key}/")
            elif entry.is_file() and (not entry.is_symlink() or self._is_inside(Path(entry.path))):
                yield Listed(key, entry.stat().st_size)

    def load(self, key: str) -> bytes | None:
        """Returns a file; None if there is none."""
        path = self._path(key)
        try:
            return path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise self._failed(key, error) from error

    def move(self, key: str, to_key: str, data: bytes) -> str:
        """Moves a photo, whose content is `data`, without overwriting another."""
        source = self._path(key)
        try:
            # Two who move one photo to two places must not both find it.
            with locked(self._root / OWN / _MOVING, wait=True):
                if source.read_bytes() != data:
                    raise LabellingError(f"{key} was changed meanwhile; look at it again")
                for wanted in (to_key, with_digest(to_key, hashlib.sha256(data).hexdigest())):
                    if self._placed(source, self._path(wanted), data):
                        return wanted
        except FileNotFoundError as error:
            raise LabellingError(f"{key} was moved meanwhile; look at it again") from error
        except OSError as error:
            raise self._failed(key, error) from error
        raise LabellingError(f"{key}: other photos lie at {to_key} and beside it; move them away")

    def _placed(self, source: Path, target: Path, data: bytes) -> bool:
        """Moves a file; returns False if the target's name belongs to another photo."""
        if source == target:
            return True
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source, target, follow_symlinks=False)
        except FileExistsError:
            if target.read_bytes() != data:
                return False
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            # A disk without hard links (FAT): the lock keeps other okkos from what is looked for here.
            if not target.exists():
                source.rename(target)
                return True
            if target.read_bytes() != data:
                return False
        sync_folder(target.parent)
        source.unlink()
        return True

    def _is_inside(self, path: Path) -> bool:
        return path.resolve().is_relative_to(self._root)

    def _path(self, key: str) -> Path:
        path = self._root / key
        if key.startswith("/") or ".." in path.parts:
            raise LabellingError(f"{key!r} is no file of {self._root}")
        if not self._is_inside(path):
            raise LabellingError(f"{path} leads out of {self._root}; photos are neither read nor put there")
        return path

    def _failed(self, key: str, error: OSError) -> LabellingError:
        why = error.strerror or str(error)
        return LabellingError(f"{self._root / key}: {why}; check the disk's room and the folder's permissions")
