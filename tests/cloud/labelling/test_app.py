"""What the page's server answers, and what it refuses."""

from __future__ import annotations

import http.client
import json
import socket
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from okko_cloud.labelling.app import App, Request, Response
from okko_cloud.labelling.server import Server
from okko_models.errors import OkkoError
from tests.cloud.labelling.rooms import Folder, enter, png, serve

HOST = "127.0.0.1:8765"
ASKS = {"who": "Anna", "session": "abcdefgh"}


@pytest.fixture
def app(folder: Folder) -> App:
    folder.put({"unlabelled/a.png": png(1), "OK/b.png": png(2)})
    return App(enter(folder).look().desk, place="photos", who="Anna", model=None)


def post(app: App, path: str, content: object, **headers: str) -> Response:
    sent = {"host": HOST, "origin": f"http://{HOST}", "content-type": "application/json"}
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return app.answer(Request("POST", path, sent, body))


def get(app: App, target: str, host: str = HOST, method: str = "GET") -> Response:
    return app.answer(Request(method, target, {"host": host}))


def said(response: Response) -> Any:
    return json.loads(response.body)


def test_a_photo_is_taken_seen_and_decided_on(app: App, folder: Folder):
    (photo,) = said(post(app, "/take", {**ASKS, "holding": [], "count": 3}))["photos"]
    assert (photo["name"], photo["label"], photo["revision"]) == ("unlabelled/a.png", None, 0)
    picture = get(app, f"/photo?number={photo['number']}")
    assert (picture.status, picture.content_type, picture.body[:2]) == (200, "image/jpeg", b"\xff\xd8")
    done = said(post(app, "/decide", {**ASKS, "number": photo["number"], "revision": 0, "label": "KO"}))
    assert done["stands"]
    assert "KO/a.png" in folder.files()
    news = said(post(app, "/news", {**ASKS, "holding": []}))
    assert news["progress"]["done"] == {"no guess": 1}
    undone = said(post(app, "/undo", {**ASKS, "number": photo["number"], "revision": 1}))
    assert (undone["stands"], undone["decision"]["undoes"]) == (True, 1)
    assert "unlabelled/a.png" in folder.files()


@pytest.mark.parametrize(
    "host", ["", "evil.example", "evil.example:8765", "127.0.0.1.evil.example", "127.0.0.1:1,x", "10.0.0.1"]
)
def test_a_name_that_is_not_this_machines_own_is_refused(app: App, host: str):
    for response in (get(app, "/", host), get(app, "/photo?number=1", host), post(app, "/take", ASKS, host=host)):
        assert response.status == 403


@pytest.mark.parametrize("host", ["localhost", "localhost:9000", "LOCALHOST:1", "[::1]:8765", "127.0.0.1"])
def test_this_machines_own_names_are_known_also_through_a_tunnel(app: App, host: str):
    assert get(app, "/", host).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": ""},
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:9999"},
        {"origin": f"https://{HOST}"},
        {"content_type": "text/plain"},
        {"content_type": "application/x-www-form-urlencoded"},
    ],
)
def test_what_changes_something_must_come_from_our_own_page_as_json(app: App, folder: Folder, headers: dict[str, str]):
    before = folder.files()
    for path in ("/take", "/decide", "/undo", "/skip", "/leave", "/news"):
        assert post(app, path, {**ASKS, "number": 1, "revision": 0, "label": "OK"}, **headers).status == 403
    assert folder.files() == before


@pytest.mark.parametrize(
    "target",
    ["/../page.js", "/photo", "/photo?number=../1", "/photo?number=1&x=2", "/etc/passwd", "/.okko", "//", "/page.js/"],
)
def test_there_is_nothing_but_the_pages(app: App, target: str):
    assert get(app, target).status == 404


def test_reading_changes_nothing_and_writing_is_not_reading(app: App):
    assert [get(app, path).status for path in ("/take", "/decide", "/leave")] == [405, 405, 405]
    assert post(app, "/", ASKS).status == 405
    assert get(app, "/", method="DELETE").status == 405


