"""A device's side of the model channel: which bundle is mine, and how it gets here, whatever the network does.

`Client.look` says what the registry wants this device to run; `Client.fetch` brings it. Nothing is parsed before it is
verified, nothing is written outside of the two folders given, what was downloaded before an interruption is used again,
and no answer is read beyond its signed size. It never decides to run anything: that is the updater's business.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from okko_models import manifest as manifests
from okko_models.bundle import MANIFEST, MAX_FILE_BYTES, MAX_FILES, Bundle
from okko_models.errors import BundleError
from okko_models.registry.catalog import channel_place, pin_place
from okko_models.registry.errors import MissingError, OfflineError, RegistryError, UntrustedError
from okko_models.registry.files import locked, sync_folder, write_durably
from okko_models.registry.metadata import bundle_key, catalog_of
from okko_models.registry.transport import allowed_s
from okko_models.registry.trusted import TrustedFolder
from okko_models.trust.model_check import LARGEST_PHOTO, ModelFacts, check_bundle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from okko_models.manifest import FileEntry
    from okko_models.registry.transport import Transport
    from okko_models.registry.trusted import Trusted

_LOCK: Final = ".lock"
_PARTIAL: Final = ".partial-"


@dataclass(frozen=True, slots=True)
class Limits:
    """What a bundle may cost this device.

    Attributes:
        bundle_bytes: all files of a bundle together.
        photo: height and width of the camera's photo, for the memory that the model is allowed.
        activation_bytes: see `okko_models.trust.model_check.check_model`.
    """

    bundle_bytes: int = MAX_FILE_BYTES
    photo: tuple[int, int] = LARGEST_PHOTO
    activation_bytes: int = 512 << 20


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the registry wants a device to run.

    Attributes:
        digest: of the bundle: SHA-256 of its manifest.
        size: bytes of its manifest.
        name: the bundle's name.
        version: the bundle's version.
        place: why: `channels/stable`, or `pins/DEVICE`; empty: it was asked for by its digest.
        metadata_version: of the signed timestamp that says so; it only grows.
        at: the time in seconds since 1970: this device's, or the newest one signed if that is later.
    """

    digest: str
    size: int
    name: str
    version: str
    place: str
    metadata_version: int
    at: float


@dataclass(frozen=True)
class FetchedBundle:
    """A bundle that is here, complete, verified and judged.

    Attributes:
        bundle: the bundle, in a folder that has its digest for a name.
        facts: what its model is.
        wanted: why it was fetched.
        downloaded_bytes: what came over the network for it this time.
    """

    bundle: Bundle
    facts: ModelFacts
    wanted: Wanted
    downloaded_bytes: int


