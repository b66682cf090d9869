"""What leaves training is what a device takes."""

import re
from pathlib import Path

import onnx
import pytest
from onnx import helper

from okko_models.bundle import Bundle
from okko_models.errors import BundleError
from okko_train.export import write_checked

TRAIN = Path(__file__).parents[2] / "train" / "okko_train"


def contents_of(bundle):
    return {name: bundle.read(name) for name in bundle.manifest.files}


def test_a_model_that_devices_would_refuse_is_not_written_and_the_earlier_bundle_stays(redness_bundle, tmp_path):
    earlier = Bundle.open(redness_bundle())
    model = onnx.load_from_string(earlier.read("model.onnx"))
    model.graph.node.append(helper.make_node("Loop", ["image"], ["more"]))
    contents = contents_of(earlier) | {"model.onnx": model.SerializeToString()}
    for place in (earlier.path, tmp_path / "new.okko"):
        with pytest.raises(BundleError, match="Loop"):
            write_checked(place, earlier.manifest, contents)
    assert [path.name for path in tmp_path.iterdir()] == [earlier.path.name]
    assert Bundle.open(earlier.path).digest == earlier.digest


def test_a_manifest_that_does_not_tell_the_truth_about_its_model_is_not_written(redness_bundle, tmp_path):
    bundle = Bundle.open(redness_bundle())
    lie = onnx.load_from_string(bundle.read("model.onnx"))
    lie.opset_import[0].version = 17
    contents = contents_of(bundle) | {"model.onnx": lie.SerializeToString()}
    with pytest.raises(BundleError, match="operator set 17"):
        write_checked(tmp_path / "new.okko", bundle.manifest, contents)
    assert not (tmp_path / "new.okko").exists()


def test_every_bundle_leaves_training_this_way():
    writers = {path.name for path in TRAIN.rglob("*.py") if re.search(r"\bwrite_bundle\b", path.read_text())}
    assert writers == {"export.py"}
    users = {path.name for path in TRAIN.rglob("*.py") if re.search(r"\bwrite_checked\(out\b", path.read_text())}
    assert users == {"training.py", "one_class_training.py"}
