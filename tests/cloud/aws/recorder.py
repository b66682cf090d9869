"""Stands between a program and the emulator and writes down, in IAM's words, what the program asks for."""

from __future__ import annotations

import http.client
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

_HOP = {"connection", "transfer-encoding", "content-length", "date", "server"}
_PUTS = {"PUT": "s3:PutObject", "GET": "s3:GetObject", "HEAD": "s3:GetObject", "DELETE": "s3:DeleteObject"}


@dataclass(frozen=True)
class Asked:
    """One request: the action, the resource ("key" for KMS), and whether it was on condition that nothing is there."""

    action: str
    resource: str
    if_none_match: bool = False


class Recorder:
    """Passes on whatever comes, and remembers it; close it."""

    def __init__(self, upstream: str) -> None:
        self.asked: list[Asked] = []
        recorder, place = self, urlsplit(upstream)

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do(self) -> None:
                recorder.asked.append(_in_words(self.command, self.path, self.headers))
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                upstream = http.client.HTTPConnection(place.hostname, place.port, timeout=30)
                headers = {name: value for name, value in self.headers.items() if name.lower() != "expect"}
                upstream.request(self.command, self.path, body, headers)
                reply = upstream.getresponse()
                content = reply.read()
                upstream.close()
                self.send_response(reply.status)
                for name, value in reply.getheaders():
                    if name.lower() not in _HOP:
                        self.send_header(name, value)
                length = reply.getheader("Content-Length") if self.command == "HEAD" else str(len(content))
                self.send_header("Content-Length", length or "0")
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = do  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def _in_words(method: str, path: str, headers) -> Asked:
    target = headers.get("X-Amz-Target", "")
    if target.startswith("TrentService."):
        return Asked(f"kms:{target.removeprefix('TrentService.')}", "key")
    parts = urlsplit(path)
    bucket, _, key = parts.path.lstrip("/").partition("/")
    if not key:
        query = parse_qs(parts.query, keep_blank_values=True)
        return Asked("s3:ListBucket" if "list-type" in query else f"{method} {path}", f"arn:aws:s3:::{bucket}")
    return Asked(_PUTS[method], f"arn:aws:s3:::{bucket}/{unquote(key)}", headers.get("If-None-Match") == "*")
