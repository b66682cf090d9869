"""What fuzzing found, each with the smallest input that shows it."""

import asyncio
import io
import json
import os
import threading
import tomllib

import msgspec
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from okko_edge.config import ConfigError, load
from okko_edge.outbox import OutboxFolder
from okko_models import bundle as bundles
from okko_models import manifest as manifests
from okko_models.bundle import Bundle
from okko_models.classifier import Classifier
from okko_models.damaged import decode_json
from okko_models.errors import LONGEST_MESSAGE, BundleError, OkkoError, SelfTestError
from okko_models.photo import PhotoError, read_golden
from okko_models.registry.errors import UntrustedError
from okko_models.registry.metadata import catalog_of
from okko_models.trust.model_check import check_model
from tests.edge.test_outbox import add, sidecar
from tests.fuzz.edge import DashboardTarget
from tests.fuzz.models import manifest_of, small_bundle
from tests.models.trust.test_model_check import altered, zoo


def refused_soon(path):
    """Opens a bundle on another thread, so that this one cannot be kept waiting for ever."""
    said = []

    def open_it():
        try:
            Bundle.open(path)
        except BundleError as error:
            said.append(str(error))

    thread = threading.Thread(target=open_it, daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()
    (message,) = said
    return message


@pytest.mark.parametrize("place", ["model.onnx", "golden/00.png", "extra"])
def test_a_pipe_in_a_bundle_keeps_nobody_waiting(redness_bundle, place):
    bundle = redness_bundle()
    (bundle / place).unlink(missing_ok=True)
    os.mkfifo(bundle / place)
    assert "plain files only" in refused_soon(bundle)


def test_a_pipe_that_takes_the_place_of_a_file_after_a_bundle_was_opened_keeps_nobody_waiting(redness_bundle):
    opened = Bundle.open(redness_bundle())
    (opened.path / "model.onnx").unlink()
    os.mkfifo(opened.path / "model.onnx")
    with pytest.raises(BundleError, match="plain file"):
        opened.read("model.onnx")


@pytest.mark.parametrize("target", ["/", "golden", "nowhere"])
@pytest.mark.parametrize("place", ["extra", "golden/extra"])
def test_a_link_to_a_folder_is_refused_like_one_to_a_file(redness_bundle, place, target):
    bundle = redness_bundle()
    (bundle / place).symlink_to(target)
    assert "is a link" in refused_soon(bundle)


def test_folders_in_folders_are_not_walked(redness_bundle):
    bundle = redness_bundle()
    deepest = bundle
    for _ in range(400):
        deepest = deepest / "d"
        deepest.mkdir()
    assert "too deep" in refused_soon(bundle)


def test_of_many_files_only_so_many_are_looked_at(redness_bundle):
    bundle = redness_bundle()
    for number in range(bundles.MAX_FILES + 2):
        (bundle / str(number)).touch()
    assert "more than 200 files" in refused_soon(bundle)


def test_files_that_are_too_large_only_together_are_not_read(redness_bundle):
    bundle = redness_bundle()
    told = json.loads((bundle / "manifest.json").read_text())
    for number in range(4):
        with (bundle / f"large{number}").open("wb") as file:
            file.truncate(100 << 20)
        told["files"][f"large{number}"] = {"size": 100 << 20, "sha256": "0" * 64}
    (bundle / "manifest.json").write_text(json.dumps(told))
    assert "bytes together" in refused_soon(bundle)


def test_a_name_that_no_file_system_has_is_refused_in_words(tmp_path):
    with pytest.raises(BundleError, match="cannot be read: File name too long"):
        Bundle.open(tmp_path / ("x" * 300))


@pytest.mark.parametrize(
    "data", [b'{"schema_version": 2, "\xff": 1}', manifest_of(small_bundle()).replace(b"redness", b"\xed")]
)
def test_a_manifest_that_is_not_utf_8_is_refused(data):
    with pytest.raises(BundleError, match="not a manifest"):
        manifests.decode(data)


def test_what_others_wrote_comes_to_the_terminal_only_as_printable_text():
    with pytest.raises(BundleError) as caught:
        manifests.decode(b'{"schema_version": 2, "\\u001b[2J\\u202e\\u0000": 1}')
    assert "\\x1b[2J\\u202e\\x00" in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(OkkoError("x" * 1_000_000))) < LONGEST_MESSAGE + 100
    assert str(OkkoError("one\ntwo: é")) == "one\ntwo: é"


def png(mode, size):
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def test_a_golden_frame_that_would_take_the_memory_of_a_device_is_not_decoded():
    assert read_golden(png("L", (2048, 2048)), name="golden/00.png").shape == (2048, 2048, 3)
    with pytest.raises(PhotoError, match="limit is 4 megapixels"):
        read_golden(png("L", (4056, 3040)), name="golden/00.png")


