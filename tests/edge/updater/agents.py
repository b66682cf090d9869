"""An agent in this process, with a simulated belt, a journal and an outbox, of which the model can be changed."""

from __future__ import annotations

import threading
import time

from okko_edge.about import About
from okko_edge.agent import Agent
from okko_edge.beside import Beside, Surroundings
from okko_edge.events import Counters
from okko_edge.journal import RunRecord
from okko_edge.journal.reading import JournalReader, Selection
from okko_edge.rig import Simulation, set_up
from okko_edge.settings import CameraSettings, OutboxSettings, Settings
from okko_edge.sorter import Judge, Sorter, verdict_of_two
from okko_edge.summary import Tally
from okko_edge.updater.in_service import ModelInService, Running
from okko_models.classifier import Classifier


class Sorting:
    """Sorts on a thread of its own until it is closed.

    Args:
        bundle: the model to begin with, which is also the configured one.
        photos: what the marbles look like.
        folder: for journal and outbox.
        fast: as fast as the machine can.
        more: added to the settings.
    """

    def __init__(self, bundle, photos, folder, *, fast=True, **more):
        self.counters = Counters()
        self.path = folder / "journal.sqlite"
        outbox = OutboxSettings(enabled=True, folder=str(folder / "outbox"), random_share=0.5)
        self.settings = Settings(camera=CameraSettings(source=f"sim:{photos}"), **{"outbox": outbox, **more})
        simulation = Simulation(fast=fast, belt_speed=8, frames_per_s=60)
        self.rig = set_up(self.settings, simulation, 1_000_000, self.counters, print)
        manifest = bundle.manifest
        run = RunRecord(
            run="first",
            started_unix_s=self.rig.clock.unix_s(),
            okko="0",
            bundle_name=manifest.name,
            bundle_version=manifest.version,
            bundle_digest=bundle.digest,
            camera="sim",
            gate="sim",
            seed=0,
        )
        about = About.of(manifest, bundle.digest, camera="sim", gate="sim", device="belt", okko="0")
        tally = Tally(manifest.labels, manifest.decision.ok_labels)
        self.sorter = Sorter(
            classifier=Classifier(bundle),
            trigger=self.rig.trigger,
            gate=self.rig.gate,
            clock=self.rig.clock,
            two_verdict=verdict_of_two(manifest.decision),
            judge=Judge.of(bundle),
            counters=self.counters,
        )
        self.beside = Beside(
            Surroundings(
                settings=self.settings,
                bundle=bundle,
                run=run,
                about=about,
                counters=self.counters,
                clock=self.rig.clock,
                journal=self.path,
                warn=print,
            )
        )
        self.agent = Agent(
            camera=self.rig.camera,
            sorter=self.sorter,
            tally=tally,
            journal=self.beside.journal,
            labels=manifest.labels,
            clock=self.rig.clock,
        )
        self.decisions = []
        self.agent.listeners += [*self.beside.listeners, self.decisions.append]
        self.running = Running(
            agent=self.agent,
            sorter=self.sorter,
            tally=tally,
            beside=self.beside,
            settings=self.settings,
            clock=self.rig.clock,
        )
        self.model = ModelInService(self.running, bundle=bundle, configured=bundle.path, run=run, about=about)
        self.agent.listeners.append(self.model.hear)
        self.beside.show(self.agent)
        self._thread = threading.Thread(target=self.agent.run, daemon=True)

    def start(self):
        self._thread.start()
        self.wait(5)
        return self

    def wait(self, more):
        """Waits until so many more marbles were sorted."""
        count, end_s = len(self.decisions) + more, time.monotonic() + 30
        while len(self.decisions) < count:
            assert self._thread.is_alive(), "it does not sort"
            assert time.monotonic() < end_s, "it sorts too slowly"
            time.sleep(0.005)

    def close(self):
        self.agent.stop()
        if self._thread.is_alive():
            self._thread.join(20)
        self.rig.close()
        self.beside.close()

    def rows(self):
        """Returns the runs, oldest first, and the decisions of the journal."""
        with JournalReader(self.path) as reader:
            return reader.runs()[::-1], list(reader.decisions(Selection()))
