"""Keys in AWS KMS, over the real protocol: boto3's signed requests to moto's KMS on loopback."""

import base64
import json

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256

from okko_models.bundle import Bundle
from okko_models.registry.checking import check
from okko_models.registry.client import Client
from okko_models.registry.errors import RegistryError
from okko_models.registry.keys import KeyRing
from okko_models.registry.publisher import Publisher
from okko_models.registry.root import Share, init, rotate
from tests.models.registry.simulator import MemoryStore, Server
from tests.s3_servers import s3_server


@pytest.fixture(scope="module")
def endpoint():
    with s3_server("moto") as url:
        yield url


@pytest.fixture
def kms(endpoint, monkeypatch):
    """A client; two keys have the names alias/okko and alias/other."""
    import boto3
    from moto.kms.responses import KmsResponse
    from moto.kms.utils import ECDSAPrivateKey

    class WhatWasSaid:
        digest = False

    def answer(self):
        WhatWasSaid.digest = json.loads(self.body).get("MessageType") == "DIGEST"
        return sign(self)

    def sign_digest(self, message, signing_algorithm):
        assert WhatWasSaid.digest
        assert signing_algorithm == "ECDSA_SHA_256"
        return self.private_key.sign(message, ec.ECDSA(Prehashed(SHA256())))

    # moto takes a digest for a message, and hashes it once more; Amazon's KMS does not.
    sign = KmsResponse.sign
    monkeypatch.setattr(KmsResponse, "sign", answer)
    monkeypatch.setattr(ECDSAPrivateKey, "sign", sign_digest)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", endpoint)
    monkeypatch.setattr("boto3.DEFAULT_SESSION", None)
    client = boto3.client("kms")
    for alias in ("alias/okko", "alias/other"):
        known = {entry["AliasName"] for entry in client.list_aliases()["Aliases"]}
        if alias not in known:
            key = client.create_key(KeyUsage="SIGN_VERIFY", KeySpec="ECC_NIST_P256")["KeyMetadata"]["KeyId"]
            client.create_alias(AliasName=alias, TargetKeyId=key)
    return client


def someone(store, folder, clock=lambda: 1.7e9):
    return Publisher(store, KeyRing([folder], lambda _: "x"), folder / "trusted", who=folder.name, clock=clock)


def test_whoever_may_use_the_key_in_kms_publishes_and_devices_follow_it_and_its_successor(
    kms, tmp_path, redness_bundle
):
    store = MemoryStore()
    ada, bob = someone(store, tmp_path / "ada"), someone(store, tmp_path / "bob")
    root = init(ada, {role: Share(0, 1, ("awskms:alias/okko",)) for role in ("targets", "snapshot", "timestamp")})
    assert [path.name.partition("-")[0] for path in (tmp_path / "ada").glob("*.pem")] == ["root"]
    bob.enroll(root)
    bundle = Bundle.open(redness_bundle())
    bob.publish(bundle, "stable")
    rotate(ada, "timestamp", uri="awskms:alias/other")
    bob.refresh()
    assert not check(store, bob.look(), 1.7e9).errors
    device = Client(tmp_path / "device", Server(store.files), clock=lambda: 1.7e9)
    device.enroll(root)
    assert device.fetch(tmp_path / "models").bundle.digest == bundle.digest
    said = json.loads(store.files["metadata/1.root.json"])["signed"]
    (keyid,) = said["roles"]["targets"]["keyids"]
    public = base64.b64encode(kms.get_public_key(KeyId="alias/okko")["PublicKey"]).decode()
    assert said["keys"][keyid]["x-okko-uri"] == "awskms:alias/okko"
    assert public in said["keys"][keyid]["keyval"]["public"].replace("\n", "")


def test_a_key_that_is_not_there_cannot_sign_or_may_not_be_used_is_told(kms, tmp_path):
    ring = KeyRing([tmp_path], lambda _: "x")
    with pytest.raises(RegistryError, match=r"awskms:alias/nobody cannot be used.*NotFound"):
        ring.connect("awskms:alias/nobody")
    secret = kms.create_key(KeyUsage="ENCRYPT_DECRYPT")["KeyMetadata"]["KeyId"]
    with pytest.raises(RegistryError, match="cannot be used"):
        ring.connect(f"awskms:{secret}")


def test_a_key_that_was_removed_signs_nothing_and_nothing_is_written(kms, tmp_path, redness_bundle):
    from moto.kms.models import kms_backends

    store = MemoryStore()
    ada = someone(store, tmp_path / "ada")
    key = kms.create_key(KeyUsage="SIGN_VERIFY", KeySpec="ECC_NIST_P256")["KeyMetadata"]["KeyId"]
    init(ada, {"timestamp": Share(0, 1, (f"awskms:{key}",))})
    before = store.files["metadata/timestamp.json"]
    del kms_backends["123456789012"]["eu-central-1"].keys[key]
    with pytest.raises(RegistryError, match=r"timestamp.*(?s:.*)NotFound"):
        ada.publish(Bundle.open(redness_bundle()), "stable")
    assert store.files["metadata/timestamp.json"] == before
