"""From the registry to service and back: what the updater does, step by step."""

from __future__ import annotations

import itertools
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from okko_edge.updater.fetching import Request, fetch
from okko_edge.updater.protocols import Health, RejectedError, SelfTest, TrialError
from okko_models import manifest as manifests
from okko_models.errors import BundleError, OkkoError
from okko_models.registry.files import locked
from tests.edge.updater.updater_fakes import FRESH, GOOD_REPORT, HEALTHY, OKKO, put_in_service


def test_a_model_goes_from_the_registry_to_service_and_proves_itself(world):
    bundle = world.release("1")
    updater = world.start()
    world.report = replace(GOOD_REPORT, finished=False)
    updater.tick()
    assert world.in_service.listeners == [world.trials[0].hear]
    assert world.trials[0].wanted == 200
    assert world.in_service.digest == "configured"
    world.report = GOOD_REPORT
    updater.tick()
    assert world.in_service.changes == [bundle.digest]
    assert world.shelf.current == bundle.digest
    assert world.in_service.listeners == []
    assert world.trials[0].closed
    assert world.shelf.probation()
    world.in_service.said = HEALTHY
    updater.tick()
    assert world.shelf.probation() is None
    assert world.counted() == {"updates_fetched": 1, "updates_switched": 1, "updates_confirmed": 1}
    told = [outcome.what.value for outcome in world.shelf.reports.latest()]
    assert told == ["fetched", "tested", "shadowed", "switched", "confirmed"]
    assert [name for name, _ in world.notes] == ["updates_fetched", "updates_switched", "updates_confirmed"]


def test_the_next_model_takes_its_place_and_the_one_before_stays_on_the_disk(world):
    first, updater = put_in_service(world, "1")
    second = world.release("2")
    world.pass_time(4000)
    updater.tick()
    updater.tick()
    assert (world.shelf.current, world.shelf.previous) == (second.digest, first.digest)
    assert world.shelf.open(first.digest)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"agreement": 0.5}, "updates.agreement"),
        ({"agreement": float("nan")}, "updates.agreement"),
        ({"uncertain_share_new": 0.2}, "updates.more_uncertain"),
        ({"latency_ms_new": 30.0}, "updates.times_slower"),
    ],
)
def test_a_model_that_does_worse_beside_the_old_one_is_rejected_and_never_fetched_again(world, change, said):
    bundle = world.release("1")
    updater = world.start()
    world.report = replace(GOOD_REPORT, **change)
    updater.tick()
    updater.tick()
    assert world.in_service.changes == []
    assert said in world.shelf.rejection(bundle.digest).reason
    world.pass_time(4000)
    for _ in range(5):
        updater.tick()
    assert len(world.trials) == 1
    assert world.counted() == {"updates_fetched": 1, "updates_rejected": 1}


@pytest.mark.parametrize("test", [RejectedError("golden frames differ"), SelfTest(0.0, 900.0, 10.0)])
def test_a_model_that_fails_its_self_test_is_rejected(world, test):
    bundle = world.release("1")
    world.self_test = test
    updater = world.start()
    updater.tick()
    assert world.shelf.rejection(bundle.digest)
    assert world.trials[0].closed
    assert world.shelf.candidate() is None


def test_a_model_that_is_worse_in_service_is_left_for_the_one_before_and_not_tried_again(world):
    first, updater = put_in_service(world, "1")
    second = world.release("2")
    world.pass_time(4000)
    updater.tick()
    updater.tick()
    world.in_service.said = Health(marbles=10, inference_failures=2, deadline_misses=1)
    updater.tick()
    assert world.in_service.digest == world.shelf.current == first.digest
    assert "failed on 2" in world.shelf.rejection(second.digest).reason
    world.pass_time(4000)
    for _ in range(4):
        updater.tick()
    assert world.in_service.digest == first.digest
    assert world.counted()["updates_rolled_back"] == 1


def test_the_first_update_that_is_worse_in_service_is_left_for_the_configured_model(world):
    world.release("1")
    updater = world.start()
    updater.tick()
    updater.tick()
    world.in_service.said = Health(marbles=3, inference_failures=3, deadline_misses=0)
    updater.tick()
    assert world.in_service.digest == "configured"
    assert world.shelf.current == ""


