"""Forward and backward through a network for one mini-batch, in buffers that are allocated once.

Every buffer is feature-major (a sample is a column). The input of each layer carries a last row of ones, so that
[W b] times that input is W a + b, and one product gives the gradient of W and b together. Idea: any textbook; batch
normalisation after Ioffe and Szegedy 2015, inverted dropout after Srivastava et al. 2014.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from okko_train.network.model import BATCH_NORM_EPSILON, Layer, Network

if TYPE_CHECKING:
    from okko_train.costs import Cost
    from okko_train.network.activations import Activation, Array

MOVING_MOMENTUM = 0.9  # share of the old moving mean and variance that each batch keeps


class Backpropagation:
    """The gradient of a cost for batches of one fixed size.

    Args:
        network: whose weights are read; its moving statistics are updated when it normalises batches.
        cost: what is differentiated.
        gradient: flat vector (n_weights,) that `backward` fills.
        size: samples per batch.
        rng: draws the dropout masks.
    """

    def __init__(self, network: Network, cost: Cost, gradient: Array, size: int, rng: np.random.Generator) -> None:
        self._cost = cost
        last = network.activations[-1]
        self._natural = cost.natural == last.name
        empty = [np.empty((outputs, size), network.dtype) for outputs in network.layer_sizes[1:]]
        self._slopes = empty
        self._stages: list[_Stage] = []
        before = None
        for index, layer in enumerate(network.layers):
            before = _Stage(network, index, layer, network.views(gradient)[index], size, before, rng)
            self._stages.append(before)

    def forward(self, X: Array, out: Array) -> None:
        """Write the outputs of the samples ``X`` (size, d + 1), whose last column is 1, to ``out`` (k, size)."""
        a = X.T
        for stage in self._stages:
            a = stage.forward(a, out)

    def backward(self, outputs: Array, targets: Array, share: Array | float) -> None:
        """Fill the gradient, after `forward` gave ``outputs`` (k, size).

        Args:
            outputs: (k, size), as `forward` wrote them.
            targets: (k, size).
            share: how much each sample counts, (size,) or one number; 1 / size for a plain mean.
        """
        slope = self._slopes[-1]
        if self._natural:
            np.subtract(outputs, targets, out=slope)
        else:
            slope[:] = self._cost.slope(outputs, targets)
            self._stages[-1].activation.backward(outputs, slope)
        slope *= share
        for index in range(len(self._stages) - 1, -1, -1):
            before = self._slopes[index - 1] if index else None
            self._stages[index].backward(self._slopes[index], before)


class _Stage:
    """One layer at work: product, normalisation, activation, dropout of what the next layer sees."""

    def __init__(
        self,
        network: Network,
        index: int,
        layer: Layer,
        gradient: Layer,
        size: int,
        before: _Stage | None,
        rng: np.random.Generator,
    ) -> None:
        inputs, outputs = network.layer_sizes[index], network.layer_sizes[index + 1]
        self.activation: Activation = network.activations[index]
        self._matrix, self._weight_t, self._gradient = layer.matrix, layer.weight.T, gradient.matrix
        self._before, self._rng = before, rng
        self._last = index == len(network.layer_sizes) - 2
        self._norm = _BatchNorm(network, index, layer, gradient, size) if network.normalises(index) else None
        self._a = np.empty((outputs, size), network.dtype)
        self._keep = 1 - network.dropout[index]
        self._mask = np.empty((inputs, size), network.dtype) if self._keep < 1 else None
        self._input = np.ones((inputs + 1, size), network.dtype)
        if before is not None and self._mask is None:
            before._a = self._input[:-1]  # the layer before writes straight into this one's input

    def forward(self, a: Array, out: Array) -> Array:
        if self._mask is not None:
            self._draw_mask(self._mask)
            np.multiply(a[: len(self._mask)], self._mask, out=self._input[:-1])
        elif self._before is None:
            self._input = a
        if self._last:
            self._a = out
        np.matmul(self._matrix, self._input, out=self._a)
        if self._norm is not None:
            self._norm.forward(self._a)
        self.activation.apply(self._a)
        return self._a

    def backward(self, slope: Array, before: Array | None) -> None:
        if self._norm is not None:
            self._norm.backward(slope)
        np.matmul(slope, self._input.T, out=self._gradient)
        if before is not None and self._before is not None:
            np.matmul(self._weight_t, slope, out=before)
            if self._mask is not None:
                before *= self._mask
            self._before.activation.backward(self._before._a, before)

    def _draw_mask(self, mask: Array) -> None:
        self._rng.random(out=mask, dtype=mask.dtype)
        mask += self._keep
        np.floor(mask, out=mask)  # 1 with probability keep, otherwise 0
        mask *= 1 / self._keep


class _BatchNorm:
    """z -> scale * (z - mean) / deviation + shift, with the mean and deviation of the batch."""

    def __init__(self, network: Network, index: int, layer: Layer, gradient: Layer, size: int) -> None:
        assert layer.scale is not None
        assert layer.shift is not None
        assert gradient.scale is not None
        assert gradient.shift is not None
        self._scale, self._shift = layer.scale, layer.shift
        self._scale_gradient, self._shift_gradient = gradient.scale, gradient.shift
        self._moving_mean, self._moving_variance = network.moving_statistics(index)
        self._normal = np.empty((network.layer_sizes[index + 1], size), network.dtype)
        self._inverse = np.empty((network.layer_sizes[index + 1], 1), network.dtype)

    def forward(self, z: Array) -> None:
        mean = z.mean(axis=1, keepdims=True)
        np.subtract(z, mean, out=self._normal)
        variance = np.mean(self._normal**2, axis=1, keepdims=True)
        np.divide(1, np.sqrt(variance + BATCH_NORM_EPSILON), out=self._inverse)
        self._normal *= self._inverse
        np.multiply(self._normal, self._scale, out=z)
        z += self._shift
        size = z.shape[1]
        self._moving_mean += (1 - MOVING_MOMENTUM) * (mean - self._moving_mean)
        # The variance of a sample is too small by (n - 1) / n; prediction wants that of the population.
        self._moving_variance += (1 - MOVING_MOMENTUM) * (variance * size / max(size - 1, 1) - self._moving_variance)

    def backward(self, slope: Array) -> None:
        """Turn d cost / d output into d cost / d z, in place (equations of section 3 of the paper, simplified)."""
        np.sum(slope * self._normal, axis=1, keepdims=True, out=self._scale_gradient)
        np.sum(slope, axis=1, keepdims=True, out=self._shift_gradient)
        size = slope.shape[1]
        slope -= self._normal * (self._scale_gradient / size)
        slope -= self._shift_gradient / size
        slope *= self._scale * self._inverse
