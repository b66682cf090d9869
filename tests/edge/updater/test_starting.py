"""Which model a run begins with, and what its end says about that model."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from okko_edge.events import Counters
from okko_edge.settings import Settings, UpdatesSettings
from okko_edge.updater.shelf import Shelf
from okko_edge.updater.starting import Updates
from okko_models.errors import BundleError, OkkoError
from tests.edge.updater.models import golden_of, variant


class Device:
    """A shelf, and runs that begin and end."""

    def __init__(self, folder, configured):
        self.configured, self.warnings = configured, []
        self.folder = folder / "models"
        self.shelf = Shelf(self.folder)

    def run(self, **changes):
        settings = Settings(
            bundle=str(self.configured.path) if self.configured else "",
            updates=UpdatesSettings(enabled=True, folder=str(self.folder), **changes),
        )
        return Updates(settings, counters=Counters(), okko="0", warn=self.warnings.append)

    def serve(self, bundle):
        """Puts a bundle in service, on probation."""
        shutil.copytree(bundle.path, self.folder / "bundles" / bundle.digest)
        self.shelf.switch(bundle.digest)


@pytest.fixture
def device(tmp_path, bundle):
    return Device(tmp_path, bundle)


@pytest.fixture
def better(tmp_path, bundle):
    return variant(bundle, tmp_path / "better.okko", version="2")


def test_the_configured_model_sorts_until_the_shelf_has_one(device, bundle, better):
    with device.run() as run:
        assert run.load().bundle.digest == bundle.digest
    device.serve(better)
    with device.run() as run:
        assert run.load().bundle.digest == better.digest
    assert not device.warnings


def test_a_model_that_does_not_work_here_makes_place_for_the_one_before(device, bundle, better, tmp_path):
    device.serve(better)
    device.shelf.healthy(better.digest)
    wrong = variant(bundle, tmp_path / "wrong.okko", version="3", golden=golden_of(bundle, 0.5, 0.5))
    device.serve(wrong)
    with device.run() as run:
        assert run.load().bundle.digest == better.digest
    assert "golden frames differ" in device.shelf.rejection(wrong.digest).reason
    assert device.shelf.current == better.digest
    assert wrong.digest[:12] in device.warnings[0]


def test_if_nothing_on_the_shelf_works_the_configured_model_sorts(device, bundle, tmp_path):
    wrong = variant(bundle, tmp_path / "wrong.okko", golden=golden_of(bundle, 0.5, 0.5))
    device.serve(wrong)
    with device.run() as run:
        assert run.load().bundle.digest == bundle.digest


def test_without_any_model_the_user_is_told(device):
    device.configured = None
    with pytest.raises(OkkoError, match="no model to sort with"), device.run() as run:
        run.load()


def fail(run, error, sorted_with=None):
    """A run that loads its model, and ends with an error."""
    digest = run.load().bundle.digest
    if sorted_with is not None:
        sorted_with.append(digest)
    raise error


def test_only_an_end_that_nobody_asked_for_counts_against_the_model(device, better):
    device.serve(better)

    def starts():
        return device.shelf.probation().starts

    with device.run() as run:
        run.load()
        assert starts() == 1
    assert starts() == 0
    with pytest.raises(BundleError), device.run() as run:
        fail(run, BundleError("the camera is unplugged"))
    assert starts() == 0
    with pytest.raises(ZeroDivisionError), device.run() as run:
        fail(run, ZeroDivisionError())
    assert starts() == 1


def test_starts_that_end_badly_bring_the_model_before_back(device, bundle, better):
    device.serve(better)
    sorted_with = []
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), device.run(probation_starts=2) as run:
            fail(run, ZeroDivisionError(), sorted_with)
    assert sorted_with == [better.digest, better.digest, bundle.digest]
    assert "ended badly" in device.shelf.rejection(better.digest).reason


def test_a_second_agent_sorts_with_the_same_model_and_leads_none(device, better):
    device.serve(better)
    with device.run() as first, device.run() as second:
        assert first.load().bundle.digest == second.load().bundle.digest == better.digest
        assert device.shelf.probation().starts == 1
    assert "led by another process" in device.warnings[0]


def test_an_agent_that_is_not_in_charge_changes_nothing_until_it_is(world):
    bundle = world.release("1")
    first = world.new_shelf()
    first.take_charge()
    updater = world.start(shadow_marbles=0)
    for _ in range(3):
        updater.tick()
    assert not world.shelf.candidate()
    assert world.in_service.digest == "configured"
    first.give_up_charge()
    for _ in range(3):
        updater.tick()
    assert world.in_service.digest == bundle.digest


def test_without_updates_nothing_of_them_is_loaded(bundle, photos, tmp_path):
    script = (
        "import sys\nfrom okko.cli import main\n"
        "try:\n    main()\nfinally:\n"
        "    print([name for name in sys.modules if 'updater' in name or name.split('.')[0] == 'tuf'], file=sys.stderr)"
    )
    command = [sys.executable, "-c", script, "run", bundle.path, "--camera", f"sim:{photos}", "--count", 3]
    command += ["--pace", "fast", "--journal", tmp_path / "journal.sqlite", "--json"]
    ran = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=True, timeout=60)
    assert ran.stderr.strip() == "[]"
