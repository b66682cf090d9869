"""What `SwarmNetClassifier` and `SwarmNetRegressor` share: parameters, standardisation, the three ways to train."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from okko_train import costs, network_onnx, swarm_training
from okko_train.network import Network, fit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike
    from onnx import ModelProto

    from okko_train.network.activations import Array

TRAININGS = ("gradient", "swarm", "evolution", "hybrid")


def trains_by_gradient(estimator: SwarmNet) -> bool:
    """Whether `partial_fit` makes sense: a swarm has no steps that could be repeated on other samples."""
    return bool(estimator.training == "gradient")


class SwarmNet(BaseEstimator):  # type: ignore[misc]
    """What classifier and regressor share; see `SwarmNetClassifier` for the parameters."""

    def __init__(
        self,
        hidden_layers: Sequence[int] = (32,),
        *,
        activation: str = "relu",
        training: str = "gradient",
        cost: str | costs.Cost | costs.Value | None = None,
        optimizer: str = "adam",
        learning_rate: float = 5e-3,
        learning_rate_decay: str | float | None = None,
        l2: float = 0.0,
        dropout: float = 0.0,
        batch_norm: bool = False,
        epochs: int = 100,
        batch_size: int | None = 32,
        validation_fraction: float = 0.0,
        patience: int | None = None,
        particles: int = 50,
        generations: int = 100,
        standardise: bool = True,
        random_state: Any = None,
    ) -> None:
        self.hidden_layers = hidden_layers
        self.activation = activation
        self.training = training
        self.cost = cost
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.learning_rate_decay = learning_rate_decay
        self.l2 = l2
        self.dropout = dropout
        self.batch_norm = batch_norm
        self.epochs = epochs
        self.batch_size = batch_size
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.particles = particles
        self.generations = generations
        self.standardise = standardise
        self.random_state = random_state

    def _start(self, X: Array, outputs: int, last: str) -> None:
        """Measure the features and build the network."""
        if self.training not in TRAININGS:
            raise ValueError(f"training is {self.training!r}; choose from {', '.join(TRAININGS)}")
        self._seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        self.mean_, self.scale_ = location_and_spread(X, self.standardise)
        hidden = tuple(np.atleast_1d(self.hidden_layers))
        self.network_ = Network(
            (X.shape[1], *hidden, outputs),
            (self.activation,) * len(hidden) + (last,),
            seed=self._seed,
            dropout=self.dropout,
            batch_norm=self.batch_norm,
        )

    def _train(
        self, X: Array, targets: Array, smooth: str | costs.Cost, cost: costs.Cost, weight: Array | None, labels: Any
    ) -> None:
        """Train on targets (n, k): by gradient, by the swarm on ``cost``, or one after the other.

        Args:
            X: samples (n, d), not standardised.
            targets: (n, k).
            smooth: what the hybrid's gradient follows.
            cost: the cost that counts.
            weight: (n,) of the samples, or None.
            labels: (n,) to keep their shares in the validation part, or None.
        """
        X, validation = self._standardised(X), None
        if self.validation_fraction:
            parts = train_test_split(
                np.arange(len(X)), test_size=self.validation_fraction, random_state=self._seed, stratify=labels
            )
            kept, held_out = parts
            validation = X[held_out], targets[held_out]
            X, targets, weight = X[kept], targets[kept], None if weight is None else weight[kept]
        if self.training in ("swarm", "evolution"):
            self.history_: Any = swarm_training.fit_by_swarm(
                self.network_,
                X,
                targets,
                cost=cost,
                particles=self.particles,
                generations=self.generations,
                l2=self.l2,
                seed=self._seed,
                validation=validation,
                patience=self.patience,
                sample_weight=weight,
                optimizer=self.training,
            )
            return
        if self.training == "hybrid":
            self._descend(X, targets, smooth, weight, validation)
            self.refinement_ = swarm_training.refine(
                self.network_,
                X,
                targets,
                cost=cost,
                particles=self.particles,
                seed=self._seed,
                validation=validation,
                sample_weight=weight,
            )
        elif isinstance(cost, costs.DecisionCost):
            self._descend(X, targets, smooth, weight, validation)
            self._descend(X, targets, cost.expected(), weight, validation)
        else:
            self._descend(X, targets, cost, weight, validation)

    def _descend(
        self,
        X: Array,
        targets: Array,
        cost: str | costs.Cost,
        weight: Array | None,
        validation: tuple[Array, Array] | None,
    ) -> None:
        self.history_ = fit(
            self.network_,
            X,
            targets,
            cost=cost,
            optimizer=self.optimizer,
            learning_rate=self.learning_rate,
            learning_rate_decay=self.learning_rate_decay,
            l2=self.l2,
            epochs=self.epochs,
            batch_size=self.batch_size,
            seed=self._seed,
            validation=validation,
            patience=self.patience,
            sample_weight=weight,
        )

    def _continue(self, X: Array, targets: Array, cost: costs.Cost, weight: Array | None) -> None:
        """One more epoch by gradient, with the optimizer's memory of the epochs before."""
        optimizer = self.history_.optimizer if hasattr(self, "history_") else self.optimizer
        self.history_ = fit(
            self.network_,
            self._standardised(X),
            targets,
            cost=cost,
            optimizer=optimizer,
            learning_rate=self.learning_rate,
            l2=self.l2,
            epochs=1,
            batch_size=self.batch_size,
            seed=self._seed + getattr(optimizer, "steps", 0),  # another order of the samples each time
            sample_weight=weight,
        )

    def _standardised(self, X: Array) -> Array:
        standardised: Array = (X - self.mean_) / self.scale_
        return standardised

    def _outputs(self, X: ArrayLike) -> Array:
        """Outputs (n, k), in double precision so that a sample's do not depend on the samples beside it."""
        check_is_fitted(self, "network_")
        samples: Array = validate_data(self, X, reset=False, dtype=np.float64)
        return self.network_.copy(np.float64).predict(self._standardised(samples))

    def _onnx(self, output_name: str, after: tuple[Array, Array] | None) -> ModelProto:
        check_is_fitted(self, "network_")
        return network_onnx.to_model(
            self.network_, output_name=output_name, before=(self.mean_, self.scale_), after=after
        )


def location_and_spread(values: Array, standardise: bool) -> tuple[Array, Array]:
    """Mean and standard deviation (d,); a constant column is only shifted."""
    if not standardise:
        return np.zeros(values.shape[1]), np.ones(values.shape[1])
    mean, scale = values.mean(axis=0), values.std(axis=0)
    # A column that varies by rounding alone is constant too; dividing by that would blow the rounding up.
    scale[scale <= 1e-12 * np.maximum(np.abs(mean), 1)] = 1.0
    return mean, scale
