"""A real S3 interface on loopback, and a proxy before it that misbehaves on demand."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar
from urllib.parse import urlsplit


class Proxy:
    """Passes requests on to an S3; for each PUT it first takes the next of `faults`, and behaves like that.

    "500": answers with an error; "cut": closes in the middle of the upload; "lost": passes the request on and then
    closes without an answer; "slow": answers after two seconds; "ok": passes the request on.
    """

    def __init__(self, upstream: str) -> None:
        self.faults: deque[str] = deque()
        self.puts: list[str] = []
        proxy, place = self, urlsplit(upstream)

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            hop: ClassVar = {"transfer-encoding", "connection", "content-length", "date", "server"}

            def do_PUT(self) -> None:
                proxy.puts.append(self.path)
                fault = proxy.faults.popleft() if proxy.faults else "ok"
                if fault == "cut":
                    self.rfile.read(10)
                    self.connection.shutdown(socket.SHUT_RDWR)
                    self.close_connection = True
                    return
                self.forward(fault)

            def do_GET(self) -> None:
                self.forward("ok")

            def forward(self, fault: str) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if fault == "slow":
                    time.sleep(2)
                if fault == "500":
                    self.answer(500, b"<Error><Code>InternalError</Code><Message>ouch</Message></Error>", {})
                    return
                upstream = http.client.HTTPConnection(place.hostname, place.port, timeout=20)
                headers = {name: value for name, value in self.headers.items() if name.lower() != "expect"}
                upstream.request(self.command, self.path, body, headers)
                reply = upstream.getresponse()
                content = reply.read()
                upstream.close()
                if fault == "lost":
                    self.connection.shutdown(socket.SHUT_RDWR)
                    self.close_connection = True
                    return
                self.answer(reply.status, content, dict(reply.getheaders()))

            def answer(self, status: int, content: bytes, headers: dict[str, str]) -> None:
                try:
                    self.send_response(status)
                    for name, value in headers.items():
                        if name.lower() not in self.hop:
                            self.send_header(name, value)
                    self.send_header("Content-Length", str(len(content)))
                    self.end_headers()
                    self.wfile.write(content)
                except OSError:
                    self.close_connection = True

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
