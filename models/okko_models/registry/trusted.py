"""What one party trusts: signed metadata in a folder, brought up to date by the rules of The Update Framework.

The rules are python-tuf's `TrustedMetadataSet` (bytes in, verified state or an exception out); this is the rim around
it: it reads and writes the folder, durably, and decides what time it is. Devices without a battery for their clock
start in 1970; so the time is never earlier than the newest one that was ever signed and seen, and signatures expire by
that time. The folder begins with `root.json`, which a person put there: enrolment.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from okko_models.registry.errors import ExpiredError, MissingError, RegistryError, UntrustedError
from okko_models.registry.files import write_durably
from okko_models.registry.metadata import metadata_key, moment, require_tuf, signed_at

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tuf.api.metadata import Root, Targets, Timestamp
    from tuf.ngclient._internal.trusted_metadata_set import TrustedMetadataSet

MAX_ROOT_BYTES: Final = 256 << 10
MAX_TIMESTAMP_BYTES: Final = 16 << 10
MAX_METADATA_BYTES: Final = 4 << 20
"""For snapshot and targets: about 8,000 bundles."""
MAX_ROOTS: Final = 256
_ROOT: Final = "root.json"


@dataclass(frozen=True)
class Trusted:
    """Metadata that are signed, current, and belong together.

    Attributes:
        root: who may sign what.
        timestamp: the newest of all.
        targets: what there is.
        snapshot_version: the version that holds them together.
        at: the time in seconds since 1970: this machine's, or the newest one signed if that is later.
    """

    root: Root
    timestamp: Timestamp
    targets: Targets
    snapshot_version: int
    at: float


class TrustedFolder:
    """The folder of one party: a device, or somebody who publishes.

    Args:
        folder: where it is.
        clock: the time in seconds since 1970, as this machine believes.

    Raises:
        OkkoError: tuf is not installed.
    """

    def __init__(self, folder: Path, clock: Callable[[], float]) -> None:
        require_tuf()
        self.folder = folder
        self._clock = clock

    def enroll(self, root: bytes) -> None:
        """Starts to trust a registry; doing so again with the same root changes nothing.

        Raises:
            UntrustedError: this is no root metadata, or not signed by its own keys.
            RegistryError: the folder trusts another registry.
        """
        from tuf.ngclient._internal.trusted_metadata_set import TrustedMetadataSet
        from tuf.ngclient.config import EnvelopeType

        with _typed("root.json"):
            signed_at(TrustedMetadataSet(root, EnvelopeType.METADATA).root)
        known = self._local(_ROOT, MAX_ROOT_BYTES)
        if known is not None and known != root:
            raise RegistryError(f"{self.folder} trusts another registry; use an empty folder, or remove that one")
        write_durably(self.folder / _ROOT, root)

    def refresh(self, fetch: Callable[[str, int], bytes], *, last_root: int = 0) -> Trusted:
        """Brings the folder up to date.

        Args:
            fetch: from the name of a file in the registry and the most bytes to accept, to its content.
            last_root: use no later root than this; 0: the latest. Only for repairing a registry whose keys were lost.

        Raises:
            OfflineError: what `fetch` raises.
            ExpiredError: everything is signed rightly, but too long ago.
            UntrustedError: something is not signed rightly, or older than what was seen before.
            RegistryError: the folder trusts no registry yet.
        """
        from tuf.api.exceptions import EqualVersionNumberError, RepositoryError
        from tuf.ngclient._internal.trusted_metadata_set import TrustedMetadataSet
        from tuf.ngclient.config import EnvelopeType

        root = self._local(_ROOT, MAX_ROOT_BYTES)
        if root is None:
            raise RegistryError(f"{self.folder} has no {_ROOT}: this machine trusts no registry yet; give it one")
        with _typed(str(self.folder / _ROOT)):
            trusted = TrustedMetadataSet(root, EnvelopeType.METADATA)
        self._roots(trusted, fetch, last_root)
        timestamp = self._local("timestamp.json", MAX_TIMESTAMP_BYTES)
        at = max(self._clock(), self._floor(trusted.root, timestamp))
        trusted.reference_time = moment(at)
        if timestamp is not None:
            # One that is too old, or signed by a key that was since replaced, is of no use, and no harm.
            with contextlib.suppress(RepositoryError):
                trusted.update_timestamp(timestamp)
        data = fetch(metadata_key("timestamp"), MAX_TIMESTAMP_BYTES)
        with _typed("timestamp.json"), contextlib.suppress(EqualVersionNumberError):
            trusted.update_timestamp(data)
            self._keep("timestamp.json", data)
        self._snapshot(trusted, fetch)
        self._targets(trusted, fetch)
        at = max(at, signed_at(trusted.timestamp))
        return Trusted(trusted.root, trusted.timestamp, trusted.targets, trusted.snapshot.version, at)

    def newest_signed(self) -> float:
        """Returns the newest moment that was ever signed and seen; 0 if this machine trusts no registry yet.

        A machine whose clock is behind it knows that its clock is wrong.
        """
        from tuf.ngclient._internal.trusted_metadata_set import TrustedMetadataSet
        from tuf.ngclient.config import EnvelopeType

        root = self._local(_ROOT, MAX_ROOT_BYTES)
        if root is None:
            return 0.0
        with _typed(str(self.folder / _ROOT)):
            trusted = TrustedMetadataSet(root, EnvelopeType.METADATA)

        def nothing(name: str, _: int) -> bytes:
            raise MissingError(name)

        self._roots(trusted, nothing, 0)
        return self._floor(trusted.root, self._local("timestamp.json", MAX_TIMESTAMP_BYTES))

    def _roots(self, trusted: TrustedMetadataSet, fetch: Callable[[str, int], bytes], last_root: int) -> None:
        from tuf.api.exceptions import RepositoryError

        for _ in range(MAX_ROOTS):
            version = trusted.root.version + 1
            if last_root and version > last_root:
                return
            name = f"roots/{version}.root.json"
            known = self._local(name, MAX_ROOT_BYTES)
            if known is not None:
                with contextlib.suppress(RepositoryError):
                    trusted.update_root(known)
                    continue
            try:
                data = fetch(metadata_key("root", version), MAX_ROOT_BYTES)
            except MissingError:
                return
            with _typed(f"{version}.root.json"):
                trusted.update_root(data)
            self._keep(name, data)

    def _floor(self, root: Root, timestamp: bytes | None) -> float:
        """The newest moment that today's keys have signed: a time signed by a key that was replaced does not count."""
        from tuf.api.exceptions import RepositoryError
        from tuf.api.metadata import Metadata, Timestamp

        floor = signed_at(root)
        if timestamp is not None:
            with contextlib.suppress(RepositoryError, ValueError, UntrustedError):
                metadata = Metadata[Timestamp].from_bytes(timestamp)
                root.verify_delegate(Timestamp.type, metadata.signed_bytes, metadata.signatures)
                floor = max(floor, signed_at(metadata.signed))
        return floor

    def _snapshot(self, trusted: TrustedMetadataSet, fetch: Callable[[str, int], bytes]) -> None:
        from tuf.api.exceptions import RepositoryError

        known = self._local("snapshot.json", MAX_METADATA_BYTES)
        if known is not None:
            with contextlib.suppress(RepositoryError):
                trusted.update_snapshot(known, trusted=True)
                return
        meta = trusted.timestamp.snapshot_meta
        with _typed("snapshot.json"):
            data = fetch(
                metadata_key("snapshot", meta.version), min(meta.length or MAX_METADATA_BYTES, MAX_METADATA_BYTES)
            )
            trusted.update_snapshot(data)
        self._keep("snapshot.json", data)

    def _targets(self, trusted: TrustedMetadataSet, fetch: Callable[[str, int], bytes]) -> None:
        from tuf.api.exceptions import RepositoryError

        known = self._local("targets.json", MAX_METADATA_BYTES)
        if known is not None:
            with contextlib.suppress(RepositoryError):
                trusted.update_targets(known)
                return
        meta = trusted.snapshot.meta.get("targets.json")
        if meta is None:
            raise UntrustedError("the snapshot metadata name no targets")
        with _typed("targets.json"):
            data = fetch(
                metadata_key("targets", meta.version), min(meta.length or MAX_METADATA_BYTES, MAX_METADATA_BYTES)
            )
            trusted.update_targets(data)
        self._keep("targets.json", data)

    def _local(self, name: str, limit: int) -> bytes | None:
        try:
            with (self.folder / name).open("rb") as file:
                return file.read(limit)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise RegistryError(f"{self.folder / name} cannot be read: {error.strerror}") from error

    def _keep(self, name: str, data: bytes) -> None:
        try:
            write_durably(self.folder / name, data)
        except OSError as error:
            raise RegistryError(f"{self.folder / name} cannot be written: {error.strerror}") from error


@contextlib.contextmanager
def _typed(what: str) -> Iterator[None]:
    """Turns tuf's exceptions into ours."""
    from tuf.api.exceptions import ExpiredMetadataError, RepositoryError

    try:
        yield
    except ExpiredMetadataError as error:
        raise ExpiredError(
            f"{what}: the registry's signatures have expired, so nothing is installed by them; the one who publishes "
            f"renews them with: okko registry refresh ({error})"
        ) from error
    except (RepositoryError, ValueError) as error:
        raise UntrustedError(f"{what} is not to be trusted: {error}") from error
