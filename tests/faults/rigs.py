"""A device in this process: okko's agent with a journal, in a world whose clock may be simulated."""

from __future__ import annotations

from typing import TYPE_CHECKING

from okko_edge.agent import Agent
from okko_edge.beside import Beside, Surroundings
from okko_edge.cameras.supervised import SupervisedCamera
from okko_edge.clock import MonotonicClock, SimulatedClock
from okko_edge.events import Counters
from okko_edge.gate import Position
from okko_edge.gates.simulated import SimulatedGate
from okko_edge.journal import RunRecord
from okko_edge.journal.reading import JournalReader, Selection
from okko_edge.settings import CameraSettings, JournalSettings, Settings
from okko_edge.sorter import Sorter
from okko_edge.summary import Tally
from okko_models.classifier import Classifier
from tests.edge.dashboard_fakes import ABOUT
from tests.edge.fakes import photo
from tests.faults.table import ROWS, FaultRow
from tests.faults.world import Beam, Belt, BeltCamera, Faults, make_faulty

if TYPE_CHECKING:
    from pathlib import Path

    from okko_edge.clock import Clock
    from okko_edge.journal.reading import Row
    from okko_edge.summary import Summary
    from okko_models.bundle import Bundle
    from tests.faults.world import Marble

PHOTOS = [(photo(200, seed=index), "OK") for index in range(4)] + [(photo(60, seed=9 + i), "KO") for i in range(4)]


class SteadyBelt(Belt):
    """A belt whose marbles come exactly when they are due."""

    clock: Clock

    @property
    def in_view(self) -> Marble | None:
        """What is in view now."""
        number = self.next_number(self.clock.now_s() + 1e-9) - 1
        return self.marble(number, self.due_s(number)) if number >= 0 else None

    @in_view.setter
    def in_view(self, marble: Marble | None) -> None:
        assert marble is None


class JumpingClock(SimulatedClock):
    """A clock of which the calendar can be set."""

    jumps: tuple[tuple[float, float], ...] = ()

    def unix_s(self) -> float:
        """The calendar, as set last."""
        set_to = [unix_s for at_s, unix_s in self.jumps if at_s <= self.now_s()]
        return (set_to[-1] if set_to else 1.8e9) + self.now_s()


class Rig:
    """Sorts `count` marbles while faults happen.

    Args:
        bundle: what judges them.
        folder: for the journal.
        count: how many.
        supervised: with a real clock and a supervised camera, otherwise in simulated time.
        period_s: from one marble to the next.
        deadline_s: for each verdict.
    """

    def __init__(
        self,
        bundle: Bundle,
        folder: Path,
        count: int,
        *,
        supervised: bool = False,
        period_s: float = 0.1,
        deadline_s: float = 0.25,
    ) -> None:
        self.count = count
        self.clock: Clock = MonotonicClock() if supervised else JumpingClock(100.0)
        self.faults = Faults(self.clock.now_s)
        self.counters = Counters()
        # The world has stood for a while when marbles come: a camera takes its time to open.
        self.belt = SteadyBelt(PHOTOS, start_s=self.clock.now_s() + 0.3, period_s=period_s)
        self.belt.clock = self.clock
        self.beam = Beam(self.belt, self.clock, count)
        self.gate = SimulatedGate(self.clock, counters=self.counters, travel_s=2 * deadline_s)
        self.sent: list[tuple[float, Position]] = []
        self.journal = folder / "journal.sqlite"
        self._watch_gate()

        def open_camera():
            return BeltCamera(self.belt, self.faults, self.clock, frames_per_s=60)

        settings = CameraSettings(stall_s=0.2)
        self.camera = (
            SupervisedCamera(open_camera, settings, self.counters, self.clock, first_pause_s=0.02, longest_pause_s=0.1)
            if supervised
            else open_camera()
        )
        classifier = Classifier(bundle)
        classifier.classify = make_faulty(classifier.classify, self.faults, self.clock)
        sorter = Sorter(
            classifier=classifier,
            trigger=self.beam,
            gate=self.gate,
            clock=self.clock,
            deadline_s=deadline_s,
            counters=self.counters,
        )
        run = a_run("run", self.clock.unix_s())
        self.beside = Beside(
            Surroundings(
                settings=Settings(journal=JournalSettings(max_days=90)),
                bundle=bundle,
                run=run,
                about=ABOUT,
                counters=self.counters,
                clock=self.clock,
                journal=self.journal,
                warn=lambda _: None,
            )
        )
        labels = bundle.manifest.labels
        self.agent = Agent(
            camera=self.camera,
            sorter=sorter,
            tally=Tally(labels, ["OK"]),
            journal=self.beside.journal,
            labels=labels,
            clock=self.clock,
            heartbeat=self.beside.note_events,
        )
        self.agent.listeners += self.beside.listeners

    def _watch_gate(self) -> None:
        sort = self.gate.sort

        def noted(position: Position, arrived_s: float) -> bool:
            in_time = sort(position, arrived_s)
            self.sent.append((arrived_s, position if in_time else Position.KO))
            return in_time

        self.gate.sort = noted

    def run(self, fault: str, note: str = "") -> Verdicts:
        """Sorts, holds against each other what came, what the gate did and what is remembered; adds to the table."""
        summary = self.agent.run(self.count)
        self.gate.close()
        self.camera.close()
        self.beside.close()
        verdicts = Verdicts(self, summary)
        ROWS.append(
            FaultRow(
                fault=fault,
                marbles=len(self.beam.told),
                verdicts=len(self.sent),
                safe=sum(row.error is not None for row in verdicts.rows),
                uncertain=sum(row.verdict == "UNCERTAIN" for row in verdicts.rows),
                counted=self.counters.snapshot(),
                note=note,
            )
        )
        return verdicts


class Verdicts:
    """What came of a run, with the promises that hold whatever the fault."""

    def __init__(self, rig: Rig, summary: Summary) -> None:
        marbles = rig.beam.told
        with JournalReader(rig.journal) as reader:
            self.rows: list[Row] = list(reader.decisions(Selection()))
        assert len(marbles) == rig.count
        assert [arrived_s for arrived_s, _ in rig.sent] == [marble.at_s for marble in marbles], "one verdict each"
        assert [row.number for row in self.rows] == list(range(1, rig.count + 1)), "all are remembered"
        assert [row.verdict for row in self.rows] == [position for _, position in rig.sent]
        assert summary.marbles == rig.count
        moves = [move.position for move in rig.gate.moves]
        assert moves[: rig.count] == [position for _, position in rig.sent], "and the gate did as it was told"
        self.by_marble = dict(zip(marbles, self.rows, strict=True))
        for marble, row in self.by_marble.items():
            truth = PHOTOS[marble.photo][1]
            assert row.error is None or row.verdict == "KO", "what went wrong goes to the safe side"
            assert row.verdict != "OK" or truth == "OK", "and no bad marble passes for good"
            if row.error is None and row.outcome == "marble":
                assert (row.verdict, row.photo) == (truth, str(marble.number)), "it is judged by its own frame"

    def arrived(self, begin_s: float, end_s: float) -> list[Row]:
        """Returns what was decided about the marbles that came in a span of time."""
        return [row for marble, row in self.by_marble.items() if begin_s <= marble.at_s < end_s]


def a_run(name: str, started_unix_s: float) -> RunRecord:
    """Returns a run for the journal."""
    return RunRecord(
        run=name,
        started_unix_s=started_unix_s,
        okko="0",
        bundle_name="brightness",
        bundle_version="1",
        bundle_digest="d",
        camera="belt",
        gate="sim",
        seed=0,
    )