def test_an_agent_that_restarts_in_a_shadow_run_begins_it_again(world):
    bundle = world.release("1")
    world.report = replace(GOOD_REPORT, finished=False)
    for _ in range(5):
        updater = world.start()
        updater.tick()
        updater.tick()
        assert world.trials[-1].wanted == 200
        updater.close()
        assert world.trials[-1].closed
        world.die()
    world.report = GOOD_REPORT
    updater = world.start()
    updater.tick()
    updater.tick()
    assert world.in_service.digest == bundle.digest
    assert world.counted()["updates_fetched"] == 1


def test_a_model_that_takes_the_device_down_in_its_self_test_is_rejected_the_fourth_time(world):
    bundle = world.release("1")

    class PowerCut(BaseException):
        pass

    world.self_test = PowerCut()
    for _ in range(3):
        updater = world.start()
        with pytest.raises(PowerCut):
            updater.tick()
        world.die()
    world.start().tick()
    assert "never ended" in world.shelf.rejection(bundle.digest).reason


def test_a_trial_that_cannot_be_made_now_is_made_later_however_often(world):
    bundle = world.release("1")
    world.self_test = TrialError("no memory")
    updater = world.start()
    for _ in range(6):
        updater.tick()
        updater.tick()
        world.pass_time(4000)
    assert len(world.trials) == 6
    assert world.shelf.rejection(bundle.digest) is None
    assert world.warnings.count("no new model: no memory") == 1
    world.self_test = SelfTest(0.0, 10.0, 50.0)
    updater.tick()
    updater.tick()
    assert world.in_service.digest == bundle.digest


def test_the_first_update_ever_may_fail(world):
    bundle = world.release("1")
    timestamp = world.registry / "metadata" / "timestamp.json"
    right = timestamp.read_bytes()
    timestamp.write_bytes(b"{}")
    updater = world.start()
    updater.tick()
    assert world.in_service.digest == "configured"
    assert world.counted() == {"update_failures": 1}
    timestamp.write_bytes(right)
    world.pass_time(61)
    updater.tick()
    updater.tick()
    assert world.in_service.digest == bundle.digest


def test_ten_failures_in_a_row_change_nothing_and_come_more_and_more_seldom(world):
    first, updater = put_in_service(world, "1")
    world.release("2")
    (world.registry / "metadata" / "timestamp.json").write_bytes(b"{}")
    world.pass_time(4000)
    tries = []
    fetched = world.fetch
    world.fetch = lambda request: (tries.append(world.clock.now_s()), fetched(request))[1]
    while len(tries) < 10:
        updater.tick()
        world.pass_time(10)
    pauses = [later - earlier for earlier, later in itertools.pairwise(tries)]
    assert pauses == sorted(pauses)
    assert 60 <= pauses[0] <= 70
    assert 3600 <= pauses[-1] <= 3610
    assert world.counted()["update_failures"] == 10
    assert world.in_service.digest == world.shelf.current == first.digest
    assert len([said for said in world.warnings if "not to be trusted" in said]) == 1


def test_a_device_may_be_offline_for_months_which_is_told_once_and_is_no_failure(world):
    updater = world.start(registry="http://127.0.0.1:9")
    for _ in range(50):
        updater.tick()
        world.pass_time(86_400)
    assert world.counted() == {}
    assert len(world.warnings) == 1
    assert "127.0.0.1" in world.warnings[0]


def test_an_update_that_arrives_during_an_update_says_so_and_does_nothing(world):
    bundle = world.release("1")
    updater = world.start()
    with locked(world.shelf.trust / ".lock", wait=False):
        updater.tick()
    assert "in use by another process" in world.warnings[0]
    assert world.shelf.candidate() is None
    world.pass_time(61)
    updater.tick()
    assert world.shelf.candidate().digest == bundle.digest


def test_a_newer_model_takes_the_place_of_one_that_is_being_tried(world):
    world.release("1")
    updater = world.start()
    world.report = replace(GOOD_REPORT, finished=False)
    updater.tick()
    newer = world.release("2")
    world.pass_time(4000)
    updater.tick()
    updater.tick()
    assert world.trials[0].closed
    assert world.in_service.listeners == [world.trials[1].hear]
    world.report = GOOD_REPORT
    updater.tick()
    assert world.in_service.digest == newer.digest


def test_a_model_waits_while_the_one_in_service_has_to_prove_itself(world):
    first = world.release("1")
    updater = world.start()
    updater.tick()
    updater.tick()
    second = world.release("2")
    world.pass_time(4000)
    for _ in range(3):
        updater.tick()
    assert world.in_service.digest == first.digest
    assert world.shelf.candidate().digest == second.digest
    world.in_service.said = HEALTHY
    updater.tick()
    updater.tick()
    assert world.in_service.digest == second.digest


