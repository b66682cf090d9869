"""Bundles for trying: the brightness bundle with something changed, and graphs that are slow, endless or greedy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import numpy as np
from onnx import TensorProto, helper, numpy_helper

from okko_models.bundle import MODEL, write_bundle
from okko_models.manifest import GoldenFrame

if TYPE_CHECKING:
    from pathlib import Path

    from okko_models.bundle import Bundle

ENDLESS = np.iinfo(np.int64).max


def variant(bundle: Bundle, path: Path, *, model: bytes | None = None, **changes) -> Bundle:
    """Writes another bundle: the same but for `model` and what changes in the manifest."""
    contents = {name: bundle.read(name) for name in bundle.manifest.files}
    contents[MODEL] = model or contents[MODEL]
    return write_bundle(path, msgspec.structs.replace(bundle.manifest, **changes), contents)


def golden_of(bundle: Bundle, *probability: float) -> tuple[GoldenFrame, ...]:
    """The bundle's golden frame, which is white, with another expectation."""
    return (GoldenFrame(bundle.manifest.golden[0].file, probability),)


def graph(*, slope: float = 40.0, labels: int = 2, rounds: int = 0, greedy: int = 0, blind: bool = False) -> bytes:
    """A model by mean brightness: probability of OK = sigmoid(slope (mean - 0.5)); the labels are KO, OK and others.

    Args:
        slope: how steep it is.
        labels: how many there are; the third and further ones are never probable.
        rounds: so often it goes round in a loop before it answers.
        greedy: so many numbers it asks memory for.
        blind: dark photos give no number.
    """
    weight = np.zeros((3, labels), np.float32)
    weight[:, 0], weight[:, 1] = -slope / 6, slope / 6
    bias = np.full(labels, -1e6, np.float32)
    bias[:2] = slope / 4, -slope / 4
    constants = {"axes": np.array([1, 2]), "white": np.array(255, np.float32), "weight": weight, "bias": bias}
    nodes = [
        helper.make_node("Cast", ["image"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["numbers", "axes"], ["mean"], keepdims=0),
        helper.make_node("Div", ["mean", "white"], ["embedding"]),
    ]
    seen = "embedding"
    if rounds:
        constants |= {"rounds": np.array(rounds), "yes": np.array(True)}
        nodes.append(helper.make_node("Loop", ["rounds", "yes", seen], ["looped"], body=_body()))
        seen = "looped"
    if greedy:
        constants |= {"shape": np.array([greedy, 1]), "all": np.array([0])}
        nodes += [
            helper.make_node("Expand", [seen, "shape"], ["many"]),
            helper.make_node("ReduceMean", ["many", "all"], ["few"], keepdims=1),
        ]
        seen = "few"
    if blind:
        constants |= {"dark": np.array(0.4, np.float32)}
        nodes += [
            helper.make_node("Sub", [seen, "dark"], ["over"]),
            helper.make_node("Relu", ["over"], ["light"]),
            helper.make_node("Div", ["light", "light"], ["one"]),
            helper.make_node("Mul", [seen, "one"], ["shown"]),
        ]
        seen = "shown"
    nodes += [
        helper.make_node("Gemm", [seen, "weight", "bias"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probability"], axis=1),
    ]
    made = helper.make_graph(
        nodes,
        "brightness",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", "H", "W", 3])],
        [
            helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["N", labels]),
            helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", 3]),
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10).SerializeToString()


def _body():
    return helper.make_graph(
        [
            helper.make_node("Identity", ["go_on"], ["still"]),
            helper.make_node("Abs", ["state"], ["next"]),
        ],
        "round",
        [
            helper.make_tensor_value_info("round", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, None),
        ],
    )
