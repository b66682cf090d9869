import errno
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import threading

import pytest

from okko_models.bundle import Bundle
from okko_models.errors import BundleError
from okko_models.registry.checking import check
from okko_models.registry.client import Client
from okko_models.registry.errors import MissingError, RegistryError
from okko_models.registry.keys import KeyRing
from okko_models.registry.publisher import Publisher, read_log
from okko_models.registry.root import (
    Share,
    draft_rotation,
    finish_rotation,
    init,
    rotate,
    sign_draft,
)
from okko_models.registry.store import FolderStore
from okko_models.registry.transport import StoreTransport
from tests.models.registry.simulator import DAY_S, MemoryStore, Server, Simulator


def story(publisher):
    return [(entry.action, entry.place) for entry in read_log(publisher.store, publisher.look().catalog)]


def sound(publisher):
    report = check(publisher.store, publisher.look(), publisher.clock())
    assert not report.errors
    return report


def test_the_same_bundle_twice_is_one_entry(simulator):
    bundle = simulator.bundle("1")
    assert simulator.publisher.publish(bundle, "candidate")
    files = simulator.past()
    assert not simulator.publisher.publish(bundle, "candidate")
    assert not simulator.someone("bob").publish(bundle, "candidate")
    assert simulator.store.files == files
    assert story(simulator.publisher) == [("init", ""), ("publish", "channels/candidate")]


def test_the_log_says_which_bundle_was_in_service_when_and_who_put_it_there(simulator):
    first = simulator.bundle("1")
    simulator.publisher.publish(first, "candidate", "from the night run")
    simulator.time += DAY_S
    bob = simulator.someone("bob")
    bob.promote("candidate", "stable", "beats the old one")
    entry = read_log(simulator.store, bob.look().catalog)[-1]
    assert (entry.who, entry.action, entry.place, entry.why) == (
        "bob",
        "promote",
        "channels/stable",
        "beats the old one",
    )
    assert (entry.before, entry.after, entry.at) == ("", first.digest, "2026-05-29T20:26:40Z")


def test_an_altered_or_missing_entry_of_the_log_is_noticed(simulator):
    simulator.release("1")
    simulator.release("2")
    for key in simulator.store.list("log/"):
        whole = dict(simulator.store.files)
        simulator.store.files[key] = simulator.store.files[key].replace(b"ada", b"eve")
        assert "altered" in check(simulator.store, simulator.publisher.look(), simulator.time).errors[0]
        del simulator.store.files[key]
        assert "missing" in check(simulator.store, simulator.publisher.look(), simulator.time).errors[0]
        simulator.store.files = whole
    sound(simulator.publisher)


def test_an_altered_file_of_a_bundle_is_noticed(simulator):
    bundle = simulator.release("1")
    key = f"bundles/{bundle.digest}/model.onnx"
    simulator.store.files[key] = b"?" + simulator.store.files[key][1:]
    assert "model.onnx was altered" in check(simulator.store, simulator.publisher.look(), simulator.time).errors[0]
    simulator.store.delete(key)
    assert "missing" in check(simulator.store, simulator.publisher.look(), simulator.time).errors[0]
    simulator.publisher.publish(bundle, "stable")
    sound(simulator.publisher)


def test_going_back_goes_to_the_one_before_each_time_and_never_forward(simulator):
    digests = [simulator.release(str(number)).digest for number in range(3)]
    publisher = simulator.publisher
    publisher.roll_back()
    publisher.roll_back()
    assert publisher.look().catalog.resolve("stable") == digests[0]
    with pytest.raises(MissingError, match="no other bundle"):
        publisher.roll_back()
    publisher.promote(digests[2])
    publisher.roll_back(to=digests[0])
    assert publisher.look().catalog.resolve("stable") == digests[0]
    with pytest.raises(MissingError, match="was not in service"):
        publisher.roll_back(to=digests[1])


def test_a_bundle_that_came_back_by_promotion_is_not_gone_back_to_twice(simulator):
    first, second = simulator.release("1"), simulator.release("2")
    simulator.publisher.promote(first.digest)
    simulator.publisher.roll_back()
    assert simulator.publisher.look().catalog.resolve("stable") == second.digest
    with pytest.raises(MissingError, match="no other bundle"):
        simulator.publisher.roll_back()


