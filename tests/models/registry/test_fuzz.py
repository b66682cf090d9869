"""Whatever a server or a worn-out disk gives: a device says no in words, or does what was signed."""

import random

import pytest

from okko_models.errors import OkkoError
from okko_models.registry.metadata import bundle_key


def mutated(data: bytes, chance: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(out))
        match chance.randrange(5):
            case 0:
                out[at] ^= 1 << chance.randrange(8)
            case 1:
                del out[at : at + chance.randint(1, 40)]
            case 2:
                out[at:at] = chance.randbytes(chance.randint(1, 20))
            case 3:
                out[at:at] = out[(start := chance.randrange(len(out))) : start + 60]
            case _:
                out[at : at + 1] = chance.choice(
                    [b"[" * 5000, b"9" * 400, b'"', b"\\u0000", b"-", b"null", b"{}", b"1e999"]
                )
        if not out:
            return b""
    return bytes(out)


@pytest.mark.parametrize("role", ["root", "timestamp", "snapshot", "targets", "manifest"])
def test_mutated_metadata_end_in_words_and_leave_the_device_as_it_was(simulator, tmp_path, role):
    from okko_models.registry.root import rotate

    bundle = simulator.release("1")
    rotate(simulator.publisher, "snapshot")
    good = simulator.past()
    if role == "manifest":
        key = bundle_key(bundle.digest, "manifest.json")
    else:
        key = sorted((k for k in good if k.endswith(f"{role}.json") and "pending" not in k), key=lambda k: (len(k), k))[
            -1
        ]
    chance = random.Random(f"okko {role}")
    client, server = simulator.device()
    for number in range(60):
        server.replies = {key: mutated(good[key], chance)}
        try:
            fetched = client.fetch(tmp_path / f"models{number}")
        except OkkoError:
            continue
        assert fetched.bundle.digest == bundle.digest
    server.replies = {}
    assert client.fetch(tmp_path / "models").bundle.digest == bundle.digest


@pytest.mark.parametrize("name", ["root.json", "roots/2.root.json", "timestamp.json", "snapshot.json", "targets.json"])
def test_a_mutated_state_of_the_device_ends_in_words_or_is_fetched_again(simulator, tmp_path, name):
    from okko_models.registry.root import rotate

    simulator.release("1")
    rotate(simulator.publisher, "timestamp")
    client, _ = simulator.device()
    client.look()
    path = tmp_path / "sim" / "device1" / name
    good, chance = path.read_bytes(), random.Random(f"okko {name}")
    for _ in range(60):
        path.write_bytes(mutated(good, chance))
        try:
            assert client.look().version == "1"
            client.newest_signed()
        except OkkoError:
            assert name == "root.json"
        path.write_bytes(good)
    assert client.look().version == "1"
