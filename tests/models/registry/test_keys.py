import stat
from typing import ClassVar

import pytest
from securesystemslib.signer import SIGNER_FOR_URI_SCHEME, CryptoSigner

from okko_models.registry.checking import check
from okko_models.registry.client import Client
from okko_models.registry.errors import RegistryError
from okko_models.registry.keys import KeyRing
from okko_models.registry.publisher import Publisher
from okko_models.registry.root import Share, init, rotate
from tests.models.registry.simulator import MemoryStore, Server


def test_key_files_are_encrypted_and_for_this_user_alone(simulator):
    files = list((simulator.folder / "keys").glob("*.pem"))
    assert sorted(path.name.split("-")[0] for path in files) == ["root", "snapshot", "targets", "timestamp"]
    for path in files:
        assert path.read_bytes().startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----")
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_wrong_passphrase_and_an_empty_one_are_refused(simulator, tmp_path):
    simulator.publisher.ring = KeyRing([simulator.folder / "keys"], lambda _: "wrong")
    with pytest.raises(RegistryError, match="wrong passphrase"):
        simulator.publisher.refresh()
    with pytest.raises(RegistryError, match="always encrypted"):
        KeyRing([tmp_path], lambda _: "").create("root")


def test_the_passphrase_of_a_role_is_asked_for_once(simulator):
    asked = []

    def ask(role):
        asked.append(role)
        return "correct horse"

    simulator.publisher.ring = KeyRing([simulator.folder / "keys"], ask)
    simulator.publisher.refresh()
    simulator.publisher.refresh()
    assert sorted(asked) == ["snapshot", "targets", "timestamp"]


class Service(CryptoSigner):
    """A key service as securesystemslib has them (AWS KMS and others): keys are named, and never leave it."""

    keys: ClassVar = {}
    signed = 0

    @classmethod
    def import_(cls, name):
        if name not in cls.keys:
            raise OSError(f"no key {name}")
        return f"fakekms:{name}", cls.keys[name].public_key

    @classmethod
    def from_priv_key_uri(cls, priv_key_uri, public_key, secrets_handler=None):
        return cls(cls.keys[priv_key_uri.removeprefix("fakekms:")]._private_key, public_key)

    def sign(self, payload):
        Service.signed += 1
        return super().sign(payload)


@pytest.fixture
def service(monkeypatch):
    monkeypatch.setitem(SIGNER_FOR_URI_SCHEME, "fakekms", Service)
    monkeypatch.setattr(
        Service, "keys", {"alias/one": CryptoSigner.generate_ecdsa(), "two": CryptoSigner.generate_rsa()}
    )
    monkeypatch.setattr(Service, "signed", 0)


def test_keys_in_a_key_service_sign_and_anybody_who_may_use_it_can_publish(service, tmp_path, redness_bundle):
    from okko_models.bundle import Bundle

    def someone(name):
        return Publisher(
            store, KeyRing([tmp_path / name], lambda _: "x"), tmp_path / f"t-{name}", who=name, clock=lambda: 1.7e9
        )

    store = MemoryStore()
    uris = {role: Share(0, 1, ("fakekms:alias/one",)) for role in ("targets", "snapshot", "timestamp")}
    root = init(someone("ada"), uris)
    assert not list((tmp_path / "ada").glob("targets-*"))
    bob = someone("bob")
    bob.enroll(root)
    bob.publish(Bundle.open(redness_bundle()), "stable")
    assert Service.signed == 6
    rotate(someone("ada"), "timestamp", uri="fakekms:two")
    bob.refresh()
    assert not check(store, bob.look(), 1.7e9).errors
    device = Client(tmp_path / "device", Server(store.files), clock=lambda: 1.7e9)
    device.enroll(root)
    assert device.look().version == "1"


def test_a_key_that_the_service_does_not_have_is_told(service, tmp_path):
    ring = KeyRing([tmp_path], lambda _: "x")
    with pytest.raises(RegistryError, match="no key three"):
        ring.connect("fakekms:three")
    for wrong in ("nothing:x", "fakekms:", "plain"):
        with pytest.raises(RegistryError, match="no key in a key service"):
            ring.connect(wrong)


def test_a_service_that_signs_wrongly_is_found_out_before_anything_is_written(service, tmp_path, monkeypatch):
    monkeypatch.setattr(Service, "sign", lambda self, payload: CryptoSigner.sign(self, payload + b" "))
    store = MemoryStore()
    publisher = Publisher(store, KeyRing([tmp_path], lambda _: "x"), tmp_path / "t", who="x", clock=lambda: 1.7e9)
    with pytest.raises(RegistryError, match="signing as timestamp failed"):
        init(publisher, {"timestamp": Share(0, 1, ("fakekms:two",))})
    assert "metadata/timestamp.json" not in store.files
