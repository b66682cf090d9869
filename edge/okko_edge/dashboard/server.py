"""The dashboard's sockets: HTTP/1.1 by h11 on asyncio, with a limit for everything a stranger may use up.

h11 decides what is well-formed (https://h11.readthedocs.io); this module moves bytes and watches the clock. A whole web
server would take five megabytes of memory more, and none of the usual ones ends a request that arrives a byte a second.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING

from okko_edge.dashboard.messages import Request, Response, problem

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable

    import h11

_CLOSE_S = 2.0
_SETTLE_S = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one client, or all, may take.

    Attributes:
        connections: open at once.
        connections_each: of these, from one address.
        idle_s: without a request, a connection is closed.
        request_s: from a request's first byte to its last.
        answer_s: for the answer to be made.
        send_s: for the answer to be taken.
        head_bytes: request line and headers.
        body_bytes: the body.
    """

    connections: int = 64
    connections_each: int = 24
    idle_s: float = 30.0
    request_s: float = 8.0
    answer_s: float = 15.0
    send_s: float = 15.0
    head_bytes: int = 16 << 10
    body_bytes: int = 8 << 10


class _RefusedError(Exception):
    """A request that is answered without the pages, and the connection closed."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


class Server:
    """Serves connections until told to stop.

    Args:
        answer: makes the response to a request; never raises.
        limits: what clients may take.
    """

    def __init__(self, answer: Callable[[Request], Awaitable[Response]], limits: Limits | None = None) -> None:
        self._answer = answer
        self._limits = limits or Limits()
        self._open: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, listening: socket.socket, stopped: asyncio.Event) -> None:
        """Accepts connections on a listening socket until the event is set, then drops those that are open."""
        server = await asyncio.start_server(self._connected, sock=listening, limit=self._limits.head_bytes)
        try:
            await stopped.wait()
        finally:
            server.close()
            await asyncio.sleep(
                _SETTLE_S
            )  # a connection that was accepted a moment ago gets its task, and is in the list
            for task in self._tasks:
                task.cancel()
            if self._tasks:
                await asyncio.wait(self._tasks, timeout=_CLOSE_S)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        client = str((writer.get_extra_info("peername") or ("",))[0])
        full = self._open.total() >= self._limits.connections or self._open[client] >= self._limits.connections_each
        if not full:
            self._open[client] += 1
        try:
            # A stranger's connection may break in any way at any time; that concerns nobody else.
            with contextlib.suppress(OSError, TimeoutError, asyncio.CancelledError):
                if not full:
                    await self._converse(_Connection(reader, writer, self._limits), client)
        finally:
            if not full:
                self._open[client] -= 1
                self._open += Counter()  # forgets addresses with none open
            # Everything was sent, or the other side does not take it: nothing is waited for.
            writer.transport.abort() if full or writer.transport.get_write_buffer_size() else writer.close()

    async def _converse(self, connection: _Connection, client: str) -> None:
        while True:
            try:
                request = await connection.receive(client)
            except _RefusedError as refused:
                await connection.send(problem(refused.status, str(refused)), close=True)
                return
            if request is None:
                return
            try:
                async with asyncio.timeout(self._limits.answer_s):
                    response = await self._answer(request)
            except TimeoutError:
                response = problem(HTTPStatus.SERVICE_UNAVAILABLE, "the device does not answer in time")
            if not await connection.send(response):
                return


class _Connection:
    """One connection: requests in, responses out, one after the other."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, limits: Limits) -> None:
        import h11

        self._h11 = h11
        self._reader = reader
        self._writer = writer
        self._limits = limits
        writer.transport.set_write_buffer_limits(0)  # drain waits for the last byte
        self._state = h11.Connection(h11.SERVER, max_incomplete_event_size=limits.head_bytes)
        self._head_only = False  # the request of now is a HEAD, so its answer has no body

    async def receive(self, client: str) -> Request | None:
        """Returns the next request; None when the client is gone or has nothing more to ask."""
        h11 = self._h11
        try:
            # Bytes of a next request may be here already (pipelining); then the clock of the request runs at once.
            if not self._state.trailing_data[0]:
                async with asyncio.timeout(self._limits.idle_s):
                    self._state.receive_data(await self._reader.read(4096))
            async with asyncio.timeout(self._limits.request_s):
                return await self._request(client)
        except h11.RemoteProtocolError as error:
            raise _RefusedError(HTTPStatus(error.error_status_hint), "this is not a request of HTTP") from error

    async def _request(self, client: str) -> Request | None:
        h11 = self._h11
        event = await self._event()
        if isinstance(event, h11.ConnectionClosed):
            return None
        if not isinstance(event, h11.Request):
            raise _RefusedError(HTTPStatus.BAD_REQUEST, "this is not a request of HTTP")
        self._head_only = event.method == b"HEAD"
        body = bytearray()
        while isinstance(part := await self._event(), h11.Data):
            body += part.data
            if len(body) > self._limits.body_bytes:
                raise _RefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "the request is too long")
        headers: dict[str, str] = {}
        repeated = set()
        for raw_name, raw_value in event.headers:
            name = raw_name.decode("ascii")
            repeated |= {name} & headers.keys()
            headers.setdefault(name, raw_value.decode("latin-1"))
        return Request(
            event.method.decode("ascii"),
            event.target.decode("latin-1"),
            headers,
            bytes(body),
            client,
            frozenset(repeated),
        )

    async def _event(self) -> h11.Event:
        while True:
            event = self._state.next_event()
            if event is self._h11.NEED_DATA:
                self._state.receive_data(await self._reader.read(4096))
            elif isinstance(event, self._h11.Event):
                return event
            else:
                raise _RefusedError(HTTPStatus.BAD_REQUEST, "protocols are not switched here")

    async def send(self, response: Response, *, close: bool = False) -> bool:
        """Sends a response; returns whether the connection can take another request."""
        h11 = self._h11
        if self._state.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return False
        headers = [*response.headers.items(), ("content-length", str(len(response.body)))]
        if response.body:
            headers.append(("content-type", response.content_type))
        if close:
            headers.append(("connection", "close"))
        parts = [h11.Response(status_code=response.status, headers=headers, reason=response.status.phrase)]
        events = [*parts, *([] if self._head_only else [h11.Data(data=response.body)]), h11.EndOfMessage()]
        self._writer.write(b"".join(self._state.send(event) or b"" for event in events))
        async with asyncio.timeout(self._limits.send_s):
            await self._writer.drain()
        if close or self._state.our_state is not h11.DONE or self._state.their_state is not h11.DONE:
            return False
        self._state.start_next_cycle()
        self._head_only = False
        return True