def test_every_answer_forbids_scripts_from_elsewhere_and_frames(app: App):
    for response in (get(app, "/"), get(app, "/nothing"), post(app, "/take", b"{"), get(app, "/", "evil.example")):
        policy = response.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'")
        assert "frame-ancestors 'none'" in policy
        assert response.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("/take", b"{"),
        ("/take", {**ASKS, "holding": [], "count": 0}),
        ("/take", {**ASKS, "holding": [], "count": 10_000}),
        ("/take", {**ASKS, "holding": list(range(99)), "count": 1}),
        ("/take", {"who": "", "session": "abcdefgh", "holding": [], "count": 1}),
        ("/take", {"who": "x" * 61, "session": "abcdefgh", "holding": [], "count": 1}),
        ("/take", {"who": "Anna", "session": "../../x", "holding": [], "count": 1}),
        ("/decide", {**ASKS, "number": "1", "revision": 0, "label": "OK"}),
        ("/decide", {**ASKS, "number": 1, "revision": -1, "label": "OK"}),
        ("/decide", {**ASKS, "number": 1, "revision": 0, "label": "OK", "to": "/etc"}),
    ],
)
def test_what_is_not_understood_is_refused_with_words(app: App, path: str, content: object):
    response = post(app, path, content)
    assert response.status == 400
    assert "not understood" in said(response)["error"]


@pytest.mark.parametrize("label", ["../OK", "blue", "", "/", "unlabelled", "OK/../../x", "\0"])
def test_a_label_that_nobody_offers_is_refused_and_nothing_is_made(app: App, folder: Folder, label: str):
    (photo,) = said(post(app, "/take", {**ASKS, "holding": [], "count": 1}))["photos"]
    response = post(app, "/decide", {**ASKS, "number": photo["number"], "revision": 0, "label": label})
    assert (response.status, "there is no label" in said(response)["error"]) == (409, True)
    assert {path.name for path in folder.root.iterdir()} == {"unlabelled", "OK", ".okko"}


def test_a_defect_is_one_answer_not_the_end(app: App, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(app._desk, "take", lambda *_: 1 / 0)
    response = post(app, "/take", {**ASKS, "holding": [], "count": 1})
    assert (response.status, "ZeroDivisionError" in said(response)["error"]) == (500, True)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(
    method=st.sampled_from(["GET", "POST", "PUT", "\0"]),
    target=st.text(max_size=40),
    body=st.binary(max_size=60),
    path=st.sampled_from(["", "/take", "/decide", "/photo?number=", "/undo"]),
)
def test_whatever_comes_in_is_answered(app: App, method: str, target: str, path: str, body: bytes):
    headers = {"host": HOST, "origin": f"http://{HOST}", "content-type": "application/json"}
    assert app.answer(Request(method, path + target, headers, body)).status < 500


# --- sockets ---


def test_the_server_is_reachable_from_this_machine_alone(folder: Folder):
    folder.put({"unlabelled/a.png": png(1)})
    with serve(enter(folder), "Anna") as url:
        assert url.startswith("http://127.0.0.1:")


def raw(url: str, data: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", int(url.rstrip("/").rpartition(":")[2])), timeout=10) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while part := connection.recv(1 << 16):
            answer += part
        return answer


def test_two_hosts_long_bodies_and_rubbish_are_refused_and_the_next_is_served(folder: Folder):
    folder.put({"unlabelled/a.png": png(1)})
    with serve(enter(folder), "Anna") as url:
        twice = raw(url, b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n")
        assert b"403" in twice.splitlines()[0]
        long = raw(url, b"POST /take HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999999\r\n\r\n")
        assert b"413" in long.splitlines()[0]
        for length in (b"-1", b"x", b""):
            assert b"413" in raw(url, b"POST /take HTTP/1.1\r\nContent-Length: " + length + b"\r\n\r\n").splitlines()[0]
        raw(url, b"\x16\x03\x01 rubbish\r\n\r\n")
        connection = http.client.HTTPConnection(url.removeprefix("http://").rstrip("/"), timeout=10)
        connection.request("GET", "/")
        page = connection.getresponse()
        assert (page.status, b"<!doctype html>" in page.read()) == (200, True)
        connection.close()


def test_a_port_that_is_taken_is_a_plain_sentence(app: App):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(OkkoError, match="name another one with --port"):
            Server(app, other.getsockname()[1])


def test_the_page_asks_for_nothing_from_elsewhere():
    from importlib import resources

    folder = resources.files("okko_cloud.labelling") / "page"
    for name in ("index.html", "page.js", "page.css"):
        text = (folder / name).read_text()
        assert "http:" not in text.replace("http://www.w3.org", "")
        assert "https:" not in text
        assert "innerHTML" not in text
