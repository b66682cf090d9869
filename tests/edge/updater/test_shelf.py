"""The models on a device's disk: which one is in service, whatever happened to the disk or to the process before."""

from __future__ import annotations

import errno
import io
import os
from dataclasses import replace

import pytest

from okko_edge.events import Counters, Event
from okko_edge.settings import UpdatesSettings
from okko_edge.updater import disk as disks
from okko_edge.updater import state as rules
from okko_edge.updater.protocols import Health, SelfTest
from okko_edge.updater.reporting import MAX_BYTES, Outcome, Reports, What
from okko_edge.updater.shelf import Shelf, ShelfError
from okko_edge.updater.state import BY_HAND, Arrival, Rejection, Stage, State
from okko_models.bundle import Bundle
from okko_models.registry.files import locked
from tests.edge.updater.updater_fakes import GOOD_REPORT, digest_of, on_shelf
from tests.models.registry.simulator import renamed


class Device:
    """A shelf, with the means to look at it as another process would."""

    def __init__(self, folder, make):
        self.folder, self.make = folder, make
        self.warnings, self.counters = [], Counters()
        self.shelf = self.again()

    def again(self):
        reports = Reports(self.folder / "outcomes.jsonl", counters=self.counters)
        return Shelf(self.folder, okko="1", reports=reports, warn=self.warnings.append, clock=lambda: 5.0)

    def bundle(self, version):
        return renamed(Bundle.open(self.make(f"{version}.okko")), version)

    def candidate(self, version, **arrival):
        digest = on_shelf(self.shelf, self.bundle(version))
        self.shelf.fetched(Arrival(digest, "redness", version, "channels/stable", **arrival))
        return digest

    def proven(self, version):
        digest = self.candidate(version)
        self.shelf.switch(digest)
        self.shelf.healthy(digest)
        return digest

    def damage(self, digest):
        (self.folder / "bundles" / digest / "model.onnx").write_bytes(b"worn out")


@pytest.fixture
def device(tmp_path, redness_bundle):
    device = Device(tmp_path / "models", redness_bundle)
    yield device
    device.shelf.give_up_charge()


