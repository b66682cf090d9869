"""What the dashboard says and does, over a real socket."""

from __future__ import annotations

import contextlib
import hashlib
import io
import socket
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from okko_edge.dashboard import Dashboard, Listen
from okko_edge.dashboard.marbles import KEPT, LIVE_EVERY_S, LiveView, Marbles
from okko_edge.events import Counters, Event
from okko_edge.frame import Frame
from okko_edge.settings import DashboardSettings
from okko_edge.statistics import Statistics
from okko_models.decision import Verdict
from okko_models.errors import OkkoError
from tests.edge.dashboard_bench import Bench, FakeControls
from tests.edge.dashboard_fakes import ABOUT, decision, frame, unseen

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def bench() -> Iterator[Bench]:
    with Bench() as running:
        yield running


def picture(body: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(body))
    assert image.format == "JPEG"
    return image


# --- what is shown ---


def test_the_state_tells_model_counts_events_and_the_latest_marbles(bench: Bench) -> None:
    bench.sort(*(decision(number, ok) for number, ok in enumerate((0.99, 0.01, 0.5), start=1)), unseen(4))
    bench.counters.add(Event.STALE_FRAME, 3)
    state = bench.get("/state").json
    assert state["about"]["digest"] == ABOUT.digest
    assert state["statistics"]["verdicts"] == {"OK": 1, "KO": 2, "UNCERTAIN": 1}
    assert state["events"]["stale_frames"] == 3
    assert [marble["number"] for marble in state["marbles"]] == [4, 3, 2, 1]
    assert state["marbles"][1]["probability"] == pytest.approx({"KO": 0.5, "OK": 0.5})
    assert (state["marbles"][0]["probability"], state["marbles"][0]["picture"]) == (None, False)
    assert (state["view"]["width"], state["view"]["height"], state["view"]["region"]) == (64, 48, [20, 12, 24, 24])


def test_before_the_first_frame_the_page_is_there_all_the_same(bench: Bench) -> None:
    assert b"<title>okko</title>" in bench.get("/").body
    state = bench.get("/state").json
    assert (state["view"], state["marbles"]) == (None, [])
    assert bench.get("/live.jpg").status == 404


def test_the_live_picture_is_the_newest_frame(bench: Bench) -> None:
    dark, bright = (Frame(np.full((48, 64, 3), level, np.uint8), float(level), level) for level in (10, 240))
    bench.dashboard.see(dark)
    assert np.asarray(picture(bench.get("/live.jpg").body)).mean() == pytest.approx(10, abs=2)
    bench.dashboard.see(bright)
    time.sleep(LIVE_EVERY_S)
    assert np.asarray(picture(bench.get("/live.jpg").body)).mean() == pytest.approx(240, abs=2)


def test_a_large_frame_becomes_a_picture_for_a_phone(bench: Bench) -> None:
    bench.sort(decision(shown=frame(size=(2592, 1944))))
    assert picture(bench.get("/live.jpg").body).size == (648, 486)
    assert picture(bench.get("/thumbnail.jpg?number=1").body).width < 400


def test_marbles_have_their_own_pictures(bench: Bench) -> None:
    shown = Frame(np.full((48, 64, 3), 200, np.uint8), 1.0, 1)
    bench.sort(decision(1, shown=shown), decision(2))
    assert np.asarray(picture(bench.get("/thumbnail.jpg?number=1").body)).mean() == pytest.approx(200, abs=2)
    for query in ("?number=3", "?number=-1", "?number=1&number=2", "?number=1e3", "?number=" + "9" * 5000, ""):
        assert bench.get(f"/thumbnail.jpg{query}").status == 404


def test_metrics_are_prometheus_text(bench: Bench) -> None:
    bench.sort(decision())
    answer = bench.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    found = {family.name for family in text_string_to_metric_families(answer.body.decode())}
    assert {"okko_info", "okko_marbles", "okko_events", "okko_path_seconds"} <= found


def test_head_is_answered_without_a_body_and_connections_are_used_again(bench: Bench) -> None:
    with socket.create_connection(bench.address) as client:
        for _ in range(3):
            client.sendall(b"HEAD /page.css HTTP/1.1\r\nHost: localhost\r\n\r\n")
            head = client.recv(65536)
            assert head.startswith(b"HTTP/1.1 200 OK\r\n")
            assert head.endswith(b"\r\n\r\n")


# --- what is done ---


