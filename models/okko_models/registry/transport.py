"""How a device reads a registry: from a folder (a USB stick), from S3, or from any web server.

A transport gives bytes and nothing else; whoever reads through it checks everything. What comes over HTTP is bounded in
time as well as in size: a server that sends a byte now and then, for ever, is cut off by a timer on the connection.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol
from urllib.parse import quote, urlsplit

from okko_models.registry.errors import MissingError, OfflineError, RegistryError
from okko_models.registry.store import CHUNK_BYTES, check_key, open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from okko_models.registry.store import Store

SILENCE_S: Final = 20.0
"""So long may a server say nothing."""
GRACE_S: Final = 60.0
SLOWEST_BYTES_PER_S: Final = 2048
"""A file may take `GRACE_S` and the time that this rate needs; a bundle of 15 MB then has two hours."""


def allowed_s(size: int) -> float:
    """Returns how long `size` bytes may take."""
    return GRACE_S + size / SLOWEST_BYTES_PER_S


class Transport(Protocol):
    """Reads files of a registry."""

    def read(self, key: str, start: int, size: int) -> Iterator[bytes]:
        """Yields a file's content from byte `start` on.

        Args:
            key: the file's name.
            start: how many bytes at its beginning are not wanted.
            size: how many bytes are expected at most; more may come.

        Raises:
            MissingError: there is no such file.
            OfflineError: the registry cannot be reached, or is too slow.
            RegistryError: it cannot be read.
        """


class StoreTransport:
    """A registry that is read as it is written: a folder or a bucket."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __str__(self) -> str:
        return str(self._store)

    def read(self, key: str, start: int, size: int) -> Iterator[bytes]:  # noqa: ARG002 (its time is bounded elsewhere)
        """Yields a file's content from byte `start` on."""
        return self._store.read(key, start)


class HttpTransport:
    """A registry on a web server, without redirects and proxies.

    Args:
        url: where its files lie, `https://` or `http://` (what is read is signed, so both are safe; https is private).
        allowed_s: from a size in bytes to the seconds that a whole answer may take.
        silence_s: so long may the server say nothing.

    Raises:
        RegistryError: this is no such address.
    """

    def __init__(
        self, url: str, *, allowed_s: Callable[[int], float] = allowed_s, silence_s: float = SILENCE_S
    ) -> None:
        parts = urlsplit(url)
        try:
            port = parts.port
        except ValueError as error:
            raise RegistryError(f"{url}: {error}") from error
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
            raise RegistryError(f"{url!r} is no address of a registry; expected https://HOST/PATH")
        self._url, self._host, self._path = url.rstrip("/"), parts.hostname, parts.path.rstrip("/")
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._port = port or (443 if self._tls else 80)
        self._allowed_s, self._silence_s = allowed_s, silence_s

    def __str__(self) -> str:
        return self._url

    def read(self, key: str, start: int, size: int) -> Iterator[bytes]:
        """Yields a file's content from byte `start` on."""
        where = f"{self._url}/{check_key(key)}"
        late = threading.Event()
        try:
            with contextlib.ExitStack() as stack:
                connection = self._connect(stack, late, self._allowed_s(size))
                headers = {"User-Agent": "okko", "Accept-Encoding": "identity"}
                headers |= {"Range": f"bytes={start}-"} if start else {}
                connection.request("GET", quote(f"{self._path}/{key}"), headers=headers)
                yield from _content(connection.getresponse(), where, start)
        except ssl.SSLCertVerificationError as error:
            now = time.strftime("%Y-%m-%d %H:%M", time.gmtime())
            raise OfflineError(
                f"{where}: the server's certificate is not accepted ({error.verify_message}); look at the address, at "
                f"this machine's clock (it says {now} UTC) and at who signed the certificate (SSL_CERT_FILE names "
                "others to trust). Where the server has it, http:// will do too: what is read is signed"
            ) from error
        except (OSError, http.client.HTTPException) as error:
            if late.is_set():
                raise OfflineError(f"{where}: too slow; cut off after {self._allowed_s(size):.0f} s") from error
            raise OfflineError(f"{where}: {error or type(error).__name__}") from error
        if late.is_set():
            raise OfflineError(f"{where}: too slow; cut off after {self._allowed_s(size):.0f} s")

    def _connect(
        self, stack: contextlib.ExitStack, late: threading.Event, seconds: float
    ) -> http.client.HTTPConnection:
        raw = stack.enter_context(socket.create_connection((self._host, self._port), timeout=self._silence_s))
        # A second handle to the same connection, because the first one is taken over by TLS.
        handle = stack.enter_context(raw.dup())

        def cut() -> None:
            late.set()
            with contextlib.suppress(OSError):
                handle.shutdown(socket.SHUT_RDWR)

        timer = threading.Timer(seconds, cut)
        timer.daemon = True
        timer.start()
        stack.callback(timer.cancel)
        connection = http.client.HTTPConnection(self._host, self._port, timeout=self._silence_s)
        connection.sock = self._tls.wrap_socket(raw, server_hostname=self._host) if self._tls else raw
        stack.callback(connection.close)
        return connection


def _content(reply: http.client.HTTPResponse, where: str, start: int) -> Iterator[bytes]:
    if reply.status in {403, 404, 410}:
        raise MissingError(f"{where}: the server has no such file ({reply.status})")
    if reply.status == 416:
        return
    if reply.status not in {200, 206}:
        kind = OfflineError if reply.status >= 500 or reply.status == 429 else RegistryError
        raise kind(f"{where}: the server answered {reply.status} {reply.reason[:80]}; expected the file")
    skip = start
    if reply.status == 206:
        if not (reply.headers.get("Content-Range") or "").startswith(f"bytes {start}-"):
            raise OfflineError(f"{where}: the server sent another part of the file than was asked for")
        skip = 0
    # read1 returns what has come, so that the caller sees each byte of a slow server and can count.
    while chunk := reply.read1(CHUNK_BYTES):
        dropped = min(skip, len(chunk))
        skip -= dropped
        if len(chunk) > dropped:
            yield chunk[dropped:]


def open_transport(location: str, *, endpoint_url: str = "") -> Transport:
    """Returns a way to read a registry.

    Args:
        location: a folder, `s3://bucket/prefix`, `https://host/path` or `http://host/path`.
        endpoint_url: another S3 than Amazon's; empty: Amazon's.

    Raises:
        RegistryError: the location is none of these.
    """
    if location.startswith(("http://", "https://")):
        return HttpTransport(location)
    if "://" not in location and not Path(location).is_dir():
        raise OfflineError(f"{location} is no folder; expected that of a registry (is the USB stick in?)")
    return StoreTransport(open_store(location, endpoint_url=endpoint_url))
