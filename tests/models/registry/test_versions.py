"""A device meets a bundle of the format before its own, one of the format after, and one that no okko wrote."""

import contextlib
import json
import subprocess
import sys

import onnx
import pytest
from PIL import Image

from okko_models import manifest as manifests
from okko_models.bundle import Bundle
from okko_models.errors import BundleError
from okko_models.manifest import SCHEMA_VERSION

BEFORE, AFTER = SCHEMA_VERSION - 1, SCHEMA_VERSION + 1
VERSIONS = pytest.mark.parametrize(("version", "advice"), [(BEFORE, "Train the model again"), (AFTER, "Update okko")])


def of_version(told: dict, version: int) -> dict:
    """The manifest as another okko would write it: a later one adds to it, an earlier one lacks something."""
    told = told | {"schema_version": version}
    return told | {"lighting": {"lux": 400}} if version > SCHEMA_VERSION else told | {"metrics": None}


@pytest.fixture
def other_bundle(redness_bundle):
    def make(version):
        path = redness_bundle(f"v{version}.okko")
        manifest = path / "manifest.json"
        manifest.write_text(json.dumps(of_version(json.loads(manifest.read_text()), version)))
        return path

    return make


@contextlib.contextmanager
def another_okko(version):
    """This process publishes as an okko that knows the format `version`."""
    decode = manifests.decode

    def reads_its_own(data):
        told = json.loads(data)
        if told["schema_version"] != version:
            return decode(data)
        told.pop("lighting", None)
        metrics = {"metrics": told["metrics"] or {}}
        return decode(json.dumps(told | metrics | {"schema_version": SCHEMA_VERSION}).encode())

    manifests.decode = reads_its_own
    try:
        yield
    finally:
        manifests.decode = decode


@VERSIONS
def test_a_bundle_of_another_format_is_refused_with_what_to_do(other_bundle, version, advice):
    path = other_bundle(version)
    with pytest.raises(BundleError) as caught:
        Bundle.open(path)
    assert str(caught.value).startswith(
        f"{path}: manifest.json has schema version {version}; this okko reads version {SCHEMA_VERSION}. {advice}"
    )


@VERSIONS
def test_a_device_keeps_what_it_has_when_a_bundle_of_another_format_is_signed_for_it(
    simulator, other_bundle, tmp_path, version, advice
):
    old = simulator.release("1")
    client, server = simulator.device()
    assert client.fetch(tmp_path / "models").bundle.digest == old.digest
    with another_okko(version):
        new = Bundle.open(other_bundle(version))
        simulator.publisher.publish(new, "stable")
    assert client.look().digest == new.digest != old.digest
    server.asked.clear()
    with pytest.raises(BundleError, match=f"schema version {version}.*{advice}"):
        client.fetch(tmp_path / "models")
    # Neither the model nor anything else of it was downloaded, and nothing is left of the try.
    assert [key for key, _ in server.asked if key.startswith("bundles/")] == [f"bundles/{new.digest}/manifest.json"]
    assert [path.name for path in (tmp_path / "models").iterdir()] == [old.digest]
    assert Bundle.open(tmp_path / "models" / old.digest).digest == old.digest
    simulator.publisher.roll_back()
    assert client.fetch(tmp_path / "models").bundle.digest == old.digest


def told(command, bundle, tmp_path):
    """What a command says on standard error about a bundle that it does not use."""
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.new("RGB", (32, 24)).save(photos / "a.png")
    rest = ["--camera", f"folder:{photos}", "--gate", "none"] if command == "run" else [photos / "a.png"]
    ran = subprocess.run(
        [sys.executable, "-m", "okko.cli", command, bundle, *rest],
        capture_output=True,
        text=True,
        timeout=60,
        env={"XDG_STATE_HOME": str(tmp_path / "state"), "PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
    )
    assert ran.returncode == 1
    assert ran.stdout == ""
    return ran.stderr


@VERSIONS
@pytest.mark.parametrize("command", ["run", "predict"])
def test_commands_refuse_a_bundle_of_another_format_in_one_sentence(other_bundle, tmp_path, command, version, advice):
    bundle = other_bundle(version)
    assert told(command, bundle, tmp_path) == (
        f"Error: {bundle}: manifest.json has schema version {version}; this okko reads version {SCHEMA_VERSION}. "
        f"{advice}{' on this machine' if version > SCHEMA_VERSION else ''}.\n"
    )


@pytest.mark.parametrize("command", ["run", "predict"])
def test_commands_do_not_run_a_model_that_no_okko_made(redness_bundle, tmp_path, command):
    model = onnx.load_from_string(Bundle.open(redness_bundle()).read("model.onnx"))
    model.graph.node.append(onnx.helper.make_node("RandomNormal", [], ["noise"], shape=[4]))
    bundle = redness_bundle(model=model.SerializeToString())
    said = told(command, bundle, tmp_path)
    assert said == "Error: the model uses operators that no model of okko uses: RandomNormal\n"
