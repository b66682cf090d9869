"""A lock that ends by itself: one worker at a time, and a worker that was taken for dead can do no harm afterwards.

The lock is one small object, changed only by conditional writes (If-None-Match, If-Match). Its holder renews it; when
it was not renewed for long enough, somebody else may take it, with the next higher number: the fencing token of
Kleppmann (2016, "How to do distributed locking"). Whether it is still held is never guessed from a clock but asked of
the object itself, by renewing it.
"""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
from typing import TYPE_CHECKING, Final

import msgspec

from okko_cloud.place import TRAINING
from okko_models.damaged import decode_json
from okko_models.errors import OkkoError
from okko_models.registry.errors import RegistryError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from okko_models.registry.store import Store

LOCK: Final = f"{TRAINING}lock.json"
LEASE_S: Final = 60.0
"""A worker that has not renewed its lock for so long is taken for dead."""
_RENEWALS: Final = 4


class BusyError(OkkoError):
    """Another worker holds the lock."""


class LeaseLostError(OkkoError):
    """This worker was taken for dead: another one may work now, and this one must not publish."""


class Lock(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What stands in the lock.

    Attributes:
        token: grows by one with each worker that takes the lock.
        owner: who holds it; empty: nobody.
        until: it is held until then, seconds since 1970, unless it is renewed.
        what: what its holder works on.
    """

    token: int
    owner: str
    until: float
    what: str


class Lease:
    """A lock that this worker holds.

    Attributes:
        token: see `Lock`.
        took_over: whether another worker held it and was taken for dead.
    """

    def __init__(
        self, store: Store, lock: Lock, tag: str, *, clock: Callable[[], float], lease_s: float, took_over: bool
    ) -> None:
        self.token, self.took_over = lock.token, took_over
        self._store, self._lock, self._tag = store, lock, tag
        self._clock, self._lease_s = clock, lease_s
        self._lost = False
        self._turn = threading.Lock()

    def confirm(self) -> None:
        """Renews the lock, which proves that it is held at this moment.

        Raises:
            LeaseLostError: it is not.
            OkkoError: the store fails.
        """
        with self._turn:
            if self._lost:
                raise self._error()
            self._write(msgspec.structs.replace(self._lock, until=self._clock() + self._lease_s))

    def release(self) -> None:
        """Lets go of the lock, if it is held still."""
        with self._turn:
            if not self._lost:
                with contextlib.suppress(LeaseLostError):
                    self._write(msgspec.structs.replace(self._lock, owner="", until=0.0, what=""))
                self._lost = True

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Renews the lock in a thread of its own while the block runs."""
        stop = threading.Event()

        def renew() -> None:
            while not stop.wait(self._lease_s / _RENEWALS):
                try:
                    self.confirm()
                except LeaseLostError:
                    return
                except OkkoError:  # the network may come back before the lease has ended; and `confirm` says so if not
                    continue

        thread = threading.Thread(target=renew, name="lease", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(self._lease_s)

    def _write(self, lock: Lock) -> None:
        data = msgspec.json.encode(lock)
        for _ in range(2):
            self._store.put_if(LOCK, data, self._tag)
            found = self._store.get(LOCK)
            if found is not None and found.data == data:
                self._lock, self._tag = lock, found.tag
                return
            there = _decode(self._store, found.data) if found else None
            if found is None or there is None or (there.owner, there.token) != (self._lock.owner, self.token):
                break
            # An earlier write was done, but its answer was lost on the way; so this was no success only by its tag.
            self._tag = found.tag
        self._lost = True
        raise self._error()

    def _error(self) -> LeaseLostError:
        return LeaseLostError(
            f"this worker did not renew its lock for {self._lease_s:g} s and another one took over; "
            "nothing more is published from here"
        )


def take(
    store: Store,
    what: str,
    *,
    clock: Callable[[], float] = time.time,
    lease_s: float = LEASE_S,
    owner: str | None = None,
) -> Lease:
    """Takes the lock.

    Args:
        store: where it lies.
        what: what it is taken for, for people.
        clock: seconds since 1970.
        lease_s: see `LEASE_S`.
        owner: a name that nobody else has; a random one when omitted.

    Raises:
        BusyError: another worker holds it.
        OkkoError: the store fails.
    """
    owner = owner or uuid.uuid4().hex
    found = store.get(LOCK)
    before = _decode(store, found.data) if found else None
    if before and before.owner and before.until > clock():
        raise BusyError(f"another worker is at it ({before.what}); it is waited for {lease_s:g} s if it has died")
    lock = Lock((before.token if before else 0) + 1, owner, clock() + lease_s, what)
    data = msgspec.json.encode(lock)
    if found is None:
        store.put_new(LOCK, data)
    else:
        store.put_if(LOCK, data, found.tag)
    # What was answered is not believed: an answer may have been lost on the way. The object itself says who has it.
    now = store.get(LOCK)
    if now is None or now.data != data:
        raise BusyError("another worker was faster")
    took_over = before is not None and bool(before.owner)
    return Lease(store, lock, now.tag, clock=clock, lease_s=lease_s, took_over=took_over)


def tidy(store: Store, *, clock: Callable[[], float] = time.time) -> None:
    """Lets go of a lock that a dead worker has left behind."""
    if (left := holder(store)) is not None and left.until <= clock():
        with contextlib.suppress(BusyError):
            take(store, left.what, clock=clock).release()


def holder(store: Store) -> Lock | None:
    """Returns the lock as it is; None when nobody holds it."""
    found = store.get(LOCK)
    lock = _decode(store, found.data) if found else None
    return lock if lock and lock.owner else None


def _decode(store: Store, data: bytes) -> Lock:
    try:
        return decode_json(data, Lock)
    except msgspec.DecodeError as error:
        raise RegistryError(f"{store}/{LOCK} is no lock of okko ({error}); remove it and try again") from error
