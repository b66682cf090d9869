"""What the agent reads besides bundles: its configuration, and what browsers send to its dashboard."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

from okko_edge.config import load, read
from okko_edge.config.keys import all_keys
from okko_edge.config.text import effective, example
from okko_edge.dashboard import passwords
from okko_edge.dashboard.server import Server
from okko_edge.events import Event
from tests.edge.dashboard_bench import Bench
from tests.edge.dashboard_fakes import decision
from tests.fuzz.mutations import spoiled, spoiled_toml
from tests.fuzz.requests import spoiled_http

if TYPE_CHECKING:
    import random
    from pathlib import Path


class ConfigTarget:
    """The configuration file."""

    def __init__(self) -> None:
        whole = re.sub(r"(?m)^#(?=\w+ =)", "", example())
        short = '[camera]\nsource = "sim:photos"\nwidth = 320\n[gate]\nkind = "servo:18"\n\n[mqtt]\nhost = "broker"\n'
        multiline = '[sorting]\nempty_labels = [\n  "empty",\n  "none",\n]\n[outbox]\nfolder = """\nbox"""\n'
        self._samples = [whole, short, short, multiline, multiline]
        self._names = [*all_keys(), "camera", "gate", "a.b", "surprise"]

    def make(self, chance: random.Random) -> bytes:
        sample = chance.choice(self._samples)
        if chance.random() < 0.75:
            return spoiled_toml(sample, self._samples, self._names, chance).encode("utf-8", "surrogatepass")
        words = [b'"""', b"'''", b"[", b"\n[[", b"=", b"\xff", b"1e400", b"\n" * 2000, b"a=1\n" * 500, b"# x\n" * 20000]
        return spoiled(sample.encode(), [other.encode() for other in self._samples], words, chance)

    def lay(self, data: bytes, folder: Path) -> None:
        (folder / "okko.toml").write_bytes(data)

    def feed(self, data: bytes, folder: Path) -> str:
        load(folder / "okko.toml")
        effective(read(folder / "okko.toml"))
        return ""


class _Transport(asyncio.Transport):
    """Takes what is written; nobody is there."""

    def __init__(self) -> None:
        super().__init__({"peername": ("192.0.2.1", 5)})
        self.sent = bytearray()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.sent += data

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        pass

    def abort(self) -> None:
        pass


def _request(first: str, *headers: str, body: str = "") -> bytes:
    own = (
        [f"Origin: http://127.0.0.1:80\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"]
        if body
        else []
    )
    return "\r\n".join([f"{first} HTTP/1.1", "Host: 127.0.0.1:80", *headers, *own, "", body]).encode()


class DashboardTarget:
    """Everything between the socket and the pages: connection, h11, limits, guard; without and with a password."""

    def __init__(self) -> None:
        # The cheapest hash that is allowed: what is fuzzed is not scrypt.
        cheap = "scrypt$10$1$1$AAAAAAAAAAAAAAAAAAAAAA==$AAAAAAAAAAAAAAAAAAAAAA=="
        passwords.check_hash(cheap)
        self._benches = [Bench(), Bench(password_hash=cheap), Bench(outbox=False)]
        for bench in self._benches:
            bench.sort(*(decision(number) for number in range(1, 6)))
            bench.dashboard._app.run = "0123456789ab"
        gets = [
            "/",
            "/login",
            "/state",
            "/state?hold=1",
            "/live.jpg",
            "/thumbnail.jpg?number=3",
            "/marble.jpg?number=3",
        ]
        self._samples = [
            *(_request(f"GET {path}", "Accept: */*") for path in [*gets, "/metrics", "/page.js", "/icon.svg"]),
            _request("GET /metrics", "Authorization: Basic b2trbzpwYXNzd29yZA=="),
            _request("GET /state", "Cookie: a=b; okko_session=abc"),
            _request("POST /pause", body="{}"),
            _request("POST /resume", body="{}"),
            _request("POST /logout", body="{}"),
            _request("POST /gate", body='{"verdict": "OK"}'),
            _request("POST /login", body='{"password": "correct horse"}'),
            _request("POST /correct", body='{"run": "0123456789ab", "number": 3, "label": "KO"}'),
        ]
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(lambda _, context: self._failures.append(str(context)))
        self._failures: list[str] = []

    def make(self, chance: random.Random) -> bytes:
        sample = chance.choice(self._samples)
        if chance.random() < 0.75:
            data = spoiled_http(sample, self._samples, chance)
        else:
            data = spoiled(
                sample, self._samples, [b"\r\n\r\n", b"\r\n ", b"\0", b": ", b"Content-Length: 3\r\n"], chance
            )
        # Which dashboard, and in how large pieces the bytes arrive.
        return bytes([chance.randrange(len(self._benches)), chance.choice((1, 7, 64, 255))]) + data

    def lay(self, data: bytes, folder: Path) -> None:
        pass

    def feed(self, data: bytes, folder: Path) -> str:
        bench, piece = self._benches[data[0]], data[1] * (1 if data[1] < 255 else 64)
        failed = bench.counters[Event.DASHBOARD_FAILED]
        answers = self._loop.run_until_complete(self._converse(bench, data[2:], max(piece, len(data) // 300)))
        assert not self._failures, self._failures
        assert bench.counters[Event.DASHBOARD_FAILED] == failed, "a page failed"
        statuses = re.findall(rb"HTTP/1\.1 (\d{3}) ", answers)
        assert bool(answers) == answers.startswith(b"HTTP/1.1 "), answers[:80]
        assert b"500" not in statuses
        if not statuses:
            return "no answer"
        status = int(statuses[0])
        return "" if status < 400 else f"HTTP {status}"

    async def _converse(self, bench: Bench, data: bytes, piece: int) -> bytes:
        server, transport = Server(bench.dashboard._app.answer), _Transport()
        reader = asyncio.StreamReader(limit=16 << 10)
        protocol = asyncio.StreamReaderProtocol(reader)
        writer = asyncio.StreamWriter(transport, protocol, reader, asyncio.get_running_loop())
        talking = asyncio.create_task(server._connected(reader, writer))
        for at in range(0, len(data), piece):
            reader.feed_data(data[at : at + piece])
            await asyncio.sleep(0)
        reader.feed_eof()
        await asyncio.wait_for(talking, 10)
        return bytes(transport.sent)
