"""A request and a response of the dashboard, as values: what the server reads and writes, and the pages answer."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping

JSON = "application/json"
_MAX_FIELDS = 16
_AUTHORITY = re.compile(r"(?:\[(?P<literal>[0-9A-Fa-f:.]+)\]|(?P<name>[A-Za-z0-9._-]+))(?::[0-9]{1,5})?")


@dataclass(frozen=True, slots=True)
class Request:
    """What a browser asks.

    Attributes:
        method: GET, HEAD, POST or something else.
        target: as it stands in the request line, path and query.
        headers: by name in lower case; of several with one name, the first.
        body: at most as long as the server lets through.
        client: the other side's address.
        repeated: names of headers that came more than once.
    """

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes = b""
    client: str = ""
    repeated: frozenset[str] = frozenset()

    @property
    def path(self) -> str:
        """The path, never decoded or resolved: pages are found by comparing it."""
        return self.target.partition("?")[0]

    def number(self, name: str) -> int | None:
        """Returns a whole number of at most 12 digits from the query; None if there is none."""
        try:
            values = parse_qs(self.target.partition("?")[2], max_num_fields=_MAX_FIELDS).get(name, [])
        except ValueError:
            return None
        text = values[0] if len(values) == 1 else ""
        return int(text) if text.isascii() and text.isdecimal() and len(text) <= 12 else None

    def cookie(self, name: str) -> str | None:
        """Returns a cookie's value."""
        for part in self.headers.get("cookie", "").split(";"):
            key, _, value = part.strip().partition("=")
            if key == name:
                return value
        return None


@dataclass(frozen=True, slots=True)
class Response:
    """What it gets.

    Attributes:
        status: the HTTP status.
        body: the content.
        content_type: its media type.
        headers: further ones.
    """

    status: HTTPStatus
    body: bytes = b""
    content_type: str = "text/plain; charset=utf-8"
    headers: Mapping[str, str] = field(default_factory=dict)


def json_response(content: object, status: HTTPStatus = HTTPStatus.OK) -> Response:
    """Returns a dataclass or a dict as JSON."""
    return Response(status, msgspec.json.encode(content), JSON)


def problem(status: HTTPStatus, message: str, **headers: str) -> Response:
    """Returns a message for the reader as JSON; header names are given with `_` for `-`."""
    body = msgspec.json.encode({"error": message})
    return Response(status, body, JSON, {name.replace("_", "-"): value for name, value in headers.items()})


def host_of(authority: str) -> str | None:
    """Returns the host of `host:port` in lower case, without brackets; None if it is not one."""
    found = _AUTHORITY.fullmatch(authority)
    return (found["literal"] or found["name"].rstrip(".")).lower() if found else None
