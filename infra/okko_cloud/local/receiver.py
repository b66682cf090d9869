"""Hears what the local S3 tells of, over HTTP on loopback, and puts what concerns the photos into the queue.

What cannot be understood counts as a change of something: looking once too often costs a listing.
"""

from __future__ import annotations

import hmac
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Final

from okko_cloud.events import EventError, Latest, concerns, parse

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_BYTES: Final = 1 << 20


class Receiver:
    """A server for one bucket's events.

    Args:
        bucket: whose photos.
        prefix: what the place's keys begin with.
        token: whoever tells must know it.
        heard: takes the number of changes; when it returns they are safe.
        say: takes one line for people.
    """

    def __init__(
        self, bucket: str, prefix: str, token: str, heard: Callable[[int], None], say: Callable[[str], None]
    ) -> None:
        latest, turn = Latest(), threading.Lock()

        def changes(body: bytes) -> int:
            try:
                found = [change for change in parse(body) if concerns(change, bucket, prefix)]
            except EventError as error:
                say(f"an event was not understood, so the bucket is looked at: {error}")
                return 1
            with turn:
                return sum(latest.is_news(change) for change in found)

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 30

            def do_POST(self) -> None:
                shown = self.headers.get("Authorization", "").encode("latin-1", "replace")
                if not hmac.compare_digest(shown, f"Bearer {token}".encode()):
                    self._answer(HTTPStatus.FORBIDDEN)
                    return
                length = self.headers.get("Content-Length", "")
                if not length.isdigit() or int(length) > MAX_BYTES:
                    self._answer(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
                    return
                if n := changes(self.rfile.read(int(length))):
                    heard(n)
                self._answer(HTTPStatus.OK)

            def _answer(self, status: HTTPStatus) -> None:
                self.send_response(status)
                self.send_header("Content-Length", "0")
                if status is not HTTPStatus.OK:
                    self.send_header("Connection", "close")
                    self.close_connection = True
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the name is http.server's)
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.2,), name="events", daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.server_port}/"

    def close(self) -> None:
        """Ends it."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)
