"""Whether a model may be run at all: judged by its bytes, before onnxruntime sees them.

The limits are those of models that okko makes, with room; a model beyond them is refused, however well it is signed.
What this does not judge is whether the model is any good: that the golden frames and a shadow run say.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from okko_models.bundle import MAX_FILE_BYTES, MODEL
from okko_models.errors import BundleError
from okko_models.trust.onnx_graph import read_graph
from okko_models.trust.operators import OPERATORS
from okko_models.trust.shapes import measure

if TYPE_CHECKING:
    from okko_models.bundle import Bundle
    from okko_models.trust.onnx_graph import Graph, Value

OPSET: Final = 18
"""The operator set of every bundle so far."""
MAX_IR_VERSION: Final = 10
MAX_NODES: Final = 10_000
MAX_LABELS: Final = 1000
MAX_ACTIVATION_BYTES: Final = 512 << 20
"""At one time, for the largest photo; okko's own models reach 230 MiB, nearly all of it the photo as real numbers."""
LARGEST_PHOTO: Final = (3040, 4056)
"""Height and width of the Raspberry Pi HQ camera."""
_FLOAT, _UINT8 = 1, 2


@dataclass(frozen=True)
class ModelFacts:
    """What a model is, as its bytes say.

    Attributes:
        opset: version of the ONNX operator set.
        nodes: how many operations.
        operators: the operators used.
        labels: columns of the output `probability`.
        embedding_size: columns of the output `embedding`.
        tells_novelty: whether it has the output `novelty`.
        parameter_bytes: what its constants take.
        activation_bytes: the most that tensors take at one time for one photo (an estimate: runtimes use some more).
    """

    opset: int
    nodes: int
    operators: frozenset[str]
    labels: int
    embedding_size: int
    tells_novelty: bool
    parameter_bytes: int
    activation_bytes: int


def check_model(
    data: bytes, *, photo: tuple[int, int] = LARGEST_PHOTO, max_activation_bytes: int = MAX_ACTIVATION_BYTES
) -> ModelFacts:
    """Judges the content of a `model.onnx`.

    Args:
        data: the file.
        photo: height and width of the photo that the memory is estimated for.
        max_activation_bytes: the most that tensors may take at one time.

    Raises:
        BundleError: it is no ONNX model, or not one that okko could have made.
    """
    if len(data) > MAX_FILE_BYTES:
        raise BundleError(f"model.onnx has {len(data)} bytes; at most {MAX_FILE_BYTES} are read")
    graph = read_graph(data)
    if graph.opset != OPSET:
        raise BundleError(
            f"the model uses operator set {graph.opset}; this okko reads {OPSET}. "
            + ("Update okko on this machine." if graph.opset > OPSET else "Train the model again.")
        )
    if not 0 < graph.ir_version <= MAX_IR_VERSION:
        raise BundleError(f"the model has ONNX format {graph.ir_version}; at most {MAX_IR_VERSION} is read")
    if len(graph.nodes) > MAX_NODES:
        raise BundleError(f"the model has {len(graph.nodes)} nodes; a model of okko has at most {MAX_NODES}")
    operators = frozenset(node.operator for node in graph.nodes)
    if unknown := sorted(operators - OPERATORS):
        raise BundleError(f"the model uses operators that no model of okko uses: {', '.join(unknown[:5])}")
    labels, embedding_size, tells_novelty = _interface(graph)
    parameter_bytes = sum(tensor.bytes for tensor in graph.constants.values())
    if parameter_bytes > MAX_FILE_BYTES:
        raise BundleError(f"the model's constants take {parameter_bytes} bytes; at most {MAX_FILE_BYTES} are allowed")
    sizes = measure(graph, photo, max_activation_bytes)
    for name, shape in {"probability": (1, labels), "embedding": (1, embedding_size), "novelty": (1,)}.items():
        got = sizes.tensors.get(name)
        if (got is None or got.shape != shape or got.type != _FLOAT) and (tells_novelty or name != "novelty"):
            raise BundleError(f"the model computes {name} as {got and got.shape}, but says {shape}; it is not trusted")
    return ModelFacts(
        opset=graph.opset,
        nodes=len(graph.nodes),
        operators=operators,
        labels=labels,
        embedding_size=embedding_size,
        tells_novelty=tells_novelty,
        parameter_bytes=parameter_bytes,
        activation_bytes=sizes.peak_bytes,
    )


def check_bundle(
    bundle: Bundle, *, photo: tuple[int, int] = LARGEST_PHOTO, max_activation_bytes: int = MAX_ACTIVATION_BYTES
) -> ModelFacts:
    """Judges an opened bundle's model, and whether its manifest tells the truth about it.

    Args:
        bundle: the bundle; its files were compared with its manifest when it was opened.
        photo: see `check_model`.
        max_activation_bytes: see `check_model`.

    Raises:
        BundleError: see `check_model`; or manifest and model disagree.
    """
    facts = check_model(bundle.read(MODEL), photo=photo, max_activation_bytes=max_activation_bytes)
    manifest = bundle.manifest
    for what, said, found in (
        ("labels", len(manifest.labels), facts.labels),
        ("numbers in the embedding", manifest.model.embedding_size, facts.embedding_size),
        ("as operator set", manifest.model.opset, facts.opset),
    ):
        if said != found:
            raise BundleError(f"{bundle.path}: the manifest says {said} {what}, the model has {found}")
    return facts


def _interface(graph: Graph) -> tuple[int, int, bool]:
    if [_told(value) for value in graph.inputs] != [("image", _UINT8, 4, 3)] or "image" in graph.constants:
        raise BundleError(f"the model's inputs are {_list(graph.inputs)}; expected image, uint8, (N, H, W, 3)")
    outputs = {value.name: value for value in graph.outputs}
    labels, embedding, novelty = (outputs.get(name) for name in ("probability", "embedding", "novelty"))
    columns = [
        value.shape[1] if value and value.type == _FLOAT and len(value.shape) == 2 else None
        for value in (labels, embedding)
    ]
    wrong = set(outputs) - {"probability", "embedding", "novelty"} or len(outputs) != len(graph.outputs)
    n_labels, size = columns
    if (
        wrong
        or not isinstance(n_labels, int)
        or not isinstance(size, int)
        or not 2 <= n_labels <= MAX_LABELS
        or size < 1
    ):
        raise BundleError(
            f"the model's outputs are {_list(graph.outputs)}; expected probability, float32, (N, labels), "
            "and embedding, float32, (N, size)"
        )
    if novelty and (novelty.type != _FLOAT or len(novelty.shape) != 1):
        raise BundleError(f"the model's outputs are {_list(graph.outputs)}; expected of novelty one number a photo")
    return n_labels, size, novelty is not None


def _told(value: Value) -> tuple[str, int, int, int | str | None]:
    return value.name, value.type, len(value.shape), value.shape[-1] if value.shape else None


def _list(values: tuple[Value, ...]) -> str:
    return ", ".join(f"{value.name} {value.shape}" for value in values) or "none"