@pytest.fixture
def full(monkeypatch):
    """Makes the disk full."""

    def fail(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    def make_full():
        for name in ("fsync", "symlink"):
            monkeypatch.setattr(os, name, fail)

    return make_full


def test_a_device_that_never_had_an_update_has_no_model_on_its_shelf_and_no_folder(device):
    assert device.shelf.bundle_in_service() is None
    assert device.shelf.candidate() is None
    assert device.shelf.present() == []
    assert not device.folder.exists()
    assert device.warnings == []


def test_a_switch_makes_a_model_current_and_keeps_the_one_before(device):
    first = device.proven("1")
    second = device.candidate("2")
    device.shelf.switch(second)
    assert str((device.folder / "current").readlink()) == f"bundles/{second}"
    assert str((device.folder / "previous").readlink()) == f"bundles/{first}"
    assert device.again().bundle_in_service().digest == second
    assert device.again().probation().digest == second
    assert device.again().candidate() is None


def test_a_damaged_model_makes_place_for_the_one_before_and_is_not_held_against_it(device):
    first, second = device.proven("1"), device.proven("2")
    device.damage(second)
    assert device.shelf.take_charge()
    assert device.shelf.bundle_in_service().digest == first
    assert "altered or cut short" in device.warnings[0]
    assert device.shelf.current == first
    assert device.shelf.rejection(second) is None
    assert device.counters[Event.UPDATE_ROLLED_BACK] == 1


def test_whoever_only_looks_changes_nothing(device):
    first, second = device.proven("1"), device.proven("2")
    device.damage(second)
    assert device.again().bundle_in_service().digest == first
    assert device.shelf.current == second


def test_when_both_are_damaged_there_is_none_and_the_links_stay(device):
    first, second = device.proven("1"), device.proven("2")
    device.damage(first)
    device.damage(second)
    device.shelf.take_charge()
    assert device.shelf.bundle_in_service() is None
    assert (device.shelf.current, device.shelf.previous) == (second, first)
    assert "the configuration names" in device.warnings[-1]


@pytest.mark.parametrize("content", ["bundles/../../etc", "/etc", "bundles/" + "x" * 64, "elsewhere/" + "0" * 64])
def test_a_link_that_leads_elsewhere_leads_nowhere(device, content):
    first = device.proven("1")
    device.proven("2")
    (device.folder / "current").unlink()
    (device.folder / "current").symlink_to(content)
    assert device.shelf.bundle_in_service().digest == first


@pytest.mark.parametrize("content", [b"", b"\0" * 500, b"{", b'{"pin": 3}', b"[" * 100_000])
def test_a_damaged_memory_is_forgotten_and_the_model_sorts_on(device, content):
    first = device.proven("1")
    (device.folder / "state.json").write_bytes(content)
    device.warnings.clear()
    shelf = device.again()
    assert shelf.started()
    assert shelf.bundle_in_service().digest == first
    assert "forgotten" in device.warnings[0]
    shelf.pin(first)
    assert device.again().state.pin == first
    shelf.give_up_charge()


def test_a_state_of_a_later_okko_is_read_as_far_as_it_is_known(device):
    (device.folder).mkdir()
    (device.folder / "state.json").write_text('{"pin": "abc", "moon": {"phase": 3}}')
    assert device.shelf.state.pin == "abc"


def test_a_process_that_died_before_the_rename_has_changed_nothing_that_counts(device):
    first, second = device.proven("1"), device.candidate("2")
    device.shelf._memory.change(lambda state: rules.switching(state, second, 0.0, running=True))
    again = device.again()
    assert again.probation() is None
    assert again.candidate().digest == second
    assert again.started()
    assert again.bundle_in_service().digest == first
    again.switch(second)
    assert again.probation().starts == 0
    again.give_up_charge()


def test_a_process_that_died_after_the_rename_left_a_model_on_probation_and_no_candidate(device):
    device.proven("1")
    second = device.candidate("2")
    device.shelf._memory.change(lambda state: rules.switching(state, second, 0.0, running=True))
    device.shelf._disk.point("current", second)
    assert device.again().candidate() is None
    assert device.again().probation().digest == second


def test_a_process_that_died_while_going_back_goes_back_at_the_next_start(device):
    first, second = device.proven("1"), device.proven("2")
    device.shelf._memory.change(lambda state: rules.rejected(state, Rejection(second, "bad", 0.0)))
    assert device.shelf.current == second
    again = device.again()
    assert again.started()
    assert again.bundle_in_service().digest == first
    assert again.current == first
    again.give_up_charge()


def test_three_starts_that_ended_badly_bring_the_model_before_back(device):
    first, second = device.proven("1"), device.candidate("2")
    device.shelf.switch(second)
    for _ in range(3):
        shelf = device.again()
        assert shelf.started(3)
        assert shelf.bundle_in_service().digest == second
        shelf.give_up_charge()  # as the kernel does when a process dies
    shelf = device.again()
    assert shelf.started(3)
    assert shelf.bundle_in_service().digest == first
    assert "3 starts" in shelf.rejection(second).reason
    shelf.give_up_charge()


def test_a_model_that_was_put_in_service_while_the_agent_ran_has_had_its_first_start(device):
    device.proven("1")
    second = device.candidate("2")
    device.shelf.switch(second, running=True)
    for _ in range(2):
        shelf = device.again()
        shelf.started(3)
        assert shelf.bundle_in_service().digest == second
        shelf.give_up_charge()
    shelf = device.again()
    shelf.started(3)
    assert shelf.rejection(second)
    shelf.give_up_charge()


def test_starts_that_end_as_they_should_are_not_held_against_a_model(device):
    device.proven("1")
    second = device.candidate("2")
    device.shelf.switch(second)
    for _ in range(10):
        shelf = device.again()
        assert shelf.started(3)
        assert shelf.bundle_in_service().digest == second
        shelf.ended_well()
    assert device.shelf.probation().starts == 0


def test_a_model_on_probation_waits_while_its_starts_cannot_be_counted(device, full):
    first, second = device.proven("1"), device.candidate("2")
    device.shelf.switch(second)
    full()
    shelf = device.again()
    assert shelf.started(3)
    assert shelf.bundle_in_service().digest == shelf.chosen == first
    assert shelf.current == second
    assert "No space left" in device.warnings[-1]
    shelf.give_up_charge()


def test_a_model_on_probation_waits_while_the_disk_is_read_only(device, monkeypatch):
    first, second = device.proven("1"), device.candidate("2")
    device.shelf.switch(second)
    real = io.open

    def read_only(file, mode="r", *arguments, **named):
        if mode != "rb":
            raise OSError(errno.EROFS, "Read-only file system")
        return real(file, mode, *arguments, **named)

    monkeypatch.setattr(io, "open", read_only)
    shelf = device.again()
    assert not shelf.started(3)
    assert shelf.bundle_in_service().digest == first


def test_a_proven_model_starts_whatever_the_disk_does(device, full):
    first = device.proven("1")
    full()
    shelf = device.again()
    assert shelf.started(3)
    assert shelf.bundle_in_service().digest == first
    shelf.give_up_charge()


def test_going_back_on_a_full_disk_counts_at_once_and_is_written_later(device, full, monkeypatch):
    first, second = device.proven("1"), device.proven("2")
    shelf = device.shelf
    shelf.take_charge()
    full()
    assert shelf.roll_back("bad").digest == first
    assert shelf.chosen == first
    assert not shelf.complete
    assert device.again().chosen == second
    monkeypatch.undo()
    shelf.mend()
    assert shelf.complete
    assert device.again().chosen == first
    assert shelf.current == first


def test_going_back_without_a_model_before_leads_to_the_configured_one(device):
    only = device.candidate("1")
    device.shelf.switch(only)
    device.shelf.take_charge()
    assert device.shelf.roll_back("bad") is None
    assert device.shelf.current == device.shelf.chosen == ""
    assert device.again().bundle_in_service() is None


def test_going_back_twice_does_not_come_back_to_what_was_left(device):
    device.proven("1")
    device.proven("2")
    device.shelf.take_charge()
    device.shelf.roll_back("bad")
    assert device.shelf.roll_back("bad as well") is None
    assert device.shelf.bundle_in_service() is None


def test_a_model_that_follows_an_unproven_one_keeps_the_way_back_to_the_proven_one(device):
    first = device.proven("1")
    device.shelf.switch(device.candidate("2"))
    third = device.candidate("3")
    device.shelf.switch(third)
    assert (device.shelf.current, device.shelf.previous) == (third, first)


def test_a_switch_that_the_disk_does_not_take_changes_nothing(device, full):
    first, second = device.proven("1"), device.candidate("2")
    full()
    with pytest.raises(ShelfError, match="No space left"):
        device.shelf.switch(second)
    assert device.again().bundle_in_service().digest == first
    assert device.again().probation() is None


def test_a_candidate_that_was_damaged_meanwhile_is_not_put_in_service(device):
    first, second = device.proven("1"), device.candidate("2")
    device.damage(second)
    with pytest.raises(ShelfError, match="not usable"):
        device.shelf.switch(second)
    assert device.shelf.current == first


def test_a_rejected_model_is_no_candidate_and_stays_rejected_until_a_person_says_otherwise(device):
    digest = device.candidate("1")
    device.shelf.reject(digest, "disagrees")
    assert device.shelf.candidate() is None
    assert device.again().rejection(digest).reason == "disagrees"
    device.shelf.forgive(digest)
    assert device.again().rejection(digest) is None


def test_what_one_okko_could_not_read_another_may_try(device):
    device.shelf.reject(digest_of("1"), "format 3", only_this_okko=True)
    assert device.shelf.rejection(digest_of("1"))
    assert Shelf(device.folder, okko="2").rejection(digest_of("1")) is None


def test_a_candidate_goes_forward_through_its_stages_and_never_back(device):
    digest = device.candidate("1")
    assert device.shelf.candidate().stage is Stage.FETCHED
    device.shelf.testing(digest)
    device.shelf.tested(digest, {"latency_ms": 3.0})
    assert device.shelf.candidate().stage is Stage.TESTED
    device.shelf.shadowed(digest, {})
    device.shelf.testing(digest)
    device.shelf.tested(digest, {})
    assert device.shelf.candidate().stage is Stage.SHADOWED
    device.candidate("1")
    assert device.shelf.candidate().stage is Stage.SHADOWED


def test_a_self_test_that_never_ended_three_times_is_enough(device):
    digest = device.candidate("1")
    for _ in range(3):
        device.shelf.testing(digest)
    with pytest.raises(ShelfError, match="never ended"):
        device.again().testing(digest)
    assert device.again().candidate() is None


def test_only_one_process_leads_candidates_to_service(device):
    assert device.shelf.started()
    other = device.again()
    assert not other.started()
    assert not other.in_charge
    device.shelf.give_up_charge()
    assert other.started()
    other.give_up_charge()


def test_a_process_that_keeps_the_lock_is_waited_for_and_then_told_of(device, monkeypatch):
    monkeypatch.setattr(disks, "PATIENCE_S", 0.05)
    digest = device.proven("1")
    with locked(device.folder / ".lock", wait=False):
        with pytest.raises(ShelfError, match="in use by another process"):
            device.shelf.pin(digest)
        assert device.shelf.bundle_in_service().digest == digest
    device.shelf.pin(digest)


def test_pruning_keeps_what_is_needed_and_removes_the_rest(device):
    gone = device.proven("1")
    kept = [device.proven(version) for version in "23"]
    pinned = on_shelf(device.shelf, device.bundle("4"))
    device.shelf.pin(pinned)
    candidate, running = device.candidate("5"), on_shelf(device.shelf, device.bundle("6"))
    (device.folder / ".new-abc").write_text("left behind")
    assert device.shelf.prune(running) == [gone]
    assert device.shelf.present() == sorted([*kept, pinned, candidate, running])
    assert not list(device.folder.glob(".new-*"))


def test_pruning_a_disk_that_cannot_be_read_removes_nothing(device, monkeypatch):
    device.proven("1")
    first = device.proven("2")
    on_shelf(device.shelf, device.bundle("3"))
    before = device.shelf.present()

    def broken(*_, **__):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "readlink", broken)
        assert device.shelf.prune() == []
    assert device.shelf.present() == before
    assert device.shelf.bundle_in_service().digest == first