def test_a_publisher_who_goes_back_is_followed_at_once_although_the_models_disagree(world):
    first, updater = put_in_service(world, "1")
    world.release("2")
    world.pass_time(4000)
    updater.tick()
    updater.tick()
    assert world.in_service.digest != first.digest
    world.simulator.publisher.roll_back("stable")
    world.report = replace(GOOD_REPORT, agreement=0.0)
    world.self_test = RejectedError("it does not know empty, which the model in service does")
    world.pass_time(4000)
    updater.tick()
    assert world.in_service.digest == world.shelf.current == first.digest


def test_a_candidate_that_was_damaged_on_the_disk_is_fetched_again_and_not_held_to_be_bad(world):
    bundle = world.release("1")
    updater = world.start(shadow_marbles=0)
    fetched = fetch(Request(str(world.folder), str(world.registry), okko=OKKO))
    assert fetched.result == "fetched"
    (world.shelf.bundles / bundle.digest / "model.onnx").write_bytes(b"worn out")
    updater.tick()
    assert world.trials == []
    assert world.shelf.candidate() is None
    for _ in range(2):
        world.pass_time(4000)
        updater.tick()
    assert world.in_service.digest == bundle.digest


def test_a_model_that_cannot_be_loaded_in_the_agent_is_left_before_it_sorts(world):
    bundle = world.release("1")
    updater = world.start()
    world.in_service.failure = BundleError("does not load")
    updater.tick()
    updater.tick()
    assert world.in_service.digest == "configured"
    assert world.shelf.bundle_in_service() is None
    assert "does not load" in world.shelf.rejection(bundle.digest).reason


def test_a_moment_in_which_no_model_can_be_changed_is_not_held_against_it(world):
    bundle = world.release("1")
    updater = world.start()
    world.in_service.failure = OkkoError("the camera gave no frame")
    updater.tick()
    updater.tick()
    assert world.in_service.digest == "configured"
    world.in_service.failure = None
    world.pass_time(11)
    updater.tick()
    assert world.in_service.digest == bundle.digest
    assert world.shelf.rejection(bundle.digest) is None


def test_a_person_in_a_shell_who_goes_back_is_followed_by_the_agent(world):
    first, updater = put_in_service(world, "1")
    world.release("2")
    world.pass_time(4000)
    updater.tick()
    updater.tick()
    shell = world.new_shelf()
    assert not shell.take_charge()
    shell.roll_back("by hand: jams")
    updater.tick()
    assert world.in_service.digest == first.digest
    assert world.shelf.current == first.digest


@pytest.mark.parametrize(("schema", "said"), [(1, "Train the model again"), (3, "Update okko on this machine")])
def test_a_bundle_of_another_releases_format_is_refused_clearly_and_the_old_model_stays(
    world, monkeypatch, schema, said
):
    first, updater = put_in_service(world, "1")
    strange = world.simulator.bundle("2")
    with monkeypatch.context() as patch:
        patch.setattr(manifests, "SCHEMA_VERSION", schema)
        world.simulator.publisher.publish(with_schema(strange, schema), "stable")
    world.pass_time(4000)
    for _ in range(3):
        updater.tick()
    assert world.in_service.digest == world.shelf.current == first.digest
    assert any(f"schema version {schema}" in warning and said in warning for warning in world.warnings)
    assert world.trials[1:] == []


def with_schema(bundle, schema):
    import msgspec

    from okko_models.bundle import write_bundle

    contents = {name: bundle.read(name) for name in bundle.manifest.files}
    return write_bundle(bundle.path, msgspec.structs.replace(bundle.manifest, schema_version=schema), contents)


def test_what_this_okko_cannot_read_a_later_one_tries_again(world, monkeypatch):
    strange = world.simulator.bundle("2")
    with monkeypatch.context() as patch:
        patch.setattr(manifests, "SCHEMA_VERSION", 3)
        world.simulator.publisher.publish(with_schema(strange, 3), "stable")
    request = Request(str(world.folder), str(world.registry), okko=OKKO)
    assert fetch(request).result == "refused"
    assert fetch(request).result == "rejected before"
    monkeypatch.setattr(manifests, "SCHEMA_VERSION", 3)
    assert fetch(replace(request, okko="0.2.0")).result == "fetched"


