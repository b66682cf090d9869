"""The labelling page's answers: which request gets which response.

There are no sockets here, and no file is opened by a name that came in: pages stand in a fixed table, and photos are
named by numbers.

The page is for people at this machine. A request whose `Host` is no name of this machine for itself is refused (a page
elsewhere could point its own name at us: DNS rebinding), and what changes something must come from our own page, as the
browser's `Origin` says, and as JSON (cross-site requests).
"""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass, field
from http import HTTPStatus
from importlib import resources
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
from msgspec import Meta

from okko_cloud.labelling.desk import AGAIN, Person
from okko_cloud.labelling.reasons import Reason
from okko_models.damaged import decode_json
from okko_models.errors import OkkoError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from okko_cloud.labelling.book import Decision
    from okko_cloud.labelling.desk import Desk, Outcome, Shown

HEADERS: Final = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}
_FILES: Final = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
_REASONS: Final = [*Reason, AGAIN]
_JSON: Final = "application/json"
_HERE: Final = re.compile(r"(?:127\.0\.0\.1|localhost|\[::1\])(?::[0-9]{1,5})?", re.IGNORECASE)
_MOST_AT_ONCE: Final = 8

_Name = Annotated[str, Meta(min_length=1, max_length=60)]
_Session = Annotated[str, Meta(pattern=r"\A[0-9a-zA-Z-]{8,64}\Z")]
_Numbers = Annotated[list[int], Meta(max_length=_MOST_AT_ONCE)]


class _Asks(msgspec.Struct, forbid_unknown_fields=True):
    who: _Name
    session: _Session

    @property
    def person(self) -> Person:
        return Person(" ".join(self.who.split()) or "somebody", self.session)


class _News(_Asks):
    holding: _Numbers


class _Take(_Asks):
    holding: _Numbers
    count: Annotated[int, Meta(ge=1, le=_MOST_AT_ONCE)]


class _Decide(_Asks):
    number: int
    revision: Annotated[int, Meta(ge=0)]
    label: str


class _Undo(_Asks):
    number: int
    revision: Annotated[int, Meta(ge=1)]


class _Skip(_Asks):
    number: int


@dataclass(frozen=True, slots=True)
class Request:
    """What a browser asks: `headers` by name in lower case, those that came twice joined by commas."""

    method: str
    target: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Response:
    """What it gets."""

    status: HTTPStatus
    body: bytes = b""
    content_type: str = _JSON
    headers: Mapping[str, str] = field(default_factory=dict)


