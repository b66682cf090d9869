"""What a network is: layer sizes, activations, and one flat vector that holds every weight.

The flat vector is what an optimizer steps along and what a particle of a swarm is; the layers are views into it. This
module runs a network forward and stores it; it does not train. Notation follows Andrew Ng's course: a = f(W a + b).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np

from okko_models.errors import OkkoError
from okko_train.network.activations import ACTIVATIONS, Activation, Array

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, DTypeLike, NDArray

BATCH_NORM_EPSILON = 1e-5  # keeps the division by a standard deviation finite (Ioffe and Szegedy 2015)


@dataclass(frozen=True, eq=False)
class Layer:
    """Views of one layer's part of a flat vector (weights, or their gradient).

    Attributes:
        matrix: (outputs, inputs + 1); the last column is the bias, so that one product computes W a + b.
        scale: (outputs, 1) the factor of batch normalisation, or None without it.
        shift: (outputs, 1) the summand of batch normalisation, or None without it.
    """

    matrix: Array
    scale: Array | None
    shift: Array | None

    @property
    def weight(self) -> Array:
        """W (outputs, inputs)."""
        return self.matrix[:, :-1]

    @property
    def bias(self) -> Array:
        """B (outputs, 1)."""
        return self.matrix[:, -1:]


class Network:
    """Dense layers, one after the other.

    >>> network = Network(layer_sizes=(4, 10, 3), activations=("relu", "softmax"), seed=0)
    >>> network.predict(np.zeros((5, 4))).shape
    (5, 3)

    Args:
        layer_sizes: numbers of features from the input to the output; ``(4, 3)`` has no hidden layer.
        activations: one name per layer: linear, sigmoid, tanh, relu, leaky_relu; softmax for the last one only.
        seed: decides the initial weights.
        dropout: share of a layer's inputs that training sets to zero (inverted dropout, Srivastava et al. 2014): one
            number for all hidden layers, or one per layer, the first for the network's own input (a denoising
            autoencoder).
        batch_norm: normalise every hidden layer before its activation (Ioffe and Szegedy 2015).
        dtype: float32 or float64.

    Raises:
        ValueError: an argument that does not describe a network.
    """

    def __init__(
        self,
        layer_sizes: Sequence[int],
        activations: Sequence[str],
        seed: int = 0,
        dropout: float | Sequence[float] = 0.0,
        batch_norm: bool = False,
        dtype: DTypeLike = np.float32,
    ) -> None:
        self.layer_sizes = tuple(int(size) for size in layer_sizes)
        self.activation_names = tuple(activations)
        if len(self.layer_sizes) < 2 or min(self.layer_sizes) < 1:
            raise ValueError(f"layer_sizes is {self.layer_sizes}; expected at least input and output, each 1 or more")
        depth = len(self.layer_sizes) - 1
        if len(self.activation_names) != depth:
            raise ValueError(f"activations has {len(self.activation_names)} names for {depth} layers; one each")
        for name in self.activation_names:
            if name not in ACTIVATIONS:
                raise ValueError(f"activations has {name!r}; choose from {', '.join(ACTIVATIONS)}")
        if "softmax" in self.activation_names[:-1]:
            raise ValueError("activations has softmax in a hidden layer; it can only stand last")
        shares = (0.0, *[dropout] * (depth - 1)) if isinstance(dropout, (int, float)) else tuple(dropout)
        if len(shares) != depth or not all(0 <= share < 1 for share in shares):
            raise ValueError(f"dropout is {dropout}; expected one number, or one per layer ({depth}), each in [0, 1)")
        self.dropout = tuple(float(share) for share in shares)
        self.batch_norm = bool(batch_norm)
        self.dtype = np.dtype(dtype)
        if self.dtype not in (np.float32, np.float64):
            raise ValueError(f"dtype is {self.dtype}; expected float32 or float64")
        self._weights = np.zeros(self._count(), self.dtype)
        hidden = sum(self.layer_sizes[1:-1]) if self.batch_norm else 0
        #: (2, hidden units) moving mean and variance that batch normalisation uses for prediction.
        self.moving = np.stack([np.zeros(hidden, self.dtype), np.ones(hidden, self.dtype)])
        self._initialise(np.random.default_rng(seed))

    def _count(self) -> int:
        pairs = zip(self.layer_sizes[:-1], self.layer_sizes[1:], strict=True)
        dense = sum((inputs + 1) * outputs for inputs, outputs in pairs)
        return dense + (2 * sum(self.layer_sizes[1:-1]) if self.batch_norm else 0)

    def _initialise(self, rng: np.random.Generator) -> None:
        for layer, activation in zip(self.layers, self.activations, strict=True):
            spread = np.sqrt(activation.gain / layer.weight.shape[1])
            layer.weight[:] = rng.normal(0.0, spread, layer.weight.shape)
            if layer.scale is not None:
                layer.scale[:] = 1.0

    @property
    def weights(self) -> Array:
        """Every weight and bias as one vector (n_weights,); assign to it to replace them all."""
        return self._weights

    @weights.setter
    def weights(self, values: ArrayLike) -> None:
        values = np.asarray(values)
        if values.shape != self._weights.shape:
            raise ValueError(f"weights has shape {values.shape}; this network has {self._weights.shape}")
        self._weights[:] = values

    @property
    def activations(self) -> tuple[Activation, ...]:
        """One activation per layer."""
        return tuple(ACTIVATIONS[name] for name in self.activation_names)

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers, as views into `weights`: writing to them changes the network."""
        return self.views(self._weights)

    def views(self, vector: Array) -> tuple[Layer, ...]:
        """The layers of any vector (n_weights,) that is laid out as `weights` is, a gradient for example."""
        layers, start = [], 0

        def take(*shape: int) -> Array:
            nonlocal start
            start += int(np.prod(shape))
            return vector[start - int(np.prod(shape)) : start].reshape(shape)

        for index, (inputs, outputs) in enumerate(zip(self.layer_sizes[:-1], self.layer_sizes[1:], strict=True)):
            matrix = take(outputs, inputs + 1)
            normalised = self.normalises(index)
            layers.append(
                Layer(matrix, take(outputs, 1) if normalised else None, take(outputs, 1) if normalised else None)
            )
        return tuple(layers)

    def normalises(self, index: int) -> bool:
        """Whether layer ``index`` has batch normalisation: hidden layers may, the output layer never has."""
        return self.batch_norm and index < len(self.layer_sizes) - 2

    def moving_statistics(self, index: int) -> tuple[Array, Array]:
        """Views of the moving mean and variance of layer ``index``, each (outputs, 1)."""
        start = sum(self.layer_sizes[1 : index + 1])
        mean, variance = self.moving[:, start : start + self.layer_sizes[index + 1], None]
        return mean, variance

    def folded(self, index: int) -> tuple[Array, Array]:
        """W (outputs, inputs) and b (outputs, 1) of a layer, with the moving statistics multiplied in."""
        layer = self.layers[index]
        if layer.scale is None or layer.shift is None:
            return layer.weight, layer.bias
        mean, variance = self.moving_statistics(index)
        factor = layer.scale / np.sqrt(variance + BATCH_NORM_EPSILON)
        return layer.weight * factor, (layer.bias - mean) * factor + layer.shift

    def predict(self, X: ArrayLike) -> Array:
        """Output of the last layer (n, k) for the samples X (n, d)."""
        return self.outputs(X)

    def logits(self, X: ArrayLike) -> Array:
        """Last layer before its activation (n, k) for the samples X (n, d)."""
        return self._forward(X, len(self.layer_sizes) - 2, activate_last=False)

    def outputs(self, X: ArrayLike, layer: int = -1) -> Array:
        """Output of any layer (n, outputs): 0 is the first one after the input, -1 the last.

        The code of an autoencoder is the output of its narrowest layer.

        Raises:
            ValueError: X does not fit the input, or there is no such layer.
        """
        depth = len(self.layer_sizes) - 1
        if not -depth <= layer < depth:
            raise ValueError(f"layer is {layer}; this network has layers 0 to {depth - 1}")
        return self._forward(X, layer % depth, activate_last=True)

    def reconstruction_error(self, X: ArrayLike) -> NDArray[np.float64]:
        """Mean squared error (n,) with which an autoencoder rebuilds each sample; high: unlike what it has seen."""
        X = self.checked(X)
        if self.layer_sizes[0] != self.layer_sizes[-1]:
            raise ValueError(f"layer_sizes is {self.layer_sizes}; an autoencoder ends with as many features as it gets")
        return np.asarray(np.mean((self.predict(X) - X) ** 2, axis=1, dtype=np.float64))

    def checked(self, X: ArrayLike) -> Array:
        """X as an array (n, d) of this network's type; ValueError if it does not fit the input layer."""
        X = np.asarray(X, self.dtype)
        if X.ndim != 2 or X.shape[1] != self.layer_sizes[0]:
            raise ValueError(f"X has shape {X.shape}; expected (n, {self.layer_sizes[0]})")
        return X

    def _forward(self, X: ArrayLike, last: int, *, activate_last: bool) -> Array:
        a = self.checked(X).T
        for index, activation in enumerate(self.activations[: last + 1]):
            weight, bias = self.folded(index)
            a = weight @ a
            a += bias
            if index < last or activate_last:
                activation.apply(a)
        return np.ascontiguousarray(a.T)

    def copy(self, dtype: DTypeLike | None = None) -> Network:
        """A network of its own with the same weights, in another precision if ``dtype`` is given."""
        other = Network(**{**self._description(), "dtype": dtype or self.dtype})
        other.weights = self._weights
        other.moving[:] = self.moving
        return other

    def save(self, path: str | Path) -> None:
        """Write the network to an npz file at ``path`` (the name is used as it is)."""
        with Path(path).open("wb") as file:
            np.savez(file, network=json.dumps(self._description()), weights=self._weights, moving=self.moving)

    @classmethod
    def load(cls, path: str | Path) -> Network:
        """Read what `save` wrote.

        Raises:
            OkkoError: the file is missing, or is not a network.
        """
        try:
            with np.load(Path(path), allow_pickle=False) as file:
                network = cls(**json.loads(str(file["network"])))
                network.weights = file["weights"]
                network.moving[:] = file["moving"]
                return network
        except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile) as error:
            raise OkkoError(
                f"{path} is not a saved network ({error}); expected a file that Network.save wrote"
            ) from error

    def _description(self) -> dict[str, Any]:
        return {
            "layer_sizes": self.layer_sizes,
            "activations": self.activation_names,
            "dropout": self.dropout,
            "batch_norm": self.batch_norm,
            "dtype": self.dtype.name,
        }

    def __repr__(self) -> str:
        shape = " -> ".join(
            [str(self.layer_sizes[0])]
            + [f"{size} {name}" for size, name in zip(self.layer_sizes[1:], self.activation_names, strict=True)]
        )
        return f"Network({shape}; {self._weights.size} weights)"
