"""Whether a registry is whole: signatures, files, channels, and a log that tells the same story as the catalog."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from okko_models.bundle import MANIFEST
from okko_models.damaged import decode_json
from okko_models.errors import OkkoError
from okko_models.manifest import FileEntry  # noqa: TC001 (msgspec reads it at run time)
from okko_models.registry.errors import UntrustedError
from okko_models.registry.metadata import bundle_key, moment
from okko_models.registry.publisher import read_log

if TYPE_CHECKING:
    from collections.abc import Sequence

    from okko_models.registry.catalog import Catalog, Entry
    from okko_models.registry.publisher import Seen
    from okko_models.registry.store import Store


@dataclass(frozen=True)
class Report:
    """What a check found.

    Attributes:
        errors: what keeps devices from being served, or was tampered with.
        remarks: what needs no haste: signatures that end soon, files that nothing refers to.
        files: how many files of bundles were compared with their digests.
        entries: how many entries of the log were compared with their digests.
    """

    errors: tuple[str, ...]
    remarks: tuple[str, ...]
    files: int
    entries: int


def check(store: Store, seen: Seen, now: float) -> Report:
    """Checks everything that a registry holds.

    Args:
        store: the registry.
        seen: its metadata, verified.
        now: seconds since 1970, to judge what has expired.
    """
    errors: list[str] = []
    remarks: list[str] = []
    catalog, trusted = seen.catalog, seen.trusted
    for name, signed in (("root", trusted.root), ("timestamp", trusted.timestamp), ("targets", trusted.targets)):
        if signed.is_expired(moment(now)):
            errors.append(f"the {name} metadata expired at {signed.expires:%Y-%m-%d}: devices install nothing")
        elif signed.is_expired(moment(now + 14 * 86_400)):
            remarks.append(f"the {name} metadata expire at {signed.expires:%Y-%m-%d}")
    if catalog.rotating:
        remarks.append("new keys are being brought in; finish that with: okko registry rotate-key --resume")
    if catalog.deleting:
        remarks.append("bundles are being removed; finish that with: okko registry gc")
    files = 0
    for digest in catalog.bundles:
        try:
            files += _check_bundle(store, digest)
        except OkkoError as error:
            errors.append(str(error))
    entries: Sequence[Entry] = ()
    try:
        entries = read_log(store, catalog)
        _check_story(entries, catalog)
    except OkkoError as error:
        errors.append(str(error))
    known = {entry.key() for entry in entries}
    strays = [key for key in store.list("log/") if key not in known]
    strays += [key for key in store.list("bundles/") if key.split("/")[1] not in catalog.bundles]
    if strays and not errors:
        remarks.append(f"{len(strays)} files that nothing refers to; okko registry gc removes them")
    return Report(tuple(errors), tuple(remarks), files, len(entries))


class _Files(msgspec.Struct):
    """What is asked of a manifest here, whichever version of okko wrote it."""

    files: dict[str, FileEntry]


def _check_bundle(store: Store, digest: str) -> int:
    key = bundle_key(digest, MANIFEST)
    try:
        entries = decode_json(_read(store, key, digest), _Files).files
    except msgspec.DecodeError as error:
        raise UntrustedError(f"{store}/{key} is no manifest: {error}") from error
    for name, entry in entries.items():
        _read(store, bundle_key(digest, name), entry.sha256)
    return len(entries) + 1


def _read(store: Store, key: str, digest: str) -> bytes:
    stored = store.get(key)
    if stored is None:
        raise UntrustedError(f"{store}/{key} is missing; publish the bundle again")
    if hashlib.sha256(stored.data).hexdigest() != digest:
        raise UntrustedError(f"{store}/{key} was altered; remove it and publish the bundle again")
    return stored.data


def _check_story(entries: Sequence[Entry], catalog: Catalog) -> None:
    """Lets the log happen again and compares where it ends."""
    told: dict[str, str] = {}
    for entry in entries:
        if not entry.place:
            continue
        if told.get(entry.place, "") != entry.before:
            raise UntrustedError(f"entry {entry.number} of the log does not follow from the ones before")
        told[entry.place] = entry.after
    if {place: digest for place, digest in told.items() if digest} != {
        place: now.digest for place, now in catalog.places.items()
    }:
        raise UntrustedError("the log ends with other bundles in service than the signed catalog says")