def test_pause_and_resume_reach_the_agent(bench: Bench) -> None:
    assert bench.post("/pause").status == 200
    assert bench.controls.paused
    assert bench.get("/state").json["paused"]
    assert bench.post("/resume").status == 200
    assert not bench.controls.paused


def test_the_gate_is_tested_only_while_paused(bench: Bench) -> None:
    refused = bench.post("/gate", {"verdict": "KO"})
    assert (refused.status, bench.controls.gate) == (409, [])
    assert "pause first" in refused.json["error"]
    bench.controls.paused = True
    assert bench.post("/gate", {"verdict": "KO"}).status == 200
    assert bench.controls.gate == [Verdict.KO]
    assert bench.post("/gate", {"verdict": "BOTH"}).status == 400


def test_a_correction_labels_what_the_outbox_has_and_stores_what_it_has_not(bench: Bench) -> None:
    known, unknown = decision(1), decision(2)
    bench.sort(known, unknown)
    digest = hashlib.sha256(known.frame.image.data).hexdigest()
    bench.outbox.known.add(digest)
    run = bench.get("/state").json["run"]
    for number, label in ((1, "KO"), (2, "OK")):
        assert bench.post("/correct", {"run": run, "number": number, "label": label}).status == 200
    assert bench.outbox.labelled == [(digest, "KO")]
    (kept, label), *none = bench.outbox.kept
    assert (kept.number, kept.frame, label, none) == (2, unknown.frame, "OK", [])
    assert [marble["correction"] for marble in bench.get("/state").json["marbles"]] == ["OK", "KO"]


def test_a_marble_that_someone_looks_at_can_be_corrected_though_many_have_passed(bench: Bench) -> None:
    looked_at = decision(1)
    bench.sort(looked_at)
    assert bench.get("/marble.jpg?number=1").status == 200
    bench.sort(*(decision(number) for number in range(2, KEPT + 20)))
    run = bench.get("/state").json["run"]
    assert bench.post("/correct", {"run": run, "number": 1, "label": "KO"}).status == 200
    assert bench.outbox.kept[0][0].frame is looked_at.frame
    refused = bench.post("/correct", {"run": run, "number": 2, "label": "KO"})
    assert (refused.status, len(bench.outbox.kept)) == (409, 1)
    assert "too long ago" in refused.json["error"]


def test_marbles_on_a_list_that_holds_still_can_all_be_corrected(bench: Bench) -> None:
    bench.sort(*(decision(number) for number in range(1, 21)))
    run = bench.get("/state?hold=1").json["run"]
    bench.sort(*(decision(number) for number in range(21, 21 + 2 * KEPT)))
    bench.get("/state?hold=1")
    for number in (1, 20):
        assert bench.post("/correct", {"run": run, "number": number, "label": "KO"}).status == 200
    assert [kept.number for kept, _ in bench.outbox.kept] == [1, 20]


def test_what_was_held_is_let_go_when_nobody_asks_any_more() -> None:
    now = [0.0]
    marbles = Marbles(lambda: now[0])
    marbles.hear(decision(1))
    marbles.hold()
    for number in range(2, 2 * KEPT):
        now[0] += 0.1
        marbles.hear(decision(number))
    assert marbles.find(1) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": "purple"}, "no label"),
        ({"run": "earlier"}, "started anew"),
        ({"number": 77}, "too long ago"),
    ],
)
def test_a_correction_that_cannot_be_meant_is_refused(bench: Bench, change: dict[str, object], message: str) -> None:
    bench.sort(decision(1))
    wanted = {"run": bench.get("/state").json["run"], "number": 1, "label": "KO", **change}
    answer = bench.post("/correct", wanted)
    assert (answer.status, bench.outbox.kept) == (409, [])
    assert message in answer.json["error"]


def test_without_an_outbox_a_correction_says_what_to_set() -> None:
    with Bench(outbox=False) as bench:
        bench.sort(decision(1))
        state = bench.get("/state").json
        answer = bench.post("/correct", {"run": state["run"], "number": 1, "label": "KO"})
    assert not state["can_correct"]
    assert "outbox.enabled" in answer.json["error"]


# --- memory, and the sorting path ---


def test_frames_take_no_more_memory_than_they_may() -> None:
    shown = [frame(number) for number in range(3)]
    size = shown[0].image.nbytes
    marbles = Marbles(frame_bytes=10 * size)
    for number in range(500):
        marbles.hear(decision(number, shown=shown[number % 3]))
    latest = marbles.latest(1000)
    assert [marble.decision.number for marble in latest] == list(range(499, 499 - KEPT, -1))
    assert [marble.frame is not None for marble in latest] == [True] * 10 + [False] * (KEPT - 10)
    assert all(marble.decision.frame is None for marble in latest)


