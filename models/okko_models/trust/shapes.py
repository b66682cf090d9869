"""How large every tensor of a graph becomes for one photo, found without running it.

Shapes are followed from node to node, and where they depend on small numbers inside the graph (the photo's height, a
side to resize to) those are computed too. `operators` says what each operator does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from okko_models.errors import BundleError
from okko_models.trust.operators import RULES, SMALL, Known, MisfitError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from okko_models.trust.onnx_graph import Graph, Node, Tensor

_MAX_RANK: Final = 8
_UINT8: Final = 2


@dataclass(frozen=True, slots=True)
class Sizes:
    """What running a graph takes.

    Attributes:
        tensors: every tensor of the graph, by name.
        peak_bytes: the most that tensors take at one time, if each is freed after its last use.
    """

    tensors: Mapping[str, Known]
    peak_bytes: int


def measure(graph: Graph, photo: tuple[int, int], limit_bytes: int) -> Sizes:
    """Follows the shapes through the graph for one photo.

    Args:
        graph: a graph whose only input is a uint8 image (1, height, width, 3).
        photo: height and width in pixels.
        limit_bytes: the most that tensors may take at one time.

    Raises:
        BundleError: an operator is not allowed, the nodes do not fit each other, or they take more memory.
    """
    known = {name: _constant(tensor) for name, tensor in graph.constants.items()}
    known[graph.inputs[0].name] = Known((1, *photo, 3), _UINT8)
    kept = {value.name for value in graph.outputs}
    last_use = {name: number for number, node in enumerate(graph.nodes) for name in node.inputs}
    held = peak = known[graph.inputs[0].name].bytes
    for number, node in enumerate(graph.nodes):
        for name, result in zip(node.outputs, _apply(node, known, limit_bytes), strict=False):
            if name in known:
                raise BundleError(f"the model computes {name} twice; it is not trusted")
            if name:
                known[name] = result
                held += result.bytes
        peak = max(peak, held)
        if peak > limit_bytes:
            raise BundleError(
                f"the model needs more than {limit_bytes >> 20} MiB for a photo of {photo[1]}x{photo[0]} pixels "
                f"(at its node {node.name or node.operator}); a model of okko needs much less"
            )
        for name in {*node.inputs, *node.outputs} - kept - {""}:
            if last_use.get(name, -1) <= number and name not in graph.constants:
                held -= known[name].bytes
    return Sizes(known, peak)


def _constant(tensor: Tensor) -> Known:
    small = math.prod(tensor.shape) <= SMALL
    return Known(tensor.shape, tensor.type, tensor.values() if small else None)


def _apply(node: Node, known: Mapping[str, Known], limit_bytes: int) -> list[Known]:
    rule = RULES.get(node.operator)
    if rule is None:
        raise BundleError(
            f"the model uses the operator {node.operator}, which no model of okko uses; it is not trusted"
        )
    try:
        inputs = [known[name] if name else None for name in node.inputs]
    except KeyError as error:
        raise BundleError(f"the model uses {error} before it is computed") from error
    try:
        results = rule(node, inputs)
    except (MisfitError, ValueError, TypeError, IndexError, OverflowError, AttributeError, ZeroDivisionError) as error:
        raise BundleError(
            f"the model's node {node.name or node.outputs} ({node.operator}) does not fit its inputs: {error}"
        ) from error
    if len(node.outputs) > len(results):
        raise BundleError(f"the model's node {node.name or node.operator} has {len(node.outputs)} outputs")
    for result in results:
        if len(result.shape) > _MAX_RANK or result.bytes > limit_bytes:
            raise BundleError(
                f"the model's node {node.name or node.operator} makes a tensor {result.shape}, "
                f"more than the {limit_bytes >> 20} MiB allowed; it is not trusted"
            )
    return results
