"""The operators that okko exports, and for each the rule by which shapes and small numbers pass through it.

The table `RULES` is the list of operators allowed. https://onnx.ai/onnx/operators/ says what the rules are; what a
model of okko never asks for (automatic padding, unknown sizes to resize to) is refused rather than followed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from okko_models.trust.onnx_graph import TYPES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from okko_models.trust.onnx_graph import Node

SMALL: Final = 64
"""Tensors up to so many elements are computed, larger ones only measured; sizes to resize to have four."""
_FLOAT, _UINT8, _INT64, _BOOL = 1, 2, 7, 9


@dataclass(frozen=True, slots=True, eq=False)
class Known:
    """What is known of a tensor: its shape, ONNX's number of its type, and its values if it is small and fixed."""

    shape: tuple[int, ...]
    type: int
    values: NDArray[Any] | None = None

    @property
    def bytes(self) -> int:
        """What it takes in memory."""
        return math.prod(self.shape) * TYPES[self.type].itemsize


class MisfitError(Exception):
    """A node whose inputs do not fit it."""


def _attribute(node: Node, name: str, default: Any) -> Any:
    value = node.attributes.get(name, default)
    if not isinstance(value, type(default)):
        raise MisfitError(f"{name} is {value!r}")
    return value


def _at(inputs: Sequence[Known | None], index: int) -> Known:
    value = inputs[index] if index < len(inputs) else None
    if value is None:
        raise MisfitError(f"input {index} is missing")
    return value


def _fixed(inputs: Sequence[Known | None], index: int) -> list[int] | None:
    """The numbers of an optional input that must be known beforehand."""
    value = inputs[index] if index < len(inputs) else None
    if value is None:
        return None
    if value.values is None:
        raise MisfitError(f"input {index} is only known when the model runs")
    return [int(number) for number in value.values.ravel()]


def _axis(axis: int, rank: int) -> int:
    if not -rank <= axis < max(rank, 1):
        raise MisfitError(f"axis {axis} of {rank}")
    return axis % max(rank, 1)


def _result(shape: Sequence[int], kind: int, compute: Callable[[], Any], *sources: Known) -> list[Known]:
    """A tensor, with its values where all it is made from is known and it is small."""
    values = None
    if math.prod(shape) <= SMALL and all(source.values is not None for source in sources):
        with np.errstate(all="ignore"):
            values = np.asarray(compute()).astype(TYPES[kind]).reshape(tuple(shape))
    return [Known(tuple(shape), kind, values)]


def _same(compute: Callable[[Any], Any] | None = None) -> Callable[[Node, Sequence[Known | None]], list[Known]]:
    """One tensor in, one of the same shape and type out; further inputs are bounds."""

    def rule(_: Node, inputs: Sequence[Known | None]) -> list[Known]:
        x = _at(inputs, 0)
        return [Known(x.shape, x.type)] if compute is None else _result(x.shape, x.type, lambda: compute(x.values), x)

    return rule


def _each(compute: Callable[[Any, Any], Any]) -> Callable[[Node, Sequence[Known | None]], list[Known]]:
    """Element by element, with broadcasting, from one input or more."""

    def rule(_: Node, inputs: Sequence[Known | None]) -> list[Known]:
        result = _at(inputs, 0)
        for index in range(1, len(inputs)):
            a, b = result, _at(inputs, index)
            shape = _broadcast(a.shape, b.shape)
            result = _result(shape, a.type, lambda a=a, b=b: compute(a.values, b.values), a, b)[0]  # type: ignore[misc]
        return [result]

    return rule


def _broadcast(a: Sequence[int], b: Sequence[int]) -> tuple[int, ...]:
    rank = max(len(a), len(b))
    pairs = zip((1,) * (rank - len(a)) + tuple(a), (1,) * (rank - len(b)) + tuple(b), strict=True)
    shape = []
    for one, other in pairs:
        if one != other and 1 not in (one, other):
            raise MisfitError(f"shapes {tuple(a)} and {tuple(b)}")
        shape.append(other if one == 1 else one)
    return tuple(shape)


def _divide(a: Any, b: Any) -> Any:
    return a // b if np.issubdtype(a.dtype, np.integer) else a / b


def _cast(node: Node, inputs: Sequence[Known | None]) -> list[Known]:
    x, kind = _at(inputs, 0), _attribute(node, "to", 0)
    if kind not in TYPES:
        raise MisfitError(f"element type {kind}")
    return _result(x.shape, kind, lambda: x.values, x)


def _less(_: Node, inputs: Sequence[Known | None]) -> list[Known]:
    return [Known(_broadcast(_at(inputs, 0).shape, _at(inputs, 1).shape), _BOOL)]


def _where(_: Node, inputs: Sequence[Known | None]) -> list[Known]:
    condition, a, b = _at(inputs, 0), _at(inputs, 1), _at(inputs, 2)
    return [Known(_broadcast(condition.shape, _broadcast(a.shape, b.shape)), a.type)]