class Client:
    """One device and one registry.

    Args:
        state: the folder for what this device trusts; `root.json` must be in it, see `enroll`.
        transport: how to read the registry.
        clock: the time in seconds since 1970, as this device believes; it may start in 1970.
        monotonic: seconds, for how long an answer takes.
        limits: what a bundle may cost.
        pace: called with the size of each piece that has come; it may sleep, to leave room for others.

    Raises:
        OkkoError: tuf is not installed.
    """

    def __init__(
        self,
        state: Path,
        transport: Transport,
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        limits: Limits | None = None,
        pace: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._trusted = TrustedFolder(state, clock)
        self._transport = transport
        self._monotonic = monotonic
        self._limits = limits or Limits()
        self._pace = pace

    def enroll(self, root: bytes) -> None:
        """Starts to trust the registry whose `root.json` this is.

        Raises:
            UntrustedError: it is none.
            RegistryError: this device trusts another registry.
        """
        self._trusted.enroll(root)

    def newest_signed(self) -> float:
        """Returns the newest moment that was ever signed and seen, seconds since 1970."""
        return self._trusted.newest_signed()

    def look(self, channel: str = "stable", device: str = "", digest: str = "") -> Wanted:
        """Asks the registry what this device shall run; the bundle itself is not touched.

        Args:
            channel: `stable` or `candidate`.
            device: this device's name; its pin, if there is one, goes before the channel.
            digest: a bundle of the registry, or the beginning of its digest: that one, whatever is in service.

        Raises:
            OfflineError: the registry cannot be reached, or is too slow.
            ExpiredError: its signatures are too old.
            UntrustedError: they are wrong, or older than what was seen before.
            MissingError: nothing is in service there.
            BusyError: another process looks or fetches just now.
        """
        with locked(self._trusted.folder / _LOCK, wait=False):
            return _wanted(self._refresh(), channel, device, digest)

    def fetch(self, into: Path, channel: str = "stable", device: str = "", digest: str = "") -> FetchedBundle:
        """Brings the bundle that this device shall run.

        Args:
            into: a folder of bundles; this one becomes `into / DIGEST`, and the unfinished one lies beside it.
            channel: see `look`.
            device: see `look`.
            digest: see `look`.

        Raises:
            BundleError: the bundle is rightly signed, but nothing that this okko runs.
            RegistryError: see `look`; or the disk is full.
        """
        with locked(self._trusted.folder / _LOCK, wait=False):
            wanted = _wanted(self._refresh(), channel, device, digest)
            place = into / wanted.digest
            if place.is_dir():
                with contextlib.suppress(BundleError):
                    bundle = Bundle.open(place)
                    if bundle.digest == wanted.digest:
                        return FetchedBundle(bundle, self._judge(bundle), wanted, 0)
            try:
                return self._bring(wanted, into)
            except OSError as error:
                raise RegistryError(f"{into} cannot be written: {error.strerror}; nothing was changed") from error

    def _refresh(self) -> Trusted:
        return self._trusted.refresh(self._whole)

    def _judge(self, bundle: Bundle) -> ModelFacts:
        limits = self._limits
        return check_bundle(bundle, photo=limits.photo, max_activation_bytes=limits.activation_bytes)

    def _bring(self, wanted: Wanted, into: Path) -> FetchedBundle:
        partial = into / f"{_PARTIAL}{wanted.digest}"
        for other in into.glob(f"{_PARTIAL}*"):
            if other != partial:
                shutil.rmtree(other, ignore_errors=True)
        data = self._whole(bundle_key(wanted.digest, MANIFEST), wanted.size)
        if hashlib.sha256(data).hexdigest() != wanted.digest:
            raise UntrustedError(
                f"{self._transport}: the manifest of {wanted.digest[:12]} is not the one that was signed"
            )
        files = manifests.decode(data).files
        total = sum(entry.size for entry in files.values())
        if len(files) > MAX_FILES or MANIFEST in files or total > self._limits.bundle_bytes:
            raise BundleError(
                f"bundle {wanted.digest[:12]} has {len(files)} files and {total} bytes; this device takes at most "
                f"{MAX_FILES} files and {self._limits.bundle_bytes} bytes"
            )
        partial.mkdir(parents=True, exist_ok=True)
        for found in [path for path in partial.rglob("*") if path.is_symlink() or path.is_file()]:
            if found.is_symlink() or found.relative_to(partial).as_posix() not in files:
                found.unlink()
        downloaded = sum(
            self._file(partial / name, bundle_key(wanted.digest, name), entry) for name, entry in sorted(files.items())
        )
        write_durably(partial / MANIFEST, data)
        for folder in {path.parent for path in partial.rglob("*")}:
            sync_folder(folder)
        try:
            facts = self._judge(Bundle.open(partial))
        except BundleError:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        place = into / wanted.digest
        if place.exists():
            shutil.rmtree(place)
        partial.rename(place)
        sync_folder(into)
        return FetchedBundle(Bundle.open(place), facts, wanted, downloaded + len(data))

    def _file(self, path: Path, key: str, entry: FileEntry) -> int:
        """Brings one file, from where an earlier try ended; returns how many bytes came."""
        path.parent.mkdir(exist_ok=True)
        there = path.stat().st_size if path.is_file() else 0
        if there > entry.size:
            there = 0
        downloaded = self._append(path, key, there, entry)
        if _sha256(path) != entry.sha256 and there:
            # What was there may have been damaged when the power went.
            downloaded += self._append(path, key, 0, entry)
        if _sha256(path) != entry.sha256:
            path.unlink()
            raise UntrustedError(f"{self._transport}: {key} is not the file that was signed")
        return downloaded

    def _append(self, path: Path, key: str, start: int, entry: FileEntry) -> int:
        if start == entry.size > 0:
            return 0
        downloaded = 0
        with path.open("r+b" if start else "wb") as file:
            file.truncate(start)
            file.seek(start)
            try:
                for chunk in self._read(key, start, entry.size - start):
                    file.write(chunk)
                    downloaded += len(chunk)
                    self._pace(len(chunk))
            finally:
                file.flush()
                os.fsync(file.fileno())
        if start + downloaded < entry.size:
            raise OfflineError(f"{self._transport}: {key} ended after {start + downloaded} of {entry.size} bytes")
        return downloaded

    def _whole(self, key: str, limit: int) -> bytes:
        return b"".join(self._read(key, 0, limit))

    def _read(self, key: str, start: int, limit: int) -> Iterator[bytes]:
        """Yields at most `limit` bytes, in bounded time."""
        left, end = limit, self._monotonic() + allowed_s(limit)
        for chunk in self._transport.read(key, start, limit):
            left -= len(chunk)
            if left < 0:
                raise UntrustedError(f"{self._transport}: {key} does not end after the {limit} bytes that it may have")
            yield chunk
            if self._monotonic() > end:
                raise OfflineError(f"{self._transport}: {key}: too slow; given up")


def _wanted(trusted: Trusted, channel: str, device: str, digest: str) -> Wanted:
    catalog = catalog_of(trusted.targets)
    place = "" if digest else channel_place(channel)
    if device and not digest and pin_place(device) in catalog.places:
        place = pin_place(device)
    if place and place not in catalog.places:
        raise MissingError(f"no bundle is in service in the channel {channel} yet")
    bundle = catalog.bundles[catalog.places[place].digest if place else catalog.resolve(digest)]
    return Wanted(bundle.digest, bundle.size, bundle.name, bundle.version, place, trusted.timestamp.version, trusted.at)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