def test_a_model_that_proved_itself_here_or_that_a_person_wants_needs_no_shadow_run(device):
    proven = device.proven("1")
    device.proven("2")
    device.candidate("1")
    assert not device.shelf.candidate().shadow
    digest = on_shelf(device.shelf, device.bundle("3"))
    device.shelf.fetched(Arrival(digest, "redness", "3", BY_HAND))
    assert not device.shelf.candidate().shadow
    device.shelf.reject(proven, "bad")
    device.candidate("1")
    assert device.shelf.candidate().shadow


def test_memory_is_bounded():
    state = State()
    for number in range(1000):
        digest = digest_of(str(number))
        state = rules.rejected(rules.healthy(state, digest), Rejection(digest, "bad", 0.0))
        state = rules.healthy(state, digest)
    assert len(state.rejected) == rules.MAX_REJECTED
    assert len(state.confirmed) == rules.MAX_CONFIRMED
    assert state.rejected[0].digest == digest


def test_a_model_as_good_as_the_old_one_passes_every_limit():
    limits = UpdatesSettings()
    assert rules.judge(GOOD_REPORT, limits) is None
    assert rules.judge_self_test(SelfTest(0.0, limits.latency_ms, 1.0), limits) is None
    assert rules.judge(replace(GOOD_REPORT, agreement=limits.agreement), limits) is None
    fast = replace(GOOD_REPORT, latency_ms_old=0.2, latency_ms_new=4.9)
    assert rules.judge(fast, limits) is None, "nobody notices the difference between 0.2 and 4.9 ms"


