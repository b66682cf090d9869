"""The root of trust: who may sign what; making it, and changing it while devices go on accepting everything.

New keys are brought in with these steps, and a kill between any two leaves a registry that every device accepts:

1. the new root metadata are put aside, under their digest;
2. all metadata are signed with the old keys and the new ones, and say which root is coming: from here on nobody else
   changes the registry;
3. the new root metadata get their place;
4. all metadata are signed with the new keys alone.

Doing it again goes on from where it stopped. Root metadata may need the signatures of several people; a draft then
travels as a file from one to the next. https://theupdateframework.github.io/specification/latest/#key-management
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from okko_models.registry import catalog as catalogs
from okko_models.registry.catalog import Catalog, Change, Note
from okko_models.registry.errors import ConflictError, MissingError, RegistryError, UntrustedError
from okko_models.registry.metadata import (
    DAYS,
    ROLES,
    Versions,
    compose,
    days_of,
    metadata_key,
    moment,
    root_fields,
    signed_at,
)
from okko_models.registry.publisher import FUTURE_S, TRIES, Publisher, Seen, signers_for, signing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tuf.api.metadata import Metadata, Root

    from okko_models.registry.keys import KeyRing


@dataclass(frozen=True)
class Share:
    """Whose keys a role gets.

    Attributes:
        keys: how many key files to make.
        threshold: how many signatures are needed.
        uris: keys in key services, beside the files.
    """

    keys: int = 1
    threshold: int = 1
    uris: tuple[str, ...] = ()


@dataclass(frozen=True)
class Draft:
    """Root metadata on their way.

    Attributes:
        data: the metadata with the signatures so far.
        missing: how many signatures are missing, by whose keys: `old` and `new` root keys.
    """

    data: bytes
    missing: Mapping[str, int] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Says whether enough people have signed."""
        return not any(self.missing.values())


def init(
    publisher: Publisher, shares: Mapping[str, Share] | None = None, days: Mapping[str, int] | None = None
) -> bytes:
    """Makes a registry where there is none, with new keys; or goes on where making it was interrupted.

    Args:
        publisher: whoever makes it; all keys must be at hand.
        shares: whose keys each role gets; one file each where nothing is said.
        days: how long the signatures of each role last; see `DAYS`.

    Returns:
        The root metadata that devices are enrolled with.

    Raises:
        RegistryError: there is a registry already, or the store does not keep promises that publishing needs.
    """
    store, at = publisher.store, publisher.clock()
    if store.get(metadata_key("timestamp")) is not None:
        raise RegistryError(f"{store} is a registry already")
    found = store.get(metadata_key("root", 1))
    if found is None:
        data = _first_root(publisher.ring, shares or {}, days or {}, at)
        if not store.put_new(metadata_key("root", 1), data):
            raise ConflictError(f"{store} was made a registry by somebody else just now")
    else:
        data = found.data
    if store.put_new(metadata_key("root", 1), b"") or store.put_if(metadata_key("root", 1), b"", '"0"'):
        raise RegistryError(f"{store} overwrites files that it was asked to keep, so no registry can be there")
    root = _parse(data).signed
    # Nobody else's root is taken over: its keys must be here.
    signers_for(publisher.ring, (root,), "root")
    changed = catalogs.logged(Catalog(), Note(publisher.who, at), "init")

    release = compose(changed.catalog, Versions(1, 1, 1), at, days_of(root), signing(publisher.ring, (root,)))
    publisher.enroll(data)
    assert changed.entry is not None
    store.put_new(changed.entry.key(), changed.entry.encode())
    for key, content in (
        (metadata_key("targets", 1), release.targets),
        (metadata_key("snapshot", 1), release.snapshot),
    ):
        # What an interrupted try left here was never referred to; only its time is another.
        if not store.put_new(key, content):
            left = store.get(key)
            if left is None or not store.put_if(key, content, left.tag):
                raise ConflictError(f"{store} is being made a registry by somebody else; try again")
    store.put_new(metadata_key("timestamp"), release.timestamp)
    publisher.look()
    return data


def rotate(
    publisher: Publisher, role: str = "", old: str = "", *, lost: bool = False, uri: str = "", why: str = ""
) -> Draft:
    """Replaces a key, all at once if enough root keys are at hand; goes on if that was interrupted.

    Args:
        publisher: whoever does it.
        role: whose key; empty: all keys stay, only the root's own lifetime is renewed.
        old: the beginning of the old key's id; empty: the role has but one. A key that nobody trusts any more is no
            error, so that the same command can be given again.
        lost: the old key is not at hand any more.
        uri: the new key is in a key service; empty: a new file.
        why: for the log.

    Returns:
        What was brought in; or, if it is not complete, what others have to sign first.

    Raises:
        RegistryError: it cannot be done.
    """
    seen = _look(publisher, lost=lost)
    if seen.catalog.rotating or _next_root(publisher, seen):
        finish_rotation(publisher, lost=lost, why=why)
        return Draft(b"")
    root = seen.trusted.root
    holders = root.roles[role].keyids if role in ROLES else ()
    past = _all_keys(publisher, root) - set(holders)
    if old and not any(keyid.startswith(old) for keyid in holders) and any(keyid.startswith(old) for keyid in past):
        return Draft(b"")
    draft = draft_rotation(publisher, role, old, lost=lost, uri=uri)
    if draft.complete:
        finish_rotation(publisher, draft.data, lost=lost, why=why)
    return draft


