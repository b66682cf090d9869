"""What a lost power supply takes with it: whatever was written and not yet flushed to the disk.

SIGKILL alone cannot show that a flush is missing, because the kernel still writes what a dead process left. So every
change is remembered until the file, or the folder that names it, was flushed, and taken back when the power goes: all
data that were not flushed are gone, and the names that were not are either gone as well, or there (without the data).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from pathlib import Path


class Unflushed:
    """The changes below a folder that are not on the disk yet; all paths are absolute."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._names: list[tuple[str, object]] = []
        self._sizes: dict[int, int] = {}

    def before(self, name: str, path: str, other: str):
        """Is told of a change that is about to be made; returns what is to be called when it was made.

        Args:
            name: of the function of `os`.
            path: what it changes; of two, the new one.
            other: of two, the old one.
        """
        parent = os.path.dirname(path)  # noqa: PTH120
        if name in {"rename", "replace"}:
            saved = _save(path)
            return lambda: self._names.append((parent, lambda: (os.rename(path, other), _restore(path, saved))))  # noqa: PTH104
        if name in {"unlink", "remove", "rmdir"}:
            saved = _save(path)
            return lambda: self._names.append((parent, lambda: _restore(path, saved)))
        if name in {"symlink", "mkdir", "open"}:
            there = os.path.lexists(path)
            return lambda: None if there else self._names.append((parent, lambda: _remove(path)))
        return lambda: None

    def writing(self, descriptor: int, *, emptied: bool = False) -> None:
        """Data are about to be written."""
        found = os.fstat(descriptor)
        self._sizes.setdefault(found.st_ino, 0 if emptied else found.st_size)

    def flushed(self, descriptor: int, path: str) -> None:
        """A file or a folder is on the disk."""
        found = os.fstat(descriptor)
        if stat.S_ISDIR(found.st_mode):
            self._names = [(folder, undo) for folder, undo in self._names if folder != path]
        else:
            self._sizes.pop(found.st_ino, None)

    def lose(self, *, names: bool) -> None:
        """The power goes; `names`: also the names that were not flushed."""
        for path in Path(self._folder).rglob("*"):
            found = path.lstat()
            size = self._sizes.get(found.st_ino)
            if size is not None and stat.S_ISREG(found.st_mode):
                os.truncate(path, min(size, found.st_size))
        for _, undo in reversed(self._names if names else []):
            with contextlib.suppress(OSError):  # its folder is gone, and it with that
                undo()


def _save(path: str):
    """What is at a path: a link's target, a file's content, a folder, or nothing."""
    if os.path.islink(path):  # noqa: PTH114
        return str(Path(path).readlink())
    if os.path.isdir(path):  # noqa: PTH112
        return Path(path)
    return Path(path).read_bytes() if os.path.lexists(path) else None


def _restore(path: str, saved) -> None:
    if isinstance(saved, str):
        Path(path).symlink_to(saved)
    elif isinstance(saved, bytes):
        Path(path).write_bytes(saved)
    elif saved is not None:
        Path(path).mkdir()


def _remove(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):  # noqa: PTH112, PTH114
        shutil.rmtree(path)
    else:
        Path(path).unlink()
