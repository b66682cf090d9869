"""The network that tuning looks for: its hyperparameters, its training on a table, and its export.

One set of hyperparameters and one table give one `TunedNetwork`, bit for bit. Which hyperparameters are worth a try is
decided elsewhere (`okko_train.search`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from okko_train import network_onnx
from okko_train.network import Network, fit
from okko_train.optimizers import Adam
from okko_train.space import Categorical, Float, Integer, Space
from okko_train.table_encoder import ML_DOMAIN, SHAPES, TableEncoder

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from okko_train.tabular import Table

    Matrix = NDArray[np.float64]

DEFAULTS: Final[dict[str, Any]] = {
    "preprocessing": "standard",
    "hidden_layers": 1,
    "units_1": 32,
    "activation": "relu",
    "dropout": 0.0,
    "learning_rate": 5e-3,
    "momentum": 0.9,
    "batch_size": 32,
    "epochs": 50,
    "l2": 1e-4,
}
"""Sensible for most tables; the first trial."""

REGULARISATION: Final = ("dropout", "l2")
NO_REGULARISATION: Final = {"dropout": 0.0, "l2": 1e-6}


def tuning_space() -> Space:
    """Returns what is tuned: preprocessing, shape and training of the network."""
    hidden = ("hidden_layers", (1, 2))
    return Space(
        {
            "preprocessing": Categorical(SHAPES),
            "hidden_layers": Integer(0, 2),
            "units_1": Integer(4, 64, scale="log", when=hidden),
            "units_2": Integer(4, 64, scale="log", when=("hidden_layers", (2,))),
            "activation": Categorical(("relu", "leaky_relu", "tanh", "sigmoid"), when=hidden),
            "dropout": Float(0.0, 0.5, when=hidden),
            "learning_rate": Float(3e-4, 5e-2, scale="log"),
            "momentum": Float(0.5, 0.99, scale="reverse_log"),
            "batch_size": Integer(8, 256, scale="log"),
            "epochs": Integer(10, 100, scale="log"),
            "l2": Float(1e-6, 1.0, scale="log"),
        }
    )


@dataclass(frozen=True, eq=False)
class TunedNetwork:
    """A network with all that stands before and after it.

    Attributes:
        encoder: table to features.
        shape: of the numbers among the features, one of `SHAPES`.
        network: features to probabilities, or to a standardised number.
        classes: (k,) names in the order of the probabilities, or None for a regression.
        target_mean: of the numbers to predict; 0 for classes.
        target_scale: their standard deviation; 1 for classes.
    """

    encoder: TableEncoder
    shape: str
    network: Network
    classes: NDArray[Any] | None
    target_mean: float
    target_scale: float

    def outputs(self, table: Table) -> Matrix:
        """Probabilities (n, k), or numbers (n, 1); in double precision, so that no row depends on those beside it."""
        features = self.encoder.shaped(self.encoder.encode(table), self.shape)
        raw = self.network.copy(np.float64).predict(features)
        return np.asarray(raw * self.target_scale + self.target_mean, np.float64)

    def to_onnx(self, one_input: str | None = None) -> ModelProto:
        """The whole computation as one ONNX model.

        Its outputs are ``probability`` float32 [N, k] and ``label`` [N] for classes, ``prediction`` float32 [N, 1] for
        numbers.

        Args:
            one_input: name of a single input with all numeric columns, instead of one input per column.
        """
        nodes, constants = self.encoder.nodes(one_input, "okko_features", self.shape)
        classes = self.classes
        last = "probability" if classes is not None else "okko_prediction"
        more_nodes, weights = network_onnx.nodes(self.network, "okko_features", last)
        nodes, constants = nodes + more_nodes, constants + weights
        if classes is not None:
            plain = classes.astype(np.int64) if classes.dtype.kind in "iub" else classes.astype(str).astype(object)
            constants.append(numpy_helper.from_array(plain, "okko_classes"))
            kind = TensorProto.INT64 if plain.dtype == np.int64 else TensorProto.STRING
            nodes += [
                helper.make_node("ArgMax", ["probability"], ["okko_index"], "okko_argmax", axis=1, keepdims=0),
                helper.make_node("Gather", ["okko_classes", "okko_index"], ["label"], "okko_name"),
            ]
            outputs = [
                helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["N", len(classes)]),
                helper.make_tensor_value_info("label", kind, ["N"]),
            ]
        else:
            scale, mean = (np.array(value, np.float32) for value in (self.target_scale, self.target_mean))
            constants += [numpy_helper.from_array(scale, "okko_by"), numpy_helper.from_array(mean, "okko_plus")]
            nodes += [
                helper.make_node("Mul", [last, "okko_by"], ["okko_product"], "okko_unscale"),
                helper.make_node("Add", ["okko_product", "okko_plus"], ["prediction"], "okko_shift"),
            ]
            outputs = [helper.make_tensor_value_info("prediction", TensorProto.FLOAT, ["N", 1])]
        graph = helper.make_graph(nodes, "table", self.encoder.inputs(one_input), outputs, constants)
        opsets = [helper.make_opsetid("", network_onnx.OPSET), helper.make_opsetid(ML_DOMAIN, 3)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=network_onnx.IR_VERSION, producer_name="okko")


@dataclass(frozen=True, eq=False)
class Targets:
    """What is to be learnt, in the network's terms.

    Attributes:
        values: (n,) class numbers (int64), or numbers in their own units (float64).
        classes: (k,) names of the classes, or None for a regression.
    """

    values: NDArray[Any]
    classes: NDArray[Any] | None

    @classmethod
    def of(cls, target: NDArray[Any], task: str) -> Targets:
        """Class names (n,), or numbers (n,) for the task "regression"."""
        if task == "regression":
            return cls(np.asarray(target, np.float64), None)
        classes, values = np.unique(target, return_inverse=True)
        return cls(values.astype(np.int64), classes)


def train(
    hyperparameters: Mapping[str, Any],
    encoder: TableEncoder,
    features: Matrix,
    targets: Targets,
    rows: NDArray[np.int64] | slice = slice(None),
    *,
    seed: int = 0,
) -> TunedNetwork:
    """Trains a network.

    Args:
        hyperparameters: a point of `tuning_space`; what is missing is taken from `DEFAULTS`.
        encoder: that made the features.
        features: (n_rows, d), encoded, not yet shaped.
        targets: of the whole table.
        rows: of the targets that belong to the features.
        seed: of the weights and of the order of the rows.

    Raises:
        TrainingDivergedError: these hyperparameters cannot be trained with.
    """
    h = {**DEFAULTS, **hyperparameters}
    units = [h.get(f"units_{layer + 1}", DEFAULTS["units_1"]) for layer in range(h["hidden_layers"])]
    values, mean, scale = targets.values[rows], 0.0, 1.0
    if targets.classes is None:
        mean, scale = float(values.mean()), float(values.std()) or 1.0
        values = (values - mean) / scale
    outputs, last = (len(targets.classes), "softmax") if targets.classes is not None else (1, "linear")
    network = Network(
        (features.shape[1], *units, outputs),
        (h["activation"],) * len(units) + (last,),
        seed=seed,
        dropout=float(h["dropout"]),
    )
    with np.errstate(all="ignore"):
        fit(
            network,
            encoder.shaped(features, h["preprocessing"]),
            values,
            cost="cross_entropy" if targets.classes is not None else "mse",
            optimizer=Adam(beta1=h["momentum"]),
            learning_rate=h["learning_rate"],
            learning_rate_decay="cosine",
            l2=h["l2"],
            epochs=h["epochs"],
            batch_size=h["batch_size"],
            seed=seed,
        )
    return TunedNetwork(encoder, h["preprocessing"], network, targets.classes, mean, scale)