def _squeeze(_: Node, inputs: Sequence[Known | None]) -> list[Known]:
    x, wanted = _at(inputs, 0), _fixed(inputs, 1)
    axes = {_axis(axis, len(x.shape)) for axis in wanted or ()}
    if not axes or any(x.shape[axis] != 1 for axis in axes):
        raise MisfitError(f"axes {wanted} of {x.shape}")
    shape = [size for i, size in enumerate(x.shape) if i not in axes]
    return _result(shape, x.type, lambda: x.values, x)


def _quantize(_: Node, inputs: Sequence[Known | None]) -> list[Known]:
    zero = inputs[2] if len(inputs) > 2 else None
    return [Known(_at(inputs, 0).shape, _UINT8 if zero is None else zero.type)]


def _dequantize(_: Node, inputs: Sequence[Known | None]) -> list[Known]:
    return [Known(_at(inputs, 0).shape, _FLOAT)]


def _concat(node: Node, inputs: Sequence[Known | None]) -> list[Known]:
    parts = [_at(inputs, index) for index in range(len(inputs))]
    axis = _axis(_attribute(node, "axis", 0), len(parts[0].shape))
    if len({(*part.shape[:axis], -1, *part.shape[axis + 1 :]) for part in parts}) != 1:
        raise MisfitError(f"shapes {[part.shape for part in parts]}")
    shape = list(parts[0].shape)
    shape[axis] = sum(part.shape[axis] for part in parts)
    return _result(shape, parts[0].type, lambda: np.concatenate([part.values for part in parts], axis), *parts)