def test_a_bundle_that_devices_would_refuse_is_not_published(simulator, redness_bundle):
    before = simulator.past()
    bundle = Bundle.open(redness_bundle(model=b"not a model"))
    with pytest.raises(BundleError):
        simulator.publisher.publish(bundle)
    assert simulator.store.files == before


def test_an_unknown_bundle_channel_or_device_is_refused_in_words(simulator):
    simulator.release("1")
    for wrong, message in (
        (lambda p: p.promote("0123456789"), "names none of the registry's 1"),
        (lambda p: p.promote("candidate"), "nothing is in service"),
        (lambda p: p.promote("stable", "beta"), "no channel beta"),
        (lambda p: p.pin("../etc", "stable"), "no name of a device"),
    ):
        with pytest.raises(RegistryError, match=message):
            wrong(simulator.publisher)


def test_sweeping_removes_what_nobody_needs_and_keeps_what_one_may_go_back_to(simulator):
    digests = [simulator.release(str(number)).digest for number in range(5)]
    publisher = simulator.publisher
    publisher.pin("belt-1", digests[0])
    simulator.store.files["bundles/" + "0" * 64 + "/model.onnx"] = b"left by a killed publisher"
    assert sorted(publisher.sweep(keep=1)) == sorted([digests[1], digests[2], "0" * 64])
    assert set(publisher.look().catalog.bundles) == {digests[0], digests[3], digests[4]}
    assert {key.split("/")[1] for key in simulator.store.list("bundles/")} == {digests[0], digests[3], digests[4]}
    assert publisher.sweep(keep=1) == []
    assert not sound(publisher).remarks
    publisher.roll_back()
    assert publisher.look().catalog.resolve("stable") == digests[3]


def test_a_bundle_that_is_being_removed_cannot_be_published_at_the_same_time(simulator):
    old = simulator.release("1")
    simulator.release("2")
    deleted = []

    class Interrupted(MemoryStore):
        def delete(self, key):
            deleted.append(key)
            raise KilledError

    store = Interrupted()
    store.files = simulator.store.files
    with pytest.raises(KilledError):
        simulator.someone("bob", store=store).sweep(keep=0)
    assert deleted
    with pytest.raises(RegistryError, match="being removed"):
        simulator.publisher.publish(old, "stable")
    simulator.publisher.sweep(keep=0)
    simulator.publisher.publish(old, "stable")
    sound(simulator.publisher)


def test_signatures_that_expired_do_not_keep_the_publisher_from_renewing_them(simulator):
    simulator.release("1")
    simulator.time += 400 * DAY_S
    assert check(simulator.store, simulator.publisher.look(), simulator.time).errors
    simulator.publisher.refresh()
    sound(simulator.publisher)


def test_an_expired_root_is_renewed(simulator):
    simulator.release("1")
    device, _ = simulator.device()
    device.look()
    simulator.time += 800 * DAY_S
    with pytest.raises(RegistryError, match="root metadata expired"):
        simulator.publisher.refresh()
    rotate(simulator.publisher)
    assert device.look().version == "1"
    sound(simulator.publisher)


def test_two_of_three_people_sign_a_new_root_one_after_the_other(tmp_path, redness_bundle):
    store, keys = MemoryStore(), tmp_path / "all"
    everyone = Publisher(store, KeyRing([keys], lambda _: "x"), tmp_path / "t", who="all", clock=lambda: 1.7e9)
    root = init(everyone, {"root": Share(3, 2), "targets": Share(2, 2)})
    people = []
    for number, path in enumerate(sorted(keys.glob("root-*.pem"))):
        folder = tmp_path / f"person{number}"
        folder.mkdir()
        shutil.move(path, folder)
        person = Publisher(store, KeyRing([keys, folder], lambda _: "x"), folder, who=str(number), clock=lambda: 1.7e9)
        person.enroll(root)
        people.append(person)
    draft = draft_rotation(people[0], "timestamp")
    assert draft.missing == {"old": 1, "new": 1}
    with pytest.raises(RegistryError, match="more signatures"):
        finish_rotation(people[0], draft.data)
    assert not sign_draft(people[0], draft.data).complete
    draft = sign_draft(people[2], draft.data)
    assert draft.complete
    finish_rotation(people[2], draft.data)
    sound(people[1])
    one_of_two = sorted(keys.glob("targets-*.pem"))[0]
    one_of_two.rename(tmp_path / one_of_two.name)
    with pytest.raises(RegistryError, match="needs 2 of the keys"):
        people[0].refresh()


