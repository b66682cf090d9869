"""`okko device` and `okko update`: what a person may ask and do, with and without an agent at work."""

from __future__ import annotations

import json
import shutil
import time

import pytest
from click.testing import CliRunner

from okko_edge.commands.device import device
from okko_edge.commands.update import update
from okko_edge.updater.shelf import Shelf
from okko_models.errors import OkkoError
from okko_models.registry.store import FolderStore
from tests.models.registry.simulator import Simulator


class Shell:
    """A device with a configuration file, and a registry on a stick."""

    def __init__(self, folder, redness_bundle):
        self.simulator = Simulator(folder / "sim", redness_bundle, FolderStore(folder / "stick"))
        self.simulator.time = time.time()
        self.stick, self.models = folder / "stick", folder / "models"
        self.root = folder / "root.json"
        self.root.write_bytes(self.simulator.root)
        self.config = folder / "okko.toml"
        self.configured = self.simulator.bundle("configured")
        self.config.write_text(
            f'bundle = "{self.configured.path}"\n[camera]\nwidth = 32\nheight = 24\n'
            f'[updates]\nenabled = true\nfolder = "{self.models}"\ndevice = "belt-1"\n'
        )

    @property
    def shelf(self):
        return Shelf(self.models)

    def __call__(self, *words, command=device, code=0):
        result = CliRunner().invoke(command, [*map(str, words), "--config", str(self.config)])
        if isinstance(result.exception, OkkoError):
            raise result.exception
        assert result.exit_code == code, (result.output, result.exception)
        return result.output

    def status(self):
        return json.loads(self("status", "--json"))


@pytest.fixture
def shell(tmp_path, redness_bundle):
    return Shell(tmp_path / "shell", redness_bundle)


def test_a_day_with_a_usb_stick_and_no_network(shell):
    first = shell.simulator.release("1")
    said = shell("enroll", shell.stick, shell.root)
    assert "channels/stable: redness 1" in said
    said = shell("--from", shell.stick, command=update)
    assert first.digest[:12] in said
    assert "repeats its golden frames" in said
    assert "on probation for its first 100 marbles" in said
    told = shell.status()
    assert told["in_service"]["digest"] == told["sorting"]["digest"] == first.digest
    assert told["probation"]["starts"] == 0
    assert "is the one that is wanted" in shell("update")
    second = shell.simulator.release("2")
    shell.shelf.healthy(first.digest)
    shell("update", "--from", shell.stick)
    told = shell.status()
    assert (told["in_service"]["digest"], told["previous"]["digest"]) == (second.digest, first.digest)
    said = shell("rollback", "--why", "jams")
    assert f"{second.digest[:12]} is left" in said
    assert first.digest[:12] in said
    with pytest.raises(OkkoError, match="by hand: jams"):
        shell("update")
    assert shell.status()["in_service"]["digest"] == first.digest
    shell("update", "--again")
    told = shell.status()
    assert told["in_service"]["digest"] == second.digest
    assert [outcome["what"] for outcome in told["outcomes"]][-3:] == ["fetched", "tested", "switched"]
    text = shell("status")
    assert "in service" in text
    assert second.digest[:12] in text


def test_a_stick_without_enrolment_or_that_was_tampered_with_installs_nothing(shell):
    bundle = shell.simulator.release("1")
    with pytest.raises(OkkoError, match="okko device enroll"):
        shell("update", "--from", shell.stick)
    shell("enroll", shell.stick, shell.root)
    model = shell.stick / "bundles" / bundle.digest / "model.onnx"
    model.write_bytes(b"?" * model.stat().st_size)
    with pytest.raises(OkkoError, match="not the file that was signed"):
        shell("update", "--from", shell.stick)
    shutil.rmtree(shell.stick / "metadata")
    with pytest.raises(OkkoError):
        shell("update", "--from", shell.stick)
    assert shell.status()["sorting"]["digest"] == shell.configured.digest


def test_while_an_agent_is_at_work_a_model_is_only_brought_here(shell):
    bundle = shell.simulator.release("1")
    shell("enroll", shell.stick, shell.root)
    agent = shell.shelf
    assert agent.started()
    try:
        assert "okko run goes on with it" in shell("update")
        told = shell.status()
        assert told["agent"]
        assert told["candidate"]["digest"] == bundle.digest
        assert told["in_service"] is None
    finally:
        agent.give_up_charge()


def test_a_model_that_fails_its_self_test_is_rejected_in_words(shell):
    shell.simulator.release("1")
    shell("enroll", shell.stick, shell.root)
    shell.config.write_text(shell.config.read_text() + "latency_ms = 0.0001\n")
    with pytest.raises(OkkoError, match=r"updates\.latency_ms"):
        shell("update")
    assert shell.status()["rejected"][0]["reason"].startswith("it takes")
    assert shell.status()["in_service"] is None


def test_a_device_is_held_on_a_model_of_its_disk_or_of_the_registry(shell):
    first, second = shell.simulator.release("1"), shell.simulator.release("2")
    shell("enroll", shell.stick, shell.root)
    shell("update")
    shell.shelf.healthy(second.digest)
    assert "held on" in shell("pin", first.digest[:8])
    told = shell.status()
    assert told["pin"] == told["in_service"]["digest"] == first.digest
    assert "is the one that is wanted" in shell("update")
    shutil.move(shell.stick, shell.stick.with_name("away"))
    shell("pin", second.digest[:8])
    assert shell.status()["in_service"]["digest"] == second.digest
    shell("pin", "--none")
    assert shell.status()["pin"] == ""
    shell("pin", code=2)


@pytest.mark.parametrize("digest", ["abc", "0" * 64])
def test_a_pin_that_names_no_model_is_refused_and_changes_nothing(shell, digest):
    shell.simulator.release("1")
    shell("enroll", shell.stick, shell.root)
    with pytest.raises(OkkoError, match="names none of the registry's"):
        shell("pin", digest)
    assert shell.status()["pin"] == ""


def test_a_device_is_enrolled_without_a_network_and_never_with_two_registries(shell, tmp_path, redness_bundle):
    assert "note:" in shell("enroll", "http://127.0.0.1:9/models", shell.root)
    assert shell.status()["registry"] == "http://127.0.0.1:9/models"
    with pytest.raises(OkkoError, match=r"127\.0\.0\.1"):
        shell("update")
    assert "is the USB stick in?" in shell("enroll", tmp_path / "nowhere", shell.root)
    with pytest.raises(OkkoError, match="give a folder or s3"):
        shell("enroll", "ftp://127.0.0.1/models", shell.root)
    other = Simulator(tmp_path / "other", redness_bundle)
    shell.root.write_bytes(other.root)
    with pytest.raises(OkkoError, match="another registry"):
        shell("enroll", shell.stick, shell.root)
    shell.root.write_bytes(b"{}")
    with pytest.raises(OkkoError, match="not to be trusted"):
        shell("enroll", shell.stick, shell.root)


def test_there_is_nothing_to_go_back_from_before_the_first_update(shell):
    with pytest.raises(OkkoError, match="nothing to go back from"):
        shell("rollback")
    assert not shell.models.exists()


def test_status_of_a_device_that_never_heard_of_updates(shell):
    told = shell.status()
    assert not told["enrolled"]
    assert told["in_service"] is None
    assert told["sorting"]["version"] == "configured"
    assert "not enrolled" in shell("status")
    assert not shell.models.exists()


def test_the_models_of_another_user_are_not_touched(shell, monkeypatch):
    import os

    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(OkkoError, match="sudo -u"):
        shell("rollback")
