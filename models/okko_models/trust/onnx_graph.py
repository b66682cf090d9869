"""An ONNX model as plain values, read without the package onnx and without copying the weights.

Only what okko's own models hold is known here: one graph, dense tensors inside the file, no functions, no sub-graphs.
Everything else is refused while reading. Field numbers are those of onnx.proto (https://onnx.ai/onnx/repo-docs/IR.html).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from okko_models.errors import BundleError
from okko_models.trust.wire import Budget, Field, Kind, packed_integers, read

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

MAX_FIELDS: Final = 200_000
"""A second of reading on a small device; okko's largest models have about 8,000."""

_MODEL: Final = {
    1: Field("ir_version", Kind.INT64),
    2: Field("producer_name", Kind.TEXT),
    3: Field("producer_version", Kind.TEXT),
    4: Field("domain", Kind.TEXT),
    5: Field("model_version", Kind.INT64),
    6: Field("doc_string", Kind.TEXT),
    7: Field("graph", Kind.BYTES),
    8: Field("opset_import", Kind.MESSAGES),
    14: Field("metadata_props", Kind.IGNORED),
    20: Field("training_info", Kind.REFUSED),
    25: Field("functions", Kind.REFUSED),
}
_OPSET: Final = {1: Field("domain", Kind.TEXT), 2: Field("version", Kind.INT64)}
_GRAPH: Final = {
    1: Field("node", Kind.MESSAGES),
    2: Field("name", Kind.TEXT),
    5: Field("initializer", Kind.MESSAGES),
    10: Field("doc_string", Kind.TEXT),
    11: Field("input", Kind.MESSAGES),
    12: Field("output", Kind.MESSAGES),
    13: Field("value_info", Kind.IGNORED),
    15: Field("sparse_initializer", Kind.REFUSED),
    16: Field("metadata_props", Kind.IGNORED),
}
_NODE: Final = {
    1: Field("input", Kind.TEXTS),
    2: Field("output", Kind.TEXTS),
    3: Field("name", Kind.TEXT),
    4: Field("op_type", Kind.TEXT),
    5: Field("attribute", Kind.MESSAGES),
    6: Field("doc_string", Kind.TEXT),
    7: Field("domain", Kind.TEXT),
    9: Field("metadata_props", Kind.IGNORED),
}
_ATTRIBUTE: Final = {
    1: Field("name", Kind.TEXT),
    2: Field("f", Kind.FLOAT),
    3: Field("i", Kind.INT64),
    4: Field("s", Kind.BYTES),
    6: Field("a sub-graph", Kind.REFUSED),
    7: Field("floats", Kind.FLOATS),
    8: Field("ints", Kind.INTS),
    11: Field("sub-graphs", Kind.REFUSED),
    13: Field("doc_string", Kind.TEXT),
    20: Field("type", Kind.INT),
}
_TENSOR: Final = {
    1: Field("dims", Kind.INTS),
    2: Field("data_type", Kind.INT),
    4: Field("float_data", Kind.PACKED),
    5: Field("int32_data", Kind.PACKED),
    7: Field("int64_data", Kind.PACKED),
    8: Field("name", Kind.TEXT),
    9: Field("raw_data", Kind.BYTES),
    12: Field("doc_string", Kind.TEXT),
    13: Field("external data (a file outside of the model)", Kind.REFUSED),
    14: Field("data_location", Kind.INT),
    16: Field("metadata_props", Kind.IGNORED),
}
_VALUE: Final = {1: Field("name", Kind.TEXT), 2: Field("type", Kind.BYTES), 3: Field("doc_string", Kind.TEXT)}
_TYPE: Final = {1: Field("tensor_type", Kind.BYTES), 6: Field("denotation", Kind.TEXT)}
_TENSOR_TYPE: Final = {1: Field("elem_type", Kind.INT), 2: Field("shape", Kind.BYTES)}
_SHAPE: Final = {1: Field("dim", Kind.MESSAGES)}
_DIMENSION: Final = {
    1: Field("dim_value", Kind.INT64),
    2: Field("dim_param", Kind.TEXT),
    3: Field("denotation", Kind.TEXT),
}

