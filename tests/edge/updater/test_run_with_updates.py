"""`okko run` with updates, from outside: real processes, a belt with 20 marbles a second, a registry in a folder.

Whatever becomes of an update, every marble gets exactly one verdict, made by its own frame.
"""

from __future__ import annotations

import os
import shutil
import time
import urllib.request
from pathlib import Path

import pytest

from okko_edge.journal.reading import JournalReader, Selection
from okko_edge.updater.shelf import Shelf
from okko_edge.updater.state import Arrival, Stage
from okko_models.decision import Costs, DecisionRule
from okko_models.registry.client import Client
from okko_models.registry.store import FolderStore
from okko_models.registry.transport import open_transport
from tests.edge.updater.models import golden_of, graph, variant
from tests.faults.conftest import Disk
from tests.faults.devices import DeviceProcess
from tests.faults.test_processes import configuration, free_port, judge
from tests.models.registry.simulator import Simulator

# Runs first in every process: those that fetch and try do not step back, because tests have a machine that is never
# idle; a slow model is not refused unseen; and models of these names bring their process down, or fail once they sort.
_PATCHES = """
import os, sys
os.nice = os.sched_setscheduler = lambda *_: None
if "okko_edge.updater.trial_worker" in sys.orig_argv:
    import signal, types
    from okko_models.trust import model_check
    sizes = types.SimpleNamespace(parameter_bytes=1 << 20, activation_bytes=1 << 20)
    model_check.check_bundle = lambda *_, **__: sizes
    from okko_models.classifier import Classifier
    self_test = Classifier.self_test
    def crash(classifier):
        if classifier.bundle.manifest.name == "crashing":
            os.kill(os.getpid(), signal.SIGSEGV)
        return self_test(classifier)
    Classifier.self_test = crash
if "tests.faults.device" in sys.orig_argv:
    from okko_models.classifier import Classifier
    classify = Classifier.classify
    def fail(classifier, image):
        if classifier.bundle.manifest.name == "treacherous" and image.any() and len(image) > 8:
            raise RuntimeError("now that I am in service")
        return classify(classifier, image)
    Classifier.classify = fail
"""
_SLOW_ROUNDS = 400_000


class Machine:
    """A device with a shelf of models, over several lives.

    Args:
        folder: for everything.
        bundle: the configured model.
        photos: what its marbles look like.
        disk: for journal and models.
        updates: added to the section of that name.
    """

    def __init__(self, folder, bundle, photos, *, disk=None, updates=""):
        self.folder = folder / "device"
        self.state = disk or folder / "state"
        self.state.mkdir(exist_ok=True)
        self.models = self.state / "models"
        self.page = f"127.0.0.1:{free_port()}"
        self.photos = photos
        patches = folder / "patches"
        patches.mkdir()
        (patches / "sitecustomize.py").write_text(_PATCHES)
        self.environment = {"PYTHONPATH": str(patches)}
        self.config = configuration(bundle, self.state, dashboard=self.page) + (
            f'[updates]\nenabled = true\nfolder = "{self.models}"\npoll_s = 5\nprobation_marbles = 20\n{updates}\n'
        )
        self.shelf = Shelf(self.models)
        self.start()

    def start(self):
        self.device = DeviceProcess(self.folder, self.config, photos=self.photos, environment=self.environment)
        self.device.wait_for_verdicts(5)

    def wait(self, what, condition):
        self.device.wait_for(what, lambda _: condition(), timeout_s=60)

    def offer(self, bundle):
        """What the fetching process does with a bundle that is wanted."""
        shutil.copytree(bundle.path, self.models / "bundles" / bundle.digest)
        manifest = bundle.manifest
        self.shelf.fetched(Arrival(bundle.digest, manifest.name, manifest.version, "channels/stable"))

    def shadows(self, bundle):
        """Whether a bundle judges marbles beside the one in service."""
        candidate = self.shelf.candidate()
        return candidate is not None and (candidate.digest, candidate.stage) == (bundle.digest, Stage.TESTED)

    def decisions(self):
        with JournalReader(self.state / "journal.sqlite") as reader:
            return list(reader.decisions(Selection()))

    def digests(self):
        """The digests of the models that judged, in the order in which they did."""
        return list(dict.fromkeys(row.bundle_digest for row in self.decisions()))

    def end(self, *errors):
        """Ends it as systemd does; holds gate, journal and report against the world. Only `errors` are expected."""
        report = self.device.terminate()
        life = self.device.life
        rows = [row for row in self.decisions() if row.monotonic_s > life.start_s]
        assert life.exactly_one_each
        assert report["marbles"] == len(life.verdicts)
        assert report["journal"]["written"] + report["journal"]["lost"] == report["marbles"]
        # A machine that tests is never idle: a verdict may be late, and is safe and counted.
        known = ("deadlines_missed", "gate_late", *errors)
        assert report["errors"] <= sum(report["events"][name] for name in known)
        assert report["events"]["listener_failures"] == 0
        judge(life, rows)
        assert not self.processes(), "nothing runs on"
        return report

    def processes(self):
        """Processes that try or fetch models of this device, or are the device."""
        found = []
        for path in Path("/proc").iterdir():
            try:
                if path.name.isdigit() and str(self.models).encode() in (path / "cmdline").read_bytes():
                    found.append(int(path.name))
            except OSError:
                continue
        return [pid for pid in found if pid != os.getpid()]


