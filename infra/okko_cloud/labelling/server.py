"""The labelling page's sockets: Python's own HTTP server on loopback, and the threads that work beside it."""

from __future__ import annotations

import contextlib
import http.server
import threading
from http import HTTPStatus
from typing import TYPE_CHECKING, ClassVar, Final

from okko_cloud.labelling.app import Request
from okko_models.errors import OkkoError

if TYPE_CHECKING:
    from okko_cloud.labelling.app import App
    from okko_cloud.labelling.catalogue import Catalogue

_ADDRESS: Final = "127.0.0.1"
_MOST_BODY_BYTES: Final = 8 << 10
_REFRESH_S: Final = 20.0
_SOON_S: Final = 2.0
"""When somebody has nothing left to do, what others did is looked for so soon."""
_PAUSE_S: Final = 0.5
_RETRY_S: Final = 5.0
_LOOKERS: Final = 2
_CLOSE_S: Final = 5.0


class Server:
    """Serves the page until it is closed; a thread for each request.

    Args:
        app: answers.
        port: 0 is any free one.

    Raises:
        OkkoError: the port cannot be had.
    """

    def __init__(self, app: App, port: int) -> None:
        class Handler(_Handler):
            answers = app

        self._handler = Handler
        try:
            self._server = http.server.ThreadingHTTPServer((_ADDRESS, port), Handler)
        except (OSError, OverflowError) as error:
            why = getattr(error, "strerror", None) or error
            raise OkkoError(f"port {port} cannot be used ({why}); name another one with --port") from error
        self._server.daemon_threads = True
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, name="label", daemon=True
        )
        self._thread.start()

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://{_ADDRESS}:{self._server.server_address[1]}/"

    def close(self) -> None:
        """Stops serving; what comes in on connections that are open still is not answered."""
        self._handler.closed = True
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(_CLOSE_S)


class Helpers:
    """Threads that look at photos, and look for new ones, from `start` to `close`.

    Args:
        catalogue: the photos.
        app: is told what goes wrong.
    """

    def __init__(self, catalogue: Catalogue, app: App) -> None:
        self._catalogue, self._app = catalogue, app
        self._closing = threading.Event()
        work = [self._look] * _LOOKERS + [self._refresh]
        self._threads = [threading.Thread(target=each, name="label helper", daemon=True) for each in work]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Ends the threads; waits for 5 seconds at most."""
        self._closing.set()
        self._app.idle.set()
        for thread in self._threads:
            thread.join(_CLOSE_S / len(self._threads))

    def _look(self) -> None:
        while not self._closing.is_set():
            try:
                more = self._catalogue.look_at_next()
            except Exception as error:  # it is tried again; the page goes on meanwhile
                self._app.trouble = str(error)
                self._closing.wait(_RETRY_S)
                continue
            if not more:
                self._closing.wait(_PAUSE_S)

    def _refresh(self) -> None:
        while not self._closing.wait(_SOON_S):
            self._app.idle.wait(_REFRESH_S - _SOON_S)
            self._app.idle.clear()
            try:
                self._catalogue.refresh()
            except Exception as error:  # likewise
                self._app.trouble = str(error)
            else:
                self._app.trouble = None


class _Handler(http.server.BaseHTTPRequestHandler):
    answers: ClassVar[App]
    closed: ClassVar[bool] = False
    protocol_version = "HTTP/1.1"
    timeout = 30.0  # of a connection on which nothing happens
    server_version, sys_version = "okko", ""

    def do_GET(self) -> None:
        self._reply(b"")

    def do_HEAD(self) -> None:
        self._reply(b"")

    def do_POST(self) -> None:
        length = self.headers.get("content-length", "")
        if not length.isascii() or not length.isdecimal() or int(length) > _MOST_BODY_BYTES:
            self.close_connection = True
            self.send_error(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
            return
        self._reply(self.rfile.read(int(length)))

    def _reply(self, body: bytes) -> None:
        if self.closed:
            self.close_connection = True
            return
        # A header that came twice is joined, so that neither of two Hosts is believed.
        headers = {name.lower(): ",".join(self.headers.get_all(name, [])) for name in self.headers}
        response = self.answers.answer(Request(self.command, self.path, headers, body))
        # A browser that has gone meanwhile is nobody's concern.
        with contextlib.suppress(OSError):
            self.send_response(response.status)
            for name, value in response.headers.items():
                self.send_header(name, value)
            self.send_header("content-type", response.content_type)
            self.send_header("content-length", str(len(response.body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(response.body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass
