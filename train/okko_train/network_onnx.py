"""A trained network as ONNX nodes, alone or spliced into a larger graph.

Dropout is off and batch normalisation is multiplied into the weights, so each layer is one Gemm and one activation. The
nodes use operators and attributes that have not changed since opset 13.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from okko_train.network.activations import LEAK

if TYPE_CHECKING:
    from okko_train.network import Network
    from okko_train.network.activations import Array

OPSET = 17  # the oldest opset with everything okko's graphs use
IR_VERSION = 8  # the file format that belongs to it; every onnxruntime since 1.12 reads it

_OPERATORS: dict[str, tuple[str, dict[str, Any]]] = {
    "sigmoid": ("Sigmoid", {}),
    "tanh": ("Tanh", {}),
    "relu": ("Relu", {}),
    "leaky_relu": ("LeakyRelu", {"alpha": LEAK}),
    "softmax": ("Softmax", {"axis": -1}),
}


def nodes(
    network: Network, input_name: str, output_name: str, prefix: str = "network"
) -> tuple[list[NodeProto], list[TensorProto]]:
    """The nodes and weights that turn ``input_name`` [N, d] into ``output_name`` [N, k].

    Args:
        network: what to export; float64 weights become double tensors, and then the input must be double too.
        input_name: an existing value of the graph.
        output_name: the value to define.
        prefix: begins the name of every other value, so that it is unique in the graph.
    """
    graph_nodes: list[NodeProto] = []
    weights: list[TensorProto] = []
    value = input_name
    depth = len(network.layer_sizes) - 1
    for index, name in enumerate(network.activation_names):
        layer, last = f"{prefix}_layer{index}", index == depth - 1
        weight, bias = network.folded(index)
        weights.append(numpy_helper.from_array(np.ascontiguousarray(weight), f"{layer}_weight"))
        weights.append(numpy_helper.from_array(np.ascontiguousarray(bias[:, 0]), f"{layer}_bias"))
        operator = _OPERATORS.get(name)
        product = output_name if last and operator is None else f"{layer}_product"
        graph_nodes.append(
            helper.make_node("Gemm", [value, f"{layer}_weight", f"{layer}_bias"], [product], f"{layer}_gemm", transB=1)
        )
        value = product
        if operator is not None:
            value = output_name if last else f"{layer}_output"
            kind, attributes = operator
            graph_nodes.append(helper.make_node(kind, [product], [value], f"{layer}_{name}", **attributes))
    return graph_nodes, weights


def to_model(
    network: Network,
    input_name: str = "features",
    output_name: str = "output",
    *,
    before: tuple[Array, Array] | None = None,
    after: tuple[Array, Array] | None = None,
) -> ModelProto:
    """A complete model with one input [N, d] and one output [N, k].

    Args:
        network: what to export.
        input_name: of the model's input.
        output_name: of the model's output.
        before: (mean, scale), each (d,): the input is standardised first, (x - mean) / scale.
        after: (mean, scale), each (k,): the output is brought back to its own units, y * scale + mean.
    """
    kind = helper.np_dtype_to_tensor_dtype(network.dtype)
    first = input_name if before is None else "standardised"
    last = output_name if after is None else "standardised_output"
    graph_nodes, weights = nodes(network, first, last)
    for pair, prefix in ((before, "feature"), (after, "output")):
        for values, part in zip(pair or (), ("mean", "scale"), strict=False):
            weights.append(numpy_helper.from_array(np.asarray(values, network.dtype), f"{prefix}_{part}"))
    if before is not None:
        graph_nodes[:0] = [
            helper.make_node("Sub", [input_name, "feature_mean"], ["centred"], "centre"),
            helper.make_node("Div", ["centred", "feature_scale"], [first], "standardise"),
        ]
    if after is not None:
        graph_nodes += [
            helper.make_node("Mul", [last, "output_scale"], ["scaled_output"], "scale_output"),
            helper.make_node("Add", ["scaled_output", "output_mean"], [output_name], "shift_output"),
        ]
    graph = helper.make_graph(
        graph_nodes,
        "network",
        [helper.make_tensor_value_info(input_name, kind, ["N", network.layer_sizes[0]])],
        [helper.make_tensor_value_info(output_name, kind, ["N", network.layer_sizes[-1]])],
        weights,
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="okko"
    )
