"""Judging by good photos alone: how far a photo is from them, at several depths of the backbone and in two looks.

For each look a normal distribution is fitted to the features of the good photos (Rippel et al., 2021, "Modeling the
distribution of normal data in pre-trained deep features for anomaly detection"); the distance to it is compared with
the distances of good photos that were left out of the fit, and the stranger look counts. No bad photo is needed, and
none is learnt from. Pure arithmetic.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from onnx import helper, numpy_helper

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from onnx import NodeProto, TensorProto

MEANING: Final = (
    "No bad photo was seen, so this is no chance of being good. 0.5 stands where the stated share of good photos, left "
    "out of learning, looks stranger; a usual good photo has 0.9. It falls the stranger a photo looks."
)
KO_SHARE: Final = 0.4
"""This part of the false alarms is called KO at once; the rest is UNCERTAIN."""
EMBEDDED: Final = 48
"""Principal components of each look in the embedding."""
_USUAL: Final = 0.9
_SHRINKAGE: Final = 1.0
"""Of the mean eigenvalue, added to each; a distance fitted to few photos must not trust their narrow directions."""


@dataclass(frozen=True)
class LookDistance:
    """The distance to good photos in one look.

    Attributes:
        mean: (n_features,) of the good photos.
        whitening: (n_features, n_features); what is left after it has length `distance`.
        middle: mean of the logarithm of the distances of good photos that were left out.
        spread: standard deviation of that logarithm.
        axes: (n_features, n_components) for the embedding.
    """

    mean: NDArray[np.float32]
    whitening: NDArray[np.float32]
    middle: float
    spread: float
    axes: NDArray[np.float32]

    def __call__(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """Returns how strange (n, n_features) features are, (n,), in standard deviations of good photos."""
        return np.asarray((_log_distance(self.mean, self.whitening, features) - self.middle) / self.spread)


@dataclass(frozen=True)
class OneClass:
    """A model learnt from good photos alone.

    Attributes:
        looks: one distance a look; a photo's features are those of all looks, side by side.
        limit: strangeness at which the probability of OK is 0.5.
        softness: strangeness that changes the odds by a factor of e.
        ko_threshold: probability of OK below which a photo is KO.
    """

    looks: tuple[LookDistance, ...]
    limit: float
    softness: float
    ko_threshold: float

    def strangeness(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """Returns (n,) how strange features (n, n_features) are: that of the strangest look."""
        widths = [len(look.mean) for look in self.looks]
        parts = np.split(features, np.cumsum(widths)[:-1], axis=1)
        return np.asarray(np.max([look(part) for look, part in zip(self.looks, parts, strict=True)], axis=0))

    def probability(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """Returns (n, 2): not OK, and OK; see `MEANING`."""
        of_ok = self.of_ok(self.strangeness(features))
        return np.stack([1 - of_ok, of_ok], axis=1)

    def of_ok(self, strangeness: NDArray[np.float64]) -> NDArray[np.float64]:
        """Returns the probability of OK (n,) of a strangeness (n,)."""
        return np.asarray(1 / (1 + np.exp(np.clip((strangeness - self.limit) / self.softness, -60, 60))))

    def nodes(self, features: str) -> tuple[list[NodeProto], list[TensorProto]]:
        """Returns the ONNX nodes from the tensor `features` to `probability` and `embedding`, and their constants."""
        widths = np.array([len(look.mean) for look in self.looks], np.int64)
        constants: dict[str, NDArray[Any] | np.float32] = {
            "widths": widths,
            "across": np.array([1], np.int64),
            "one": np.float32(1),
            "limit": np.float32(self.limit),
            "slope": np.float32(-1 / self.softness),
        }
        parts = [f"one_class_part{number}" for number in range(len(self.looks))]
        nodes = [helper.make_node("Split", [features, "one_class_widths"], parts, "one_class_split", axis=1)]

        def add(operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
            names = [f"one_class_{name}" if name in constants else name for name in inputs]
            nodes.append(helper.make_node(operator, names, [output], f"one_class_at_{output}", **attributes))
            return output

        strange, embedded = [], []
        for number, (look, part) in enumerate(zip(self.looks, parts, strict=True)):
            constants |= {
                f"mean{number}": look.mean,
                f"whitening{number}": look.whitening,
                f"axes{number}": look.axes,
                f"middle{number}": np.float32(look.middle),
                f"spread{number}": np.float32(look.spread),
            }
            centred = add("Sub", [part, f"mean{number}"], f"{part}_centred")
            embedded.append(add("MatMul", [centred, f"axes{number}"], f"{part}_embedded"))
            white = add("MatMul", [centred, f"whitening{number}"], f"{part}_white")
            distance = add("ReduceL2", [white, "across"], f"{part}_distance", keepdims=1)
            logarithm = add("Log", [distance], f"{part}_log")
            above = add("Sub", [logarithm, f"middle{number}"], f"{part}_above")
            strange.append(add("Div", [above, f"spread{number}"], f"{part}_strange"))
        add("Concat", embedded, "embedding", axis=1)
        strangest = add("Max", strange, "one_class_strangest")
        beyond = add("Sub", [strangest, "limit"], "one_class_beyond")
        of_ok = add("Sigmoid", [add("Mul", [beyond, "slope"], "one_class_odds")], "one_class_of_ok")
        of_ko = add("Sub", ["one", of_ok], "one_class_of_ko")
        add("Concat", [of_ko, of_ok], "probability", axis=1)
        return nodes, [
            numpy_helper.from_array(np.asarray(value), f"one_class_{name}") for name, value in constants.items()
        ]


def fit_one_class(
    looks: Sequence[NDArray[np.float32]], folds: NDArray[np.int64], rate: float
) -> tuple[OneClass, NDArray[np.float64]]:
    """Fits the distances, and their limits on good photos that were left out of the fit in turn.

    Args:
        looks: features (n, n_features) of the good photos, one array a look.
        folds: (n,) number of the fold in which a photo is left out; with many folds the limits are hardly too wide.
        rate: share of good photos that may fail to be called OK, in (0, 1).

    Returns:
        The model, and the strangeness (n,) that each photo had when it was left out.
    """
    left_out = []
    distances = []
    for features in looks:
        logarithms = np.empty(len(features))
        for fold in np.unique(folds):
            learn, rest = folds != fold, folds == fold
            mean, whitening, _ = _gauss(features[learn])
            logarithms[rest] = _log_distance(mean, whitening, features[rest])
        middle, spread = float(logarithms.mean()), float(logarithms.std()) + 1e-6
        mean, whitening, axes = _gauss(features)
        distances.append(LookDistance(mean, whitening, middle, spread, axes))
        left_out.append((logarithms - middle) / spread)
    strangeness = np.max(left_out, axis=0)
    limit, ko_limit = (_conformal(strangeness, share) for share in (rate, KO_SHARE * rate))
    softness = max(limit - float(np.median(strangeness)), 1e-3) / math.log(_USUAL / (1 - _USUAL))
    model = OneClass(tuple(distances), limit, softness, ko_threshold=0.5)
    ko_threshold = min(0.5, float(model.of_ok(np.array([ko_limit]))[0]))
    return OneClass(model.looks, limit, softness, ko_threshold), strangeness


def _conformal(strangeness: NDArray[np.float64], rate: float) -> float:
    """The strangeness that a new good photo exceeds with probability `rate` at most (Vovk et al., 2005).

    With too few photos for that no limit can promise it; then it lies half a standard deviation beyond the strangest.
    """
    rank = math.ceil((1 - rate) * (len(strangeness) + 1))
    ordered = np.sort(strangeness)
    return float(ordered[rank - 1] if rank <= len(ordered) else ordered[-1] + 0.5)


def _gauss(
    features: NDArray[np.float32],
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Mean, whitening of the regularised covariance (standardised features), and the strongest axes."""
    mean = features.mean(axis=0, dtype=np.float64)
    deviation = features.std(axis=0, dtype=np.float64)
    scale = 1 / (deviation + 0.05 * np.median(deviation) + 1e-9)
    standardised = (features - mean) * scale
    values, vectors = np.linalg.eigh(standardised.T @ standardised / len(features))
    floor = _SHRINKAGE * values.clip(0).mean() + 1e-9
    whitening = scale[:, None] * vectors / np.sqrt(values.clip(0) + floor)
    strongest = vectors[:, ::-1][:, :EMBEDDED]
    axes = scale[:, None] * strongest / math.sqrt(max(float(values[-1]), 1e-9))
    return mean.astype(np.float32), whitening.astype(np.float32), axes.astype(np.float32)


def _log_distance(
    mean: NDArray[np.float32], whitening: NDArray[np.float32], features: NDArray[np.float32]
) -> NDArray[np.float64]:
    return np.asarray(np.log(np.linalg.norm((features - mean) @ whitening, axis=1)), np.float64)
