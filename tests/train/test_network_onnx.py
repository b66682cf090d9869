"""The exported graph computes what the network computes."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from okko_train import network_onnx
from okko_train.network import Network, fit

RNG = np.random.default_rng(3)
X = RNG.normal(size=(60, 5)).astype(np.float32)
TARGETS = {"cross_entropy": RNG.integers(0, 2, (60, 3)).astype(float), "mse": RNG.normal(size=(60, 3))}


def run(model: onnx.ModelProto, X: np.ndarray) -> np.ndarray:
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {session.get_inputs()[0].name: X})
    return output


@pytest.mark.parametrize("hidden", ["linear", "sigmoid", "tanh", "relu", "leaky_relu"])
@pytest.mark.parametrize("last", ["softmax", "sigmoid", "linear", "tanh", "relu", "leaky_relu"])
@pytest.mark.parametrize("settings", [{}, {"batch_norm": True, "dropout": (0.1, 0.2, 0.2)}])
def test_the_graph_agrees_with_the_network(hidden: str, last: str, settings: dict[str, object]) -> None:
    network = Network((5, 7, 6, 3), (hidden, hidden, last), seed=1, **settings)
    cost = "cross_entropy" if last in ("softmax", "sigmoid") else "mse"
    fit(network, X, TARGETS[cost], cost=cost, epochs=3)
    assert np.abs(run(network_onnx.to_model(network), X) - network.predict(X)).max() <= 1e-5


@pytest.mark.parametrize("k", [1, 2])
def test_a_network_without_a_hidden_layer_is_exported_too(k: int) -> None:
    network = Network((5, k), ("sigmoid",), seed=0)
    assert np.abs(run(network_onnx.to_model(network), X) - network.predict(X)).max() <= 1e-5


def test_a_network_in_double_precision_is_exported_in_double_precision() -> None:
    network = Network((5, 4, 3), ("tanh", "softmax"), seed=0, dtype=np.float64)
    assert np.abs(run(network_onnx.to_model(network), X.astype(float)) - network.predict(X)).max() <= 1e-12


def test_two_networks_fit_into_one_graph() -> None:
    first, second = Network((5, 4), ("tanh",), seed=0), Network((4, 3, 3), ("relu", "softmax"), seed=1)
    nodes, weights = network_onnx.nodes(first, "x", "code", prefix="encoder")
    more_nodes, more_weights = network_onnx.nodes(second, "code", "probability", prefix="head")
    graph = helper.make_graph(
        nodes + more_nodes,
        "both",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 5])],
        [helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["N", 3])],
        weights + more_weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", network_onnx.OPSET)], ir_version=8)
    assert np.abs(run(model, X) - second.predict(first.predict(X))).max() <= 1e-5
