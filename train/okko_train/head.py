"""The head: from a photo's features to scores for its label.

Features are standardised and turned onto their principal axes, which lets a small network learn from few photos in
milliseconds; then comes the network. All three are exported as they stand. The head does not know where its features
come from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NotRequired, TypedDict

import numpy as np
import scipy.linalg

from okko_train.network import History, Network, fit
from okko_train.space import Categorical, Float, Integer, Space

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from okko_train.calibration import Calibration

MAX_COMPONENTS = 256
MAX_PHOTOS_FOR_AXES = 800


class Hyperparameters(TypedDict):
    """What the swarm chooses; see `hyperparameter_space` for the ranges."""

    look: str
    components: int
    hidden_layers: int
    hidden_units: NotRequired[int]
    dropout: NotRequired[float]
    learning_rate: float
    l2: float
    epochs: int


def hyperparameter_space(n_photos: int, looks: Sequence[str]) -> Space:
    """Returns the space in which the swarm searches.

    Args:
        n_photos: number of photos that the smallest training fold has.
        looks: names of the looks at a photo.
    """
    most = min(MAX_COMPONENTS, n_photos - 1)
    return Space(
        {
            "look": Categorical(tuple(looks)),
            "components": Integer(min(8, most - 1), most, scale="log"),
            "hidden_layers": Integer(0, 1),
            "hidden_units": Integer(8, 64, scale="log", when=("hidden_layers", (1,))),
            "dropout": Float(0.0, 0.6, when=("hidden_layers", (1,))),
            "learning_rate": Float(3e-4, 3e-2, scale="log"),
            "l2": Float(1e-5, 1.0, scale="log"),
            "epochs": Integer(10, 80, scale="log"),
        }
    )


def usual_hyperparameters(look: str) -> Hyperparameters:
    """Returns hyperparameters that serve most photos well, few of them too.

    Args:
        look: name of the look at a photo.
    """
    return {
        "look": look,
        "components": MAX_COMPONENTS,
        "hidden_layers": 1,
        "hidden_units": 32,
        "dropout": 0.3,
        "learning_rate": 0.003,
        "l2": 0.01,
        "epochs": 80,
    }


@dataclass(frozen=True)
class Projection:
    """Standardisation and rotation onto the principal axes, strongest first (Pearson, 1901).

    Attributes:
        mean: (n_features,) subtracted first.
        axes: (n_features, n_components) multiplied next; standard deviations and emphasis are contained in them, and
            all columns share one scale, so that the first component has unit variance.
    """

    mean: NDArray[np.float32]
    axes: NDArray[np.float32]

    @classmethod
    def fit(cls, features: NDArray[np.float32], emphasis: NDArray[np.float32]) -> Projection:
        """Finds the principal axes of standardised features; with very many photos, on some, evenly spread.

        Args:
            features: (n_photos, n_features).
            emphasis: (n_features,) how loud each standardised feature is.
        """
        features = features[:: -(-len(features) // MAX_PHOTOS_FOR_AXES)]
        n_photos, n_features = features.shape
        n_components = min(MAX_COMPONENTS, n_photos - 1, n_features)
        mean = features.mean(axis=0, dtype=np.float64).astype(np.float32)
        spread = features.std(axis=0, dtype=np.float64)
        # A feature that hardly varies over these photos is noise; dividing by its spread alone would make it loud.
        scale = (emphasis / (spread + 0.05 * np.median(spread) + 1e-12)).astype(np.float32)
        standardised = (features - mean) * scale
        # The photos' Gram matrix has the same axes as the covariance and is far smaller when photos are few.
        gram = (standardised @ standardised.T).astype(np.float64)
        values, vectors = scipy.linalg.eigh(gram, subset_by_index=(n_photos - n_components, n_photos - 1))
        values, vectors = np.maximum(values[::-1], 1e-9 * values[-1]), vectors[:, ::-1]
        axes = standardised.T @ (vectors / np.sqrt(values))
        axes *= np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(n_components)])
        first_deviation = np.sqrt(values[0] / n_photos)
        return cls(mean, (axes * scale[:, None] / first_deviation).astype(np.float32))

    def __call__(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Returns the (n_photos, n_components) components of (n_photos, n_features) features."""
        return np.asarray((features - self.mean) @ self.axes, dtype=np.float32)

    def first(self, n_components: int) -> Projection:
        """Returns the projection onto the strongest axes alone."""
        return Projection(self.mean, np.ascontiguousarray(self.axes[:, :n_components]))


@dataclass(frozen=True)
class Head:
    """A trained head: `network` on the components of `projection`."""

    projection: Projection
    network: Network

    def probability(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Returns (n_photos, n_labels) probabilities of (n_photos, n_features) features."""
        return self.network.predict(self.projection(features))

    def calibrated(self, calibration: Calibration) -> Head:
        """Returns a head whose scores are divided by the temperature and shifted, within the last layer's weights."""
        network = self.network.copy()
        last = network.layers[-1]
        last.matrix[:] /= calibration.temperature
        last.bias[:] += np.array(calibration.shift, last.bias.dtype)[:, None]
        return Head(self.projection, network)


def train_network(
    components: NDArray[np.float32],
    truth: NDArray[np.int64],
    n_labels: int,
    parameters: Hyperparameters,
    *,
    seed: int,
    validation: tuple[NDArray[np.float32], NDArray[np.int64]] | None = None,
) -> tuple[Network, History]:
    """Trains the network of a head by Adam.

    Args:
        components: (n_photos, n_components); the first parameters["components"] of them are used.
        truth: (n_photos,) index of the label.
        n_labels: number of labels.
        parameters: of the network.
        seed: of the initial weights and of the order of the photos.
        validation: components and labels whose cost is recorded each epoch; nothing is learnt from them.
    """
    used = min(parameters["components"], components.shape[1])
    hidden = (parameters["hidden_units"],) if parameters["hidden_layers"] else ()
    network = Network(
        (used, *hidden, n_labels),
        ("relu",) * len(hidden) + ("softmax",),
        seed=seed,
        dropout=parameters.get("dropout", 0.0),
    )
    history = fit(
        network,
        np.ascontiguousarray(components[:, :used]),
        truth,
        cost="cross_entropy",
        optimizer="adam",
        learning_rate=parameters["learning_rate"],
        l2=parameters["l2"],
        epochs=parameters["epochs"],
        batch_size=32,
        seed=seed,
        validation=None if validation is None else (np.ascontiguousarray(validation[0][:, :used]), validation[1]),
    )
    return network, history
