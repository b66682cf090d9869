import stat

import pytest

from okko_cloud.making import make_registry, publisher
from okko_models.registry.errors import RegistryError
from tests.models.registry.simulator import MemoryStore


@pytest.fixture(autouse=True)
def no_passphrase(monkeypatch):
    monkeypatch.delenv("OKKO_REGISTRY_PASSPHRASE", raising=False)


def test_a_registry_is_made_once_with_keys_for_this_user_alone(tmp_path):
    store, keys = MemoryStore(), tmp_path / "keys"
    make_registry(store, keys)
    files = dict(store.files)
    make_registry(store, keys)
    assert store.files == files
    assert stat.S_IMODE(keys.stat().st_mode) == 0o700
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in [*keys.glob("*.pem"), keys / "passphrase"])
    publisher(store, keys).refresh()
    assert store.files != files


def test_making_one_that_was_interrupted_at_the_end_is_finished(tmp_path):
    store = MemoryStore()
    make_registry(store, tmp_path)
    root = (tmp_path / "root.json").read_bytes()
    (tmp_path / "root.json").unlink()
    make_registry(store, tmp_path)
    assert (tmp_path / "root.json").read_bytes() == root


def test_a_registry_with_other_keys_is_left_alone(tmp_path):
    store = MemoryStore()
    make_registry(store, tmp_path / "theirs")
    files = dict(store.files)
    with pytest.raises(RegistryError, match="its keys are not in"):
        make_registry(store, tmp_path / "mine")
    assert store.files == files


def test_a_passphrase_of_ones_own_is_not_stored(tmp_path, monkeypatch):
    store = MemoryStore()
    monkeypatch.setenv("OKKO_REGISTRY_PASSPHRASE", "correct horse")
    make_registry(store, tmp_path)
    assert not (tmp_path / "passphrase").exists()
    assert not any(b"correct horse" in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    publisher(store, tmp_path).refresh()
    monkeypatch.delenv("OKKO_REGISTRY_PASSPHRASE")
    with pytest.raises(RegistryError, match="needs its passphrase"):
        publisher(store, tmp_path).refresh()


def test_without_root_metadata_nothing_is_believed(tmp_path):
    with pytest.raises(RegistryError, match=r"root\.json is missing"):
        publisher(MemoryStore(), tmp_path)
