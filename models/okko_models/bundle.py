"""A bundle on disk: a folder that is complete and unaltered, or not a bundle at all.

`Bundle.open` compares every file with the manifest before anything is parsed further; `write_bundle` makes the whole
folder under a temporary name and renames it into place, so that a full disk or a lost power supply never leaves half
of one.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from okko_models import manifest as manifests
from okko_models.errors import BundleError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from okko_models.manifest import Manifest

MANIFEST = "manifest.json"
MODEL = "model.onnx"
REPORT = "report.html"
EXAMPLES = "examples.npz"
GOLDEN = "golden"
# Ten times the largest model that okko makes today; a bound on what a hostile bundle can make a device read, for one
# file and for all together.
MAX_FILE_BYTES = 256 << 20
MAX_FILES = 200


def sha256(data: bytes) -> str:
    """Returns the SHA-256 digest of `data` as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


@dataclass(frozen=True)
class Bundle:
    """A verified bundle.

    Attributes:
        path: the folder.
        manifest: its manifest.
        digest: SHA-256 of `manifest.json`, which names every other file's digest: it stands for the whole bundle.
    """

    path: Path
    manifest: Manifest
    digest: str

    @classmethod
    def open(cls, path: Path) -> Bundle:
        """Reads and verifies the bundle in the folder `path`.

        Raises:
            BundleError: no such folder, no manifest, a file missing, altered or unexpected.
        """
        try:
            if not path.is_dir():
                what = "is a file" if path.is_file() else "does not exist"
                raise BundleError(f"{path} {what}; expected the folder of a bundle, as `okko train --out` writes it")
            if not (path / MANIFEST).is_file():
                raise BundleError(f"{path} has no {MANIFEST}, so it is not a bundle; `okko train --out` writes one")
        except OSError as error:
            raise BundleError(f"{path} cannot be read: {error.strerror}") from error
        data = _read(path, MANIFEST, manifests.MAX_MANIFEST_BYTES)
        try:
            bundle = cls(path, manifests.decode(data), sha256(data))
        except BundleError as error:
            raise BundleError(f"{path}: {error}") from error
        bundle._verify()
        return bundle

    def read(self, name: str) -> bytes:
        """Returns the content of the file `name`, compared with its digest once more.

        Raises:
            BundleError: the file is not part of the bundle, is missing or was altered.
        """
        entry = self.manifest.files.get(name)
        if entry is None:
            raise BundleError(f"{self.path}: the manifest names no file {name}")
        data = _read(self.path, name, entry.size)
        if len(data) != entry.size or sha256(data) != entry.sha256:
            raise BundleError(
                f"{self.path / name} is not the file that the manifest describes (it was altered or cut short); "
                "copy the bundle again or train it again"
            )
        return data

    def _verify(self) -> None:
        files = self.manifest.files
        total = sum(entry.size for entry in files.values())
        if len(files) > MAX_FILES or total > MAX_FILE_BYTES:
            raise BundleError(
                f"{self.path} has {len(files)} files of {total} bytes; "
                f"okko reads at most {MAX_FILES} files of {MAX_FILE_BYTES} bytes together"
            )
        found = _found(self.path)
        if unexpected := sorted(found - set(files) - {MANIFEST}):
            raise BundleError(f"{self.path} holds files that its manifest does not name: {', '.join(unexpected[:5])}")
        needed = {MODEL, *(frame.file for frame in self.manifest.golden)}
        if missing := sorted((needed | set(files)) - found) or sorted(needed - set(files)):
            raise BundleError(f"{self.path} is incomplete: {', '.join(missing[:5])} missing")
        for name in files:
            self.read(name)


def _found(folder: Path) -> set[str]:
    """The names of all files in a bundle; looks one folder deep, because nothing of a bundle lies deeper."""
    names: set[str] = set()
    waiting = [""]
    try:
        while waiting:
            inside = waiting.pop()
            with os.scandir(folder / inside) as entries:
                for entry in entries:
                    name = inside + entry.name
                    if entry.is_dir(follow_symlinks=False) and not inside:
                        waiting.append(f"{name}/")
                    elif entry.is_file(follow_symlinks=False):
                        names.add(name)
                    else:
                        raise BundleError(
                            f"{folder / name} is a link, a pipe or a folder too deep; a bundle holds plain files only"
                        )
                    if len(names) + len(waiting) > MAX_FILES + 1:
                        raise BundleError(f"{folder} holds more than {MAX_FILES} files; it is not a bundle of okko")
    except OSError as error:
        raise BundleError(f"{folder} cannot be read: {error.strerror}") from error
    return names


def _read(folder: Path, name: str, limit: int) -> bytes:
    if limit > MAX_FILE_BYTES:
        raise BundleError(f"{folder / name}: {limit} bytes are more than the {MAX_FILE_BYTES} that okko reads")
    path = folder / name
    if path.is_symlink():
        raise BundleError(f"{path} is a link; a bundle holds plain files only")
    try:
        # A pipe would keep whoever opens it waiting for somebody to write.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            facts = os.fstat(file.fileno())
            if not stat.S_ISREG(facts.st_mode):
                raise BundleError(f"{path} is not a plain file; a bundle holds plain files only")
            return file.read(min(limit, facts.st_size) + 1)
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}") from error


def check_destination(path: Path) -> None:
    """Refuses, before any work is done, a place where `write_bundle` could not put a bundle.

    Raises:
        BundleError: `path` is something other than a bundle, or its parent cannot be written.
    """
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise BundleError(f"{path} exists and is not a folder; name another place for the bundle")
    if path.is_dir() and any(path.iterdir()) and not (path / MANIFEST).is_file():
        raise BundleError(f"{path} is a folder with other content; name a new folder for the bundle")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}."):
            pass
    except OSError as error:
        raise BundleError(
            f"{path.parent} cannot be written ({error.strerror}); name another place for the bundle"
        ) from error


def write_bundle(
    path: Path, manifest: Manifest, contents: Mapping[str, bytes], *, judge: Callable[[Bundle], object] | None = None
) -> Bundle:
    """Writes the bundle in one step and opens it; an earlier one is replaced only when the new one is complete.

    Args:
        path: the folder to make.
        manifest: the manifest; its `files` are filled in here.
        contents: the content of every other file, by its name in the bundle.
        judge: asked before the bundle takes its place; what it raises leaves everything as it was.

    Raises:
        BundleError: the place cannot be written, or the disk is full.
    """
    check_destination(path)
    files = {name: manifests.FileEntry(len(data), sha256(data)) for name, data in sorted(contents.items())}
    manifest = msgspec.structs.replace(manifest, files=files)
    staging = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    new, old = staging / "new", staging / "old"
    try:
        for name, data in [*contents.items(), (MANIFEST, manifests.encode(manifest))]:
            _write_durably(new / name, data)
        new.chmod(0o755)
        written = Bundle.open(new)
        if judge is not None:
            judge(written)
        if path.exists():
            path.rename(old)
        try:
            new.rename(path)
        except OSError:
            if old.exists():
                old.rename(path)
            raise
        _sync_folder(path.parent)
    except OSError as error:
        raise BundleError(f"{path} could not be written: {error.strerror}; nothing was left behind") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return Bundle.open(path)


def _write_durably(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    _sync_folder(path.parent)


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