def test_a_clock_of_1970_gets_new_models_and_is_not_led_back(world, monkeypatch):
    from okko_edge.updater import fetching

    monkeypatch.setattr(fetching.time, "time", lambda: 30.0)
    world.release("1")
    past = {path: path.read_bytes() for path in (world.registry / "metadata").iterdir()}
    updater = world.start()
    updater.tick()
    second = world.release("2")
    world.pass_time(4000)
    updater.tick()
    updater.tick()
    assert world.in_service.digest == second.digest
    for path, data in past.items():
        path.write_bytes(data)
    world.pass_time(4000)
    updater.tick()
    assert world.in_service.digest == world.shelf.current == second.digest
    assert world.counted()["update_failures"] == 1


def test_expired_signatures_stop_installing_and_never_running(world, monkeypatch):
    from okko_edge.updater import fetching

    first, updater = put_in_service(world, "1")
    world.release("2")
    monkeypatch.setattr(fetching.time, "time", lambda: time.time_ns() / 1e9 + 400 * 86_400)
    world.pass_time(4000)
    updater.tick()
    assert "expired" in world.warnings[-1]
    updater.close()
    world.die()
    world.start()
    assert world.in_service.digest == first.digest


def test_a_pin_of_the_registry_goes_before_the_channel_and_a_pin_of_the_device_before_both(world):
    stable, candidate = world.release("1"), world.release("2", "candidate")
    third = world.release("3", "candidate")
    world.simulator.publisher.pin("belt-1", candidate.digest)
    updater = world.start()
    updater.tick()
    updater.tick()
    assert world.in_service.digest == candidate.digest
    world.shelf.pin(stable.digest)
    world.pass_time(4000)
    updater.tick()
    assert world.in_service.digest == stable.digest
    world.simulator.publisher.pin("belt-1", third.digest)
    world.pass_time(4000)
    updater.tick()
    assert world.shelf.candidate() is None


def test_a_disk_that_takes_nothing_costs_updates_and_no_sorting(world, monkeypatch):
    import errno
    import os

    first, updater = put_in_service(world, "1")
    second = world.release("2")

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        for name in ("fsync", "mkdir", "rename", "replace", "symlink"):
            patch.setattr(os, name, full)
        for _ in range(10):
            world.pass_time(4000)
            updater.tick()
        assert world.in_service.digest == first.digest
        assert world.shelf.bundle_in_service().digest == first.digest
        assert world.counted()["update_failures"] >= 5
    for _ in range(3):
        world.pass_time(4000)
        updater.tick()
    assert world.in_service.digest == second.digest


def test_a_model_found_bad_on_a_full_disk_is_left_all_the_same_and_not_taken_up_again(world, monkeypatch):
    import errno
    import os

    first, updater = put_in_service(world, "1")
    second = world.release("2")
    world.pass_time(4000)
    updater.tick()
    updater.tick()
    assert world.in_service.digest == second.digest
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.EROFS, "Read-only file system")))
        world.in_service.said = Health(marbles=10, inference_failures=3, deadline_misses=0)
        for _ in range(5):
            updater.tick()
            world.pass_time(4000)
        assert world.in_service.digest == first.digest
    world.pass_time(4000)
    updater.tick()
    assert world.in_service.digest == first.digest
    assert world.new_shelf().rejection(second.digest)


def test_a_device_that_was_not_enrolled_sorts_and_fetches_nothing(world, tmp_path):
    import shutil

    shutil.rmtree(world.shelf.trust)
    world.release("1")
    updater = world.start()
    updater.tick()
    assert world.in_service.digest == "configured"
    assert "okko device enroll" in fetch(Request(str(world.folder), str(world.registry))).message


def test_a_bundle_larger_than_the_device_takes_is_refused(world):
    world.release("1")
    done = fetch(Request(str(world.folder), str(world.registry), max_mb=0.0005))
    assert done.result == "refused"
    assert "at most" in done.message


def test_the_process_that_sorts_loads_nothing_of_the_network_or_of_cryptography():
    program = (
        "import sys, okko_edge.updater.updater\n"
        "heavy = {'tuf', 'cryptography', 'boto3', 'ssl', 'http.client', 'requests'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


def test_nothing_is_in_service_before_a_marble_was_judged_beside_it(world):
    world.release("1")
    updater = world.start()
    world.report = replace(GOOD_REPORT, marbles=0, finished=False)
    for _ in range(20):
        updater.tick()
    assert world.in_service.digest == "configured"
    assert world.in_service.health() == FRESH
