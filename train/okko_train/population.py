"""A swarm of networks, run on the same samples at once, without a line of Python that runs once per particle.

The first layer of all particles is one matrix product, every further layer one batched product; `numpy.einsum` over the
same axes is 10 to 90 times slower. It computes costs and moves nothing: who chooses the positions is not its affair.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from okko_train.network.inputs import as_samples

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from okko_train.costs import Cost
    from okko_train.network import Network
    from okko_train.network.activations import Array

_CHUNK_BYTES = 2 << 20  # activations of so many particles stay in the cache; measured best between 1 and 4 MB


class Population:
    """The networks of all particles, run on the same samples at once.

    Activations are (particles, features, samples) with the samples contiguous. Particles go through in chunks that fit
    the cache.

    Args:
        network: gives the shape; its own weights are not used.
        X: samples (n, d).

    Raises:
        ValueError: X does not fit, or the network normalises batches, which only training by gradient can learn.
    """

    def __init__(self, network: Network, X: ArrayLike) -> None:
        if network.batch_norm:
            raise ValueError("network has batch_norm, which needs mini-batches; train by gradient or do without")
        self._network = network
        self._last = network.activations[-1]
        self._samples = np.ascontiguousarray(as_samples(network, X, "X").T)
        self.n_samples = self._samples.shape[1]
        particle_bytes = sum(network.layer_sizes[1:]) * self.n_samples * network.dtype.itemsize
        self._chunk = max(1, _CHUNK_BYTES // particle_bytes)
        self._buffers: list[Array] = []

    def costs(self, positions: Array, cost: Cost, targets: Array, weights: Array | None = None) -> NDArray[np.float64]:
        """Cost (particles,) of the networks with the weights ``positions`` (particles, n_weights).

        Args:
            positions: one network per row, laid out as `Network.weights`.
            cost: what to compute.
            targets: (k, n).
            weights: (n,) of mean 1, to weigh the samples.
        """
        positions = np.asarray(positions, self._network.dtype)
        result = np.empty(len(positions))
        for start in range(0, len(positions), self._chunk):
            stop = min(start + self._chunk, len(positions))
            z = self._logits(positions[start:stop])
            if cost.natural == self._last.name:
                result[start:stop] = cost.value_of_logits(z, targets, weights)
            else:
                self._last.apply(z)
                result[start:stop] = cost.value(z, targets, weights)
        return result

    def outputs(self, positions: Array) -> Array:
        """Outputs (particles, n, k) of the networks with the weights ``positions`` (particles, n_weights)."""
        positions = np.asarray(positions, self._network.dtype)
        result = np.empty((len(positions), self._network.layer_sizes[-1], self.n_samples), self._network.dtype)
        for start in range(0, len(positions), self._chunk):
            z = self._logits(positions[start : start + self._chunk])
            self._last.apply(z)
            result[start : start + self._chunk] = z
        return result.swapaxes(1, 2)

    def _logits(self, positions: Array) -> Array:
        """Last layer before its activation (particles, k, n), in a buffer that the next call overwrites."""
        particles, sizes = len(positions), self._network.layer_sizes
        if not self._buffers or len(self._buffers[0]) < particles:
            self._buffers = [np.empty((particles, size, self.n_samples), self._network.dtype) for size in sizes[1:]]
        inputs, outputs = sizes[0], sizes[1]
        stop = outputs * (inputs + 1)
        a = self._buffers[0][:particles]
        # All particles see the same samples, so their first layers stand below each other in one product.
        first = positions[:, :stop].reshape(particles * outputs, inputs + 1)
        np.matmul(first, self._samples, out=a.reshape(particles * outputs, self.n_samples))
        for index in range(1, len(sizes) - 1):
            self._network.activations[index - 1].apply(a)
            inputs, outputs = sizes[index], sizes[index + 1]
            start, stop = stop, stop + outputs * (inputs + 1)
            matrix = positions[:, start:stop].reshape(particles, outputs, inputs + 1)
            z = self._buffers[index][:particles]
            np.matmul(matrix[:, :, :-1], a, out=z)
            z += matrix[:, :, -1:]
            a = z
        return a