@pytest.fixture
def machine(tmp_path, bundle, photos):
    machines = []

    def make(**settings):
        machines.append(Machine(tmp_path, bundle, photos, **settings))
        return machines[0]

    yield make
    for machine in machines:
        if machine.device.process.poll() is None:
            machine.device.kill()


@pytest.fixture
def registry(tmp_path, redness_bundle):
    simulator = Simulator(tmp_path / "publisher", redness_bundle, FolderStore(tmp_path / "registry"))
    simulator.time = time.time()
    return simulator


@pytest.fixture
def better(bundle, tmp_path):
    return variant(bundle, tmp_path / "better.okko", version="2", decision=DecisionRule(("OK",), 0.9, 0.1, Costs()))


def enroll(registry, folder):
    """Lets the device trust the registry."""
    Client(folder / "trust", open_transport("http://localhost")).enroll(registry.root)


def test_a_published_model_is_tried_beside_the_old_one_takes_over_and_stays(
    machine, registry, bundle, better, tmp_path
):
    enroll(registry, tmp_path / "state" / "models")
    box = machine(updates=f'registry = "{tmp_path / "registry"}"\nshadow_marbles = 30')
    registry.publisher.publish(better, "stable")
    box.wait("the new model", lambda: better.digest in box.digests())
    box.wait("its probation", lambda: box.shelf.probation() is None and not box.shelf.candidate())
    with urllib.request.urlopen(f"http://{box.page}/metrics", timeout=5) as answer:
        assert f'digest="{better.digest}"'.encode() in answer.read()
    report = box.end()
    assert report["bundle"] == {"name": "brightness", "version": "2", "digest": better.digest}
    assert box.digests() == [bundle.digest, better.digest]
    assert [row.number for row in box.decisions()] == list(range(1, report["marbles"] + 1))
    with JournalReader(box.state / "journal.sqlite") as reader:
        assert [run.bundle_version for run in reader.runs()] == ["2", "1"]
    assert report["events"]["updates_switched"] == report["events"]["updates_confirmed"] == 1
    assert [one.what.value for one in box.shelf.reports.latest()] == [
        "fetched",
        "tested",
        "shadowed",
        "switched",
        "confirmed",
    ]
    before = len(box.decisions())
    box.start()
    box.end()
    assert {row.bundle_digest for row in box.decisions()[before:]} == {better.digest}, "after a start, too"


