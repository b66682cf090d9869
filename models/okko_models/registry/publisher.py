"""Changing a registry: each change is made whole or not at all, however many try at once and wherever one is killed.

First everything new is written under names of its own (files of the bundle, entry of the log, targets, snapshot); then
one file is swapped, the timestamp, and only if it is still the one that the change was made for. Until the swap nobody
sees anything; after it everybody sees everything; whoever lost the race starts again from what is there now. What a
killed publisher left behind has names that nothing refers to, and is swept up by `sweep`.

Whoever publishes is a client too: what a store says is verified, and compared with what was seen before, before
anything is built on it and signed.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import msgspec

from okko_models.bundle import MANIFEST
from okko_models.damaged import decode_json
from okko_models.registry import catalog as catalogs
from okko_models.registry.catalog import Catalog, Change, Note, Published, channel_place, iso, pin_place
from okko_models.registry.errors import ConflictError, MissingError, RegistryError, UntrustedError
from okko_models.registry.metadata import (
    Versions,
    bundle_key,
    catalog_of,
    compose,
    days_of,
    metadata_key,
    moment,
    signed_at,
)
from okko_models.registry.trusted import TrustedFolder
from okko_models.trust.model_check import check_bundle

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tuf.api.metadata import Metadata, Root

    from okko_models.bundle import Bundle
    from okko_models.registry.keys import KeyRing
    from okko_models.registry.store import Store
    from okko_models.registry.trusted import Trusted

TRIES: Final = 20
"""So often a change starts again because somebody else was faster."""
FUTURE_S: Final = 86_400.0
"""A registry that was signed so much later than now tells of a wrong clock."""
_SPARE_VERSIONS: Final = 1000
KEPT_VERSIONS: Final = 10
"""So many earlier versions of the metadata stay, for devices that are reading them just now."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A registry as it is: verified metadata, the catalog in them, and the tag of the file that a change swaps."""

    trusted: Trusted
    catalog: Catalog
    tag: str