def draft_rotation(publisher: Publisher, role: str = "", old: str = "", *, lost: bool = False, uri: str = "") -> Draft:
    """Writes new root metadata, with a new key for a role instead of an old one, and signs what can be signed here.

    Args:
        publisher: whoever does it.
        role: whose key; empty: all keys stay, only the root's own lifetime is renewed.
        old: the beginning of the old key's id; empty: the role has but one.
        lost: the old key is not at hand any more.
        uri: the new key is in a key service; empty: a new file.

    Raises:
        RegistryError: there is no such key.
    """
    from tuf.api.metadata import Metadata

    seen = _look(publisher, lost=lost)
    if seen.catalog.rotating:
        raise ConflictError(
            "new keys are being brought in already; finish that with: okko registry rotate-key --resume"
        )
    present = seen.trusted.root
    root = _copy(present)
    at = max(publisher.clock(), signed_at(present))
    if role:
        if role not in ROLES:
            raise RegistryError(f"there is no role {role}; expected {', '.join(ROLES)}")
        holders = [keyid for keyid in present.roles[role].keyids if keyid.startswith(old)]
        if len(holders) != 1:
            shown = ", ".join(keyid[:16] for keyid in present.roles[role].keyids)
            raise RegistryError(f"{old or role} names {len(holders)} keys; the role {role} has {shown}; say which")
        signer = publisher.ring.connect(uri) if uri else None
        signer = signer or publisher.ring.spare(role, _all_keys(publisher, present)) or publisher.ring.create(role)
        root.revoke_key(holders[0], role)
        root.add_key(signer.public_key, role)
    root.version = present.version + 1
    root.expires = moment(at) + timedelta(days=days_of(present)["root"])
    root.unrecognized_fields = root_fields(at, days_of(present))
    return sign_draft(publisher, Metadata(root).to_bytes(), lost=lost)


def sign_draft(publisher: Publisher, data: bytes, *, lost: bool = False) -> Draft:
    """Adds the signatures of the root keys that are at hand.

    Raises:
        UntrustedError: this is no successor of the present root.
    """
    present = _look(publisher, lost=lost).trusted.root
    metadata = _parse(data)
    root = metadata.signed
    if root.version != present.version + 1:
        raise UntrustedError(f"the draft is root version {root.version}; the registry is at {present.version}")
    for signer in [*publisher.ring.signers(present, "root"), *publisher.ring.signers(root, "root")]:
        if signer.public_key.keyid not in metadata.signatures:
            metadata.sign(signer, append=True)
    missing = {}
    for name, judge in (("old", present), ("new", root)):
        result = judge.get_verification_result("root", metadata.signed_bytes, metadata.signatures)
        missing[name] = max(0, result.threshold - len(result.signed))
    return Draft(metadata.to_bytes(), missing)


def finish_rotation(publisher: Publisher, draft: bytes = b"", *, lost: bool = False, why: str = "") -> None:
    """Brings new root metadata in; or goes on where that was interrupted.

    Args:
        publisher: whoever does it; the keys of all other roles must be at hand.
        draft: complete root metadata; empty: those that are being brought in already.
        lost: a key that is replaced is not at hand any more. Devices then accept nothing until all is done.
        why: for the log.

    Raises:
        RegistryError: signatures or keys are missing.
    """
    for _ in range(TRIES):
        if _step(publisher, draft, lost=lost, why=why):
            return
    raise ConflictError(f"{publisher.store} is changed by others all the time; try again")


