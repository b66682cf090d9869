"""Publishing from a job: as `okko_models.registry` does it, but only for as long as the job holds its lock.

Every change of the registry first proves that the lock is held. Who takes over from a worker that seems dead signs the
registry anew before anything else; a change that the other one had begun then meets another state than it was made for,
begins again, and finds the lock gone. So of two workers at most one publishes, whatever their clocks say.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

from okko_models import manifest as manifests
from okko_models.bundle import MANIFEST, Bundle
from okko_models.registry import catalog as catalogs
from okko_models.registry.catalog import channel_place
from okko_models.registry.errors import ConflictError, MissingError, UntrustedError
from okko_models.registry.files import write_durably
from okko_models.registry.metadata import bundle_key
from okko_models.registry.publisher import Publisher

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from okko_cloud.lease import Lease
    from okko_models.registry.catalog import Catalog, Change, Note
    from okko_models.registry.store import Store

STABLE: Final = channel_place("stable")
CANDIDATE: Final = channel_place("candidate")


class FencedPublisher(Publisher):
    """A publisher that changes nothing without the lock; see `Publisher` for its arguments.

    Attributes:
        lease: the lock that must be held; None: none has to be.
    """

    lease: Lease | None = None

    def change(self, rule: Callable[[Catalog, Note], Change | None], why: str) -> bool:
        """Changes the registry by a rule, if the lock is held.

        Raises:
            LeaseLostError: it is not.
            RegistryError: it cannot be done.
        """

        def guarded(catalog: Catalog, note: Note) -> Change | None:
            if self.lease is not None:
                self.lease.confirm()
            return rule(catalog, note)

        return super().change(guarded, why)

    def promote_over(self, digest: str, against: str, why: str) -> None:
        """Puts a bundle in service in `stable`, if what is in service there still is what it was compared with.

        Args:
            digest: of the bundle.
            against: digest of the one it replaces; empty: none.
            why: for the log.

        Raises:
            ConflictError: another one is in service by now.
            RegistryError: it cannot be done.
        """

        def rule(now: Catalog, note: Note) -> Change | None:
            there = in_service(now)
            if there not in {against, digest}:
                raise ConflictError(f"another model ({there[:12]}) went into service meanwhile")
            return catalogs.serve(now, digest, STABLE, note, "promote")

        self.change(rule, why)


def in_service(catalog: Catalog) -> str:
    """Returns the digest of the bundle in service in `stable`; empty: none is."""
    return catalog.places[STABLE].digest if STABLE in catalog.places else ""


def published_for(store: Store, catalog: Catalog, dataset_digest: str, command: str) -> str:
    """Returns the digest of the bundle that was made of a dataset; empty: there is none.

    Args:
        store: of the registry.
        catalog: what it says, verified.
        dataset_digest: of the photos.
        command: what the bundle's manifest names as having made it.

    Raises:
        RegistryError: the registry cannot be read.
    """
    for digest, entry in catalog.bundles.items():
        # The version ends with the beginning of the dataset's digest, so few manifests have to be read.
        if entry.version.endswith(f"-{dataset_digest[:8]}"):
            made = manifests.decode(_read(store, digest, MANIFEST, digest))
            if (made.dataset.digest, made.provenance.command) == (dataset_digest, command):
                return digest
    return ""


def last_made(store: Store, catalog: Catalog, command: str, into: Path) -> Bundle | None:
    """Returns the bundle that the job before this one has made, brought here; None: there is none.

    Args:
        store: of the registry.
        catalog: what it says, verified.
        command: what the manifest must name as having made it; what others have published is not meant.
        into: see `bring`.

    Raises:
        RegistryError: the registry has it not, or altered.
        BundleError: it is no bundle.
    """
    there = catalog.places.get(CANDIDATE)
    if there is None or not there.digest:
        return None
    made = manifests.decode(_read(store, there.digest, MANIFEST, there.digest))
    return bring(store, there.digest, into) if made.provenance.command == command else None


def bring(store: Store, digest: str, into: Path) -> Bundle:
    """Brings a bundle of the registry here, unless it is here already.

    Args:
        store: of the registry.
        digest: of the bundle, from a verified catalog.
        into: a folder of bundles; this one becomes `into / digest`.

    Raises:
        RegistryError: the registry has it not, or altered.
        BundleError: it is no bundle.
    """
    place = into / digest
    if not (place / MANIFEST).is_file():
        data = _read(store, digest, MANIFEST, digest)
        for name, entry in manifests.decode(data).files.items():
            write_durably(place / name, _read(store, digest, name, entry.sha256))
        # Last, so that a bundle without it is known to be half of one.
        write_durably(place / MANIFEST, data)
    return Bundle.open(place)


def _read(store: Store, bundle: str, name: str, sha256: str) -> bytes:
    found = store.get(bundle_key(bundle, name))
    if found is None:
        raise MissingError(f"{store} has no {bundle_key(bundle, name)}")
    if hashlib.sha256(found.data).hexdigest() != sha256:
        raise UntrustedError(f"{store}/{bundle_key(bundle, name)} is not the file that was signed")
    return found.data
