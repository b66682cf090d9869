"""What a registry says: which bundles there are, which one is in service where, and the head of the log.

Pure values and the rules by which they change; how they are signed is the business of `metadata`, where they lie of
`store`. Each change makes one entry of the log, chained to the one before by its digest, so that nobody can alter the
past without the present telling.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import msgspec

from okko_models.manifest import NAME_PATTERN
from okko_models.registry.errors import MissingError, RegistryError

if TYPE_CHECKING:
    from collections.abc import Mapping

CHANNELS: Final = ("candidate", "stable")
MAX_BEFORE: Final = 10
"""So many earlier bundles of a channel are remembered for going back."""
_SHORTEST_PREFIX: Final = 6


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One line of the log.

    Attributes:
        number: 1, 2, 3, ...
        previous: SHA-256 of the entry before; empty for the first.
        at: when, ISO 8601, UTC.
        who: who says so.
        action: what was done: init, publish, promote, rollback, pin, unpin, gc, rotate-key.
        place: what it was done to: `channels/stable`, `pins/DEVICE`; empty where it is about no place.
        before: digest of the bundle that was in service there; empty: none.
        after: digest of the bundle that is in service from then on; empty: none.
        why: in the person's words.
    """

    number: int
    previous: str
    at: str
    who: str
    action: str
    place: str
    before: str
    after: str
    why: str

    def encode(self) -> bytes:
        """Returns the entry as one line of JSON."""
        return msgspec.json.encode(self) + b"\n"

    def digest(self) -> str:
        """Returns what the next entry names as its `previous`."""
        return hashlib.sha256(self.encode()).hexdigest()

    def key(self) -> str:
        """Returns the name of its file."""
        return log_key(self.number, self.digest())


def log_key(number: int, digest: str) -> str:
    """Returns the name of an entry's file; what is never committed does not stand in the way of what is."""
    return f"log/{number:08d}.{digest}.json"


@dataclass(frozen=True, slots=True)
class Note:
    """Who does something, when (seconds since 1970), and why."""

    who: str
    at: float
    why: str = ""


@dataclass(frozen=True, slots=True)
class Published:
    """A bundle in the registry.

    Attributes:
        digest: SHA-256 of its manifest, which stands for the whole bundle.
        size: bytes of its manifest.
        name: the manifest's.
        version: the manifest's.
        at: when it was published, ISO 8601, UTC.
    """

    digest: str
    size: int
    name: str
    version: str
    at: str


@dataclass(frozen=True, slots=True)
class Service:
    """Which bundle is in service at a place, and which ones were before, newest first."""

    digest: str
    before: tuple[str, ...] = ()


@dataclass(frozen=True)
class Catalog:
    """The state of a registry.

    Attributes:
        bundles: all of them, by digest.
        places: what is in service: `channels/NAME` and `pins/DEVICE`.
        entries: how many entries the log has.
        head: digest of the last one.
        deleting: bundles whose files are being removed just now; nobody may publish them until that is done.
        rotating: SHA-256 of the root metadata that is being brought in; empty: none.
    """

    bundles: Mapping[str, Published] = field(default_factory=dict)
    places: Mapping[str, Service] = field(default_factory=dict)
    entries: int = 0
    head: str = ""
    deleting: tuple[str, ...] = ()
    rotating: str = ""

    def resolve(self, text: str) -> str:
        """Returns the digest that is meant by a channel's name, or by a digest's beginning.

        Raises:
            MissingError: none is.
        """
        if text in CHANNELS:
            return self.service(f"channels/{text}").digest
        found = [digest for digest in self.bundles if len(text) >= _SHORTEST_PREFIX and digest.startswith(text)]
        if len(found) != 1:
            raise MissingError(
                f"{text} names {len(found) or 'none'} of the registry's {len(self.bundles)} bundles; expected "
                f"{' or '.join(CHANNELS)}, or at least {_SHORTEST_PREFIX} digits of one digest (okko registry list)"
            )
        return found[0]

    def service(self, place: str) -> Service:
        """Returns what is in service at a place.

        Raises:
            MissingError: nothing is.
        """
        if place not in self.places:
            raise MissingError(f"nothing is in service in {place}")
        return self.places[place]


@dataclass(frozen=True, slots=True)
class Change:
    """A new state of the registry, and the entry that tells of it; None: not worth one."""

    catalog: Catalog
    entry: Entry | None


