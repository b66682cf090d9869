"""A device in memory but for its disk: a registry in a folder, a model in service, trials that say as they are told."""

from __future__ import annotations

import hashlib
import time

import msgspec

from okko_edge.clock import SimulatedClock
from okko_edge.events import Counters
from okko_edge.settings import UpdatesSettings
from okko_edge.updater.fetching import fetch
from okko_edge.updater.protocols import Health, SelfTest, ShadowReport
from okko_edge.updater.reporting import Reports
from okko_edge.updater.shelf import Shelf
from okko_edge.updater.updater import Updater
from okko_models.registry.client import Client
from okko_models.registry.store import FolderStore
from tests.models.registry.simulator import Simulator

GOOD_TEST = SelfTest(golden_difference=0.0, latency_ms=10.0, memory_mb=50.0)
GOOD_REPORT = ShadowReport(
    marbles=200,
    agreement=0.98,
    uncertain_share_old=0.02,
    uncertain_share_new=0.03,
    latency_ms_old=9.0,
    latency_ms_new=10.0,
    lost=3,
    finished=True,
)
HEALTHY = Health(marbles=100, inference_failures=0, deadline_misses=0)
FRESH = Health(marbles=0, inference_failures=0, deadline_misses=0)
OKKO = "0.1.0"


class FakeTrial:
    def __init__(self, world, folder):
        self.world, self.folder = world, folder
        self.wanted, self.closed = None, False

    def self_test(self):
        self.world.self_tests.append(self.folder.name)
        if isinstance(self.world.self_test, BaseException):
            raise self.world.self_test
        return self.world.self_test

    def shadow(self, marbles):
        self.wanted = marbles

    def hear(self, decision):
        pass

    def report(self):
        if isinstance(self.world.report, BaseException):
            raise self.world.report
        return self.world.report

    def close(self):
        self.closed = True


class FakeInService:
    """Sorts with whatever it is told; "configured" stands for the bundle of the configuration."""

    def __init__(self, digest="configured"):
        self.digest = digest
        self.listeners = []
        self.changes = []
        self.said = FRESH
        self.failure = None

    def add_listener(self, hear):
        self.listeners.append(hear)

    def remove_listener(self, hear):
        if hear in self.listeners:
            self.listeners.remove(hear)

    def change_model(self, folder):
        if self.failure is not None:
            raise self.failure
        self.digest = folder.name if folder else "configured"
        self.changes.append(self.digest)
        self.said = FRESH

    def health(self):
        return self.said


class DirectFetch:
    """The fetching process, in this one."""

    def __init__(self, request):
        self.done = fetch(request)

    def poll(self):
        return self.done

    def close(self):
        pass


class World:
    """A publisher, and a device that was enrolled there."""

    def __init__(self, folder, redness_bundle):
        self.simulator = Simulator(folder / "sim", redness_bundle, FolderStore(folder / "registry"))
        self.simulator.time = time.time()
        self.registry = folder / "registry"
        self.folder = folder / "models"
        self.counters = Counters()
        self.notes = []
        self.warnings = []
        self.clock = SimulatedClock(unix_s=self.simulator.time)
        self.settings = UpdatesSettings(enabled=True, registry=str(self.registry), device="belt-1")
        self.in_service = FakeInService()
        self.self_test = GOOD_TEST
        self.self_tests = []
        self.report = GOOD_REPORT
        self.trials = []
        self.fetch = DirectFetch
        self.shelf = self.new_shelf()
        Client(self.shelf.trust, None).enroll(self.simulator.root)

    def new_shelf(self):
        reports = Reports(
            self.folder / "outcomes.jsonl",
            counters=self.counters,
            tell=lambda event, said: self.notes.append((event.value, said)),
        )
        return Shelf(self.folder, okko=OKKO, reports=reports, warn=self.warnings.append)

    def release(self, version, channel="stable"):
        bundle = self.simulator.bundle(version)
        self.simulator.publisher.publish(bundle, channel)
        return bundle

    def trial(self, folder):
        self.trials.append(FakeTrial(self, folder))
        return self.trials[-1]

    def start(self, **settings):
        """What an agent does at its start; returns its updater."""
        self.shelf.started()
        bundle = self.shelf.bundle_in_service()
        self.in_service = FakeInService(bundle.digest if bundle else "configured")
        self.settings = msgspec.structs.replace(self.settings, **settings)
        return Updater(
            self.settings,
            self.shelf,
            self.trial,
            self.in_service,
            okko=OKKO,
            clock=self.clock,
            warn=self.warnings.append,
            fetch=lambda request: self.fetch(request),
            lot=lambda: 0.0,
        )

    def die(self):
        """The process is gone: its locks are, and all that was only in its memory."""
        self.shelf.give_up_charge()
        self.shelf = self.new_shelf()

    def pass_time(self, seconds):
        self.clock.sleep_until(self.clock.now_s() + seconds)

    def counted(self):
        """What was counted of updates, without what was not."""
        return {name: count for name, count in self.counters.snapshot().items() if count}


def put_in_service(world, version):
    """Brings a model into service as the only one, proven."""
    bundle = world.release(version)
    updater = world.start(shadow_marbles=200)
    updater.tick()
    updater.tick()
    world.in_service.said = HEALTHY
    updater.tick()
    assert world.shelf.current == world.in_service.digest == bundle.digest
    assert world.shelf.probation() is None
    return bundle, updater


def on_shelf(shelf, bundle):
    """Puts a bundle's files on a shelf, as the client does; returns its digest."""
    import shutil

    shutil.copytree(bundle.path, shelf.bundles / bundle.digest, dirs_exist_ok=True)
    return bundle.digest


def digest_of(text):
    return hashlib.sha256(text.encode()).hexdigest()