# ONNX's numbers of element types (TensorProto.DataType), those that okko's models use.
TYPES: Final[Mapping[int, np.dtype[np.generic]]] = {
    1: np.dtype("<f4"),
    2: np.dtype("u1"),
    3: np.dtype("i1"),
    6: np.dtype("<i4"),
    7: np.dtype("<i8"),
    9: np.dtype("?"),
}
_INT32_TYPES: Final = {2, 3, 6, 9}
"""Types whose numbers may stand in `int32_data`."""
_MAX_RANK: Final = 8


@dataclass(frozen=True, slots=True)
class Tensor:
    """A constant; `values` reads its numbers.

    Attributes:
        shape: its dimensions.
        type: ONNX's number of the element type, a key of `TYPES`.
        raw: little-endian numbers; None if they are packed as protobuf's integers.
        packed: those.
    """

    name: str
    shape: tuple[int, ...]
    type: int
    raw: memoryview | None
    packed: memoryview

    @property
    def bytes(self) -> int:
        """What it takes in memory."""
        return math.prod(self.shape) * TYPES[self.type].itemsize

    def values(self) -> NDArray[np.generic]:
        """Returns its numbers.

        Raises:
            BundleError: a number does not fit its type.
        """
        dtype = TYPES[self.type]
        if self.raw is not None:
            return np.frombuffer(self.raw, dtype).reshape(self.shape)
        numbers = packed_integers(self.packed, "tensor", Budget(MAX_FIELDS))
        try:
            return np.array(numbers, dtype).reshape(self.shape)
        except (OverflowError, ValueError) as error:
            raise BundleError(f"the model's constant {self.name} holds numbers beyond its type") from error


@dataclass(frozen=True, slots=True)
class Node:
    """One operation; an empty name among the inputs is one left out."""

    operator: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, int | float | bytes | tuple[int, ...] | tuple[float, ...]]


@dataclass(frozen=True, slots=True)
class Value:
    """An input or output of the graph; a dimension of any size has its name, or None."""

    name: str
    type: int
    shape: tuple[int | str | None, ...]


@dataclass(frozen=True, slots=True)
class Graph:
    """A whole model."""

    ir_version: int
    opset: int
    nodes: tuple[Node, ...]
    constants: Mapping[str, Tensor]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]


def read_graph(data: bytes) -> Graph:
    """Reads a model.

    Raises:
        BundleError: it is damaged, or holds what no model of okko has.
    """
    budget = Budget(MAX_FIELDS)
    model = read(memoryview(data), _MODEL, "model", budget)
    if not model.has("graph"):
        raise BundleError("model.onnx holds no graph, so it is not an ONNX model")
    opsets = {}
    for entry in model.messages("opset_import"):
        opset = read(entry, _OPSET, "operator set", budget)
        domain = opset.text("domain") or "ai.onnx"
        if domain in opsets:
            raise BundleError(f"the model names two versions of the operator set {domain}; it is not trusted")
        opsets[domain] = opset.integer("version")
    if set(opsets) != {"ai.onnx"}:
        raise BundleError(f"the model uses the operator sets {sorted(opsets)}; okko's models use ai.onnx alone")
    graph = read(model.data("graph"), _GRAPH, "graph", budget)
    constants: dict[str, Tensor] = {}
    for part in graph.messages("initializer"):
        tensor = _tensor(part, budget)
        if not tensor.name or tensor.name in constants:
            raise BundleError(f"the model has two constants or one without a name: {tensor.name!r}")
        constants[tensor.name] = tensor
    return Graph(
        ir_version=model.integer("ir_version"),
        opset=opsets["ai.onnx"],
        nodes=tuple(_node(part, budget) for part in graph.messages("node")),
        constants=constants,
        inputs=tuple(_value(part, budget) for part in graph.messages("input")),
        outputs=tuple(_value(part, budget) for part in graph.messages("output")),
    )


def _node(data: memoryview, budget: Budget) -> Node:
    node = read(data, _NODE, "node", budget)
    if node.text("domain") not in {"", "ai.onnx"}:
        raise BundleError(f"the model uses an operator of {node.text('domain')}; okko's models use ai.onnx alone")
    attributes: dict[str, int | float | bytes | tuple[int, ...] | tuple[float, ...]] = {}
    for part in node.messages("attribute"):
        attribute = read(part, _ATTRIBUTE, "attribute", budget)
        name = attribute.text("name")
        if name in attributes:
            raise BundleError(f"the model's node {node.text('name')} says {name} twice; it is not trusted")
        # AttributeProto.AttributeType
        match attribute.integer("type"):
            case 1:
                attributes[name] = attribute.real("f")
            case 2:
                attributes[name] = attribute.integer("i")
            case 3:
                attributes[name] = bytes(attribute.data("s"))
            case 6:
                attributes[name] = ()  # no operator of okko takes several real numbers that change a shape
            case 7:
                attributes[name] = attribute.integers("ints")
            case other:
                raise BundleError(f"the model's node {node.text('name')} has an attribute of type {other}")
    return Node(node.text("op_type"), node.text("name"), node.texts("input"), node.texts("output"), attributes)


def _tensor(data: memoryview, budget: Budget) -> Tensor:
    tensor = read(data, _TENSOR, "tensor", budget)
    name, kind, shape = tensor.text("name"), tensor.integer("data_type"), tensor.integers("dims")
    if tensor.integer("data_location") != 0:
        raise BundleError(f"the model's constant {name} lies in a file outside of the model; it is not trusted")
    if kind not in TYPES:
        raise BundleError(f"the model's constant {name} has the element type {kind}, which no model of okko uses")
    if len(shape) > _MAX_RANK or any(size < 0 for size in shape):
        raise BundleError(f"the model's constant {name} has the shape {shape}")
    count, width = math.prod(shape), TYPES[kind].itemsize
    field = {1: "float_data", 7: "int64_data"}.get(kind, "int32_data")
    filled = [source for source in ("raw_data", "float_data", "int32_data", "int64_data") if tensor.has(source)]
    if filled not in (["raw_data"], [field]) and (count or filled):
        raise BundleError(f"the model's constant {name} holds its numbers in {filled}, expected raw_data or {field}")
    content = tensor.data(filled[0]) if filled else memoryview(b"")
    if not filled or filled[0] in {"raw_data", "float_data"}:
        found, raw = len(content) / width, content
    else:
        found, raw = int(np.count_nonzero(np.frombuffer(content, np.uint8) < 0x80)), None
    if found != count:
        raise BundleError(f"the model's constant {name} has {found:g} numbers for the shape {shape}; it is damaged")
    return Tensor(name, shape, kind, raw, content)


def _value(data: memoryview, budget: Budget) -> Value:
    value = read(data, _VALUE, "value", budget)
    kind = read(value.data("type"), _TYPE, "type", budget)
    tensor = read(kind.data("tensor_type"), _TENSOR_TYPE, "tensor type", budget)
    shape: list[int | str | None] = []
    for part in read(tensor.data("shape"), _SHAPE, "shape", budget).messages("dim"):
        dimension = read(part, _DIMENSION, "dimension", budget)
        if dimension.has("dim_value") and dimension.has("dim_param"):
            raise BundleError("the model says a dimension twice; it is not trusted")
        shape.append(
            dimension.integer("dim_value") if dimension.has("dim_value") else dimension.text("dim_param") or None
        )
    return Value(value.text("name"), tensor.integer("elem_type"), tuple(shape))
