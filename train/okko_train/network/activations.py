"""The six activations: each one in place, and the way back of its slope, in place too.

Everything inside the network is feature-major, ``(..., features, samples)``: a sample is a column. Sums over features
then run over long rows of memory, and the same code serves one network and a whole swarm of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Callable

Array = NDArray[Any]

LEAK = 0.01  # slope of the leaky ReLU below zero, the value of Maas et al. 2013


@dataclass(frozen=True)
class Activation:
    """An activation function a = f(z).

    Attributes:
        name: how users and files call it.
        apply: turns z (..., features, samples) into a, in place.
        backward: turns d cost / d a into d cost / d z, in place; takes ``(a, slope)``, both (..., features, samples).
        gain: variance of the initial weights times inputs: 2 for ReLU (He et al. 2015), 1 else (LeCun et al. 1998).
    """

    name: str
    apply: Callable[[Array], None]
    backward: Callable[[Array, Array], None]
    gain: float


def _linear(z: Array) -> None:
    pass


def _linear_backward(a: Array, slope: Array) -> None:
    pass


def _sigmoid(z: Array) -> None:
    # 1 / (1 + exp(-z)) overflows for large negative z; tanh does not.
    z *= 0.5
    np.tanh(z, out=z)
    z *= 0.5
    z += 0.5


def _sigmoid_backward(a: Array, slope: Array) -> None:
    slope *= a * (1 - a)


def _tanh(z: Array) -> None:
    np.tanh(z, out=z)


def _tanh_backward(a: Array, slope: Array) -> None:
    slope *= 1 - a * a


def _relu(z: Array) -> None:
    np.maximum(z, 0, out=z)


def _relu_backward(a: Array, slope: Array) -> None:
    slope *= a > 0


def _leaky_relu(z: Array) -> None:
    np.maximum(z, z * LEAK, out=z)


def _leaky_relu_backward(a: Array, slope: Array) -> None:
    np.multiply(slope, LEAK, out=slope, where=a <= 0)


def _softmax(z: Array) -> None:
    z -= np.maximum.reduce(z, axis=-2, keepdims=True)  # exp of a large number would overflow
    np.exp(z, out=z)
    z /= np.add.reduce(z, axis=-2, keepdims=True)


def _softmax_backward(a: Array, slope: Array) -> None:
    slope -= np.add.reduce(a * slope, axis=-2, keepdims=True)
    slope *= a


ACTIVATIONS = {
    activation.name: activation
    for activation in (
        Activation("linear", _linear, _linear_backward, 1.0),
        Activation("sigmoid", _sigmoid, _sigmoid_backward, 1.0),
        Activation("tanh", _tanh, _tanh_backward, 1.0),
        Activation("relu", _relu, _relu_backward, 2.0),
        Activation("leaky_relu", _leaky_relu, _leaky_relu_backward, 2.0),
        Activation("softmax", _softmax, _softmax_backward, 1.0),
    )
}
