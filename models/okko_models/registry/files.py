"""Writing files so that a lost power supply leaves the old content or the new one; and a lock between processes."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from okko_models.registry.errors import BusyError

if TYPE_CHECKING:
    from collections.abc import Iterator

TEMPORARY: Final = ".new-"
"""What the names of unfinished files begin with; one that was left behind means nothing."""


def write_durably(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Writes a file in one step: under another name, flushed to the disk, then renamed.

    Raises:
        OSError: the disk is full or the folder cannot be written; then nothing has changed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=TEMPORARY)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Flushes a folder's list of names to the disk.

    Raises:
        OSError: the disk fails.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def locked(path: Path, *, wait: bool) -> Iterator[None]:
    """Holds a lock that ends with the process, between threads and processes.

    Args:
        path: the lock file; made if it is not there, never removed.
        wait: wait for the lock, or give up at once.

    Raises:
        BusyError: somebody else holds it, and `wait` is false.
        OSError: the file cannot be made.
    """
    import fcntl

    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            raise BusyError(f"{path.parent} is in use by another process; wait until it is done") from error
        yield
