"""The attacks that the specification of The Update Framework lists, one test each, and some that are ours.

https://theupdateframework.github.io/specification/latest/#goals-to-protect-against-specific-attacks
"""

import itertools
import json

import pytest

from okko_models.errors import BundleError
from okko_models.registry.client import Limits
from okko_models.registry.errors import ExpiredError, MissingError, OfflineError, UntrustedError
from okko_models.registry.keys import KeyRing
from okko_models.registry.metadata import bundle_key
from okko_models.registry.publisher import Publisher
from okko_models.registry.root import draft_rotation, finish_rotation, init
from tests.models.registry.simulator import DAY_S, MemoryStore, Simulator, tampered


def everything(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def forged(simulator, **keys) -> dict[str, bytes]:
    """The registry of somebody with other keys, holding an evil bundle."""
    store = MemoryStore()
    folder = simulator.folder / "evil"
    evil = Publisher(store, KeyRing([folder], lambda _: "evil"), folder / "trusted", who="eve", clock=simulator.clock)
    init(evil)
    evil.publish(simulator.bundle("evil"), "stable")
    return store.files


def test_arbitrary_installation_files_signed_by_other_keys_are_refused(simulator, tmp_path):
    simulator.release("1")
    client, server = simulator.device()
    client.look()
    server.files = forged(simulator)
    with pytest.raises(UntrustedError):
        client.fetch(tmp_path / "models")
    with pytest.raises(UntrustedError):
        simulator.device(server.files)[0].fetch(tmp_path / "models")
    assert not list(tmp_path.glob("models/*"))


def test_arbitrary_installation_a_bundle_put_in_the_place_of_another_is_refused(simulator, tmp_path):
    good, evil = simulator.release("1"), simulator.bundle("6")
    client, server = simulator.device()
    for name in (*evil.manifest.files, "manifest.json"):
        server.replies[bundle_key(good.digest, name)] = (evil.path / name).read_bytes()
    with pytest.raises(UntrustedError, match="not the one that was signed"):
        client.fetch(tmp_path / "models")
    del server.replies[bundle_key(good.digest, "manifest.json")]
    server.replies[bundle_key(good.digest, "model.onnx")] = b"x" * good.manifest.files["model.onnx"].size
    with pytest.raises(UntrustedError, match=r"model\.onnx"):
        client.fetch(tmp_path / "models")
    server.replies.clear()
    assert client.fetch(tmp_path / "models").bundle.digest == good.digest


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets", "root"])
def test_arbitrary_installation_metadata_with_one_altered_word_are_refused(simulator, role):
    simulator.release("1")
    client, server = simulator.device()
    if role == "root":
        rotate(simulator, "snapshot")
    key = max((key for key in server.files if key.endswith(f"{role}.json") and "pending" not in key), key=version)
    server.replies[key] = tampered(server.files[key], version=7)
    with pytest.raises(UntrustedError):
        client.look()


def version(key):
    return int(key.removeprefix("metadata/").split(".")[0]) if key.count(".") == 2 else 0


def test_rollback_a_registry_from_before_is_refused(simulator, tmp_path):
    old = simulator.release("1")
    past = simulator.past()
    new = simulator.release("2")
    client, server = simulator.device()
    assert client.fetch(tmp_path / "models").bundle.digest == new.digest
    server.files = past
    with pytest.raises(UntrustedError):
        client.fetch(tmp_path / "models")
    assert not (tmp_path / "models" / old.digest).exists()


def test_rollback_is_refused_by_a_device_whose_clock_says_1970(simulator, tmp_path):
    simulator.release("1")
    past = simulator.past()
    new = simulator.release("2")
    client, server = simulator.device(clock=lambda: 0.0)
    assert client.fetch(tmp_path / "models").bundle.digest == new.digest
    server.files = past
    with pytest.raises(UntrustedError):
        client.look()


def test_rollback_that_the_publisher_means_is_followed(simulator, tmp_path):
    old = simulator.release("1")
    simulator.release("2")
    client, _ = simulator.device()
    client.look()
    simulator.publisher.roll_back("stable", why="jams on wet marbles")
    assert client.fetch(tmp_path / "models").bundle.digest == old.digest


def test_indefinite_freeze_a_registry_that_never_changes_is_refused_when_its_signatures_expire(simulator):
    simulator.release("1")
    frozen = simulator.past()
    client, _ = simulator.device(frozen)
    client.look()
    simulator.time += 59 * DAY_S
    client.look()
    simulator.time += 2 * DAY_S
    with pytest.raises(ExpiredError, match="refresh"):
        client.look()
    simulator.publisher.refresh()
    assert simulator.device()[0].look().version == "1"


def test_indefinite_freeze_is_noticed_with_a_clock_of_1970_once_something_later_was_signed(simulator):
    simulator.release("1")
    frozen = simulator.past()
    client, server = simulator.device(frozen, clock=lambda: 0.0)
    assert client.look().at == client.newest_signed() == simulator.time
    simulator.time += 100 * DAY_S
    rotate(simulator, "")
    server.files = {**frozen, "metadata/2.root.json": simulator.store.files["metadata/2.root.json"]}
    with pytest.raises(ExpiredError):
        client.look()
    assert client.newest_signed() == simulator.time
    server.files = simulator.store.files
    assert client.look().at == simulator.time


def test_mix_and_match_parts_of_two_releases_are_refused(simulator, tmp_path):
    simulator.release("1")
    past = simulator.past()
    new = simulator.release("2")
    for role in ("targets", "snapshot"):
        client, server = simulator.device()
        newest = max((key for key in server.files if key.endswith(f"{role}.json")), key=version)
        older = max((key for key in past if key.endswith(f"{role}.json")), key=version)
        server.replies[newest] = past[older]
        with pytest.raises(UntrustedError):
            client.look()
    client, server = simulator.device()
    server.replies[bundle_key(new.digest, "golden/00.png")] = new.read("golden/01.png")
    with pytest.raises(UntrustedError):
        client.fetch(tmp_path / "models")


def endless(key, start):
    return itertools.repeat(b"{" * 4096)


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets", "root"])
def test_endless_data_in_the_place_of_metadata_is_cut_off(simulator, role):
    simulator.release("1")
    client, server = simulator.device()
    key = max((key for key in server.files if key.endswith(f"{role}.json")), key=version)
    server.replies["metadata/2.root.json" if role == "root" else key] = endless
    with pytest.raises(UntrustedError, match="does not end"):
        client.look()


@pytest.mark.parametrize("name", ["manifest.json", "model.onnx"])
def test_endless_data_in_the_place_of_a_file_is_cut_off_at_its_signed_size(simulator, tmp_path, name):
    bundle = simulator.release("1")
    client, server = simulator.device()
    server.replies[bundle_key(bundle.digest, name)] = endless
    with pytest.raises(UntrustedError, match="does not end"):
        client.fetch(tmp_path / "models")
    assert sum(path.stat().st_size for path in (tmp_path / "models").rglob("*") if path.is_file()) < 1 << 20


def test_extraneous_files_beside_the_signed_ones_are_never_asked_for(simulator, tmp_path):
    bundle = simulator.release("1")
    client, server = simulator.device()
    server.files = {**server.files, bundle_key(bundle.digest, "hook.py"): b"import os", "install.sh": b"reboot"}
    fetched = client.fetch(tmp_path / "models").bundle
    names = {path.relative_to(fetched.path).as_posix() for path in fetched.path.rglob("*") if path.is_file()}
    assert names == {*bundle.manifest.files, "manifest.json"}
    assert not any("hook" in key or "install" in key for key, _ in server.asked)


def test_extraneous_files_in_an_unfinished_download_are_removed(simulator, tmp_path):
    bundle = simulator.release("1")
    client, _ = simulator.device()
    partial = tmp_path / "models" / f".partial-{bundle.digest}"
    partial.mkdir(parents=True)
    (partial / "hook.py").write_bytes(b"import os")
    (partial / "model.onnx").symlink_to("/etc/passwd")
    fetched = client.fetch(tmp_path / "models").bundle
    assert not (fetched.path / "hook.py").exists()
    assert not (fetched.path / "model.onnx").is_symlink()


def test_slow_retrieval_a_byte_now_and_then_is_given_up(simulator, tmp_path):
    simulator.release("1")
    client, server = simulator.device()
    server.pieces, server.seconds_per_piece = 1, 15.0
    with pytest.raises(OfflineError, match="too slow"):
        client.look()
    assert len(server.asked) <= 2


def test_wrong_key_a_publisher_without_the_right_keys_cannot_publish(simulator):
    simulator.release("1")
    stranger = simulator.someone("eve", keys="other-keys")
    before = simulator.past()
    with pytest.raises(Exception, match="needs 1 of the keys"):
        stranger.publish(simulator.bundle("2"), "stable")
    assert simulator.store.files["metadata/timestamp.json"] == before["metadata/timestamp.json"]


def rotate(simulator, role, **options):
    draft = draft_rotation(simulator.publisher, role, **options)
    assert draft.complete
    finish_rotation(simulator.publisher, draft.data, lost=options.get("lost", False))


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets", "root"])
def test_key_compromise_what_a_stolen_key_signs_is_refused_once_the_key_was_replaced(simulator, tmp_path, role):
    simulator.release("1")
    client, _ = simulator.device()
    client.look()
    stolen = tmp_path / "stolen"
    stolen.mkdir()
    for path in (simulator.folder / "keys").glob("*.pem"):
        (stolen / path.name).write_bytes(path.read_bytes())
    rotate(simulator, role)
    assert client.look().version == "1"
    thief = Publisher(
        MemoryStore(simulator.past()),
        KeyRing([stolen], lambda _: "correct horse"),
        tmp_path / "thief",
        who="eve",
        clock=simulator.clock,
    )
    thief.enroll(simulator.root)
    if role == "root":
        with pytest.raises(Exception, match="signatures"):
            finish_rotation(thief, draft_rotation(thief, "timestamp").data)
    else:
        with pytest.raises(Exception, match="needs 1 of the keys"):
            thief.publish(simulator.bundle("evil"), "stable")
    simulator.release("2")
    assert client.fetch(tmp_path / "models").bundle.manifest.version == "2"


def test_key_compromise_the_stolen_timestamp_key_alone_cannot_bring_a_bundle(simulator, tmp_path):
    """With the key that lies on a server one can freeze, for as long as signatures last, and nothing else."""
    simulator.release("1")
    client, server = simulator.device()
    client.look()
    evil = forged(simulator)
    mixed = dict(evil)
    signed = json.loads(server.files["metadata/timestamp.json"])["signed"]
    snapshot = max((key for key in evil if key.endswith("snapshot.json")), key=version)
    data = evil[snapshot]
    import hashlib

    from securesystemslib.signer import CryptoSigner
    from tuf.api.metadata import Metadata, MetaFile

    ring = simulator.publisher.ring
    root = simulator.publisher.look().trusted.root
    (signer,) = ring.signers(root, "timestamp")
    assert isinstance(signer, CryptoSigner)
    metadata = Metadata.from_bytes(server.files["metadata/timestamp.json"])
    metadata.signed.version = signed["version"] + 1
    number = version(snapshot) + 100
    metadata.signed.snapshot_meta = MetaFile(number, len(data), {"sha256": hashlib.sha256(data).hexdigest()})
    metadata.sign(signer)
    mixed |= {"metadata/timestamp.json": metadata.to_bytes(), f"metadata/{number}.snapshot.json": data}
    server.files = mixed
    with pytest.raises(UntrustedError):
        client.fetch(tmp_path / "models")


def test_key_compromise_a_timestamp_of_a_thousand_years_from_now_is_forgotten_with_its_key(simulator):
    simulator.release("1")
    today = simulator.time
    simulator.time += 300 * 365 * DAY_S
    with pytest.raises(Exception, match="expired"):
        simulator.publisher.refresh()
    simulator.time = today + 600 * DAY_S
    simulator.publisher.refresh()
    client, _ = simulator.device()
    client.look()
    simulator.time = today
    with pytest.raises(Exception, match="clock"):
        simulator.publisher.refresh()
    rotate(simulator, "timestamp")
    simulator.publisher.refresh()
    client.look()
    assert client.newest_signed() == today


def test_a_lost_key_is_replaced_without_it(simulator):
    simulator.release("1")
    client, _ = simulator.device()
    client.look()
    for path in (simulator.folder / "keys").glob("timestamp-*.pem"):
        path.unlink()
    with pytest.raises(Exception, match="needs 1 of the keys"):
        simulator.publisher.refresh()
    rotate(simulator, "timestamp", lost=True)
    assert client.look().version == "1"


def test_wrong_device_the_pin_of_another_device_is_not_followed(simulator, tmp_path):
    first, second = simulator.release("1"), simulator.release("2")
    simulator.publisher.pin("belt-3", first.digest)
    client, server = simulator.device()
    assert client.look(device="belt-3").digest == first.digest
    assert client.look(device="belt-3").place == "pins/belt-3"
    assert client.look(device="belt-4").digest == second.digest
    # A server has no say in it: which bundle a device gets stands in the signed metadata alone.
    assert not any("pin" in key or "channel" in key for key, _ in server.asked)
    simulator.publisher.unpin("belt-3")
    assert client.look(device="belt-3").digest == second.digest


def test_a_channel_with_nothing_in_it_is_told_apart_from_a_broken_registry(simulator):
    client, server = simulator.device()
    with pytest.raises(MissingError, match="no bundle"):
        client.look()
    server.offline = True
    with pytest.raises(OfflineError):
        client.look()


def test_a_rightly_signed_bundle_with_a_model_that_okko_did_not_make_is_refused(simulator, tmp_path, redness_bundle):
    simulator.release("1")
    client, _ = simulator.device(limits=Limits(activation_bytes=1 << 20))
    with pytest.raises(BundleError, match="MiB"):
        client.fetch(tmp_path / "models")
    client, _ = simulator.device(limits=Limits(bundle_bytes=100))
    with pytest.raises(BundleError, match="at most"):
        client.fetch(tmp_path / "models")
    assert not list(tmp_path.glob("models/*"))


def test_nothing_is_written_outside_of_the_two_folders(tmp_path, redness_bundle):
    simulator = Simulator(tmp_path / "sim", redness_bundle)
    simulator.release("1")
    client, _ = simulator.device()
    before = {path for path in tmp_path.rglob("*") if "device1" not in path.parts}
    client.fetch(tmp_path / "models")
    after = {path for path in tmp_path.rglob("*") if "device1" not in path.parts and "models" not in path.parts}
    assert after == before