def test_probation_ends_well_after_enough_marbles_and_badly_after_too_many_errors():
    limits = UpdatesSettings(probation_marbles=10, probation_errors=1)
    assert rules.judge_health(Health(9, 0, 0), limits) == rules.Judgement()
    assert rules.judge_health(Health(10, 1, 0), limits).proven
    assert "too late for 1" in rules.judge_health(Health(3, 1, 1), limits).bad
    assert not rules.judge_health(Health(3, 1, 1), limits).proven


def test_outcomes_are_bounded_and_a_damaged_line_is_left_out(tmp_path):
    reports = Reports(tmp_path / "outcomes.jsonl")
    for number in range(2000):
        reports.add(Outcome(float(number), What.REJECTED, digest_of("1"), "x" * 1000))
    assert reports.path.stat().st_size < MAX_BYTES + 2000
    with reports.path.open("ab") as file:
        file.write(b'{"at": 3, "what": "swi')
    reports.add(Outcome(2000.0, What.SWITCHED, digest_of("2")))
    assert [outcome.at for outcome in reports.latest(3)] == [1999.0, 2000.0]
    assert str(reports.latest(1)[0]).endswith("switched")


def test_an_outcome_that_cannot_be_written_or_told_stops_nothing(tmp_path):
    def broken(*_):
        raise RuntimeError("the journal is gone")

    counters = Counters()
    Reports(tmp_path / "no" / "folder", counters=counters, tell=broken).add(Outcome(0.0, What.SWITCHED))
    assert counters[Event.UPDATE_SWITCHED] == 1
