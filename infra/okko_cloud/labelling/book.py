"""The book of decisions: who said what of which photo, when; written once, never changed, never deleted.

A photo is known by its content, and its decisions are numbered. Number n + 1 is written only where there is none yet
(If-None-Match in S3, a lock in a folder), so of two people who decide at the same moment one wins, and the other is
told. Undoing is a further decision.
"""

from __future__ import annotations

import contextlib
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

import msgspec

from okko_cloud.labelling.layout import OWN
from okko_cloud.labelling.photos import LabellingError
from okko_models.damaged import decode_json

if TYPE_CHECKING:
    from okko_models.registry.store import Store

_FOLDER: Final = "decisions/"
_KEY: Final = re.compile(r"decisions/(?P<digest>[0-9a-f]{64})-(?P<revision>[0-9]{6})\.json")
_AT_ONCE: Final = 8


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What one person said of one photo.

    Attributes:
        digest: SHA-256 of the photo's file.
        revision: counts the photo's decisions from 1.
        who: the person's name.
        unix_s: when, seconds since 1970, by that person's machine.
        label: what the photo shows; None: it has no label any more.
        was: the label that it had before; None: it had none.
        from_key: where it lay, below the dataset's folder.
        to_key: where it is to lie; with a part of the digest in its name if another photo lies there.
        size: bytes of the file.
        reason: why it was shown.
        undoes: the revision that is taken back; 0: none.
        format: of this file.
    """

    digest: str
    revision: int
    who: str
    unix_s: float
    label: str | None
    was: str | None
    from_key: str
    to_key: str
    size: int
    reason: str
    undoes: int = 0
    format: int = 1


class Book:
    """All decisions about a dataset; any thread may ask.

    Args:
        store: where they lie.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._read: set[str] = set()
        self._latest: dict[str, Decision] = {}
        self._lock = threading.Lock()

    def refresh(self) -> None:
        """Reads what others have written meanwhile.

        Raises:
            OkkoError: the store fails.
        """
        names = [name for name in self._store.list(_FOLDER) if name not in self._read and _KEY.fullmatch(name)]
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for decision in pool.map(self._fetch, names):
                self._take(decision)
        self._read |= set(names)

    def latest(self, digest: str) -> Decision | None:
        """Returns the latest decision about a photo that is known here."""
        with self._lock:
            return self._latest.get(digest)

    def look_up(self, digest: str) -> Decision | None:
        """Returns the latest decision about a photo, asking the store.

        Raises:
            OkkoError: the store fails.
        """
        known = self.latest(digest)
        revision = known.revision if known else 0
        while (found := self._fetch(_name(digest, revision + 1))) is not None:
            self._take(found)
            revision += 1
        return self.latest(digest)

    def all(self) -> list[Decision]:
        """Returns the latest decision of each photo."""
        with self._lock:
            return list(self._latest.values())

    def add(self, decision: Decision) -> Decision | None:
        """Writes a decision; returns None, or the one that somebody else wrote before.

        Raises:
            OkkoError: the store fails; then nothing is known to be written, and trying again is safe.
        """
        name = _name(decision.digest, decision.revision)
        if self._store.put_new(name, msgspec.json.encode(decision)):
            self._take(decision)
            return None
        there = self.look_up(decision.digest)
        if there is None or there.revision < decision.revision:
            raise LabellingError(f"{name} in {OWN} is no decision that this okko can read; update okko, or delete it")
        # A write of which the answer was lost and that was tried again finds itself.
        return None if there == decision else there

    def _fetch(self, name: str) -> Decision | None:
        found = self._store.get(name)
        with contextlib.suppress(msgspec.MsgspecError):
            return decode_json(found.data, Decision) if found else None
        return None  # no decision of okko's: nothing is made of it

    def _take(self, decision: Decision | None) -> None:
        if decision is None:
            return
        with self._lock:
            known = self._latest.get(decision.digest)
            if known is None or known.revision < decision.revision:
                self._latest[decision.digest] = decision


def _name(digest: str, revision: int) -> str:
    return f"{_FOLDER}{digest}-{revision:06d}.json"
