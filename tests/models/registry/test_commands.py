import json

import pytest
from click.testing import CliRunner

from okko_models.commands.registry import registry
from okko_models.errors import OkkoError
from tests.models.registry.simulator import renamed


@pytest.fixture
def okko(tmp_path, monkeypatch):
    monkeypatch.setenv("OKKO_REGISTRY", str(tmp_path / "registry"))
    monkeypatch.setenv("OKKO_REGISTRY_KEYS", str(tmp_path / "keys"))
    monkeypatch.setenv("OKKO_REGISTRY_PASSPHRASE", "correct horse")

    def run(*words, code=0, env=None):
        result = CliRunner().invoke(registry, [str(word) for word in words], env=env)
        if isinstance(result.exception, OkkoError):
            raise result.exception
        assert result.exit_code == code, (result.output, result.exception)
        return result.stdout

    return run


@pytest.fixture
def bundles(redness_bundle):
    from okko_models.bundle import Bundle

    return [renamed(Bundle.open(redness_bundle(f"{version}.okko")), version) for version in ("1", "2")]


def test_a_day_with_the_registry(okko, bundles, tmp_path):
    assert "root.json" in okko("init")
    assert "in service in candidate" in okko("publish", bundles[0].path)
    assert "it was already" in okko("publish", bundles[0].path)
    okko("promote", "candidate", "--why", "beats the old one")
    okko("publish", bundles[1].path, "--channel", "stable")
    okko("pin", "belt-3", bundles[0].digest[:10])
    listed = json.loads(okko("list", "--json"))
    assert listed["places"]["channels/stable"]["digest"] == bundles[1].digest
    assert listed["places"]["pins/belt-3"]["digest"] == bundles[0].digest
    assert bundles[0].digest[:12] in okko("rollback", "--why", "jams")
    assert "redness 1" in okko("show", "stable")
    told = okko("log", "--channel", "stable")
    assert [line.split()[2] for line in told.splitlines()] == ["promote", "publish", "rollback"]
    assert "jams" in told
    assert json.loads(okko("log", "--json", "--device", "belt-3"))[0]["action"] == "pin"
    okko("unpin", "belt-3")
    assert "1 bundles removed" in okko("gc", "--keep", "0")
    assert "until" in okko("refresh")
    assert "new timestamp key" in okko("rotate-key", "timestamp")
    assert "in service" in okko("rotate-key", "--renew")
    assert "compared" in okko("verify")


def test_a_tampered_registry_ends_verify_with_code_1(okko, bundles, tmp_path):
    okko("init")
    okko("publish", bundles[0].path)
    next((tmp_path / "registry").glob("bundles/*/model.onnx")).write_bytes(b"?")
    assert "wrong: " in okko("verify", code=1)


def test_reading_needs_no_keys_and_says_what_it_believes(okko, bundles, tmp_path):
    okko("init")
    okko("publish", bundles[0].path)
    nobody = {"OKKO_REGISTRY_KEYS": None, "OKKO_REGISTRY_PASSPHRASE": None}
    assert "redness" in okko("list", env=nobody)
    assert "redness" in okko("--root", tmp_path / "keys" / "root.json", "list", env=nobody)
    with pytest.raises(OkkoError, match="whose keys"):
        okko("promote", "candidate", env=nobody)


def test_a_second_person_needs_the_root_and_keys(okko, bundles, tmp_path):
    okko("init")
    second = tmp_path / "second"
    second.mkdir()
    env = {"OKKO_REGISTRY_KEYS": str(second)}
    with pytest.raises(OkkoError, match=r"root\.json"):
        okko("publish", bundles[0].path, env=env)
    for path in (tmp_path / "keys").iterdir():
        if path.name.startswith(("root.json", "targets", "snapshot", "timestamp")):
            (second / path.name).write_bytes(path.read_bytes())
    okko("--who", "bob", "publish", bundles[0].path, env=env)
    assert json.loads(okko("log", "--json"))[-1]["who"] == "bob"


def test_two_people_replace_a_key_together(okko, tmp_path):
    okko("init", "--share", "root=2/2")
    first, second = sorted((tmp_path / "keys").glob("root-*.pem"))
    (tmp_path / "other").mkdir()
    second.rename(tmp_path / "other" / second.name)
    draft = tmp_path / "draft.json"
    assert "more signatures: 1 by old root keys, 1 by new" in okko("rotate-key", "targets", "--draft", draft)
    assert "in service" in okko("--keys", tmp_path / "keys", "--keys", tmp_path / "other", "sign", draft)
    assert first.is_file()
    okko("verify")


@pytest.mark.parametrize(
    "words",
    [("init", "--share", "root=3/2"), ("init", "--share", "boss=1/1"), ("init", "--days", "root=soon"),
     ("rotate-key",), ("rotate-key", "targets", "--renew"), ("promote",)],
)  # fmt: skip
def test_wrong_usage_is_code_2(okko, words):
    okko(*words, code=2)


def test_a_place_that_is_no_registry_is_told(okko, bundles, tmp_path):
    with pytest.raises(OkkoError, match=r"root\.json"):
        okko("publish", bundles[0].path)
    with pytest.raises(OkkoError, match="no registry"):
        okko("list", env={"OKKO_REGISTRY_KEYS": None})
    with pytest.raises(OkkoError, match="which registry"):
        okko("list", env={"OKKO_REGISTRY": None, "OKKO_REGISTRY_KEYS": None})
    okko("init")
    with pytest.raises(OkkoError, match="already"):
        okko("init")