class Publisher:
    """One person, or one job, that changes a registry.

    Args:
        store: the registry.
        ring: the keys at hand.
        trusted: the folder for what this publisher trusts; `root.json` must be in it.
        who: what the log calls the one who does it.
        clock: the time in seconds since 1970.
    """

    def __init__(
        self, store: Store, ring: KeyRing, trusted: Path, *, who: str, clock: Callable[[], float] = time.time
    ) -> None:
        self.store, self.ring, self.who, self.clock = store, ring, who, clock
        # Signatures that have expired must not keep anybody from renewing them: here the time is the newest one signed.
        self._trusted = TrustedFolder(trusted, lambda: 0.0)

    def enroll(self, root: bytes) -> None:
        """Starts to trust the registry whose first root metadata these are; see `TrustedFolder.enroll`."""
        self._trusted.enroll(root)

    def look(self, *, last_root: int = 0) -> Seen:
        """Returns the registry as it is.

        Raises:
            RegistryError: there is none, or it is not the one that is trusted.
        """
        stored = self.store.get(metadata_key("timestamp"))
        if stored is None:
            raise MissingError(f"{self.store} is no registry; okko registry init makes one")

        def fetch(key: str, limit: int) -> bytes:
            found = stored if key == metadata_key("timestamp") else self.store.get(key)
            if found is None:
                raise MissingError(f"{self.store} has no {key}")
            if len(found.data) > limit:
                raise UntrustedError(f"{self.store}: {key} has {len(found.data)} bytes; at most {limit} are read")
            return found.data

        trusted = self._trusted.refresh(fetch, last_root=last_root)
        return Seen(trusted, catalog_of(trusted.targets), stored.tag)

    def publish(self, bundle: Bundle, channel: str = "candidate", why: str = "") -> bool:
        """Puts a bundle into the registry and in service in a channel; returns whether that changed anything.

        Raises:
            BundleError: devices would refuse this bundle.
            RegistryError: it cannot be done.
        """
        check_bundle(bundle)
        data = (bundle.path / MANIFEST).read_bytes()
        place = channel_place(channel)

        written: set[str] = set()

        def change(catalog: Catalog, note: Note) -> Change | None:
            manifest = bundle.manifest
            entry = Published(bundle.digest, len(data), manifest.name, manifest.version, iso(note.at))
            changed = catalogs.publish(catalog, entry, place, note)
            present = set(self.store.list(bundle_key(bundle.digest, "")))
            if bundle.digest in catalog.bundles:
                written.update(present)
            for name in (*manifest.files, MANIFEST):
                key = bundle_key(bundle.digest, name)
                # Again in every try: somebody may have swept up what no catalog named yet.
                if key not in written & present:
                    self._write(key, data if name == MANIFEST else bundle.read(name))
                    written.add(key)
            return changed

        return self.change(change, why)

    def promote(self, what: str, channel: str = "stable", why: str = "") -> bool:
        """Puts a bundle of the registry in service in a channel.

        Args:
            what: another channel, or the beginning of a digest.
            channel: where.
            why: for the log.

        Raises:
            RegistryError: there is no such bundle.
        """
        place = channel_place(channel)
        return self.change(lambda now, note: catalogs.serve(now, now.resolve(what), place, note, "promote"), why)

    def roll_back(self, channel: str = "stable", to: str = "", why: str = "") -> bool:
        """Puts the bundle in service that was before, or an earlier one.

        Raises:
            RegistryError: there was none.
        """
        place = channel_place(channel)
        return self.change(lambda now, note: catalogs.roll_back(now, place, now.resolve(to) if to else "", note), why)

    def pin(self, device: str, what: str, why: str = "") -> bool:
        """Puts a bundle in service on one device, whatever the channels say.

        Raises:
            RegistryError: there is no such bundle.
        """
        place = pin_place(device)
        return self.change(lambda now, note: catalogs.serve(now, now.resolve(what), place, note, "pin"), why)

    def unpin(self, device: str, why: str = "") -> bool:
        """Lets a device follow its channel again."""
        return self.change(lambda now, note: catalogs.unpin(now, device, note), why)

    def refresh(self) -> None:
        """Renews the signatures before they expire.

        Raises:
            RegistryError: it cannot be done.
        """
        self.change(lambda now, _: Change(now, None), "")

    def change(self, rule: Callable[[Catalog, Note], Change | None], why: str) -> bool:
        """Changes the registry by a rule; returns whether there was anything to change.

        Args:
            rule: from the present state to the new one, or None; it is called again if somebody else was faster.
            why: for the log.

        Raises:
            ConflictError: somebody else was faster every time.
            RegistryError: it cannot be done.
        """
        for _ in range(TRIES):
            seen = self.look()
            if seen.catalog.rotating:
                raise ConflictError("new keys are being brought in; finish that with: okko registry rotate-key")
            at = self.now(seen.trusted)
            changed = rule(seen.catalog, Note(self.who, at, why))
            if changed is None:
                return False
            if self.commit(seen, changed, at, (seen.trusted.root,)):
                return True
        raise ConflictError(f"{self.store} is changed by others all the time; try again")

    def now(self, trusted: Trusted) -> float:
        """Returns the time to sign by: the clock's, but never before what was signed already.

        Raises:
            RegistryError: this clock, or that of the one who signed before, must be wrong.
        """
        now, before = self.clock(), max(signed_at(trusted.root), signed_at(trusted.timestamp))
        if before > now + FUTURE_S:
            raise RegistryError(
                f"the registry was signed at {iso(before)}, and here it is {iso(now)}; set the clock of this machine. "
                "If it is right, the other was wrong: then replace the key: okko registry rotate-key timestamp"
            )
        return max(now, before)

    def commit(self, seen: Seen, changed: Change, at: float, roots: tuple[Root, ...]) -> bool:
        """Writes a new state, signed by the keys of every root in `roots`; returns whether nobody was faster.

        Raises:
            RegistryError: a key is missing.
        """
        trusted = seen.trusted
        if changed.entry is not None:
            self._write(changed.entry.key(), changed.entry.encode())
        sign = signing(self.ring, roots)
        days = days_of(roots[-1])
        if roots[-1].is_expired(moment(at)):
            raise RegistryError(
                f"the registry's root metadata expired at {roots[-1].expires:%Y-%m-%d}; renew them with: "
                "okko registry rotate-key --renew"
            )
        versions = Versions(trusted.targets.version, trusted.snapshot_version, trusted.timestamp.version)
        for _ in range(_SPARE_VERSIONS):
            versions = Versions(versions.targets + 1, versions.snapshot + 1, trusted.timestamp.version + 1)
            release = compose(changed.catalog, versions, at, days, sign)
            # Names that a killed or slower publisher has used are left to it.
            if self.store.put_new(metadata_key("targets", versions.targets), release.targets) and self.store.put_new(
                metadata_key("snapshot", versions.snapshot), release.snapshot
            ):
                break
        key = metadata_key("timestamp")
        if self.store.put_if(key, release.timestamp, seen.tag):
            return True
        # The answer to an earlier try may have been lost.
        found = self.store.get(key)
        return found is not None and found.data == release.timestamp

    def sweep(self, keep: int, why: str = "") -> list[str]:
        """Removes bundles that no place needs any more, and what killed publishers left; returns their digests.

        That they are going is signed and told first, so that nobody can publish one of them at the same time.

        Args:
            keep: so many earlier bundles of each place stay, for going back.
            why: for the log.

        Raises:
            RegistryError: it cannot be done.
        """

        def announce(now: Catalog, note: Note) -> Change | None:
            present = frozenset(key.split("/")[1] for key in self.store.list("bundles/"))
            return catalogs.start_deleting(now, keep, present, note)

        self.change(announce, why)
        seen = self.look()
        gone = seen.catalog.deleting
        for digest in gone:
            for key in self.store.list(f"bundles/{digest}/"):
                self.store.delete(key)
        for key in self._leftovers(seen):
            self.store.delete(key)
        if gone:
            self.change(lambda now, _: Change(replace(now, deleting=()), None) if now.deleting else None, why)
        return list(gone)

    def _leftovers(self, seen: Seen) -> list[str]:
        """Old metadata, and entries of the log that were never committed: of versions that nobody can still use."""
        latest = {
            "targets": seen.trusted.targets.version - KEPT_VERSIONS,
            "snapshot": seen.trusted.snapshot_version - KEPT_VERSIONS,
        }
        found = []
        for key in self.store.list("metadata/"):
            version, _, role = key.removeprefix("metadata/").removesuffix(".json").partition(".")
            if role in latest and version.isdigit() and int(version) <= latest[role]:
                found.append(key)
        chain = {entry.key() for entry in read_log(self.store, seen.catalog)}
        for key in self.store.list("log/"):
            number = key.removeprefix("log/").partition(".")[0]
            if key not in chain and number.isdigit() and int(number) <= seen.catalog.entries:
                found.append(key)
        return found

    def _write(self, key: str, data: bytes) -> None:
        if self.store.put_new(key, data):
            return
        found = self.store.get(key)
        if found is None or found.data != data:
            raise RegistryError(
                f"{self.store}/{key} is there already and holds something else; nobody but okko may write there. "
                "Remove it and try again"
            )


