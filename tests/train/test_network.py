"""What a network promises: its shape, its numbers, its files."""

import copy
import pickle
from pathlib import Path

import numpy as np
import pytest

from okko_models.errors import OkkoError
from okko_train.network import Network, fit

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 4))
CLASSES = (X[:, 0] > 0).astype(int) + (X[:, 1] > 0)


def trained(**settings: object) -> Network:
    network = Network((4, 6, 5, 3), ("relu", "tanh", "softmax"), seed=3, **settings)
    fit(network, X, CLASSES, epochs=5)
    return network


def test_a_layer_is_the_activation_of_w_a_plus_b() -> None:
    network = Network((4, 6, 3), ("relu", "softmax"), seed=1)
    first, last = network.layers
    network.weights = RNG.normal(size=network.weights.size)
    hidden = np.maximum(X @ first.weight.T + first.bias[:, 0], 0)
    z = hidden @ last.weight.T + last.bias[:, 0]
    assert network.outputs(X, layer=0) == pytest.approx(hidden, abs=1e-5)
    assert network.logits(X) == pytest.approx(z, abs=1e-4)
    assert network.predict(X) == pytest.approx(np.exp(z) / np.exp(z).sum(axis=1, keepdims=True), abs=1e-5)


def test_the_flat_vector_is_the_network() -> None:
    one, other = trained(), Network((4, 6, 5, 3), ("relu", "tanh", "softmax"), seed=9)
    assert one.weights.shape == (4 * 6 + 6 + 6 * 5 + 5 + 5 * 3 + 3,)
    assert not np.allclose(one.predict(X), other.predict(X))
    other.weights = one.weights
    assert np.array_equal(one.predict(X), other.predict(X))


def test_the_seed_decides_the_initial_weights() -> None:
    def start(seed: int) -> np.ndarray:
        return Network((4, 6, 3), ("relu", "softmax"), seed=seed).weights

    assert np.array_equal(start(1), start(1))
    assert not np.array_equal(start(1), start(2))


@pytest.mark.parametrize(("activation", "gain"), [("relu", 2.0), ("tanh", 1.0)])
def test_initial_weights_keep_the_variance_of_what_passes_through(activation: str, gain: float) -> None:
    weight = Network((400, 300, 1), (activation, "linear"), seed=0).layers[0].weight
    assert weight.var() == pytest.approx(gain / 400, rel=0.02)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_what_is_saved_comes_back_bit_for_bit(tmp_path: Path, batch_norm: bool) -> None:
    network = trained(batch_norm=batch_norm, dropout=0.2)
    network.save(tmp_path / "network.npz")
    loaded = Network.load(tmp_path / "network.npz")
    assert np.array_equal(loaded.predict(X), network.predict(X))
    assert (loaded.dropout, loaded.batch_norm, loaded.dtype) == (network.dropout, network.batch_norm, network.dtype)


@pytest.mark.parametrize("content", [b"", b"not a network", b"PK\x03\x04 broken"])
def test_a_file_that_is_no_network_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(OkkoError, match=r"x\.npz is not a saved network"):
        Network.load(tmp_path / "x.npz")
    with pytest.raises(OkkoError, match=r"missing\.npz"):
        Network.load(tmp_path / "missing.npz")


def test_a_copy_goes_its_own_way() -> None:
    network = trained(batch_norm=True)
    for other in (network.copy(), copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert np.array_equal(other.predict(X), network.predict(X))
        before = network.predict(X)
        fit(other, X, CLASSES, epochs=1)
        assert not np.array_equal(other.predict(X), before)
        assert np.array_equal(network.predict(X), before)


def test_softmax_and_sigmoid_stay_finite_for_enormous_inputs() -> None:
    for activation in ("softmax", "sigmoid"):
        network = Network((4, 3), (activation,), seed=0)
        assert np.isfinite(network.predict(X * 1e6)).all()


def test_an_autoencoder_notices_what_it_has_not_seen() -> None:
    seen = np.column_stack([X[:, 0], -X[:, 0], X[:, 1], X[:, 1] * 0.5])
    network = Network((4, 2, 4), ("linear", "linear"), seed=0)
    fit(network, seen, seen, cost="mse", epochs=300, learning_rate=0.02)
    strange = seen + np.array([2.0, 2.0, 0.0, 0.0])
    assert network.outputs(seen, layer=0).shape == (40, 2)
    assert network.reconstruction_error(strange).min() > 10 * network.reconstruction_error(seen).max()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layer_sizes": (4,), "activations": ()}, "layer_sizes"),
        ({"layer_sizes": (4, 0), "activations": ("relu",)}, "layer_sizes"),
        ({"layer_sizes": (4, 3), "activations": ("relu", "softmax")}, "activations has 2 names for 1 layers"),
        ({"layer_sizes": (4, 3), "activations": ("swish",)}, "swish"),
        ({"layer_sizes": (4, 3, 2), "activations": ("softmax", "softmax")}, "can only stand last"),
        ({"layer_sizes": (4, 3), "activations": ("relu",), "dropout": (0.1, 0.2)}, "dropout"),
        ({"layer_sizes": (4, 3), "activations": ("relu",), "dropout": (1.0,)}, "dropout"),
        ({"layer_sizes": (4, 3), "activations": ("relu",), "dtype": np.int32}, "dtype"),
    ],
)
def test_what_does_not_describe_a_network_is_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Network(**arguments)


def test_inputs_of_the_wrong_shape_are_refused() -> None:
    network = trained()
    with pytest.raises(ValueError, match=r"X has shape \(40, 3\); expected \(n, 4\)"):
        network.predict(X[:, :3])
    with pytest.raises(ValueError, match="layer is 3"):
        network.outputs(X, layer=3)
    with pytest.raises(ValueError, match="weights has shape"):
        network.weights = np.zeros(3)
    with pytest.raises(ValueError, match="an autoencoder"):
        network.reconstruction_error(X)
