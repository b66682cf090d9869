"""The dashboard's answers: which request gets which response.

Pages are found in one fixed table by comparing the path; no file is ever opened by a name that came in. The rules about
who may ask are in `guard`; sockets are in `server`.
"""

from __future__ import annotations

import asyncio
import functools
import threading
import time
import uuid
from dataclasses import dataclass, replace
from http import HTTPStatus
from importlib import resources
from typing import TYPE_CHECKING, Literal

import msgspec

from okko_edge import metrics
from okko_edge.dashboard import guard, passwords
from okko_edge.dashboard.marbles import LIVE, THUMBNAIL, LiveView, Marbles, encode
from okko_edge.dashboard.messages import Request, Response, json_response, problem
from okko_edge.dashboard.state import SHOWN, State, machine, shown, view_of
from okko_edge.events import Event
from okko_models.damaged import decode_json
from okko_models.decision import Verdict
from okko_models.errors import OkkoError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from okko_edge.about import About
    from okko_edge.dashboard.state import Controls, Corrections
    from okko_edge.events import Counters
    from okko_edge.statistics import Statistics

SECURITY_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}

_FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/login": ("login.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/charts.js": ("charts.js", "text/javascript; charset=utf-8"),
    "/login.js": ("login.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
_PUBLIC = frozenset({"/login", "/login.js", "/page.css", "/icon.svg"})
_GATE = {"OK": Verdict.OK, "KO": Verdict.KO, "UNCERTAIN": Verdict.UNCERTAIN}


class _Login(msgspec.Struct, forbid_unknown_fields=True):
    password: str


class _Gate(msgspec.Struct, forbid_unknown_fields=True):
    verdict: Literal["OK", "KO", "UNCERTAIN"]


class _Correction(msgspec.Struct, forbid_unknown_fields=True):
    run: str
    number: int
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What the pages show and steer; `corrections` is None where there is no outbox."""

    about: About
    statistics: Statistics
    counters: Counters
    controls: Controls
    corrections: Corrections | None
    marbles: Marbles
    live: LiveView


class App:
    """Answers requests.

    Args:
        parts: what to show and steer.
        password_hash: made by `hash_password`; empty: no password is asked for.
        names: names of this device, under which its pages may be opened.
        now_s: seconds on a clock that never jumps.

    Attributes:
        about: the model and what stands around it; another when the model changes.
    """

    def __init__(
        self,
        parts: Parts,
        *,
        password_hash: str = "",
        names: frozenset[str] = frozenset(),
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.run = uuid.uuid4().hex[:12]
        self.about = parts.about
        self._parts = parts
        self._password_hash = password_hash
        self._names = names
        self._sessions = guard.Sessions(now_s)
        self._limiter = guard.Limiter(now_s)
        self._remembered = guard.Remembered()
        self._one_guess = threading.Lock()
        pages = resources.files("okko_edge.dashboard") / "page"
        self._files = {path: (pages.joinpath(name).read_bytes(), kind) for path, (name, kind) in _FILES.items()}
        self._get: dict[str, Callable[[Request], Response]] = {
            "/state": self._state,
            "/live.jpg": self._live,
            "/thumbnail.jpg": functools.partial(self._picture, width=THUMBNAIL, opens=False),
            "/marble.jpg": functools.partial(self._picture, width=LIVE, opens=True),
            "/metrics": self._metrics,
        }
        self._post: dict[str, Callable[[Request], Awaitable[Response]]] = {
            "/pause": self._pause,
            "/resume": self._resume,
            "/gate": self._test_gate,
            "/correct": self._correct,
            "/logout": self._logout,
        }

    async def answer(self, request: Request) -> Response:
        """Returns the response, never raises; what is our own fault is counted and answered with 500."""
        try:
            response = await self._answer(request)
        except msgspec.MsgspecError as error:
            response = problem(HTTPStatus.BAD_REQUEST, f"the request is not understood: {error}")
        except OkkoError as error:
            response = problem(HTTPStatus.CONFLICT, str(error))
        except Exception:  # a defect of a page must not end the others
            self._parts.counters.add(Event.DASHBOARD_FAILED)
            response = problem(HTTPStatus.INTERNAL_SERVER_ERROR, "the dashboard failed; sorting is not touched by it")
        return replace(response, headers={**SECURITY_HEADERS, **response.headers})

    async def _answer(self, request: Request) -> Response:
        if not guard.known_host(request, self._names):
            message = "this name is not known here: open the page by the device's address, or add the name to "
            return problem(HTTPStatus.FORBIDDEN, message + "dashboard.host_names in the settings")
        path, method = request.path, "GET" if request.method == "HEAD" else request.method
        reads = path in self._files or path in self._get
        writes = path in self._post or path == "/login"
        if not reads and not writes:
            return problem(HTTPStatus.NOT_FOUND, "there is no such page")
        if not ((method == "GET" and reads) or (method == "POST" and writes)):
            allowed = ", ".join((["GET, HEAD"] if reads else []) + (["POST"] if writes else []))
            return problem(HTTPStatus.METHOD_NOT_ALLOWED, f"only {allowed}", allow=allowed)
        if method == "POST" and not guard.from_our_page(request):
            return problem(HTTPStatus.FORBIDDEN, "this must be sent by the dashboard's own page")
        if method == "POST" and path == "/login":
            return await self._login(request)
        refused = None if path in _PUBLIC else await self._unless_allowed(request, path)
        if refused is not None:
            return refused
        if method == "POST":
            return await self._post[path](request)
        if path in self._files:
            return Response(HTTPStatus.OK, *self._files[path])
        return self._get[path](request)

    async def _unless_allowed(self, request: Request, path: str) -> Response | None:
        if not self._password_hash or self._sessions.known(request.cookie(guard.COOKIE)):
            return None
        if path == "/metrics":
            return await self._unless_basic(request)
        if path == "/":
            return Response(HTTPStatus.SEE_OTHER, headers={"location": "/login"})
        return problem(HTTPStatus.UNAUTHORIZED, "log in first")

    async def _unless_basic(self, request: Request) -> Response | None:
        password = guard.basic_password(request)
        if password is None:
            challenge = {"www_authenticate": 'Basic realm="okko", charset="UTF-8"'}
            return problem(HTTPStatus.UNAUTHORIZED, "log in with any user name and the password", **challenge)
        return await self._unless_right(request, password)

    async def _unless_right(self, request: Request, password: str) -> Response | None:
        if self._remembered.knows(password):
            return None
        wait_s = self._limiter.wait_s(request.client)
        if wait_s > 0:
            seconds = int(wait_s) + 1
            message = f"too many tries; wait {seconds} seconds"
            return problem(HTTPStatus.TOO_MANY_REQUESTS, message, retry_after=str(seconds))
        if not await asyncio.to_thread(self._verify, password):
            return problem(HTTPStatus.UNAUTHORIZED, "this is not the password")
        self._remembered.put(password)
        return None

    def _verify(self, password: str) -> bool:
        with self._one_guess:  # one at a time: each takes memory and a processor
            return passwords.verify(password, self._password_hash)

    async def _login(self, request: Request) -> Response:
        password = decode_json(request.body, _Login).password
        if not self._password_hash:
            return json_response({})
        refused = await self._unless_right(request, password)
        if refused is not None:
            return refused
        cookie = f"{guard.COOKIE}={self._sessions.open()}; Path=/; Max-Age={guard.SESSION_S}; HttpOnly; SameSite=Strict"
        return replace(json_response({}), headers={"set-cookie": cookie})

    async def _logout(self, request: Request) -> Response:
        self._sessions.close(request.cookie(guard.COOKIE))
        expired = f"{guard.COOKIE}=; Path=/; Max-Age=0; HttpOnly; SameSite=Strict"
        return replace(json_response({}), headers={"set-cookie": expired})

    def _state(self, request: Request) -> Response:
        parts, now_s = self._parts, self._parts.marbles.now_s()
        if request.number("hold"):
            parts.marbles.hold()
        state = State(
            run=self.run,
            about=self.about,
            paused=parts.controls.paused,
            can_correct=parts.corrections is not None,
            has_password=bool(self._password_hash),
            statistics=parts.statistics.snapshot(),
            events=parts.counters.snapshot(),
            view=view_of(parts.live, self.about),
            marbles=[shown(marble, self.about, now_s) for marble in parts.marbles.latest(SHOWN)],
            machine=machine(),
        )
        return json_response(state)

    def _live(self, _: Request) -> Response:
        picture = self._parts.live.jpeg()
        if picture is None:
            return problem(HTTPStatus.NOT_FOUND, "the camera has given no frame yet")
        return Response(HTTPStatus.OK, picture, "image/jpeg")

    def _picture(self, request: Request, *, width: int, opens: bool) -> Response:
        number = request.number("number")
        marble = None if number is None else self._parts.marbles.find(number)
        look = self._parts.marbles.open if opens else self._parts.marbles.frame_of
        frame = look(marble) if marble else None
        if frame is None:
            return problem(HTTPStatus.NOT_FOUND, "there is no picture of this marble any more")
        return Response(HTTPStatus.OK, encode(frame.image, width), "image/jpeg")

    def _metrics(self, _: Request) -> Response:
        parts = self._parts
        text = metrics.exposition(self.about, parts.statistics, parts.counters, paused=parts.controls.paused)
        return Response(HTTPStatus.OK, text.encode(), metrics.CONTENT_TYPE)

    async def _pause(self, _: Request) -> Response:
        await asyncio.to_thread(self._parts.controls.pause)
        return json_response({})

    async def _resume(self, _: Request) -> Response:
        await asyncio.to_thread(self._parts.controls.resume)
        return json_response({})

    async def _test_gate(self, request: Request) -> Response:
        verdict = _GATE[decode_json(request.body, _Gate).verdict]
        if not self._parts.controls.paused:
            raise OkkoError("the gate is not tested while marbles are sorted: pause first")
        await asyncio.to_thread(self._parts.controls.test_gate, verdict)
        return json_response({})

    async def _correct(self, request: Request) -> Response:
        wanted = decode_json(request.body, _Correction)
        if self._parts.corrections is None:
            raise OkkoError("corrections have nowhere to go: set outbox.enabled in the settings")
        if wanted.label not in self.about.labels:
            raise OkkoError(f"the model has no label {wanted.label[:80]!r}")
        if wanted.run != self.run:
            raise OkkoError("okko was started anew meanwhile: reload the page")
        await asyncio.to_thread(self._keep, self._parts.corrections, wanted)
        return json_response({})

    def _keep(self, corrections: Corrections, wanted: _Correction) -> None:
        marble = self._parts.marbles.find(wanted.number)
        if marble is None:
            raise OkkoError(f"marble {wanted.number} is too long ago: only the latest are held")
        frame = self._parts.marbles.frame_of(marble)
        if marble.digest is None or not corrections.label(marble.digest, wanted.label):
            if frame is None:
                raise OkkoError(f"there is no picture of marble {wanted.number} any more, so it cannot be corrected")
            corrections.keep(replace(marble.decision, frame=frame), wanted.label)
        marble.correction = wanted.label
