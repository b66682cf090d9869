"""Everything that stands beside the sorting path: journal, kept frames, outbox, dashboard, MQTT.

They are opened here as the settings say, hear of decisions, and are closed in the right order. One that cannot be
opened is told of and left out: marbles are sorted all the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from okko_edge.events import Event
from okko_edge.journal import Journal, default_path
from okko_edge.kept_frames import KeptFrames, frames_folder
from okko_edge.statistics import Statistics
from okko_models.errors import OkkoError

if TYPE_CHECKING:
    from collections.abc import Callable

    from okko_edge.about import About
    from okko_edge.clock import Clock
    from okko_edge.dashboard import Dashboard
    from okko_edge.dashboard.state import Controls, Corrections
    from okko_edge.events import Counters
    from okko_edge.frame import Frame
    from okko_edge.journal import RunRecord
    from okko_edge.mqtt import Mqtt
    from okko_edge.outbox import Outbox
    from okko_edge.settings import Settings
    from okko_edge.sorter import Decision, Judge
    from okko_models.bundle import Bundle

_NOTED_EVERY_S = 1.0
_Part = TypeVar("_Part")


@dataclass(frozen=True)
class Surroundings:
    """What the parts beside the path need to know.

    Attributes:
        settings: of all of them.
        bundle: the model that sorts, at the start.
        run: this run, for the journal; likewise.
        about: facts for people; likewise.
        counters: the counted events.
        clock: the monotonic clock of the path.
        journal: the journal's file.
        warn: takes one sentence for the user.
    """

    settings: Settings
    bundle: Bundle
    run: RunRecord
    about: About
    counters: Counters
    clock: Clock
    journal: Path
    warn: Callable[[str], None]


class Beside:
    """The parts beside the path, running from when they are made until `close`."""

    def __init__(self, given: Surroundings) -> None:
        self._given = given
        settings, warn, counters = given.settings, given.warn, given.counters
        self._closers: list[Callable[[], None]] = []
        self.listeners: list[Callable[[Decision], None]] = []
        self.watchers: list[Callable[[Frame], None]] = []
        self.statistics = Statistics(given.clock.now_s)
        self.listeners.append(self.statistics.hear)
        self.journal = Journal(
            given.journal, given.run, warn=warn, counters=counters, settings=settings.journal, clock=given.clock
        )
        self._closers.append(self.journal.close)
        self._noted = counters.snapshot()
        self._noted_at_s = given.clock.now_s()
        if settings.journal.frames == "all":
            frames = KeptFrames(
                frames_folder(given.journal), max_mb=settings.journal.frames_max_mb, warn=warn, counters=counters
            )
            self._add(frames.hear, frames.close)
        self._outbox = self._or_without("the outbox", self._open_outbox) if settings.outbox.enabled else None
        self.dashboard: Dashboard | None = None
        self._mqtt: Mqtt | None = None

    def change_model(self, run: RunRecord, about: About, judge: Judge) -> None:
        """Lets every part know another model from now on. For the sorting thread, between two decisions."""
        self.journal.begin(run)
        if self._outbox is not None:
            self._outbox.change_model(judge)
        if self.dashboard is not None:
            self.dashboard.change_model(about)
        if self._mqtt is not None:
            self._mqtt.change_model(about)

    def show(self, controls: Controls) -> None:
        """Starts what people look at and press: the dashboard and MQTT, as far as they are set."""
        settings = self._given.settings
        if settings.dashboard.listen:
            self.dashboard = self._or_without("the dashboard", lambda: self._open_dashboard(controls, self._outbox))
        if settings.mqtt.host:
            self._mqtt = self._or_without("MQTT", lambda: self._open_mqtt(controls))

    def note_events(self) -> None:
        """Writes into the journal what was counted since the last time, at most once a second."""
        now_s = self._given.clock.now_s()
        if now_s - self._noted_at_s < _NOTED_EVERY_S:
            return
        self._noted_at_s = now_s
        counts = self._given.counters.snapshot()
        for event, count in counts.items():
            if count > self._noted[event]:
                self.journal.note(Event(event), f"{count - self._noted[event]} more, {count} in this run")
        self._noted = counts

    def close(self) -> None:
        """Writes what waits and closes all parts, the journal last."""
        self._noted_at_s = -_NOTED_EVERY_S
        self.note_events()
        for close in reversed(self._closers):
            close()

    def _add(self, hear: Callable[[Decision], None], close: Callable[[], None]) -> None:
        self.listeners.append(hear)
        self._closers.append(close)

    def _or_without(self, what: str, open_part: Callable[[], _Part]) -> _Part | None:
        try:
            return open_part()
        except (OkkoError, OSError) as error:
            self._given.warn(f"{what} does not run ({error}); sorting goes on without it")
            return None

    def _open_outbox(self) -> Outbox:
        from okko_edge.outbox import open_outbox

        given = self._given
        outbox, uploader = open_outbox(
            given.settings.outbox, given.bundle, warn=given.warn, counters=given.counters, clock=given.clock
        )
        if uploader is not None:
            self._closers.append(uploader.close)
        self._add(outbox.hear, outbox.close)
        return outbox

    def _open_dashboard(self, controls: Controls, corrections: Corrections | None) -> Dashboard:
        from okko_edge.dashboard import Dashboard

        given = self._given
        dashboard = Dashboard(
            given.settings.dashboard,
            about=given.about,
            statistics=self.statistics,
            counters=given.counters,
            controls=controls,
            corrections=corrections,
            warn=given.warn,
        )
        dashboard.start()
        self._add(dashboard.hear, dashboard.close)
        self.watchers.append(dashboard.see)
        return dashboard

    def _open_mqtt(self, controls: Controls) -> Mqtt:
        from okko_edge.mqtt import Mqtt

        given = self._given
        mqtt = Mqtt(
            given.settings.mqtt,
            about=given.about,
            statistics=self.statistics,
            counters=given.counters,
            paused=lambda: controls.paused,
            warn=given.warn,
        )
        mqtt.start()
        self._add(mqtt.hear, mqtt.close)
        return mqtt


def journal_path(settings: Settings) -> Path:
    """Returns where the journal is: as set, else in the user's state folder."""
    return Path(settings.journal.path) if settings.journal.path else default_path()