def _step(publisher: Publisher, draft: bytes, *, lost: bool, why: str) -> bool:
    """Does what comes next; returns whether that was all."""
    store, seen = publisher.store, _look(publisher, lost=lost)
    present, catalog = seen.trusted.root, seen.catalog
    if not draft and not catalog.rotating:
        draft = _next_root(publisher, seen)
    digest = hashlib.sha256(draft).hexdigest() if draft else catalog.rotating
    if not digest:
        raise MissingError("no new keys are being brought in; begin with: okko registry rotate-key ROLE")
    if draft and catalog.rotating not in {"", digest}:
        raise ConflictError("other new keys are being brought in; finish that with: okko registry rotate-key --resume")
    pending = f"metadata/pending/{digest}.root.json"
    if draft:
        store.put_new(pending, draft)
    else:
        stored = store.get(pending)
        draft = stored.data if stored else b""
        if hashlib.sha256(draft).hexdigest() != digest:
            raise UntrustedError(f"{store}/{pending} is missing or was altered; the signed metadata announce it")
    coming = _parse(draft).signed
    at = _time(publisher, seen, coming)
    here = store.get(metadata_key("root", coming.version))
    arrived = here is not None and here.data == draft
    # Under an expired root devices accept nothing anyway; and a time far ahead, from a wrong clock, is forgotten with
    # the key that signed it only if the new key never signs it.
    at_once = lost or present.is_expired(moment(at)) or signed_at(seen.trusted.timestamp) > at + FUTURE_S
    if here is not None and not arrived:
        raise ConflictError(f"root version {coming.version} is there already, and another one; begin again")
    if not arrived:
        if not sign_draft(publisher, draft, lost=lost).complete:
            raise RegistryError("the new root metadata need more signatures: okko registry sign FILE")
        if not catalog.rotating and not at_once:
            announced = Change(replace(catalog, rotating=digest), None)
            publisher.commit(seen, announced, at, (present, coming))
            return False
        store.put_new(metadata_key("root", coming.version), draft)
        if not at_once:
            return False
    changed = catalogs.logged(replace(catalog, rotating=""), Note(publisher.who, at, why), "rotate-key")
    if not publisher.commit(seen, changed, at, (coming,)):
        return False
    store.delete(pending)
    publisher.look()
    return True


def _look(publisher: Publisher, *, lost: bool) -> Seen:
    """The registry as it is; if a lost key keeps it from being verified, by the root before the latest."""
    try:
        return publisher.look()
    except UntrustedError:
        versions = [
            int(key.removeprefix("metadata/").partition(".")[0])
            for key in publisher.store.list("metadata/")
            if key.endswith(".root.json") and key.count("/") == 1
        ]
        if not lost or max(versions, default=1) < 2:
            raise
        return publisher.look(last_root=max(versions) - 1)


def _next_root(publisher: Publisher, seen: Seen) -> bytes:
    """A root that is there but not followed yet, because metadata signed by its keys are not; else empty."""
    stored = publisher.store.get(metadata_key("root", seen.trusted.root.version + 1))
    return stored.data if stored else b""


def _time(publisher: Publisher, seen: Seen, coming: Root) -> float:
    if set(coming.roles["timestamp"].keyids) != set(seen.trusted.root.roles["timestamp"].keyids):
        # A timestamp from a clock that was far ahead is forgotten with its key.
        return max(publisher.clock(), signed_at(coming))
    return max(publisher.now(seen.trusted), signed_at(coming))


def _first_root(ring: KeyRing, shares: Mapping[str, Share], days: Mapping[str, int], at: float) -> bytes:
    from tuf.api.metadata import Metadata, Root

    lifetimes = {**DAYS, **days}
    root = Root(
        version=1,
        expires=moment(at) + timedelta(days=lifetimes["root"]),
        consistent_snapshot=True,
        unrecognized_fields=root_fields(at, lifetimes),
    )
    own: Sequence[Any] = ()
    for role in ROLES:
        share = shares.get(role, Share())
        signers = [ring.connect(uri) for uri in share.uris] + [ring.create(role) for _ in range(share.keys)]
        if not 1 <= share.threshold <= len(signers):
            raise RegistryError(f"{role}: {share.threshold} signatures of {len(signers)} keys cannot be")
        for signer in signers:
            root.add_key(signer.public_key, role)
        root.roles[role].threshold = share.threshold
        own = signers if role == "root" else own
    metadata = Metadata(root)
    for signer in own:
        metadata.sign(signer, append=True)
    return metadata.to_bytes()


def _parse(data: bytes) -> Metadata[Root]:
    from tuf.api.exceptions import RepositoryError
    from tuf.api.metadata import Metadata

    try:
        metadata = Metadata[Any].from_bytes(data)
    except RepositoryError as error:
        raise UntrustedError(f"this is no root metadata: {error}") from error
    if metadata.signed.type != "root":
        raise UntrustedError(f"these are {metadata.signed.type} metadata; expected root")
    return metadata


def _copy(root: Root) -> Root:
    from tuf.api.metadata import Root as AnyRoot

    copy: Root = AnyRoot.from_dict(root.to_dict())
    return copy


def _all_keys(publisher: Publisher, present: Root) -> set[str]:
    """Ids of the keys of every root so far: a key that was once replaced is never used again."""
    known = set(present.keys)
    for version in range(1, present.version):
        stored = publisher.store.get(metadata_key("root", version))
        known |= set(_parse(stored.data).signed.keys) if stored else set()
    return known
