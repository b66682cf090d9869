"""A tiny bundle for every test that needs a model but not a good one: it judges a photo by how red it is."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from okko_models.bundle import write_bundle
from okko_models.decision import Costs, DecisionRule
from okko_models.manifest import SCHEMA_VERSION, DatasetEntry, GoldenFrame, Interval, Manifest, Model, Provenance

LABELS = ("KO", "OK")
# Folders whose files take longest; two processes are done sooner if they begin with these.
LONGEST = ("system", "cloud", "faults", "updater")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not any(part in LONGEST for part in item.path.parts))


def redness_model() -> bytes:
    """P(OK) = sigmoid((mean red - 127.5) / 16); the embedding is the mean colour."""
    weights = {
        "axes": np.array([1, 2], np.int64),
        "matrix": np.array([[-1 / 16, 0], [0, 0], [0, 0]], np.float32),
        "offset": np.array([127.5 / 16, 0], np.float32),
    }
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels", "axes"], ["embedding"], keepdims=0),
        helper.make_node("Gemm", ["embedding", "matrix", "offset"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probability"]),
    ]
    graph = helper.make_graph(
        nodes,
        "redness",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", "H", "W", 3])],
        [
            helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["N", 2]),
            helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", 3]),
        ],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8).SerializeToString()


def png(colour: tuple[int, int, int], size: tuple[int, int] = (32, 24)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


def manifest(model: bytes, golden: dict[str, bytes]) -> Manifest:
    session = onnxruntime.InferenceSession(model)
    frames = []
    for name, data in golden.items():
        image = np.asarray(Image.open(io.BytesIO(data)))[None]
        frames.append(GoldenFrame(name, tuple(session.run(("probability",), {"image": image})[0][0].tolist())))
    return Manifest(
        schema_version=SCHEMA_VERSION,
        name="redness",
        version="1",
        created="2026-01-01T00:00:00+00:00",
        labels=LABELS,
        decision=DecisionRule(("OK",), ok_threshold=0.9, ko_threshold=0.1, costs=Costs()),
        model=Model("float32", opset=18, minimum_onnxruntime="1.14", embedding_size=3, tolerance=1e-3),
        metrics={"accuracy": Interval(0.9, 0.8, 0.95)},
        dataset=DatasetEntry("0" * 64, {"KO": 1, "OK": 1}, None, 0),
        provenance=Provenance("test", 0, "3.11", {}, {}),
        golden=tuple(frames),
        files={},
    )


@pytest.fixture
def redness_bundle(tmp_path: Path) -> Callable[..., Path]:
    """Returns a function that writes the bundle; `model` replaces the graph but not the golden results."""

    def write(name: str = "redness.okko", model: bytes | None = None) -> Path:
        golden = {"golden/00.png": png((250, 10, 10)), "golden/01.png": png((10, 10, 250))}
        right = redness_model()
        write_bundle(tmp_path / name, manifest(right, golden), {"model.onnx": model or right, **golden})
        return tmp_path / name

    return write