def test_publishers_in_threads_lose_nothing(tmp_path, redness_bundle):
    simulator = Simulator(tmp_path / "sim", redness_bundle, FolderStore(tmp_path / "registry"))
    bundles = [simulator.bundle(str(number)) for number in range(4)]
    errors = []

    def publish(bundle):
        try:
            simulator.someone(bundle.manifest.version).publish(bundle, "stable")
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=publish, args=(bundle,)) for bundle in bundles for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    catalog = simulator.publisher.look().catalog
    assert set(catalog.bundles) == {bundle.digest for bundle in bundles}
    # The second of two who publish the same finds it done, or puts it in service once more after another.
    published = [entry for entry in read_log(simulator.store, catalog) if entry.action == "publish"]
    assert len(bundles) <= len(published) <= len(threads)
    assert all(entry.before != entry.after for entry in published)
    sound(simulator.publisher)


def test_publishers_in_processes_lose_nothing(tmp_path, redness_bundle):
    simulator = Simulator(tmp_path / "sim", redness_bundle, FolderStore(tmp_path / "registry"))
    bundles = [simulator.bundle(str(number)) for number in range(2)]
    program = """
import sys
from pathlib import Path
from okko_models.bundle import Bundle
from okko_models.registry.keys import KeyRing
from okko_models.registry.publisher import Publisher
from okko_models.registry.store import FolderStore
registry, keys, root, bundle, own, time = sys.argv[1:]
publisher = Publisher(FolderStore(Path(registry)), KeyRing([Path(keys)], lambda _: "correct horse"), Path(own), who=own,
                      clock=lambda: float(time))
publisher.enroll(Path(root).read_bytes())
for channel in ("candidate", "stable", "candidate", "stable"):
    publisher.publish(Bundle.open(Path(bundle)), channel)
    publisher.pin(f"belt-{Path(own).name}", channel)
    publisher.unpin(f"belt-{Path(own).name}")
"""
    (tmp_path / "root.json").write_bytes(simulator.root)
    running = [
        subprocess.Popen(
            [sys.executable, "-c", program, simulator.store.folder, simulator.folder / "keys", tmp_path / "root.json",
             bundle.path, tmp_path / f"own{number}", str(simulator.time)],
            stderr=subprocess.PIPE,
        )
        for number, bundle in enumerate(bundles)
    ]  # fmt: skip
    for process in running:
        _, stderr = process.communicate(timeout=120)
        assert process.returncode == 0, stderr.decode()
    catalog = simulator.publisher.look().catalog
    assert set(catalog.bundles) == {bundle.digest for bundle in bundles}
    entries = read_log(simulator.store, catalog)
    assert sum(entry.action == "pin" for entry in entries) == 8
    sound(simulator.publisher)


class KilledError(BaseException):
    pass


class DyingStore:
    """A store whose user is killed before or after its operation number `last`; it never answers again."""

    def __init__(self, store, last: float, *, after: bool = False) -> None:
        self._store, self._last, self._after = store, last, after
        self.done: list[str] = []

    def __str__(self) -> str:
        return "dying"

    def __getattr__(self, name):
        operation = getattr(self._store, name)

        def call(*arguments):
            number = len(self.done)
            if number > self._last or (number == self._last and not self._after):
                raise KilledError
            self.done.append(f"{name} {arguments[0]}")
            result = operation(*arguments)
            if number == self._last:
                raise KilledError
            return result

        return call


def kill_points(done):
    """Before every operation, and after every one that writes; after one that reads is before the next."""
    return [(number, after) for number, what in enumerate(done) for after in (False, True)
            if not after or what.startswith(("put", "delete"))]  # fmt: skip


def rotating(role):
    def act(publisher, world):
        rotate(publisher, role, world["old"][role])

    return act


ACTIONS = {
    "publish": lambda publisher, world: publisher.publish(world["new"], "stable"),
    "promote": lambda publisher, world: publisher.promote(world["candidate"].digest),
    "rollback": lambda publisher, world: publisher.roll_back(to=world["first"].digest),
    "pin": lambda publisher, world: publisher.pin("belt-1", world["first"].digest),
    "unpin": lambda publisher, world: publisher.unpin("belt-0"),
    "gc": lambda publisher, world: publisher.sweep(keep=0),
    "rotate-key": rotating("timestamp"),
    "rotate-key targets": rotating("targets"),
    "rotate-key root": rotating("root"),
}


