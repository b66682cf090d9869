"""The catalog as signed metadata, and back: what is written in the files of The Update Framework.

Pure: bytes and values in, bytes and values out; signing is a function that is passed in. A channel or a pin is a target
whose SHA-256 is that of a bundle's manifest, so whoever trusts the targets role knows the bundle, whatever a server
says. Our own words stand under `x-okko`, signed with the rest. tuf is imported where it is used: it takes 0.2 s.
https://theupdateframework.github.io/specification/latest/#file-formats
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from okko_models.errors import OkkoError
from okko_models.manifest import MAX_MANIFEST_BYTES, SHA256_PATTERN
from okko_models.registry.catalog import Catalog, Published, Service, iso
from okko_models.registry.errors import UntrustedError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tuf.api.metadata import Metadata, Root, Signed, Targets

ROLES: Final = ("root", "targets", "snapshot", "timestamp")
DAYS: Final = {"root": 730, "targets": 365, "snapshot": 365, "timestamp": 60}
"""How long signatures are good for installing; `okko registry refresh` and every change renew all but root's."""
LAYOUT: Final = 1
_OWN: Final = "x-okko"
_MANIFEST: Final = "manifest.json"

_Words = TypeVar("_Words", bound=msgspec.Struct)


class _OfRoot(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    layout: int
    signed: str
    days: dict[str, int]


class _OfTimestamp(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    signed: str


class _OfTargets(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    entries: int
    head: str
    deleting: tuple[str, ...]
    rotating: str


class _OfBundle(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    version: str
    at: str


class _OfPlace(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    before: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Versions:
    """The version numbers of the three roles that change; they only grow."""

    targets: int
    snapshot: int
    timestamp: int


@dataclass(frozen=True, slots=True)
class Release:
    """A state of the registry, signed and ready to be written."""

    versions: Versions
    targets: bytes
    snapshot: bytes
    timestamp: bytes


def require_tuf() -> None:
    """Says early and clearly that a package is missing.

    Raises:
        OkkoError: it is.
    """
    for package in ("tuf", "cryptography"):
        if importlib.util.find_spec(package) is None:
            raise OkkoError(
                f'a registry needs: pip install "okko[registry]"  (the Python package {package} is not installed)'
            )


def bundle_key(digest: str, name: str) -> str:
    """Returns where a bundle's file lies."""
    return f"bundles/{digest}/{name}"


def metadata_key(role: str, version: int | None = None) -> str:
    """Returns where a role's metadata lie."""
    return f"metadata/{role}.json" if version is None else f"metadata/{version}.{role}.json"


def moment(unix_s: float) -> datetime:
    """Returns a moment as tuf wants it: UTC, whole seconds."""
    return datetime.fromtimestamp(int(unix_s), UTC)


def signed_at(signed: Signed) -> float:
    """Returns when root or timestamp metadata were signed, seconds since 1970.

    Raises:
        UntrustedError: they do not say it.
    """
    kind: type[_OfRoot | _OfTimestamp] = _OfRoot if signed.type == "root" else _OfTimestamp
    own = _own(signed.unrecognized_fields.get(_OWN), kind)
    try:
        return datetime.fromisoformat(own.signed).timestamp()
    except (ValueError, OverflowError) as error:
        raise UntrustedError(f"{signed.type} metadata say {own.signed!r} as their time") from error


def days_of(root: Root) -> Mapping[str, int]:
    """Returns how long the signatures of each role last.

    Raises:
        UntrustedError: the root metadata are not those of a registry of okko, or of a later one.
    """
    own = _own(root.unrecognized_fields.get(_OWN), _OfRoot)
    if own.layout != LAYOUT:
        raise UntrustedError(f"the registry has layout {own.layout}; this okko reads {LAYOUT}. Update okko.")
    return {**DAYS, **own.days}


def root_fields(at: float, days: Mapping[str, int]) -> dict[str, Any]:
    """Returns our own words in root metadata."""
    return {_OWN: msgspec.to_builtins(_OfRoot(LAYOUT, iso(at), dict(days)))}


def compose(
    catalog: Catalog, versions: Versions, at: float, days: Mapping[str, int], sign: Callable[[str, Metadata[Any]], None]
) -> Release:
    """Writes down and signs a state of the registry.

    Args:
        catalog: the state.
        versions: the version numbers to give it.
        at: when, seconds since 1970.
        days: how long the signatures of each role last.
        sign: adds the signatures of a role to metadata.
    """
    from tuf.api.metadata import Metadata, MetaFile, Snapshot, TargetFile, Targets, Timestamp

    def target(path: str, digest: str, custom: msgspec.Struct) -> TargetFile:
        size = catalog.bundles[digest].size
        return TargetFile(size, {"sha256": digest}, path, {"custom": msgspec.to_builtins(custom)})

    def finish(role: str, signed: Any) -> bytes:
        metadata: Metadata[Any] = Metadata(signed)
        sign(role, metadata)
        return metadata.to_bytes()

    def about(version: int, data: bytes) -> MetaFile:
        return MetaFile(version, len(data), {"sha256": hashlib.sha256(data).hexdigest()})

    def until(role: str) -> datetime:
        return moment(at) + timedelta(days=days[role])

    targets = [
        target(bundle_key(bundle.digest, _MANIFEST), bundle.digest, _OfBundle(bundle.name, bundle.version, bundle.at))
        for bundle in catalog.bundles.values()
    ] + [target(f"{place}.json", now.digest, _OfPlace(now.before)) for place, now in catalog.places.items()]
    own = _OfTargets(catalog.entries, catalog.head, catalog.deleting, catalog.rotating)
    targets_data = finish(
        "targets",
        Targets(
            versions.targets,
            expires=until("targets"),
            targets={entry.path: entry for entry in targets},
            unrecognized_fields={_OWN: msgspec.to_builtins(own)},
        ),
    )
    snapshot_data = finish(
        "snapshot",
        Snapshot(
            versions.snapshot,
            expires=until("snapshot"),
            meta={"targets.json": about(versions.targets, targets_data)},
        ),
    )
    timestamp_data = finish(
        "timestamp",
        Timestamp(
            versions.timestamp,
            expires=until("timestamp"),
            snapshot_meta=about(versions.snapshot, snapshot_data),
            unrecognized_fields={_OWN: msgspec.to_builtins(_OfTimestamp(iso(at)))},
        ),
    )
    return Release(versions, targets_data, snapshot_data, timestamp_data)


def catalog_of(targets: Targets) -> Catalog:
    """Reads the catalog from targets metadata whose signatures were checked.

    Raises:
        UntrustedError: they were signed, but are not what okko writes, or what a later okko writes.
    """
    own = _own(targets.unrecognized_fields.get(_OWN), _OfTargets)
    bundles: dict[str, Published] = {}
    places: dict[str, Service] = {}
    for path, entry in targets.targets.items():
        digest, custom = entry.hashes.get("sha256", ""), entry.unrecognized_fields.get("custom")
        if not re.fullmatch(SHA256_PATTERN, digest):
            raise UntrustedError(f"{path} has the digest {digest!r}; expected 64 hexadecimal digits")
        if entry.length > MAX_MANIFEST_BYTES:
            raise UntrustedError(f"{path} has {entry.length} bytes; a manifest has at most {MAX_MANIFEST_BYTES}")
        if path == bundle_key(digest, _MANIFEST):
            said = _own(custom, _OfBundle)
            bundles[digest] = Published(digest, entry.length, said.name, said.version, said.at)
        else:
            places[path.removesuffix(".json")] = Service(digest, _own(custom, _OfPlace).before)
    for place, now in places.items():
        if now.digest not in bundles or not place.startswith(("channels/", "pins/")):
            raise UntrustedError(f"{place} names the bundle {now.digest[:12]}, which the registry does not have")
    return Catalog(bundles, places, own.entries, own.head, own.deleting, own.rotating)


def _own(found: Any, kind: type[_Words]) -> _Words:
    try:
        return msgspec.convert(found, kind)
    except msgspec.ValidationError as error:
        raise UntrustedError(
            f"the signed metadata are not those of a registry that this okko reads: {error}"
        ) from error
