"""How unlike the training photos a frame is: the part of a model that knows when it does not know.

Two views are taken of the same features, and the larger one counts. The Mahalanobis distance to the training photos
(Lee et al., 2018, "A simple unified framework for detecting out-of-distribution samples") answers for what nobody
thought of. A linear score learnt against pictures that are wrong on purpose (Hendrycks et al., 2019, "Deep anomaly
detection with outlier exposure") answers for what can be foreseen: two objects, a hand, a moved camera. Both are scaled
so that 1 is the limit, which photos that were not learnt from set. Pure arithmetic; pictures are made elsewhere.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from onnx import helper, numpy_helper

from okko_train.head import Projection

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import NodeProto, TensorProto

COMPONENTS: Final = 128
PHOTOS_WITHIN: Final = 0.99
"""Share of good photos, not learnt from, that stay within each of the two limits."""
COPIES_WITHIN: Final = 0.98
"""Share of their altered copies, which stand for another day's light, that stay within."""
_SHRINKAGE: Final = 0.1
_RIDGE: Final = 0.3
_NEWTON_STEPS: Final = 12


@dataclass(frozen=True)
class Novelty:
    """A fitted measure of novelty.

    Attributes:
        mean: (n_features,) subtracted first.
        axes: (n_features, n_components) multiplied next; the length of the result is the distance, with 1 the limit.
        direction: (n_features,) along which pictures that are wrong on purpose lie.
        offset: added to what `direction` gives; then 0 is the middle of the training photos and 1 the limit.
    """

    mean: NDArray[np.float32]
    axes: NDArray[np.float32]
    direction: NDArray[np.float32]
    offset: float

    def __call__(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Returns the novelty (n,) of features (n, n_features); beyond 1 nothing like it was learnt from."""
        centred = features - self.mean
        distance = np.sqrt(((centred @ self.axes) ** 2).sum(axis=1))
        return np.asarray(np.maximum(distance, centred @ self.direction + np.float32(self.offset)), np.float32)

    def nodes(self, features: str, output: str, prefix: str) -> tuple[list[NodeProto], list[TensorProto]]:
        """Returns the ONNX nodes from the tensor `features` (n, n_features) to `output` (n,), and their constants."""
        constants = {
            "mean": self.mean,
            "axes": self.axes,
            "direction": self.direction,
            "offset": np.float32(self.offset),
            "across": np.array([1], np.int64),
        }
        names = {
            name: f"{prefix}_{name}" for name in (*constants, "centred", "components", "distance", "along", "strange")
        }

        def node(operator: str, inputs: list[str], result: str, **attributes: Any) -> NodeProto:
            tensors = [names.get(each, each) for each in inputs]
            return helper.make_node(
                operator, tensors, [names.get(result, result)], f"{prefix}_at_{result}", **attributes
            )

        nodes = [
            node("Sub", [features, "mean"], "centred"),
            node("MatMul", ["centred", "axes"], "components"),
            node("ReduceL2", ["components", "across"], "distance", keepdims=0),
            node("MatMul", ["centred", "direction"], "along"),
            node("Add", ["along", "offset"], "strange"),
            node("Max", ["distance", "strange"], output),
        ]
        initializers = [
            numpy_helper.from_array(np.asarray(value), f"{prefix}_{name}") for name, value in constants.items()
        ]
        return nodes, initializers


def fit_novelty(
    photos: NDArray[np.float32],
    copies: NDArray[np.float32],
    strangers: NDArray[np.float32],
    folds: NDArray[np.int64],
    emphasis: NDArray[np.float32],
) -> Novelty:
    """Fits the measure, and its limits on photos that were left out of the fit in turn.

    Args:
        photos: (n, n_features) to learn from.
        copies: (n_copies, n, n_features) of altered copies of them, which are as familiar.
        strangers: (m, n_features) of pictures that are wrong on purpose.
        folds: (n,) number of the fold in which a photo is left out.
        emphasis: (n_features,) how loud each standardised feature is.
    """
    everything = np.concatenate([photos, *copies, strangers])
    projection = Projection.fit(everything, emphasis)
    projection = projection.first(min(COMPONENTS, projection.axes.shape[1]))
    seen = np.stack([projection(photos), *map(projection, copies)]).astype(np.float64)
    strange = projection(strangers).astype(np.float64)

    left_out = np.empty((2, *seen.shape[:2]))
    for fold in np.unique(folds):
        learn, rest = folds != fold, folds == fold
        judges = _judges(seen[:, learn].reshape(-1, seen.shape[2]), strange)
        left_out[:, :, rest] = np.moveaxis(_judge(judges, seen[:, rest]), -1, 0)
    distance_limit, strangeness_limit = (_limit(scores[0], scores[1:]) for scores in left_out)
    usual = float(np.median(left_out[1]))

    middle, whitening, weights = _judges(seen.reshape(-1, seen.shape[2]), strange)
    scale = 1 / max(strangeness_limit - usual, 1e-9)
    axes = projection.axes.astype(np.float64)
    mean = projection.mean + _shift(axes, middle)
    offset = (float(weights[-1]) - usual + float(middle @ weights[:-1])) * scale
    return Novelty(
        mean.astype(np.float32),
        (axes @ whitening / distance_limit).astype(np.float32),
        (axes @ weights[:-1] * scale).astype(np.float32),
        offset,
    )


def _shift(axes: NDArray[np.float64], middle: NDArray[np.float64]) -> NDArray[np.float64]:
    """The shortest way in feature space that moves the components by `middle`."""
    return np.asarray(axes @ np.linalg.solve(axes.T @ axes, middle))


_Judges = tuple["NDArray[np.float64]", "NDArray[np.float64]", "NDArray[np.float64]"]


def _judges(seen: NDArray[np.float64], strange: NDArray[np.float64]) -> _Judges:
    """Mean and whitening of the familiar components (n, k), and weights (k + 1) of the score that strange ones get."""
    middle = seen.mean(axis=0)
    spread = np.cov(seen.T, bias=True)
    spread = (1 - _SHRINKAGE) * spread + _SHRINKAGE * np.trace(spread) / len(spread) * np.eye(len(spread))
    whitening = np.linalg.inv(np.linalg.cholesky(spread)).T
    return middle, whitening, _separate(seen, strange)


def _judge(judges: _Judges, components: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distance and score (..., 2) of components (..., k)."""
    middle, whitening, weights = judges
    distance = np.linalg.norm((components - middle) @ whitening, axis=-1)
    return np.stack([distance, components @ weights[:-1] + weights[-1]], axis=-1)


def _separate(seen: NDArray[np.float64], strange: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ridge logistic regression by Newton's method, both sides equally heavy."""
    inputs = np.concatenate([seen, strange])
    scale = inputs.std(axis=0) + 1e-12
    inputs = np.concatenate([inputs / scale, np.ones((len(inputs), 1))], axis=1)
    truth = np.repeat([0.0, 1.0], [len(seen), len(strange)])
    heavy = np.repeat([0.5 / len(seen), 0.5 / len(strange)], [len(seen), len(strange)])
    ridge = np.full(inputs.shape[1], _RIDGE / inputs.shape[1])
    ridge[-1] = 0
    weights = np.zeros(inputs.shape[1])
    for _ in range(_NEWTON_STEPS):
        chance = 1 / (1 + np.exp(-np.clip(inputs @ weights, -30, 30)))
        gradient = inputs.T @ (heavy * (chance - truth)) + ridge * weights
        curvature = inputs.T @ (inputs * (heavy * np.maximum(chance * (1 - chance), 1e-4))[:, None]) + np.diag(ridge)
        weights = weights - np.linalg.solve(curvature + 1e-12 * np.eye(len(ridge)), gradient)
    return np.append(weights[:-1] / scale, weights[-1])


def _limit(photos: NDArray[np.float64], copies: NDArray[np.float64]) -> float:
    """The conformal quantile of the photos' scores, or that of their copies where it is larger."""
    rank = math.ceil(PHOTOS_WITHIN * (len(photos) + 1))
    limit = float(np.sort(photos)[min(rank, len(photos)) - 1])
    return max(limit, float(np.quantile(copies, COPIES_WITHIN))) if copies.size else limit