class World:
    """A registry in the middle of its life, to be copied for each way to die."""

    def __init__(self, folder, redness_bundle):
        simulator = Simulator(folder, redness_bundle)
        self.values = {"first": simulator.release("1"), "second": simulator.release("2")}
        self.values |= {"new": simulator.bundle("new"), "candidate": simulator.bundle("candidate")}
        simulator.publisher.publish(self.values["candidate"], "candidate")
        simulator.publisher.pin("belt-0", "stable")
        self.device, _ = simulator.device()
        self.device.look()
        root = simulator.publisher.look().trusted.root
        self.values["old"] = {role: root.roles[role].keyids[0] for role in root.roles}
        self.files, self.simulator, self.copies = simulator.past(), simulator, 0
        # The new keys of all rotations are those of the first: they lie beside the others, unused.
        self.ring = simulator.publisher.ring

    def copy(self, last=float("inf"), *, after=False):
        """A dying publisher, the store it writes, and one that comes after it with the same keys and trust."""
        self.copies += 1
        folder = self.simulator.folder / f"copy{self.copies}"
        shutil.copytree(self.simulator.folder / "trusted-ada", folder / "trusted")
        shutil.copytree(self.simulator.folder / "device1", folder / "device")
        store = MemoryStore(self.files)

        def someone(over):
            return Publisher(over, self.ring, folder / "trusted", who="ada", clock=self.simulator.clock)

        return someone(DyingStore(store, last, after=after)), store, someone(store), folder

    def accepted(self, store, folder):
        """What a device that was there before, and a new one, make of the registry."""
        seen = []
        for name in ("device", "new-device"):
            client = Client(folder / name, Server(store.files), clock=self.simulator.clock)
            client.enroll(self.simulator.root)
            seen.append(client.look().digest)
        bundle = client.fetch(folder / "models").bundle
        shutil.rmtree(folder / "models")
        assert seen == [bundle.digest] * 2
        return bundle.digest


@pytest.mark.parametrize("action", ACTIONS)
def test_kill_matrix_wherever_a_publisher_dies_devices_are_served_and_trying_again_succeeds(
    action, tmp_path, redness_bundle
):
    world = World(tmp_path / "sim", redness_bundle)
    act = ACTIONS[action]
    whole, store, after_it, folder = world.copy()
    act(whole, world.values)
    wanted, served_before = world.accepted(store, folder), world.values["second"].digest
    told, points = story(after_it), kill_points(whole.store.done)
    for point, after in points:
        dying, store, after_it, folder = world.copy(point, after=after)
        with pytest.raises(KilledError):
            act(dying, world.values)
        assert world.accepted(store, folder) in {served_before, wanted}
        act(after_it, world.values)
        assert after_it.look().catalog.resolve("stable") == wanted
        assert story(after_it) == told
        sound(after_it)
    print(f"{action}: killed at {len(points)} points")
    assert sum(after for _, after in points) >= 4


def test_kill_matrix_replacing_a_lost_key_can_be_interrupted_anywhere(tmp_path, redness_bundle):
    """Nobody has the old key, so devices wait until all is done; what they run goes on running."""
    world = World(tmp_path / "sim", redness_bundle)
    (lost,) = (world.simulator.folder / "keys").glob("timestamp-*.pem")
    lost.unlink()
    world.ring = KeyRing([lost.parent], lambda _: "correct horse")

    def act(publisher):
        rotate(publisher, "timestamp", world.values["old"]["timestamp"], lost=True)

    whole, _, _, _ = world.copy()
    act(whole)
    points = kill_points(whole.store.done)
    for point, after in points:
        dying, store, after_it, folder = world.copy(point, after=after)
        with pytest.raises(KilledError):
            act(dying)
        world.simulator.time += 60
        act(after_it)
        assert world.accepted(store, folder) == world.values["second"].digest
        assert story(after_it)[-1] == ("rotate-key", "")
        sound(after_it)
    print(f"rotate-key --lost: killed at {len(points)} points")