def test_the_first_update_fails_and_ten_in_a_row_and_the_model_stays_until_a_good_one_comes(
    machine, bundle, better, tmp_path
):
    box = machine(updates="shadow_marbles = 20\nlatency_ms = 50")
    wrong = variant(bundle, tmp_path / "0.okko", golden=golden_of(bundle, 0.75, 0.25))
    crashing = variant(bundle, tmp_path / "1.okko", name="crashing")
    slow = variant(bundle, tmp_path / "2.okko", model=graph(rounds=_SLOW_ROUNDS))
    blind = variant(bundle, tmp_path / "3.okko", model=graph(blind=True))
    timid = variant(bundle, tmp_path / "4.okko", decision=DecisionRule(("OK",), 1.0, 0.0, Costs()))
    strange = [
        variant(bundle, tmp_path / f"{n}.okko", version=str(n), labels=("KO", "OK", "hand"), golden=())
        for n in range(5, 10)
    ]
    reasons = ["golden frames differ", "SIGSEGV", "ms for a frame", "not a number", "agrees"] + 5 * ["it knows hand"]
    for bad, reason in zip([wrong, crashing, slow, blind, timid, *strange], reasons, strict=True):
        box.offer(bad)
        box.wait(reason, lambda bad=bad: box.shelf.rejection(bad.digest))
        assert reason in box.shelf.rejection(bad.digest).reason
        assert box.shelf.candidate() is None
    assert box.digests() == [bundle.digest]
    box.offer(better)
    box.wait("the good one", lambda: better.digest in box.digests())
    report = box.end()
    assert report["events"]["updates_rejected"] == 10
    assert report["events"]["updates_switched"] == 1
    assert box.digests() == [bundle.digest, better.digest]


def test_a_model_that_fails_once_it_sorts_is_left_again_within_seconds(machine, bundle, tmp_path):
    treacherous = variant(bundle, tmp_path / "treacherous.okko", name="treacherous", version="2")
    box = machine(updates="shadow_marbles = 20")
    box.offer(treacherous)
    box.wait("its rejection", lambda: box.shelf.rejection(treacherous.digest))
    box.wait("the model before", lambda: box.decisions()[-1].bundle_digest == bundle.digest)
    box.device.wait_for_verdicts(len(box.device.life.verdicts) + 20)
    report = box.end("inference_failures")
    assert report["bundle"]["digest"] == bundle.digest
    assert report["events"]["updates_rolled_back"] == 1
    assert "in service it failed on" in box.shelf.rejection(treacherous.digest).reason
    rows = box.decisions()
    failed = [row for row in rows if row.bundle_digest == treacherous.digest]
    assert 3 <= len(failed) < 100
    assert all(row.verdict == "KO" for row in failed), "the safe side"
    assert {row.bundle_digest for row in rows if "now that I am" in (row.error or "")} == {treacherous.digest}
    with JournalReader(box.state / "journal.sqlite") as reader:
        assert [run.bundle_digest for run in reader.runs()] == [bundle.digest, treacherous.digest, bundle.digest]


def test_the_agent_is_killed_in_a_shadow_run_and_another_update_comes_in_the_next(machine, bundle, better, tmp_path):
    newest = variant(bundle, tmp_path / "newest.okko", version="3")
    box = machine(updates="shadow_marbles = 60")
    box.offer(better)
    box.wait("the shadow run", lambda: box.shadows(better))
    count = len(box.device.life.verdicts)
    box.device.wait_for_verdicts(count + 10)
    box.device.kill()
    for _ in range(500):
        if not box.processes():
            break
        time.sleep(0.01)
    assert not box.processes(), "the child ends with the agent"
    before = len(box.decisions())
    box.start()
    tested = len(box.shelf.reports.latest())
    box.wait("the shadow run again", lambda: len(box.shelf.reports.latest()) > tested)
    assert box.shadows(better)
    box.offer(newest)
    box.wait("the newest", lambda: newest.digest in box.digests())
    box.end()
    assert {row.bundle_digest for row in box.decisions()[before:]} == {bundle.digest, newest.digest}
    assert better.digest not in box.digests()


def test_a_disk_that_is_full_all_the_time_stops_no_marble_and_the_update_comes_when_there_is_room(
    machine, registry, bundle, better, tmp_path
):
    disk = Disk(tmp_path / "disk", "16m")  # with room for the journal's log
    try:
        enroll(registry, disk.folder / "models")
        if disk.real:
            disk.fill()
        box = machine(disk=disk.folder, updates=f'registry = "{tmp_path / "registry"}"\nshadow_marbles = 20')
        if not disk.real:
            box.device.fault("full", 7.0)
        registry.publisher.publish(better, "stable")
        box.device.wait_for_verdicts(150)
        assert box.device.process.poll() is None
        if disk.real:
            disk.empty()
        box.wait("the new model", lambda: box.shelf.current == better.digest)
        box.wait("rows of its", lambda: better.digest in box.digests())
        report = box.end()
        assert report["bundle"]["digest"] == better.digest
        assert report["journal"]["lost"] > 0
    finally:
        disk.close()
