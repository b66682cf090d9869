"""A disk in memory for an emulated machine: a newc cpio archive of folders, files and devices, written without root.

The format is the one of the kernel's `Documentation/driver-api/early-userspace/buffer-format.rst`. Nothing is packed:
unpacking would take the emulated processor longer than reading does.
"""

from __future__ import annotations

import lzma
import os
import re
import stat
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import BinaryIO

_BLOCK = 4


class Initramfs:
    """Writes an archive, member after member; a context manager.

    Args:
        path: the archive.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: set[str] = set()
        self._number = 0

    def __enter__(self) -> Initramfs:
        self._file: BinaryIO = self._path.open("wb")
        return self

    def __exit__(self, *_: object) -> None:
        self._number = 0
        self._member("TRAILER!!!", 0, b"")
        self._file.close()

    def add(self, name: str, data: bytes, mode: int = 0o644) -> None:
        """Adds a file, with the folders that it lies in."""
        self._folders(name)
        self._once(name, stat.S_IFREG | mode, data)

    def add_device(self, name: str, major: int, minor: int) -> None:
        """Adds a character device, for what runs before the kernel's own /dev is mounted."""
        self._folders(name)
        self._once(name, stat.S_IFCHR | 0o600, b"", os.makedev(major, minor))

    def add_tree(self, folder: Path, into: str = "", *, leave_out: Iterable[str] = ()) -> None:
        """Adds all that is in a folder, but not what one of the expressions matches (by its path in the archive)."""
        unwanted = re.compile("|".join(leave_out) or "$.")
        for path in sorted(folder.rglob("*")):
            name = f"{into}/{path.relative_to(folder)}".strip("/")
            if unwanted.search(name) or (path.is_dir() and not path.is_symlink()):
                continue
            if path.is_symlink():
                self._folders(name)
                self._once(name, stat.S_IFLNK | 0o777, os.fsencode(path.readlink()))
            else:
                self.add(name, path.read_bytes(), 0o755 if os.access(path, os.X_OK) else 0o644)

    def _folders(self, name: str) -> None:
        for parent in reversed(Path(name).parents[:-1]):
            self._once(str(parent), stat.S_IFDIR | 0o755, b"")

    def _once(self, name: str, mode: int, data: bytes, device: int = 0) -> None:
        if name not in self._seen:
            self._seen.add(name)
            self._member(name, mode, data, device)

    def _member(self, name: str, mode: int, data: bytes, device: int = 0) -> None:
        self._number += 1
        encoded = os.fsencode(name) + b"\0"
        fields = (
            *(self._number, mode, 0, 0, 1, 0, len(data), 0, 0),
            *(os.major(device), os.minor(device), len(encoded), 0),
        )
        head = b"070701" + b"".join(b"%08X" % field for field in fields) + encoded
        for part in (head, data):
            self._file.write(part + b"\0" * (-len(part) % _BLOCK))


def kernel_modules(kernel: Path, names: Iterable[str]) -> dict[str, bytes]:
    """Returns kernel modules, unpacked, each after those that it needs.

    Args:
        kernel: where the kernel's package was unpacked.
        names: wanted modules, as `modprobe` takes them.
    """
    stored = {path.name.split(".")[0].replace("-", "_"): path for path in kernel.glob("usr/lib/modules/**/*.ko.xz")}
    found: dict[str, bytes] = {}

    def visit(name: str) -> None:
        name = name.replace("-", "_")
        if name in found or name not in stored:  # what is not stored is built into the kernel
            return
        code = lzma.decompress(stored[name].read_bytes())
        needs = re.search(rb"\0depends=([^\0]*)\0", code)
        for other in (needs[1].decode() if needs else "").split(","):
            if other:
                visit(other)
        found[name] = code

    for name in names:
        visit(name)
    return found