def test_of_frames_larger_than_all_that_may_be_held_only_the_newest_is() -> None:
    marbles = Marbles(frame_bytes=100)
    for number in range(1, 4):
        marbles.hear(decision(number))
    assert [marble.frame is not None for marble in marbles.latest(3)] == [True, False, False]


def test_nobody_watches_nothing_is_encoded_and_many_watch_it_is_encoded_once() -> None:
    now = [0.0]
    live = LiveView(lambda: now[0])
    for number in range(100):
        live.see(frame(number))
    assert live.encoded == 0
    for tenth in range(100):  # ten seconds, in which three people ask for every frame of a camera of 10 a second
        now[0] = tenth / 10
        live.see(frame(tenth))
        pictures = {live.jpeg() for _ in range(3)}
        assert len(pictures) == 1
    assert live.encoded <= 10 / LIVE_EVERY_S + 1


def test_what_fails_in_a_page_is_counted_and_the_next_one_is_answered(bench: Bench) -> None:
    bench.controls.failure = ZeroDivisionError("a defect with /secret/details")
    answer = bench.post("/pause")
    assert answer.status == 500
    assert b"secret" not in answer.body
    assert bench.counters[Event.DASHBOARD_FAILED] == 1
    bench.controls.failure = OkkoError("the gate is stuck")
    assert (bench.post("/pause").status, bench.post("/pause").json["error"]) == (409, "the gate is stuck")
    assert bench.get("/state").status == 200
    assert bench.counters[Event.DASHBOARD_FAILED] == 1


def test_a_dashboard_whose_server_dies_comes_back_and_says_so(bench: Bench) -> None:
    before = bench.get("/state").json["run"]
    loop = bench.dashboard._loop
    assert loop is not None
    loop.call_soon_threadsafe(loop.stop)
    end_s = time.monotonic() + 20
    while bench.counters[Event.DASHBOARD_FAILED] == 0 and time.monotonic() < end_s:
        bench.dashboard.hear(decision())
        time.sleep(0.01)
    assert bench.get("/state").json["run"] == before
    assert "starts again" in bench.warnings[0]


# --- where it listens ---


@pytest.mark.parametrize(
    ("text", "host", "loopback"),
    [
        ("127.0.0.1:8080", "127.0.0.1", True),
        ("localhost:8080", "127.0.0.1", True),
        ("[::1]:8080", "::1", True),
        ("0.0.0.0:8080", "0.0.0.0", False),
        ("[::]:8080", "::", False),
        ("192.168.7.9:8080", "192.168.7.9", False),
    ],
)
def test_only_loopback_is_called_loopback(text: str, host: str, loopback: bool) -> None:
    listen = Listen.parse(text)
    assert (listen.host in (host, "::1"), listen.port, listen.loopback) == (True, 8080, loopback)


@pytest.mark.parametrize("text", ["", "8080", ":8080", "localhost", "localhost:http", "::1:8080", "a:70000", "a b:80"])
def test_an_address_that_is_none_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(OkkoError, match="cannot listen on"):
        Listen.parse(text)


def test_others_can_reach_it_only_with_a_password() -> None:
    with pytest.raises(OkkoError, match="okko config password"):
        Bench(listen="0.0.0.0:0")


def test_a_hash_that_is_none_is_refused_at_the_start() -> None:
    with pytest.raises(OkkoError, match="password_hash"):
        Bench(password_hash="correct horse")


def test_an_address_in_use_is_refused_and_named(bench: Bench) -> None:
    host, port = bench.address
    second = Dashboard(
        DashboardSettings(listen=f"{host}:{port}"),
        about=ABOUT,
        statistics=Statistics(),
        counters=Counters(),
        controls=FakeControls(),
    )
    with pytest.raises(OkkoError, match=str(port)):
        second.start()


def test_it_closes_at_once_also_while_someone_is_connected(bench: Bench) -> None:
    with socket.create_connection(bench.address, timeout=10) as client:
        client.sendall(b"GET /state HTTP/1.1\r\n")
        bench.dashboard.close()
        assert bench.dashboard._thread is not None
        assert not bench.dashboard._thread.is_alive()
        with contextlib.suppress(ConnectionResetError):
            assert client.recv(100) == b""
