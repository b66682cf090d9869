"""From a table to the features of a network, and the same steps as ONNX nodes.

Numbers are standardised, a median stands in for a missing one and a feature of its own says so; a category becomes one
feature per choice. Everything is learnt from training rows alone, and everything is exported.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from onnx import NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from okko_train.estimator_base import location_and_spread

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from okko_train.tabular import Table

    Features = NDArray[np.float64]

SHAPES: Final = ("standard", "clip", "asinh")
"""What becomes of standardised numbers: nothing; cut off at 3 deviations; compressed, which tames long tails."""

_CLIP_AT = 3.0
_MOST_CHOICES = 50
_FEWEST_OF_A_CHOICE = 2  # a category that stands in one training row teaches nothing
ML_DOMAIN: Final = "ai.onnx.ml"


_OUTPUTS: Final = ("probability", "label", "prediction")


def input_name(column: str) -> str:
    """What the ONNX input of a column is called: like the column, unless the graph itself needs that name."""
    return f"column {column}" if column in _OUTPUTS or column.startswith(("okko_", "network_")) else column


@dataclass(frozen=True, eq=False)
class TableEncoder:
    """What training rows taught about the columns.

    Attributes:
        number_names: numeric columns, a of them.
        median: (a,) stands in for missing numbers.
        mean: (a,) of the numbers, medians included.
        scale: (a,) their standard deviation, 1 for a constant column.
        flagged: (m,) which numeric columns have a feature that says "missing".
        word_names: columns of categories.
        choices: for each of these, the categories with a feature of their own; any other is all zeros.
    """

    number_names: tuple[str, ...]
    median: Features
    mean: Features
    scale: Features
    flagged: NDArray[np.int64]
    word_names: tuple[str, ...]
    choices: tuple[tuple[str, ...], ...]

    @classmethod
    def fit(cls, table: Table) -> TableEncoder:
        """Learns from the rows of a table."""
        missing = np.isnan(table.numbers)
        median = np.array(
            [
                np.median(column[~gone]) if not gone.all() else 0.0
                for column, gone in zip(table.numbers.T, missing.T, strict=True)
            ]
        )
        filled = np.where(missing, median, table.numbers)
        mean, scale = location_and_spread(filled, standardise=True)
        choices = []
        for column in table.words.T:
            found, counts = np.unique(column, return_counts=True)
            frequent = sorted(np.argsort(-counts, kind="stable")[:_MOST_CHOICES])
            choices.append(tuple(found[i] for i in frequent if counts[i] >= _FEWEST_OF_A_CHOICE) or tuple(found))
        flagged = np.flatnonzero(missing.any(axis=0))
        return cls(table.number_names, median, mean, scale, flagged, table.word_names, tuple(choices))

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Of the columns of `encode`, in order."""
        numbers = [*self.number_names, *(f"{self.number_names[i]} is missing" for i in self.flagged)]
        pairs = zip(self.word_names, self.choices, strict=True)
        return (*numbers, *(f"{name}={choice}" for name, choices in pairs for choice in choices))

    def encode(self, table: Table) -> Features:
        """Features (n, d) of a table with these columns, numbers standardised."""
        missing = np.isnan(table.numbers)
        numbers = (np.where(missing, self.median, table.numbers) - self.mean) / self.scale
        blocks = [numbers, missing[:, self.flagged].astype(np.float64)]
        for column, choices in zip(table.words.T, self.choices, strict=True):
            blocks.append((column[:, None] == np.array(choices, dtype=object)).astype(np.float64))
        return np.concatenate([block.reshape(len(table), -1) for block in blocks], axis=1)

    def shaped(self, features: Features, shape: str) -> Features:
        """Encoded features (n, d) with their numbers (not flags, not categories) in another shape; see `SHAPES`."""
        a = len(self.number_names)
        if shape == "standard" or not a:
            return features
        numbers = features[:, :a].clip(-_CLIP_AT, _CLIP_AT) if shape == "clip" else np.arcsinh(features[:, :a])
        return np.concatenate([numbers, features[:, a:]], axis=1)

    def inputs(self, one_input: str | None) -> list[ValueInfoProto]:
        """The inputs of the graph: one per column, named like it; or all numbers as one matrix of that name."""
        if one_input is not None:
            return [helper.make_tensor_value_info(one_input, TensorProto.DOUBLE, ["N", len(self.number_names)])]
        kinds = [TensorProto.DOUBLE] * len(self.number_names) + [TensorProto.STRING] * len(self.word_names)
        names = map(input_name, (*self.number_names, *self.word_names))
        return [helper.make_tensor_value_info(name, kind, ["N", 1]) for name, kind in zip(names, kinds, strict=True)]

    def nodes(self, one_input: str | None, output: str, shape: str) -> tuple[list[NodeProto], list[TensorProto]]:
        """Nodes and constants from `inputs` to ``output`` [N, d] float32: `encode`, then `shaped`."""
        nodes: list[NodeProto] = []
        constants: list[TensorProto] = []
        blocks: list[str] = []

        def add(kind: str, inputs: list[str], name: str, **attributes: Any) -> str:
            nodes.append(helper.make_node(kind, inputs, [name], name, **attributes))
            return name

        def constant(name: str, value: NDArray[np.generic]) -> str:
            constants.append(numpy_helper.from_array(value, name))
            return name

        if self.number_names:
            numbers = one_input or add("Concat", [*map(input_name, self.number_names)], "okko_numbers", axis=1)
            infinite, undefined = add("IsInf", [numbers], "okko_infinite"), add("IsNaN", [numbers], "okko_undefined")
            missing = add("Or", [infinite, undefined], "okko_missing")
            filled = add("Where", [missing, constant("okko_median", self.median), numbers], "okko_filled")
            centred = add("Sub", [filled, constant("okko_mean", self.mean)], "okko_centred")
            scaled = add("Div", [centred, constant("okko_scale", self.scale)], "okko_scaled")
            block = add("Cast", [scaled], "okko_standardised", to=TensorProto.FLOAT)
            if shape == "clip":
                low, high = (
                    constant(f"okko_clip_{end}", np.array(sign * _CLIP_AT, np.float32))
                    for end, sign in (("low", -1), ("high", 1))
                )
                block = add("Clip", [block, low, high], "okko_clipped")
            elif shape == "asinh":
                block = add("Asinh", [block], "okko_compressed")
            blocks.append(block)
            if len(self.flagged):
                flags = add("Gather", [missing, constant("okko_flagged", self.flagged)], "okko_flags", axis=1)
                blocks.append(add("Cast", [flags], "okko_flag_features", to=TensorProto.FLOAT))
        for i, (name, choices) in enumerate(zip(self.word_names, self.choices, strict=True)):
            if not choices:
                continue
            one_hot = f"okko_choice_{i}_of_3"
            nodes.append(
                helper.make_node(
                    "OneHotEncoder",
                    [input_name(name)],
                    [one_hot],
                    one_hot,
                    domain=ML_DOMAIN,
                    cats_strings=list(choices),
                    zeros=1,
                )
            )
            flat = constant(f"okko_shape_{i}", np.array([-1, len(choices)], np.int64))
            blocks.append(add("Reshape", [one_hot, flat], f"okko_choice_{i}"))
        add("Concat", blocks, output, axis=1)
        return nodes, constants
