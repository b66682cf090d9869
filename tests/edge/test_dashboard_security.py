"""Who is let in, what a stranger may use up, and that no request whatsoever does harm."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import random
import socket
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from okko_edge.dashboard import guard, passwords
from okko_edge.dashboard.app import SECURITY_HEADERS
from okko_edge.dashboard.messages import Request, host_of
from okko_edge.dashboard.server import Limits
from okko_edge.events import Event
from okko_models.errors import OkkoError
from tests.edge.dashboard_bench import Bench
from tests.edge.dashboard_fakes import decision, frame

if TYPE_CHECKING:
    from collections.abc import Iterator

PASSWORD = "correct horse"
HASH = passwords.hash_password(PASSWORD)
GETS = ("/", "/state", "/live.jpg", "/thumbnail.jpg?number=1", "/marble.jpg?number=1", "/page.js", "/charts.js")
POSTS = {"/pause": {}, "/resume": {}, "/gate": {"verdict": "OK"}, "/correct": {}, "/logout": {}}


@pytest.fixture
def bench() -> Iterator[Bench]:
    with Bench() as running:
        yield running


@pytest.fixture
def locked() -> Iterator[Bench]:
    with Bench(password_hash=HASH) as running:
        running.sort(decision(1))
        yield running


def cookie(bench: Bench) -> str:
    answer = bench.post("/login", {"password": PASSWORD})
    assert answer.status == 200
    return answer.headers["set-cookie"].partition(";")[0]


# --- the password ---


def test_a_password_opens_its_own_hash_and_no_other_does() -> None:
    assert passwords.verify(PASSWORD, HASH)
    assert not passwords.verify(PASSWORD + " ", HASH)
    assert not passwords.verify("", HASH)
    assert PASSWORD not in HASH
    assert passwords.hash_password("grüße 🔑 zusammen") != passwords.hash_password("grüße 🔑 zusammen")


@pytest.mark.parametrize("password", ["", "1234567", "x" * 257])
def test_a_password_too_short_or_too_long_is_refused(password: str) -> None:
    with pytest.raises(OkkoError, match="8 to 256"):
        passwords.hash_password(password)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "correct horse",
        HASH.replace("scrypt$13", "scrypt$30"),
        HASH.replace("$8$", "$99$"),
        HASH[:40],
        HASH + "\n",
        HASH.replace("scrypt", "bcrypt"),
    ],
    ids=["empty", "a password", "too dear", "too wide", "cut short", "a line more", "another method"],
)
def test_a_hash_that_okko_did_not_make_is_refused_before_it_costs_memory(text: str) -> None:
    with pytest.raises(OkkoError, match="okko config password"):
        passwords.verify(PASSWORD, text)


def test_without_the_session_nothing_is_shown_or_done(locked: Bench) -> None:
    assert [locked.get(path).status for path in GETS] == [303, *[401] * (len(GETS) - 1)]
    assert [locked.post(path, content).status for path, content in POSTS.items()] == [401] * len(POSTS)
    assert locked.get("/", Cookie="okko_session=forged").status == 303
    assert not locked.controls.paused
    assert locked.get("/login").status == 200


def test_the_password_opens_a_session_that_scripts_and_other_sites_cannot_use(locked: Bench) -> None:
    answer = locked.post("/login", {"password": PASSWORD})
    attributes = {part.strip().lower() for part in answer.headers["set-cookie"].split(";")[1:]}
    assert {"httponly", "samesite=strict", "path=/"} <= attributes
    session = answer.headers["set-cookie"].partition(";")[0]
    locked.dashboard.see(frame())
    assert [locked.get(path, Cookie=session).status for path in GETS] == [200] * len(GETS)
    assert locked.post("/pause", Cookie=session).status == 200
    assert locked.controls.paused


def test_logging_out_ends_the_session_on_the_device_too(locked: Bench) -> None:
    session = cookie(locked)
    assert locked.post("/logout", Cookie=session).status == 200
    assert locked.get("/state", Cookie=session).status == 401


def test_guessing_is_slowed_and_the_wait_is_told(locked: Bench) -> None:
    answers = [locked.post("/login", {"password": f"wrong {n}"}) for n in range(8)]
    assert [answer.status for answer in answers] == [401] * 5 + [429] * 3
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 13
    assert locked.post("/login", {"password": PASSWORD}).status == 429


def test_metrics_take_the_password_in_prometheus_way(locked: Bench) -> None:
    refused = locked.get("/metrics")
    assert (refused.status, refused.headers["www-authenticate"][:5]) == (401, "Basic")
    right, wrong = (base64.b64encode(f"any:{word}".encode()).decode() for word in (PASSWORD, "wrong"))
    for _ in range(20):  # no limit on who knows it
        assert locked.get("/metrics", Authorization=f"Basic {right}").status == 200
    assert locked.get("/metrics", Authorization=f"Basic {wrong}").status == 401
    assert locked.get("/metrics", Authorization="Basic !!").status == 401
    assert locked.get("/state", Authorization=f"Basic {right}").status == 401


def test_tries_come_back_with_time_for_one_and_for_all() -> None:
    now = [0.0]
    limiter = guard.Limiter(lambda: now[0], tries=3, every_s=10, factor=2)
    assert [limiter.wait_s("a") for _ in range(4)] == [0, 0, 0, 10]
    assert [limiter.wait_s("b") == 0 for _ in range(4)] == [True] * 3 + [False]
    assert limiter.wait_s("c") > 0
    now[0] = 10
    assert [limiter.wait_s("a") == 0 for _ in range(2)] == [True, False]
    now[0] = 1000
    assert [limiter.wait_s("a") == 0 for _ in range(4)] == [True] * 3 + [False]


def test_sessions_end_with_time_and_are_not_kept_without_bound() -> None:
    now = [0.0]
    sessions = guard.Sessions(lambda: now[0])
    tokens = [sessions.open() for _ in range(100)]
    assert [sessions.known(token) for token in tokens] == [False] * 36 + [True] * 64
    assert not sessions.known(None)
    now[0] = guard.SESSION_S + 1
    assert not any(sessions.known(token) for token in tokens)


# --- other sites ---


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:80", "localhost.evil.example", "127.0.0.1.evil.example", "", "a@127.0.0.1", "[::1"],
)
def test_a_name_that_is_not_ours_is_refused(bench: Bench, host: str) -> None:
    connection = http.client.HTTPConnection(*bench.address, timeout=20)
    connection.putrequest("GET", "/state", skip_host=True)
    connection.putheader("Host", host)
    connection.endheaders()
    assert connection.getresponse().status in (400, 403)
    connection.close()


def test_addresses_and_the_devices_own_names_are_ours() -> None:
    with Bench(host_names=("Sorter.Example.",)) as bench:
        names = ("127.0.0.1", "localhost:8080", "[::1]:80", "192.168.1.5", "sorter.example", socket.gethostname())
        assert [bench.get("/state", Host=name).status for name in names] == [200] * len(names)


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": ""},
        {"Origin": "null"},
        {"Origin": "http://evil.example"},
        {"Origin": "http://127.0.0.1"},
        {"Origin": "http://localhost.evil.example:8080"},
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": ""},
    ],
)
def test_what_another_page_can_make_a_browser_send_changes_nothing(bench: Bench, headers: dict[str, str]) -> None:
    for path, content in POSTS.items():
        assert bench.post(path, content, **headers).status == 403
    assert not bench.controls.paused


def test_nothing_changes_by_looking(bench: Bench) -> None:
    for path in POSTS:
        answer = bench.get(path)
        assert (answer.status, answer.headers["allow"]) == (405, "POST")
    assert not bench.controls.paused


def test_every_answer_carries_the_security_headers(locked: Bench) -> None:
    for path in (*GETS, "/login", "/nothing", "/metrics", "/pause"):
        headers = locked.get(path).headers
        assert SECURITY_HEADERS.items() <= headers.items()
        assert "access-control-allow-origin" not in headers
        assert "server" not in headers
    assert "unsafe" not in SECURITY_HEADERS["content-security-policy"]


@pytest.mark.parametrize(
    "path",
    [
        "/../../../../etc/passwd",
        "/..%2f..%2fetc/passwd",
        "//etc/passwd",
        "/page/index.html",
        "/index.html",
        "/page.css/",
        "/PAGE.CSS",
        "/%70age.css",
        "/page.css%00.jpg",
        "http://127.0.0.1/state",
        "*",
        "/state/../pause",
    ],
)
def test_no_path_leads_anywhere_but_to_the_pages_in_the_table(bench: Bench, path: str) -> None:
    assert bench.get(path).status == 404


# --- what a stranger may use up ---


def quick(**changes: float) -> Limits:
    return Limits(**{"idle_s": 0.4, "request_s": 0.4, "answer_s": 2, "send_s": 0.4, **changes})  # type: ignore[arg-type]


def ends_within(client: socket.socket, seconds: float) -> bool:
    client.settimeout(seconds)
    try:
        while client.recv(65536):
            pass
    except ConnectionResetError:
        pass
    except TimeoutError:
        return False
    return True


def test_a_request_that_drips_in_is_cut_off_however_steadily_it_drips() -> None:
    with Bench(limits=quick()) as bench, socket.create_connection(bench.address) as client:
        client.sendall(b"GET /state HTTP/1.1\r\nHost: localhost\r\n")
        with contextlib.suppress(OSError):
            for number in range(100):
                client.sendall(f"X-{number}: y\r\n".encode())
                time.sleep(0.02)
            raise AssertionError("two seconds of dripping were listened to")
        assert bench.get("/state").status == 200


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET",
        b"POST /pause HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\n12",
        b"GET /page.css HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ],
)
def test_a_connection_on_which_nothing_more_comes_is_closed(sent: bytes) -> None:
    with Bench(limits=quick()) as bench, socket.create_connection(bench.address) as client:
        client.sendall(sent)
        assert ends_within(client, 10)


def ask_for_ever(client: socket.socket) -> None:
    while True:
        client.sendall(b"GET /page.js HTTP/1.1\r\nHost: localhost\r\n\r\n" * 100)


def test_one_who_does_not_take_the_answers_is_cut_off() -> None:
    with Bench(limits=quick(idle_s=20)) as bench, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(bench.address)
        client.settimeout(10)
        with pytest.raises(ConnectionError):
            ask_for_ever(client)
        assert bench.get("/state").status == 200


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /" + b"x" * 40_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", b"431"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 40_000 + b"\r\n\r\n", b"431"),
        (b"POST /pause HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999\r\n\r\n" + b"x" * 20_000, b"413"),
        (b"HELO example.org\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", b"400"),
        (b"POST / HTTP/1.1\r\nHost: l\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", b"400"),
    ],
)
def test_what_is_too_long_or_no_request_is_refused_and_closed(bench: Bench, sent: bytes, status: bytes) -> None:
    with socket.create_connection(bench.address, timeout=10) as client:
        with contextlib.suppress(OSError):
            client.sendall(sent)
        with contextlib.suppress(ConnectionResetError):
            assert client.recv(65536).split(b" ")[1] == status
        assert ends_within(client, 10)
    assert bench.get("/state").status == 200


def test_one_address_cannot_take_all_connections() -> None:
    with Bench(limits=Limits(connections_each=5)) as bench:
        clients = [socket.create_connection(bench.address) for _ in range(30)]
        try:
            alive = []
            for client in clients:
                client.settimeout(10)
                with contextlib.suppress(OSError):
                    client.sendall(b"HEAD /state HTTP/1.1\r\nHost: localhost\r\n\r\n")
                    alive.append(client.recv(100).startswith(b"HTTP/1.1 200"))
            assert sum(alive) == 5
        finally:
            for client in clients:
                client.close()
        end_s = time.monotonic() + 10
        while time.monotonic() < end_s:
            with contextlib.suppress(OSError, http.client.HTTPException):
                if bench.get("/state").status == 200:
                    return
        raise AssertionError("the connections were never given back")


# --- anything at all ---

PATHS = ["/", "/state", "/pause", "/correct", "/gate", "/login", "/thumbnail.jpg?number=", "http://a/", "//", "..", "*"]
ODD = ["%00", "%2e%2e/", "\\", "?", "number=1", "&", "=", "1" * 30, "é", " ", "\t", ";", "#", "$(reboot)", "<script>"]
TOKENS = st.sampled_from(PATHS + ODD)
TARGETS = st.lists(TOKENS, max_size=6).map("".join)
JSONS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["verdict", "number", "label", "run", "password", "x"]), inner, max_size=4)
    ),
    max_leaves=8,
)
BODIES = st.binary(max_size=200) | JSONS.map(lambda value: json.dumps(value).encode())
HEADERS = st.lists(
    st.tuples(
        st.sampled_from(["Host", "Origin", "Content-Type", "Cookie", "Authorization", "Content-Length", "Expect"])
        | st.sampled_from(["Transfer-Encoding", "Connection", "Upgrade", "X-Forwarded-For", "Range"]),
        st.sampled_from(
            ["localhost", "chunked", "close", "Basic Og==", "okko_session=1", "application/json", "0", "-1"]
        )
        | st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=30),
    ),
    max_size=5,
)


@pytest.fixture(scope="module")
def fuzzed() -> Iterator[Bench]:
    with Bench(limits=quick(idle_s=2)) as running:
        running.sort(decision(1))
        yield running


@settings(max_examples=1500, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
@given(
    method=st.sampled_from(["GET", "POST", "HEAD", "PUT", "OPTIONS", "G T"]),
    target=TARGETS,
    headers=HEADERS,
    body=BODIES,
)
def test_whatever_well_meant_request_is_answered_and_breaks_nothing(
    fuzzed: Bench, method: str, target: str, headers: list[tuple[str, str]], body: bytes
) -> None:
    own = [("Host", f"{fuzzed.address[0]}:{fuzzed.address[1]}"), ("Origin", fuzzed.origin)]
    own += [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
    given = {name for name, _ in headers}
    lines = [f"{method} {target} HTTP/1.1"] + [
        f"{name}: {value}" for name, value in (*headers, *(pair for pair in own if pair[0] not in given))
    ]
    exchange(fuzzed, "\r\n".join(lines).encode("latin-1", "replace") + b"\r\n\r\n" + body)


def test_whatever_bytes_break_nothing(fuzzed: Bench) -> None:
    source = random.Random(7)
    whole = b"POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
    for _ in range(1500):
        sent = bytearray(whole)
        for _ in range(source.randint(1, 6)):
            place = source.randrange(len(sent))
            sent[place : place + source.randint(0, 4)] = source.randbytes(source.randint(0, 4))
        exchange(fuzzed, bytes(sent))
    assert fuzzed.get("/state").status == 200


def exchange(bench: Bench, sent: bytes) -> None:
    """Sends and hangs up; what is answered is HTTP, and never a failure of ours."""
    with socket.create_connection(bench.address, timeout=10) as client, contextlib.suppress(ConnectionResetError):
        client.sendall(sent)
        client.shutdown(socket.SHUT_WR)
        answer = client.recv(65536)
        assert answer == b"" or answer.startswith(b"HTTP/1.1 ")
        assert answer[9:12] not in (b"500", b"503")
    assert bench.counters[Event.DASHBOARD_FAILED] == 0
    assert not bench.warnings


@given(st.text(max_size=40))
def test_a_host_is_read_or_refused_but_never_misread(text: str) -> None:
    host = host_of(text)
    assert host is None or not set(host) & set("/?#@[] ")
    guard.known_host(Request("GET", "/", {"host": text}), frozenset())
