"""The trained model as one ONNX graph, the proof that it computes what was trained, and the bundle that is written.

The feature graph is taken as it stands (float or int8) and the head's matrices are added behind it; nothing is
approximated on the way, and `check_parity` measures that before a bundle exists. What a device would refuse is not
written at all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from onnx import ModelProto, TensorProto, checker, helper, numpy_helper

from okko_models.bundle import write_bundle
from okko_models.errors import OkkoError
from okko_models.trust.model_check import check_bundle
from okko_train import network_onnx
from okko_train.feature_graph import FEATURES

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from okko_models.bundle import Bundle
    from okko_models.manifest import Manifest
    from okko_train.head import Head

MAX_PARITY_ERROR = 1e-5


class ParityError(OkkoError):
    """The exported graph does not compute what was trained; no bundle is written."""


def assemble(feature_model: ModelProto, head: Head) -> ModelProto:
    """Returns the graph from `image` to `probability` (n, n_labels) and `embedding` (n, n_components)."""
    model = ModelProto()
    model.CopyFrom(feature_model)
    graph = model.graph
    n_components = head.projection.axes.shape[1]
    n_labels = head.network.layer_sizes[-1]
    graph.initializer.append(numpy_helper.from_array(head.projection.mean, "head_mean"))
    graph.initializer.append(numpy_helper.from_array(head.projection.axes, "head_axes"))
    graph.node.append(helper.make_node("Sub", [FEATURES, "head_mean"], ["head_centred"], "head_centre"))
    graph.node.append(helper.make_node("MatMul", ["head_centred", "head_axes"], ["embedding"], "head_project"))
    nodes, initializers = network_onnx.nodes(head.network, "embedding", "probability", "head")
    graph.node.extend(nodes)
    graph.initializer.extend(initializers)
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["N", n_labels]))
    graph.output.append(helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", n_components]))
    checker.check_model(model, full_check=True)
    return model


def check_parity(trained: NDArray[np.floating], exported: NDArray[np.floating]) -> float:
    """Returns the largest difference between the probabilities (n, n_labels) of the trained and the exported model.

    Raises:
        ParityError: the difference exceeds `MAX_PARITY_ERROR` or is not a number.
    """
    difference = float(np.abs(trained - exported).max())
    if not difference <= MAX_PARITY_ERROR:
        raise ParityError(
            f"the exported model differs from the trained one by {difference:.2g} in probability, at most "
            f"{MAX_PARITY_ERROR:.0e} is allowed; this is a defect of okko or of this onnxruntime: please report it"
        )
    return difference


def write_checked(path: Path, manifest: Manifest, contents: Mapping[str, bytes]) -> Bundle:
    """Writes a bundle, as `okko_models.bundle.write_bundle` does, if devices would take it.

    Raises:
        BundleError: the model is not one that a device runs, or its manifest does not tell the truth about it; or the
            place cannot be written. What was there stays.
    """
    return write_bundle(path, manifest, contents, judge=check_bundle)
