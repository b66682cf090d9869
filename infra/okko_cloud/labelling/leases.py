"""Who is looking at which photo: so that two people do not look at the same one. A courtesy, not a lock.

A lease ends by itself after some minutes; whoever then decides on the same photo is told of the other's decision by the
book. Clocks of different machines may differ by a part of that time without harm.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from typing import TYPE_CHECKING, Final

import msgspec

from okko_models.damaged import decode_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from okko_models.registry.store import Store

LEASE_S: Final = 300.0
_FOLDER: Final = "leases/"


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """A photo is being looked at by `who`, in the browser window `session`, until `until_unix_s`."""

    who: str
    session: str
    until_unix_s: float


class Leases:
    """Leases of a dataset's photos; any thread may ask.

    Args:
        store: where they lie.
        lease_s: how long one lasts.
        unix_s: the time.
    """

    def __init__(self, store: Store, *, lease_s: float = LEASE_S, unix_s: Callable[[], float] = time.time) -> None:
        self._store = store
        self._lease_s = lease_s
        self._unix_s = unix_s

    def take(self, key: str, who: str, session: str) -> bool:
        """Takes or renews the lease of a photo; returns whether it is ours.

        Raises:
            OkkoError: the store fails.
        """
        mine = Lease(who=who, session=session, until_unix_s=self._unix_s() + self._lease_s)
        name, data = _name(key), msgspec.json.encode(mine)
        if self._store.put_new(name, data):
            return True
        found = self._store.get(name)
        if found is None:  # given back this very moment
            return self._store.put_new(name, data)
        held = _decode(found.data)
        if held is not None and held.session != session and held.until_unix_s > self._unix_s():
            return False
        return self._store.put_if(name, data, found.tag)

    def give_back(self, key: str, session: str) -> None:
        """Lets others look at a photo, if the lease is ours.

        Raises:
            OkkoError: the store fails.
        """
        found = self._store.get(_name(key))
        held = _decode(found.data) if found else None
        if held is not None and held.session == session:
            self._store.delete(_name(key))


def _decode(data: bytes) -> Lease | None:
    with contextlib.suppress(msgspec.MsgspecError):
        return decode_json(data, Lease)
    return None


def _name(key: str) -> str:
    digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
    return f"{_FOLDER}{digest[:40]}.json"
