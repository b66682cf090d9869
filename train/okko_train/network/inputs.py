"""What training is given, brought into the form it works on; what does not fit is refused by name.

Also the two things that training by gradient and by swarm share: one thread, and which weights L2 shrinks.
"""

from __future__ import annotations

from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import threadpoolctl

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import ArrayLike

    from okko_train.network.activations import Array
    from okko_train.network.model import Network


def as_samples(network: Network, X: ArrayLike, name: str) -> Array:
    """X with a last column of ones (n, d + 1)."""
    X = network.checked(X)
    if len(X) == 0:
        raise ValueError(f"{name} has no samples; expected at least one")
    samples = np.ones((len(X), X.shape[1] + 1), network.dtype)
    samples[:, :-1] = X
    _check_finite(samples, name)
    return samples


def as_targets(network: Network, y: ArrayLike, name: str) -> Array:
    """Targets (k, n), from (n, k), (n,) or class numbers (n,)."""
    y, k = np.asarray(y), network.layer_sizes[-1]
    if y.ndim == 1 and k > 1 and np.issubdtype(y.dtype, np.integer):
        if len(y) and not 0 <= y.min() <= y.max() < k:
            raise ValueError(f"{name} has classes {y.min()} to {y.max()}; expected 0 to {k - 1}, one per output")
        return np.ascontiguousarray(np.eye(k, dtype=network.dtype)[y].T)
    targets = np.asarray(y, network.dtype)
    if targets.ndim == 1 and k == 1:
        targets = targets[:, None]
    if targets.ndim != 2 or targets.shape[1] != k:
        raise ValueError(f"{name} has shape {y.shape}; expected (n, {k})" + (" or class numbers (n,)" if k > 1 else ""))
    _check_finite(targets, name)
    return np.ascontiguousarray(targets.T)


def _check_finite(values: Array, name: str) -> None:
    if not np.isfinite(values).all():
        raise ValueError(f"{name} has nan or infinite values; fill or drop them first")


def check_same_length(samples: Array, targets: Array, samples_name: str, targets_name: str) -> None:
    """ValueError unless samples (n, d + 1) and targets (k, n) are of the same n."""
    if len(samples) != targets.shape[1]:
        raise ValueError(f"{targets_name} has {targets.shape[1]} rows, {samples_name} has {len(samples)}; not the same")


def as_weight(weight: ArrayLike, n: int, dtype: np.dtype[Any]) -> Array:
    """Sample weights (n,) with mean 1."""
    weight = np.asarray(weight, np.float64)
    if weight.shape != (n,) or not np.isfinite(weight).all() or weight.min() < 0 or weight.sum() <= 0:
        raise ValueError(f"sample_weight must be {n} finite numbers, none negative and not all 0")
    share: Array = (weight / weight.mean()).astype(dtype)
    return share


def penalised(network: Network) -> Array:
    """1 for every weight that L2 shrinks, 0 for biases and for scale and shift of batch normalisation (n_weights,)."""
    mask = np.zeros_like(network.weights)
    for layer in network.views(mask):
        layer.weight[:] = 1
    return mask


@cache
def _thread_pools() -> threadpoolctl.ThreadpoolController:
    return threadpoolctl.ThreadpoolController()


@contextmanager
def one_thread() -> Iterator[None]:
    """Inside, every product runs on one thread."""
    with _thread_pools().limit(limits=1, user_api="blas"):
        yield
