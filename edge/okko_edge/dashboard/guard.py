"""Who may ask the dashboard what: pure decisions over a request, without a socket.

Four rules. The Host header must be an address or a name of this device, else a page elsewhere could point its own name
at us (DNS rebinding). What changes something must come from our own page: the browser's Origin header says so, and a
body of JSON cannot be sent across origins without being asked first. With a password there is a session in a cookie
that scripts cannot read and other sites cannot send. Guessing is slowed, for each address and for all.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import ipaddress
import secrets
import time
from collections import OrderedDict
from typing import TYPE_CHECKING

from okko_edge.dashboard.messages import JSON, host_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from okko_edge.dashboard.messages import Request

COOKIE = "okko_session"
SESSION_S = 30 * 24 * 3600
_SESSIONS = 64
_ADDRESSES = 256


def known_host(request: Request, names: Iterable[str]) -> bool:
    """Returns whether the Host header is an IP address, localhost or one of `names` (in lower case)."""
    if "host" in request.repeated:
        return False
    host = host_of(request.headers.get("host", ""))
    if host is None:
        return False
    if host == "localhost" or host in names:
        return True
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def from_our_page(request: Request) -> bool:
    """Returns whether a request that changes something was sent by a page of this very host and port, as JSON."""
    origin = request.headers.get("origin", "")
    scheme, separator, authority = origin.partition("://")
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    return (
        not {"origin", "content-type"} & request.repeated
        and separator != ""
        and scheme in ("http", "https")
        and authority.lower() == request.headers.get("host", "").lower()
        and kind == JSON
    )


def basic_password(request: Request) -> str | None:
    """Returns the password of HTTP Basic authentication, whatever the user is called; None if there is none."""
    scheme, _, encoded = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        text = base64.b64decode(encoded.strip(), validate=True).decode()
    except (binascii.Error, ValueError):
        return None
    return text.partition(":")[2]


class Sessions:
    """Who has logged in; forgotten when the program ends.

    Args:
        now_s: seconds on a clock that never jumps.
    """

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._ends_s: OrderedDict[bytes, float] = OrderedDict()

    def open(self) -> str:
        """Returns the token of a new session; the oldest session ends if there are too many."""
        token = secrets.token_urlsafe(32)
        self._ends_s[_fingerprint(token)] = self._now_s() + SESSION_S
        while len(self._ends_s) > _SESSIONS:
            self._ends_s.popitem(last=False)
        return token

    def known(self, token: str | None) -> bool:
        """Returns whether the token is that of a session that has not ended."""
        return token is not None and self._ends_s.get(_fingerprint(token), 0.0) > self._now_s()

    def close(self, token: str | None) -> None:
        """Ends a session."""
        if token is not None:
            self._ends_s.pop(_fingerprint(token), None)


class Remembered:
    """The password that was right last, so that a scrape every few seconds need not be slow; only its keyed hash."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)
        self._right: bytes | None = None

    def _hash(self, password: str) -> bytes:
        return hmac.digest(self._key, password.encode("utf-8", "surrogatepass"), "sha256")

    def put(self, password: str) -> None:
        """Remembers a password that was verified."""
        self._right = self._hash(password)

    def knows(self, password: str) -> bool:
        """Returns whether it is the one remembered."""
        return self._right is not None and hmac.compare_digest(self._hash(password), self._right)


class Limiter:
    """Tries that an address, and everyone together, has left: so many at once, and one more each so many seconds.

    Args:
        now_s: seconds on a clock that never jumps.
        tries: at once, by one address.
        every_s: seconds for one more.
        factor: everyone together has so many times more.
    """

    def __init__(
        self, now_s: Callable[[], float] = time.monotonic, *, tries: int = 5, every_s: float = 12.0, factor: int = 4
    ) -> None:
        self._now_s = now_s
        self._tries = tries
        self._every_s = every_s
        self._factor = factor
        self._used_up_s: OrderedDict[str, float] = OrderedDict()
        self._all_used_up_s = 0.0

    def wait_s(self, address: str) -> float:
        """Takes one try and returns 0, or takes none and returns the seconds until there is one."""
        now_s = self._now_s()
        # Each try moves a moment `every_s` further; tries are left while it is no more than all of them ahead.
        own_s = max(self._used_up_s.get(address, now_s), now_s) + self._every_s
        all_s = max(self._all_used_up_s, now_s) + self._every_s / self._factor
        allowed_s = now_s + self._tries * self._every_s
        wait_s = max(own_s, all_s) - allowed_s
        if wait_s > 1e-9:
            return wait_s
        self._used_up_s[address] = own_s
        self._used_up_s.move_to_end(address)
        self._all_used_up_s = all_s
        if len(self._used_up_s) > _ADDRESSES:
            self._used_up_s.popitem(last=False)
        return 0.0


def _fingerprint(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