def _convolution(node: Node, inputs: Sequence[Known | None]) -> list[Known]:
    x, weight = _at(inputs, 0), _at(inputs, 1)
    group, rank = _attribute(node, "group", 1), len(x.shape) - 2
    if rank < 1 or len(weight.shape) != rank + 2 or group < 1 or weight.shape[1] * group != x.shape[1]:
        raise MisfitError(f"shapes {x.shape} and {weight.shape}, {group} groups")
    if _attribute(node, "auto_pad", b"NOTSET") != b"NOTSET":
        raise MisfitError("auto_pad")
    if (said := _attribute(node, "kernel_shape", ())) and said != weight.shape[2:]:
        raise MisfitError(f"kernel_shape {said} of {weight.shape}")
    steps = _attribute(node, "strides", ()) or (1,) * rank
    spread = _attribute(node, "dilations", ()) or (1,) * rank
    pads = _attribute(node, "pads", ()) or (0,) * 2 * rank
    if (len(steps), len(spread), len(pads)) != (rank, rank, 2 * rank) or min(*steps, *spread) < 1 or min(pads) < 0:
        raise MisfitError(f"strides {steps}, dilations {spread}, pads {pads}")
    shape = []
    for i in range(rank):
        room = x.shape[2 + i] + pads[i] + pads[rank + i] - spread[i] * (weight.shape[2 + i] - 1) - 1
        if room < 0:
            raise MisfitError(f"a kernel {weight.shape[2:]} beyond {x.shape[2:]}")
        shape.append(room // steps[i] + 1)
    return [Known((x.shape[0], weight.shape[0], *shape), x.type)]


def _gemm(node: Node, inputs: Sequence[Known | None]) -> list[Known]:
    a, b = _at(inputs, 0), _at(inputs, 1)
    rows, inner = a.shape[::-1] if _attribute(node, "transA", 0) else a.shape
    other, columns = b.shape[::-1] if _attribute(node, "transB", 0) else b.shape
    if inner != other:
        raise MisfitError(f"shapes {a.shape} and {b.shape}")
    return [Known((rows, columns), a.type)]


def _matmul(_: Node, inputs: Sequence[Known | None]) -> list[Known]:
    a, b = _at(inputs, 0), _at(inputs, 1)
    left = a.shape if len(a.shape) > 1 else (1, *a.shape)
    right = b.shape if len(b.shape) > 1 else (*b.shape, 1)
    if not a.shape or not b.shape or left[-1] != right[-2]:
        raise MisfitError(f"shapes {a.shape} and {b.shape}")
    shape = [*_broadcast(left[:-2], right[:-2])]
    shape += [left[-2]] if len(a.shape) > 1 else []
    shape += [right[-1]] if len(b.shape) > 1 else []
    return [Known(tuple(shape), a.type)]


def _pool(_: Node, inputs: Sequence[Known | None]) -> list[Known]:
    x = _at(inputs, 0)
    return [Known((*x.shape[:2], *(1 for _ in x.shape[2:])), x.type)]


def _flatten(node: Node, inputs: Sequence[Known | None]) -> list[Known]:
    x, axis = _at(inputs, 0), _attribute(node, "axis", 1)
    axis = axis + len(x.shape) if axis < 0 else axis
    if not 0 <= axis <= len(x.shape):
        raise MisfitError(f"axis {axis} of {x.shape}")
    return [Known((math.prod(x.shape[:axis]), math.prod(x.shape[axis:])), x.type)]


def _reduce(compute: Callable[..., Any] | None = None) -> Callable[[Node, Sequence[Known | None]], list[Known]]:
    def rule(node: Node, inputs: Sequence[Known | None]) -> list[Known]:
        x, wanted = _at(inputs, 0), _fixed(inputs, 1)
        if not wanted and _attribute(node, "noop_with_empty_axes", 0):
            return [x]
        axes = {_axis(axis, len(x.shape)) for axis in wanted or range(len(x.shape))}
        keep = _attribute(node, "keepdims", 1)
        shape = [1 if i in axes else size for i, size in enumerate(x.shape) if keep or i not in axes]
        if compute is None:
            return [Known(tuple(shape), x.type)]
        return _result(shape, x.type, lambda: compute(x.values, axis=tuple(axes)), x)

    return rule


def _reshape(node: Node, inputs: Sequence[Known | None]) -> list[Known]:
    x, wanted = _at(inputs, 0), _fixed(inputs, 1)
    if wanted is None or _attribute(node, "allowzero", 0) or min(wanted, default=0) < -1 or wanted.count(-1) > 1:
        raise MisfitError(f"shape {wanted}")
    shape = [x.shape[i] if size == 0 else size for i, size in enumerate(wanted)]
    rest = math.prod(size for size in shape if size != -1)
    shape = [math.prod(x.shape) // rest if size == -1 else size for size in shape]
    if math.prod(shape) != math.prod(x.shape):
        raise MisfitError(f"shapes {x.shape} and {wanted}")
    return _result(shape, x.type, lambda: x.values, x)


def _resize(_: Node, inputs: Sequence[Known | None]) -> list[Known]:
    x, sizes = _at(inputs, 0), _fixed(inputs, 3)
    if sizes is None or len(sizes) != len(x.shape) or min(sizes) < 1:
        raise MisfitError(f"sizes {sizes}")
    return [Known(tuple(sizes), x.type)]


def _shape(node: Node, inputs: Sequence[Known | None]) -> list[Known]:
    shape = _at(inputs, 0).shape
    part = np.array(shape[_attribute(node, "start", 0) : _attribute(node, "end", len(shape))], np.int64)
    return [Known(part.shape, _INT64, part)]


def _slice(_: Node, inputs: Sequence[Known | None]) -> list[Known]:
    x, starts, ends = _at(inputs, 0), _fixed(inputs, 1) or [], _fixed(inputs, 2) or []
    axes, steps = _fixed(inputs, 3) or list(range(len(starts))), _fixed(inputs, 4) or [1] * len(starts)
    parts = [slice(None)] * len(x.shape)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        parts[_axis(axis, len(x.shape))] = slice(start, end, step)
    shape = [len(range(*part.indices(size))) for part, size in zip(parts, x.shape, strict=True)]
    return _result(shape, x.type, lambda: x.values[tuple(parts)], x)  # type: ignore[index]


def _split(node: Node, inputs: Sequence[Known | None]) -> list[Known]:
    x, widths = _at(inputs, 0), _fixed(inputs, 1)
    axis = _axis(_attribute(node, "axis", 0), len(x.shape))
    if widths is None or sum(widths) != x.shape[axis] or min(widths) < 0:
        raise MisfitError(f"widths {widths} of {x.shape}")
    return [Known((*x.shape[:axis], width, *x.shape[axis + 1 :]), x.type) for width in widths]


def _transpose(node: Node, inputs: Sequence[Known | None]) -> list[Known]:
    x = _at(inputs, 0)
    order = _attribute(node, "perm", ()) or tuple(reversed(range(len(x.shape))))
    if sorted(order) != list(range(len(x.shape))):
        raise MisfitError(f"perm {order} of {x.shape}")
    return [Known(tuple(x.shape[i] for i in order), x.type)]


RULES: Final[Mapping[str, Callable[[Node, Sequence[Known | None]], list[Known]]]] = {
    "Add": _each(lambda a, b: a + b),
    "Cast": _cast,
    "Clip": _same(),
    "Concat": _concat,
    "Conv": _convolution,
    "DequantizeLinear": _dequantize,
    "Div": _each(_divide),
    "Flatten": _flatten,
    "Floor": _same(np.floor),
    "Gemm": _gemm,
    "GlobalAveragePool": _pool,
    "Identity": _same(lambda x: x),
    "LeakyRelu": _same(),
    "Less": _less,
    "Log": _same(),
    "MatMul": _matmul,
    "Max": _each(np.maximum),
    "Min": _each(np.minimum),
    "Mul": _each(lambda a, b: a * b),
    "QuantizeLinear": _quantize,
    "ReduceL2": _reduce(),
    "ReduceMean": _reduce(),
    "ReduceMin": _reduce(np.min),
    "ReduceSum": _reduce(),
    "Relu": _same(),
    "Reshape": _reshape,
    "Resize": _resize,
    "Round": _same(np.round),
    "Shape": _shape,
    "Sigmoid": _same(),
    "Slice": _slice,
    "Softmax": _same(),
    "Split": _split,
    "Squeeze": _squeeze,
    "Sub": _each(lambda a, b: a - b),
    "Tanh": _same(),
    "Transpose": _transpose,
    "Where": _where,
}

OPERATORS: Final = frozenset(RULES)
"""What okko exports: no operator that loops, branches, reads files, makes random numbers or tensors from nothing."""
