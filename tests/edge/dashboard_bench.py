"""A dashboard that runs, with buttons and an outbox that remember what they were asked, and a client for it."""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from okko_edge.dashboard import Dashboard
from okko_edge.events import Counters
from okko_edge.settings import DashboardSettings
from okko_edge.statistics import Statistics
from tests.edge.dashboard_fakes import ABOUT

if TYPE_CHECKING:
    from okko_edge.about import About
    from okko_edge.dashboard.server import Limits
    from okko_edge.sorter import Decision
    from okko_models.decision import Verdict


class FakeControls:
    def __init__(self) -> None:
        self.paused = False
        self.gate: list[Verdict] = []
        self.failure: Exception | None = None

    def pause(self) -> None:
        if self.failure:
            raise self.failure
        self.paused = True

    def resume(self) -> None:
        self.paused = False

    def test_gate(self, verdict: Verdict) -> None:
        self.gate.append(verdict)


class FakeOutbox:
    """Knows the digests in `known`."""

    def __init__(self) -> None:
        self.known: set[str] = set()
        self.labelled: list[tuple[str, str]] = []
        self.kept: list[tuple[Decision, str]] = []

    def label(self, digest: str, label: str) -> bool:
        if digest in self.known:
            self.labelled.append((digest, label))
        return digest in self.known

    def keep(self, decision: Decision, label: str) -> None:
        self.kept.append((decision, label))


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Bench:
    def __init__(
        self,
        *,
        listen: str = "127.0.0.1:0",
        password_hash: str = "",
        host_names: tuple[str, ...] = (),
        outbox: bool = True,
        limits: Limits | None = None,
        about: About = ABOUT,
    ) -> None:
        self.statistics, self.counters, self.controls = Statistics(), Counters(), FakeControls()
        self.outbox = FakeOutbox()
        self.warnings: list[str] = []
        self.dashboard = Dashboard(
            DashboardSettings(listen=listen, password_hash=password_hash, host_names=host_names),
            about=about,
            statistics=self.statistics,
            counters=self.counters,
            controls=self.controls,
            corrections=self.outbox if outbox else None,
            warn=self.warnings.append,
            limits=limits,
        )

    def __enter__(self) -> Bench:
        self.dashboard.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.dashboard.close()

    def sort(self, *decisions: Decision) -> None:
        """What the agent does with each marble."""
        for decision in decisions:
            if decision.frame is not None:
                self.dashboard.see(decision.frame)
            self.statistics.hear(decision)
            self.dashboard.hear(decision)

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.dashboard.url)
        assert parts.hostname
        assert parts.port
        return parts.hostname, parts.port

    @property
    def origin(self) -> str:
        return self.dashboard.url.rstrip("/")

    def get(self, path: str, **headers: str) -> Answer:
        return self.ask("GET", path, None, headers)

    def post(self, path: str, content: object = None, **headers: str) -> Answer:
        """Posts JSON as the dashboard's own page does; headers replace those that it would send."""
        own = {"Origin": self.origin, "Content-Type": "application/json"}
        return self.ask("POST", path, json.dumps({} if content is None else content), {**own, **headers})

    def ask(self, method: str, path: str, body: str | None = None, headers: dict[str, str] | None = None) -> Answer:
        """Asks once; header names are given with `_` for `-`, and an empty value leaves a header out."""
        connection = http.client.HTTPConnection(*self.address, timeout=20)
        try:
            given = {name.replace("_", "-"): value for name, value in (headers or {}).items() if value}
            connection.request(method, path, body, given)
            answer = connection.getresponse()
            return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()