def test_kill_matrix_making_a_registry_can_be_interrupted_anywhere(tmp_path):
    def someone(folder, store):
        return Publisher(store, KeyRing([folder / "keys"], lambda _: "x"), folder / "t", who="ada", clock=lambda: 1.7e9)

    counting = DyingStore(MemoryStore(), float("inf"))
    init(someone(tmp_path / "whole", counting))
    points = kill_points(counting.done)
    for point, after in points:
        folder, store = tmp_path / f"{point}{after}", MemoryStore()
        with pytest.raises(KilledError):
            init(someone(folder, DyingStore(store, point, after=after)))
        if "metadata/timestamp.json" not in store.files:
            init(someone(folder, store))
        again = someone(folder, store)
        assert story(again) == [("init", "")]
        sound(again)
    print(f"init: killed at {len(points)} points")


@pytest.mark.parametrize(
    ("fault", "once"), [(None, False), (errno.ENOSPC, False), (errno.EIO, True), (errno.EROFS, False)]
)
def test_kill_matrix_in_a_folder_every_write_to_the_disk_may_be_the_last(tmp_path, redness_bundle, fault, once):
    """Below the store: each temporary file, flush and rename, of the registry and of the publisher's own trust.

    Without `fault` the publisher is killed there; else the disk fails, `once` or from there on.
    """
    simulator = Simulator(tmp_path / "sim", redness_bundle, FolderStore(tmp_path / "registry"))
    served = simulator.release("1").digest
    new = simulator.bundle("2")
    done, last = 0, float("inf")
    ended = KilledError if fault is None else RegistryError

    def dying(function):
        def call(*arguments, **named):
            nonlocal done
            done += 1
            if done == last + 1 or (done > last and not once):
                raise KilledError if fault is None else OSError(fault, os.strerror(fault))
            return function(*arguments, **named)

        return call

    patch = pytest.MonkeyPatch()
    for where, name in ((os, "fsync"), (os, "fchmod"), (tempfile, "mkstemp"), (pathlib.Path, "replace"),
                        (pathlib.Path, "unlink"), (pathlib.Path, "mkdir")):  # fmt: skip
        patch.setattr(where, name, dying(getattr(where, name)))

    def trial(number, limit):
        nonlocal done, last
        last = float("inf")
        registry, trusted = tmp_path / f"registry{number}", tmp_path / f"trusted{number}"
        shutil.copytree(simulator.store.folder, registry)
        shutil.copytree(simulator.folder / "trusted-ada", trusted)
        ring = KeyRing([simulator.folder / "keys"], lambda _: "correct horse")
        publisher = Publisher(FolderStore(registry), ring, trusted, who="ada", clock=simulator.clock)
        done, last = 0, limit
        try:
            publisher.publish(new, "stable")
        except ended:
            pass
        finally:
            count, last = done, float("inf")
        device = Client(tmp_path / f"device{number}", StoreTransport(FolderStore(registry)), clock=simulator.clock)
        device.enroll(simulator.root)
        assert device.look().digest in {served, new.digest}
        publisher.publish(new, "stable")
        assert device.look().digest == new.digest
        sound(publisher)
        shutil.rmtree(registry)
        return count

    try:
        count = trial(0, float("inf"))
        for point in range(count):
            trial(point + 1, point)
    finally:
        patch.undo()
    what = "killed before" if fault is None else f"{errno.errorcode[fault]} at"
    print(f"publish into a folder: {what} each of {count} writes, flushes and renames")
    assert count > 30


def test_a_registry_is_static_files_that_a_person_can_read(tmp_path, redness_bundle):
    simulator = Simulator(tmp_path / "sim", redness_bundle, FolderStore(tmp_path / "registry"))
    bundle = simulator.release("1")
    assert Bundle.open(tmp_path / "registry" / "bundles" / bundle.digest).digest == bundle.digest
    signed = json.loads((tmp_path / "registry" / "metadata" / "2.targets.json").read_bytes())["signed"]
    assert signed["targets"]["channels/stable.json"]["hashes"]["sha256"] == bundle.digest


def test_a_swap_whose_answer_was_lost_counts_once(simulator):
    class Forgetful(MemoryStore):
        def put_if(self, key, data, tag):
            super().put_if(key, data, tag)
            return False

    store = Forgetful()
    store.files = simulator.store.files
    assert simulator.someone("bob", store=store).publish(simulator.bundle("1"), "stable")
    assert story(simulator.publisher) == [("init", ""), ("publish", "channels/stable")]
