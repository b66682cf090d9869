"""Ways to spoil an HTTP request with its structure kept: request line, headers, body, and what follows it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.fuzz.mutations import spoiled, spoiled_json

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

_HEADERS = [
    "Host: 127.0.0.1", "Host: evil.example", "Host: [::1]:80", "Host:", "Content-Length: 5", "Content-Length: -1",
    "Content-Length: 99999999999", "Transfer-Encoding: chunked", "Transfer-Encoding: gzip, chunked",
    "Expect: 100-continue", "Upgrade: websocket", "Connection: upgrade", "Connection: close",
    "Cookie: okko_session=a; okko_session=b", "Cookie: =", "Authorization: Basic Og==", "Authorization: Basic é",
    "Authorization: Basic " + "A" * 9000, "X: " + "y" * 20000, "Origin: null", "Origin: http://127.0.0.1",
    "Content-Type: text/plain", "Content-Type: application/json", " folded: x", "No colon",
    "Content-Type: application/json; charset=utf-7", "Range: bytes=0-", "Accept-Encoding: gzip", "Nul\0: x",
    "X: \x7f\x01",
]  # fmt: skip
_TARGETS = [
    "/", "/login", "/state", "/state?hold=1", "/live.jpg", "/picture?number=1", "/picture?number=-1", "/metrics",
    "*", "/picture?number=" + "9" * 300, "/../../etc/passwd", "/%2e%2e/x", "http://127.0.0.1/", "//x",
    "/?" + "a&" * 5000, "/\xff", "/" + "a" * 20000, "/thumbnail?number=1&number=2", "/page.css", "/correct",
    "/gate", "/pause", "", "/a b", "/state?%zz=%",
]  # fmt: skip


def spoiled_http(data: bytes, others: Sequence[bytes], chance: random.Random) -> bytes:
    """Changes request line, headers and body of a request; or lets another one follow on the same connection."""
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    for _ in range(chance.choice((1, 1, 2, 4))):
        at = chance.randrange(1, len(lines) + 1)
        parts = lines[0].split(" ")
        match chance.randrange(9):
            case 0:
                parts[0] = chance.choice(
                    ("GET", "HEAD", "POST", "PUT", "OPTIONS", "CONNECT", "TRACE", "get", "", "G\0T")
                )
                lines[0] = " ".join(parts)
            case 1 | 2 if len(parts) > 1:
                parts[1] = chance.choice(_TARGETS)
                lines[0] = " ".join(parts)
            case 3:
                parts[-1] = chance.choice(("HTTP/1.0", "HTTP/1.1", "HTTP/2.0", "HTTP/9", "", "HTTP/1.1 x"))
                lines[0] = " ".join(parts)
            case 4 | 5:
                lines.insert(at, chance.choice(_HEADERS))
            case 6:
                del lines[at : at + 1]
            case 7 if body.startswith(b"{") and body.endswith(b"}"):
                body = spoiled_json(body, [], chance) if chance.random() < 0.7 else spoiled(body, [], [b"\xff"], chance)
                if chance.random() < 0.8:
                    lines = [line for line in lines if not line.lower().startswith("content-length")]
                    lines.append(f"Content-Length: {len(body)}")
            case _:
                sizes = (
                    "5\r\nhello\r\n0\r\n\r\n",
                    "ffffffffffffffff\r\n",
                    "-1\r\n",
                    "0\r\n\r\n",
                    "5;x=y\r\nhello\r\n",
                    "zz\r\n",
                )
                body += chance.choice(sizes).encode()
    ending = chance.choice(("\r\n", "\r\n", "\r\n", "\r\n", "\n", "\r"))
    out = (ending.join(lines) + ending * 2).encode("latin-1", "replace") + body
    if chance.random() < 0.2 and others:
        out += chance.choice(others)
    return out
