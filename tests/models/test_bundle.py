import json
import shutil

import pytest

from okko_models.bundle import Bundle, check_destination, write_bundle
from okko_models.errors import BundleError
from okko_models.manifest import SCHEMA_VERSION


def rewrite_manifest(bundle, **changes):
    path = bundle / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_what_was_written_opens_and_reads_back(redness_bundle):
    bundle = Bundle.open(redness_bundle())
    assert bundle.manifest.labels == ("KO", "OK")
    assert set(bundle.manifest.files) == {"model.onnx", "golden/00.png", "golden/01.png"}
    assert bundle.read("golden/00.png").startswith(b"\x89PNG")


def test_a_folder_that_is_not_there_and_one_that_is_no_bundle_are_told_apart(tmp_path):
    with pytest.raises(BundleError, match="does not exist"):
        Bundle.open(tmp_path / "nowhere")
    with pytest.raises(BundleError, match="not a bundle"):
        Bundle.open(tmp_path)


@pytest.mark.parametrize("name", ["model.onnx", "golden/00.png"])
def test_one_altered_byte_anywhere_is_noticed(redness_bundle, name):
    path = redness_bundle() / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(BundleError, match="altered"):
        Bundle.open(path.parents[name.count("/")])


@pytest.mark.parametrize("name", ["model.onnx", "golden/01.png"])
def test_a_missing_file_is_noticed(redness_bundle, name):
    bundle = redness_bundle()
    (bundle / name).unlink()
    with pytest.raises(BundleError, match="missing"):
        Bundle.open(bundle)


def test_an_unexpected_file_is_refused(redness_bundle):
    bundle = redness_bundle()
    (bundle / "extra.bin").write_bytes(b"?")
    with pytest.raises(BundleError, match=r"extra\.bin"):
        Bundle.open(bundle)


def test_a_link_is_refused(redness_bundle, tmp_path):
    bundle = redness_bundle()
    shutil.move(bundle / "model.onnx", tmp_path / "elsewhere.onnx")
    (bundle / "model.onnx").symlink_to(tmp_path / "elsewhere.onnx")
    with pytest.raises(BundleError, match="link"):
        Bundle.open(bundle)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema_version": SCHEMA_VERSION + 1}, "Update okko"),
        ({"schema_version": 0}, "Train the model again"),
        ({"labels": ["OK"]}, "two or more"),
        ({"surprise": 1}, "surprise"),
        ({"files": {"../outside": {"size": 1, "sha256": "0" * 64}}}, "files"),
        ({"name": "../../etc"}, "name"),
    ],
)
def test_a_manifest_that_says_nonsense_is_refused_with_the_reason(redness_bundle, changes, message):
    bundle = redness_bundle()
    rewrite_manifest(bundle, **changes)
    with pytest.raises(BundleError, match=message):
        Bundle.open(bundle)


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b" " * (2 << 20)])
def test_a_manifest_that_is_not_json_is_refused(redness_bundle, data):
    bundle = redness_bundle()
    (bundle / "manifest.json").write_bytes(data)
    with pytest.raises(BundleError, match="manifest"):
        Bundle.open(bundle)


def test_an_earlier_bundle_is_replaced_and_anything_else_is_left_alone(redness_bundle, tmp_path):
    assert redness_bundle() == redness_bundle()
    (tmp_path / "holiday").mkdir()
    (tmp_path / "holiday" / "photo.jpg").write_bytes(b"dear")
    with pytest.raises(BundleError, match="other content"):
        check_destination(tmp_path / "holiday")
    with pytest.raises(BundleError, match="not a folder"):
        check_destination(tmp_path / "holiday" / "photo.jpg")


@pytest.mark.parametrize("earlier", [True, False])
def test_a_full_disk_leaves_what_was_there_and_nothing_else(redness_bundle, tmp_path, monkeypatch, earlier):
    path = redness_bundle()
    manifest = Bundle.open(path).manifest
    contents = {name: Bundle.open(path).read(name) for name in manifest.files}
    if not earlier:
        shutil.rmtree(path)
    before = sorted(tmp_path.rglob("*"))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("okko_models.bundle.os.fsync", full)
    with pytest.raises(BundleError, match="No space left on device"):
        write_bundle(path, manifest, contents)
    assert sorted(tmp_path.rglob("*")) == before