class App:
    """Answers requests; any thread may ask.

    Args:
        desk: hands out photos and takes decisions.
        place: the dataset, for the reader.
        who: the name of a person who has not given one.
        model: the model that guesses, for the reader; None: none.
    """

    def __init__(self, desk: Desk, *, place: str, who: str, model: str | None) -> None:
        self._desk = desk
        self._about = {"place": place, "who": who, "model": model}
        folder = resources.files("okko_cloud.labelling") / "page"
        self._files = {path: ((folder / name).read_bytes(), kind) for path, (name, kind) in _FILES.items()}
        self._posts: dict[str, Callable[[bytes], Response]] = {
            "/news": self._news,
            "/take": self._take,
            "/decide": self._decide,
            "/undo": self._undo,
            "/skip": self._skip,
            "/leave": self._leave,
        }
        self.trouble: str | None = None
        """What keeps the photos from being looked at now."""
        self.idle = threading.Event()
        """Somebody asked for more photos than there were."""

    def answer(self, request: Request) -> Response:
        """Returns the response; never raises."""
        try:
            response = self._answer(request)
        except msgspec.MsgspecError as error:
            response = _problem(HTTPStatus.BAD_REQUEST, f"the request is not understood: {error}")
        except OkkoError as error:
            response = _problem(HTTPStatus.CONFLICT, str(error))
        except OSError as error:
            response = _problem(HTTPStatus.CONFLICT, f"{error.strerror or error}; nothing was changed")
        except Exception as error:  # a defect must not end what the others do
            message = f"okko failed ({type(error).__name__}); the photo was not touched"
            response = _problem(HTTPStatus.INTERNAL_SERVER_ERROR, message)
        return Response(response.status, response.body, response.content_type, {**HEADERS, **response.headers})

    def _answer(self, request: Request) -> Response:
        path, _, query = request.target.partition("?")
        host = request.headers.get("host", "")
        if not _HERE.fullmatch(host):
            return _problem(HTTPStatus.FORBIDDEN, "open this page as http://localhost or http://127.0.0.1")
        if request.method in ("GET", "HEAD"):
            if path in self._files:
                return Response(HTTPStatus.OK, *self._files[path])
            if path == "/photo":
                return self._photo(query)
        known = path in self._files or path in self._posts or path == "/photo"
        if request.method != "POST" or path not in self._posts:
            status = HTTPStatus.METHOD_NOT_ALLOWED if known else HTTPStatus.NOT_FOUND
            return _problem(status, "there is no such page")
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if request.headers.get("origin", "").lower() != f"http://{host.lower()}" or kind != _JSON:
            return _problem(HTTPStatus.FORBIDDEN, "this must be sent by the labelling page itself")
        return self._posts[path](request.body)

    def _photo(self, query: str) -> Response:
        found = re.fullmatch(r"number=([0-9]{1,9})", query)
        if not found:
            return _problem(HTTPStatus.NOT_FOUND, "there is no such photo")
        return Response(HTTPStatus.OK, self._desk.picture(int(found[1])), "image/jpeg")

    def _news(self, body: bytes) -> Response:
        asked = decode_json(body, _News)
        self._desk.keep(asked.person, asked.holding)
        catalogue = self._desk.catalogue
        about = {**self._about, "labels": catalogue.labels, "reasons": _REASONS, "trouble": self.trouble}
        return _json({**about, "progress": catalogue.progress()})

    def _take(self, body: bytes) -> Response:
        asked = decode_json(body, _Take)
        taken = self._desk.take(asked.person, asked.count, asked.holding)
        if len(taken) < asked.count:
            self.idle.set()
        return _json({"photos": [_shown(one) for one in taken]})

    def _decide(self, body: bytes) -> Response:
        asked = decode_json(body, _Decide)
        return _outcome(self._desk.decide(asked.person, asked.number, asked.label, asked.revision))

    def _undo(self, body: bytes) -> Response:
        asked = decode_json(body, _Undo)
        return _outcome(self._desk.undo(asked.person, asked.number, asked.revision))

    def _skip(self, body: bytes) -> Response:
        asked = decode_json(body, _Skip)
        self._desk.skip(asked.person, asked.number)
        return _json({})

    def _leave(self, body: bytes) -> Response:
        self._desk.leave(decode_json(body, _Asks).session)
        return _json({})


def _shown(one: Shown) -> dict[str, object]:
    guess = one.look.guess
    return {
        "number": one.entry.number,
        "name": one.entry.key.encode("utf-8", "replace").decode(),
        "label": one.entry.label,
        "reason": one.worth.reason,
        "problem": one.look.problem,
        "corrected": one.look.corrected,
        "guess": guess
        and {
            "label": guess.label,
            "confidence": guess.confidence,
            "novelty": guess.novelty,
            "by": guess.by,
        },
        "revision": one.revision,
        "decided": one.decided and _decision(one.decided),
    }


def _decision(one: Decision) -> dict[str, object]:
    return {"who": one.who, "unix_s": one.unix_s, "label": one.label, "undoes": one.undoes, "revision": one.revision}


def _outcome(outcome: Outcome) -> Response:
    return _json({"stands": outcome.stands, "decision": _decision(outcome.decision)})


def _json(content: object) -> Response:
    return Response(HTTPStatus.OK, msgspec.json.encode(content))


def _problem(status: HTTPStatus, message: str) -> Response:
    return Response(status, msgspec.json.encode({"error": message}))