def iso(unix_s: float) -> str:
    """Returns a moment as ISO 8601 in UTC, to the second."""
    return datetime.fromtimestamp(int(unix_s), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def channel_place(channel: str) -> str:
    """Returns the place of a channel.

    Raises:
        RegistryError: there is no such channel.
    """
    if channel not in CHANNELS:
        raise RegistryError(f"there is no channel {channel}; expected {' or '.join(CHANNELS)}")
    return f"channels/{channel}"


def pin_place(device: str) -> str:
    """Returns the place of a device's pin.

    Raises:
        RegistryError: this cannot be a device's name.
    """
    if not re.match(NAME_PATTERN, device):
        raise RegistryError(f"{device!r} is no name of a device; expected letters, digits, dots, dashes, at most 80")
    return f"pins/{device}"


def logged(catalog: Catalog, note: Note, action: str, place: str = "", before: str = "", after: str = "") -> Change:
    """Returns the catalog with one more entry of the log."""
    entry = Entry(catalog.entries + 1, catalog.head, iso(note.at), note.who, action, place, before, after, note.why)
    return Change(replace(catalog, entries=entry.number, head=entry.digest()), entry)


def publish(catalog: Catalog, bundle: Published, place: str, note: Note) -> Change | None:
    """Adds a bundle and puts it in service; None if it is there already.

    Raises:
        RegistryError: its files are being removed just now.
    """
    if bundle.digest in catalog.deleting:
        raise RegistryError(
            f"bundle {bundle.digest[:12]} is being removed; finish that with: okko registry gc, then publish again"
        )
    if bundle.digest not in catalog.bundles:
        catalog = replace(catalog, bundles={**catalog.bundles, bundle.digest: bundle})
    return serve(catalog, bundle.digest, place, note, "publish")


def serve(catalog: Catalog, digest: str, place: str, note: Note, action: str) -> Change | None:
    """Puts a bundle in service; None if it is already.

    Raises:
        MissingError: there is no such bundle.
    """
    if digest not in catalog.bundles:
        raise MissingError(f"the registry has no bundle {digest[:12]}; publish it first")
    now = catalog.places.get(place)
    if now is not None and now.digest == digest:
        return None
    before = (now.digest, *(other for other in now.before if other != digest))[:MAX_BEFORE] if now else ()
    catalog = replace(catalog, places={**catalog.places, place: Service(digest, before)})
    return logged(catalog, note, action, place, now.digest if now else "", digest)


def roll_back(catalog: Catalog, place: str, to: str, note: Note) -> Change | None:
    """Puts an earlier bundle in service again: the one before, or `to`; None if `to` is in service.

    Raises:
        MissingError: nothing was in service there before, or not that one.
    """
    now = catalog.service(place)
    if to == now.digest:
        return None
    earlier = [digest for digest in now.before if digest in catalog.bundles]
    if not earlier or (to and to not in earlier):
        what = f"bundle {to[:12]} was not" if to else "no other bundle was"
        raise MissingError(f"{what} in service in {place} before; use okko registry promote")
    target = to or earlier[0]
    rest = tuple(earlier[earlier.index(target) + 1 :])
    catalog = replace(catalog, places={**catalog.places, place: Service(target, rest)})
    return logged(catalog, note, "rollback", place, now.digest, target)


def unpin(catalog: Catalog, device: str, note: Note) -> Change | None:
    """Removes a device's pin; None if it has none."""
    place = pin_place(device)
    if place not in catalog.places:
        return None
    rest = {name: service for name, service in catalog.places.items() if name != place}
    return logged(replace(catalog, places=rest), note, "unpin", place, catalog.places[place].digest)


def start_deleting(catalog: Catalog, keep: int, present: frozenset[str], note: Note) -> Change | None:
    """Takes out of the registry what no place needs any more; None if there is nothing new to remove.

    Args:
        catalog: the registry.
        keep: so many earlier bundles of each place stay.
        present: digests of the bundles whose files, or some of them, are in the store.
        note: who and why.
    """
    places = {name: Service(now.digest, now.before[:keep]) for name, now in catalog.places.items()}
    needed = {digest for now in places.values() for digest in (now.digest, *now.before)}
    gone = (set(catalog.bundles) | present | set(catalog.deleting)) - needed
    if gone == set(catalog.deleting):
        return None
    bundles = {digest: bundle for digest, bundle in catalog.bundles.items() if digest not in gone}
    return logged(replace(catalog, bundles=bundles, places=places, deleting=tuple(sorted(gone))), note, "gc")