def signing(ring: KeyRing, roots: tuple[Root, ...]) -> Callable[[str, Metadata[Any]], None]:
    """Returns what signs metadata so that every one of `roots` accepts them, and makes sure of it.

    Args:
        ring: the keys at hand.
        roots: who may sign what; more than one while keys are replaced.
    """
    from tuf.api.exceptions import RepositoryError

    found: dict[str, list[Any]] = {}

    def sign(role: str, metadata: Metadata[Any]) -> None:
        if role not in found:
            found[role] = signers_for(ring, roots, role)
        try:
            for signer in found[role]:
                metadata.sign(signer, append=True)
            for root in roots:
                root.verify_delegate(role, metadata.signed_bytes, metadata.signatures)
        except RepositoryError as error:
            raise RegistryError(f"signing as {role} failed: {error}") from error

    return sign


def signers_for(ring: KeyRing, roots: tuple[Root, ...], role: str) -> list[Any]:
    """Returns signers enough for a role in every one of `roots`.

    Raises:
        RegistryError: too few of the role's keys are at hand.
    """
    signers: dict[str, Any] = {}
    for root in roots:
        here = ring.signers(root, role)
        threshold = root.roles[role].threshold
        if len(here) < threshold:
            wanted = ", ".join(f"{role}-{keyid[:16]}.pem" for keyid in root.roles[role].keyids)
            raise RegistryError(
                f"signing as {role} needs {threshold} of the keys {wanted}; {len(here)} are here "
                f"({', '.join(map(str, ring.folders))}); name further folders with --keys"
            )
        signers |= {signer.public_key.keyid: signer for signer in here[:threshold]}
    return list(signers.values())


def read_log(store: Store, catalog: Catalog) -> list[catalogs.Entry]:
    """Returns the whole log, oldest first, following the chain from the signed head.

    Raises:
        UntrustedError: an entry is missing or was altered.
    """
    entries: list[catalogs.Entry] = []
    number, digest = catalog.entries, catalog.head
    while number:
        key = catalogs.log_key(number, digest)
        stored = store.get(key)
        try:
            entry = None if stored is None else decode_json(stored.data, catalogs.Entry)
        except msgspec.DecodeError:
            entry = None
        if entry is None or entry.digest() != digest or entry.number != number:
            raise UntrustedError(f"{store}: entry {number} of the log is missing or was altered ({key})")
        entries.append(entry)
        number, digest = number - 1, entry.previous
    return entries[::-1]
