"""A small real bundle (bright photos are OK, dark ones KO), photos for it, and parts that misbehave on demand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from okko_models import manifest as manifests
from okko_models.bundle import MODEL, write_bundle
from okko_models.decision import Costs, DecisionRule

if TYPE_CHECKING:
    from pathlib import Path

    from okko_models.bundle import Bundle

LABELS = ("KO", "OK")


def brightness_model() -> bytes:
    """Mean colour of the photo, in [0, 1]; probability of OK = sigmoid(40 (mean - 0.5))."""
    weight = np.array([[-20 / 3] * 3, [20 / 3] * 3], dtype=np.float32).T.copy()
    bias = np.array([10.0, -10.0], dtype=np.float32)
    nodes = [
        helper.make_node("Cast", ["image"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["numbers", "axes"], ["mean"], keepdims=0),
        helper.make_node("Div", ["mean", "white"], ["embedding"]),
        helper.make_node("Gemm", ["embedding", "weight", "bias"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probability"], axis=1),
    ]
    constants = {"axes": np.array([1, 2]), "white": np.array(255, dtype=np.float32), "weight": weight, "bias": bias}
    graph = helper.make_graph(
        nodes,
        "brightness",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", "H", "W", 3])],
        [
            helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["N", 2]),
            helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", 3]),
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def make_bundle(path: Path, *, golden: float = 1.0) -> Bundle:
    """Writes the bundle; its golden frame is white, and OK with the probability `golden`."""
    import io

    white = io.BytesIO()
    Image.new("RGB", (8, 8), "white").save(white, "PNG")
    manifest = manifests.Manifest(
        schema_version=manifests.SCHEMA_VERSION,
        name="brightness",
        version="1",
        created="2026-01-01T00:00:00Z",
        labels=LABELS,
        decision=DecisionRule(("OK",), 0.8, 0.2, Costs()),
        model=manifests.Model("float32", 18, "1.22.0", 3, 1e-4),
        metrics={},
        dataset=manifests.DatasetEntry("0" * 64, {"OK": 1, "KO": 1}, None, 0),
        provenance=manifests.Provenance("by hand", 0, "3", {}, {}),
        golden=(manifests.GoldenFrame("golden/white.png", (1 - golden, golden)),),
        files={},
    )
    return write_bundle(path, manifest, {MODEL: brightness_model(), "golden/white.png": white.getvalue()})


def photo(brightness: int, seed: int, size: tuple[int, int] = (48, 36)) -> np.ndarray:
    """A photo (height, width, 3) with some texture and the given mean grey level."""
    width, height = size
    texture = np.random.default_rng(seed).integers(-20, 21, (height // 4 + 1, width // 4 + 1, 3))
    texture = texture.repeat(4, axis=0).repeat(4, axis=1)[:height, :width]
    return np.clip(brightness + texture, 0, 255).astype(np.uint8)


def save_photo(path: Path, image: np.ndarray) -> None:
    """Stores a photo, with the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)
