"""What can happen to a device's models, each as one life of a process, to be ended at any point of it.

Every life can be lived again from wherever an earlier one was ended, and then ends as it was meant to. What stands for
the agent here sorts with real models, tests them in this process, and has marbles that are always healthy, or never.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from okko_edge.clock import SimulatedClock
from okko_edge.settings import Settings, UpdatesSettings
from okko_edge.updater.alone import try_and_switch
from okko_edge.updater.fetching import Request, fetch
from okko_edge.updater.protocols import Health
from okko_edge.updater.shelf import Shelf
from okko_edge.updater.state import BY_HAND, Arrival
from okko_edge.updater.updater import Updater
from okko_models.bundle import Bundle
from okko_models.classifier import Classifier
from okko_models.errors import OkkoError
from okko_models.registry.client import Client
from okko_models.registry.store import FolderStore
from tests.edge.updater.updater_fakes import (
    GOOD_REPORT,
    GOOD_TEST,
    HEALTHY,
    OKKO,
    DirectFetch,
    FakeInService,
    FakeTrial,
)
from tests.models.registry.simulator import Simulator

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MAX_TICKS = 16
POLL_S = 3700.0


@dataclass(frozen=True)
class Past:
    """What was before a life: a folder with a registry, a device, and the digests of its models.

    Attributes:
        registry: the folder of the registry; its stable channel has `new`.
        root: the registry's root metadata.
        device: the folder of a device that was enrolled and has `old` in service and `older` before it.
        digests: of the models `older`, `old` and `new`, and of `junk`, which nobody needs.
    """

    registry: Path
    root: bytes
    device: Path
    digests: dict[str, str]


def make_past(folder: Path, make_bundle) -> Past:
    simulator = Simulator(folder / "sim", make_bundle, FolderStore(folder / "registry"))
    simulator.time = time.time()
    device = folder / "device"
    shelf = Shelf(device, okko=OKKO)
    digests = {}
    Client(shelf.trust, None).enroll(simulator.root)
    for version in ("older", "old"):
        bundle = simulator.release(version)
        assert fetch(Request(str(device), str(folder / "registry"), okko=OKKO)).result == "fetched"
        shelf.switch(bundle.digest)
        shelf.healthy(bundle.digest)
        digests[version] = bundle.digest
    digests["new"] = simulator.release("new").digest
    junk = simulator.bundle("junk")
    shutil.copytree(junk.path, shelf.bundles / junk.digest)
    digests["junk"] = junk.digest
    return Past(folder / "registry", simulator.root, device, digests)


class Device:
    """A process on the device.

    Args:
        folder: of its models.
        past: what was before.
        step: is told of changes that are not ones of the disk.
    """

    def __init__(self, folder: Path, past: Past, step) -> None:
        self.folder, self.past, self.step = folder, past, step
        self.clock = SimulatedClock(unix_s=time.time())
        self.settings = UpdatesSettings(enabled=True, registry=str(past.registry))
        self.self_test, self.report, self.self_tests = GOOD_TEST, GOOD_REPORT, []  # what `FakeTrial` asks for
        self.bad = ""
        self.shelf = Shelf(folder, okko=OKKO)

    def trial(self, folder):
        """A trial that tests the model here, and then says what it is told."""
        self.step("self-test")
        Classifier(Bundle.open(folder)).self_test()
        return FakeTrial(self, folder)

    def sort(self, done) -> None:
        """The agent, from its start until something is done and one poll longer, or for so many polls."""
        self.shelf.started()
        bundle = self.shelf.bundle_in_service()
        in_service = Sorting(self, bundle.digest if bundle else "configured")
        updater = Updater(
            self.settings, self.shelf, self.trial, in_service, okko=OKKO, clock=self.clock, warn=lambda _: None,
            fetch=DirectFetch, lot=lambda: 0.0,
        )  # fmt: skip
        for _ in range(MAX_TICKS):
            updater.tick()
            if done(in_service.digest):
                break
            self.clock.sleep_until(self.clock.now_s() + POLL_S)
        self.clock.sleep_until(self.clock.now_s() + POLL_S)
        updater.tick()
        updater.close()
        self.shelf.ended_well()

    def bring(self) -> None:
        """`okko update`, without an agent."""
        sorting = self.shelf.bundle_in_service()
        done = fetch(
            Request(
                str(self.folder), str(self.past.registry), okko=OKKO, in_service=sorting.digest if sorting else "",
                again=True,
            )
        )  # fmt: skip
        if done.result not in {"fetched", "nothing new"}:
            raise OkkoError(done.message)

    def go_on(self) -> None:
        """What a command does when no agent is at work."""
        assert self.shelf.take_charge()
        try:
            try_and_switch(self.shelf, Settings(), self.trial)
        finally:
            self.shelf.give_up_charge()


class Sorting(FakeInService):
    """The model that sorts, really loaded."""

    def __init__(self, device: Device, digest: str) -> None:
        super().__init__(digest)
        self.device = device

    def change_model(self, folder):
        self.device.step("load")
        if folder is not None:
            Classifier(Bundle.open(folder)).self_test()
        super().change_model(folder)
        self.device.step("changed over")

    def health(self):
        return Health(10, 10, 0) if self.digest == self.device.bad else HEALTHY


@dataclass(frozen=True)
class Life:
    """One of them.

    Attributes:
        name: for the table.
        may_sort: names of the models that may be in service after it was ended anywhere; "" is the configured one.
        live: does it.
        goal: whether it has come where it was to come.
        prepare: what happens to the device before.
    """

    name: str
    may_sort: frozenset[str]
    live: Callable[[Device], None]
    goal: Callable[[Shelf, dict[str, str]], bool]
    prepare: Callable[[Device], None] = lambda _: None


def _update(device: Device) -> None:
    new = device.past.digests["new"]
    device.sort(lambda _: device.shelf.current == new and device.shelf.probation() is None)


def _first(device: Device) -> None:
    Client(device.shelf.trust, None).enroll(device.past.root)
    device.shelf.enrolled(str(device.past.registry))
    _update(device)


def _worse(device: Device) -> None:
    device.bad = device.past.digests["new"]
    device.sort(lambda digest: device.shelf.rejection(device.bad) is not None and digest != device.bad)


def _disagrees(device: Device) -> None:
    device.report = replace(GOOD_REPORT, agreement=0.1)
    device.sort(lambda _: device.shelf.rejection(device.past.digests["new"]) is not None)


def _bad_starts(device: Device) -> None:
    for _ in range(5):
        device.shelf.started(3)
        device.shelf.bundle_in_service()
        device.step("the agent crashes")
        device.shelf.give_up_charge()
    device.shelf.prune()


def _on_probation(device: Device) -> None:
    device.bring()
    device.go_on()


def _by_hand(device: Device) -> None:
    old, new = device.past.digests["old"], device.past.digests["new"]
    shelf = device.shelf
    device.bring()
    device.go_on()
    shelf.healthy(new)
    shelf.forgive(old)
    if shelf.chosen != old:
        shelf.fetched(Arrival(old, "redness", "old", BY_HAND))
    shelf.pin(old)
    device.go_on()
    shelf.pin("")
    assert shelf.take_charge()
    shelf.roll_back("by hand")
    shelf.give_up_charge()
    if not shelf.complete:
        raise OkkoError("not remembered")


def _stands(current: str, previous: str, *rejected: str, present: str = ""):
    """Whether these models are current and before it, nothing waits, and these are rejected."""

    def goal(shelf: Shelf, digests: dict[str, str]) -> bool:
        state = shelf.state
        bundle = shelf.bundle_in_service()
        return (
            (bundle.digest if bundle else "") == shelf.current == digests.get(current, "")
            and (not previous or shelf.previous == digests[previous])
            and shelf.candidate() is None
            and shelf.probation() is None
            and not state.pin
            and {known.digest for known in state.rejected} == {digests[name] for name in rejected}
            and (not present or set(shelf.present()) == {digests[name] for name in present.split()})
            and not list(shelf.folder.rglob(".new-*"))
        )

    return goal


LIVES = (
    Life("update", frozenset({"old", "new"}), _update, _stands("new", "old", present="old new")),
    Life(
        "first update ever",
        frozenset({"", "new"}),
        _first,
        _stands("new", "", present="new"),
        lambda device: shutil.rmtree(device.folder),
    ),
    Life("worse in service", frozenset({"old", "new"}), _worse, _stands("old", "", "new")),
    Life("disagrees in the shadow run", frozenset({"old"}), _disagrees, _stands("old", "older", "new")),
    Life("bad starts", frozenset({"old", "new"}), _bad_starts, _stands("old", "", "new"), _on_probation),
    Life("update, pin, go back by hand", frozenset({"old", "new"}), _by_hand, _stands("new", "", "old")),
)