@pytest.mark.parametrize("kind", ["JPEG", "BMP", "WEBP", "TIFF"])
def test_a_golden_frame_is_a_png_so_that_other_decoders_are_never_asked(kind):
    buffer = io.BytesIO()
    Image.new("RGB", (32, 24)).save(buffer, kind)
    with pytest.raises(PhotoError):
        read_golden(buffer.getvalue(), name="golden/00.png")


def test_a_model_that_fails_on_its_golden_frames_is_refused_in_words(redness_bundle):
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["pixels", "shape"], ["embedding"]),
        helper.make_node("Softmax", ["embedding"], ["probability"]),
    ]
    outputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", 2]) for n in ("probability", "embedding")]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", "H", "W", 3])
    shape = numpy_helper.from_array(np.array([1, 2], np.int64), "shape")
    graph = helper.make_graph(nodes, "fails", [image], outputs, [shape])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8).SerializeToString()
    with pytest.raises(SelfTestError, match="fails on its golden frame"):
        Classifier(Bundle.open(redness_bundle(model=model))).self_test()


def test_a_kernel_of_another_size_than_the_node_says_is_refused():
    def change(model):
        for node in model.graph.node:
            for attribute in node.attribute:
                if attribute.name == "kernel_shape":
                    attribute.ints[0] = 2**63 - 1

    check_model(zoo())
    with pytest.raises(BundleError, match="kernel_shape"):
        check_model(altered(change))


@pytest.mark.parametrize("digest", ["../../x", "x" * 5000, ""])
def test_a_signed_digest_that_is_none_leads_nowhere(simulator, digest):
    simulator.release("1")
    targets = simulator.publisher.look().trusted.targets
    for entry in targets.targets.values():
        entry.hashes["sha256"] = digest
    with pytest.raises(UntrustedError, match="expected 64 hexadecimal digits"):
        catalog_of(targets)


POST = "POST /gate HTTP/1.1\r\nHost: 127.0.0.1\r\nOrigin: http://127.0.0.1\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize(
    ("request_", "first"),
    [
        (f"{POST}Content-Length: 14\r\n\r\n".encode() + b'{"verdict": "\xff"}'[:14], b"HTTP/1.1 400 "),
        (f"{POST}Content-Length: 15\r\n\r\n".encode() + b'{"verdict":"\xff"}', b"HTTP/1.1 400 "),
        (b"HEAD / HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n", b"HTTP/1.1 400 "),
        (b"HEAD / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\nnonsense\r\n\r\n", b"HTTP/1.1 200 "),
    ],
)
def test_a_request_that_is_not_utf_8_or_a_damaged_head_is_answered(request_, first):
    target = DashboardTarget()
    assert target.feed(bytes([0, 255]) + request_, None) in {"", "HTTP 400"}
    answer = asyncio.run(target._converse(target._benches[0], request_, 1000))
    assert answer.startswith(first)


@pytest.mark.parametrize("line", ["# comment\n", "\n", "k{} = 1\n"])
def test_a_long_configuration_is_read_a_few_times_and_not_once_a_line(tmp_path, monkeypatch, line):
    path = tmp_path / "okko.toml"
    path.write_text("[camera]\nwidth = 1\n" + "".join(line.format(number) for number in range(8000)) + "height = 1\n")
    parsed, parse = [], tomllib.loads
    monkeypatch.setattr("okko_edge.config.reading.tomllib.loads", lambda text: parsed.append(len(text)) or parse(text))
    with pytest.raises(
        ConfigError, match=r"(?s)line 2: camera.width is 1.*(line 8003: camera.height is 1|perhaps more)"
    ):
        load(path)
    assert sum(parsed) < 5 * path.stat().st_size


def test_a_line_is_found_after_texts_and_lists_over_many_lines(tmp_path):
    path = tmp_path / "okko.toml"
    path.write_text(
        'bundle = """\n[camera]\nwidth = 1 # "\n"""\n[sorting]\nempty_labels = [ # ]\n  "]", \'"\',\n]\n'
        "[camera]\nwidth = 640\n[gate]\nok_us = 1\n"
    )
    with pytest.raises(ConfigError, match=r"line 12: gate\.ok_us is 1"):
        load(path)


@pytest.mark.parametrize("data", [b'{"pin": "\xff"}', b'{"pin": ' + b"[" * 100_000, b"", b"\xff", b'{"pin": 1}'])
def test_whatever_is_wrong_with_json_is_one_error(data):
    class Small(msgspec.Struct):
        pin: str = ""

    with pytest.raises(msgspec.DecodeError):
        decode_json(data, Small)


def test_one_byte_that_a_card_forgot_does_not_keep_an_outbox_from_opening(tmp_path):
    box = OutboxFolder(tmp_path / "box", 10**9)
    for number in (1, 2):
        add(box, number)
    box.close()
    path = tmp_path / "box" / f"{sidecar(1).digest}.json"
    path.write_bytes(path.read_bytes().replace(b'"random"', b'"rand\xffm"'))
    opened = OutboxFolder(tmp_path / "box", 10**9)
    assert [item.sidecar.digest for item in opened.items()] == [sidecar(2).digest]
    opened.close()
