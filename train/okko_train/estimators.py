"""The network with scikit-learn's face: `SwarmNetClassifier` and `SwarmNetRegressor`.

They bring tables into the form a network likes (features and numbers standardised, classes numbered), train by
gradient, by the swarm or by both, and fit into pipelines, grid searches and cross-validation. What learns is elsewhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.utils import column_or_1d
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets, type_of_target, unique_labels
from sklearn.utils.validation import check_is_fitted, validate_data

from okko_train import costs
from okko_train.estimator_base import SwarmNet, location_and_spread, trains_by_gradient

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from numpy.typing import ArrayLike, NDArray
    from onnx import ModelProto

    from okko_train.network.activations import Array


class SwarmNetClassifier(ClassifierMixin, SwarmNet):  # type: ignore[misc]
    """A network that tells classes apart: two or more, or several yes-or-no labels at once.

    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> SwarmNetClassifier(hidden_layers=(10,), training="swarm", random_state=0).fit(X, y).score(X, y) > 0.9
    True

    Args:
        hidden_layers: units of each hidden layer; () is logistic regression.
        activation: of the hidden layers: linear, sigmoid, tanh, relu, leaky_relu.
        training: "gradient"; "swarm" (all weights, for small networks and costs without a gradient); "evolution" (the
            same for larger ones); "hybrid" (gradient on cross-entropy, then the swarm on ``cost`` in the last layer).
        cost: what training makes small; None is cross-entropy. `costs.DecisionCost` says what decisions cost; the
            gradient then follows cross-entropy first and the expected cost after that.
        optimizer: sgd, momentum, rmsprop, adam, adamw.
        learning_rate: of the gradient's first epoch.
        learning_rate_decay: as for `okko_train.network.fit`.
        l2: adds l2 / 2 * sum of squared weights to the cost.
        dropout: share of hidden units dropped while training.
        batch_norm: normalise hidden layers over each mini-batch.
        epochs: passes of the gradient over the samples.
        batch_size: samples per step, None for all.
        validation_fraction: share of the samples to watch instead of train on; the best weights on them are kept.
        patience: stop after so many epochs (generations) without a better cost.
        particles: networks in the swarm.
        generations: moves of the swarm.
        standardise: subtract each feature's mean and divide by its standard deviation first.
        class_weight: None, "balanced" or {class: weight}.
        random_state: seed, RandomState or None.

    Attributes:
        classes_: (n_classes,) the labels that predictions use.
        network_: the trained `Network`; its inputs are standardised features.
        history_: the course of the training.
        mean_: (n_features,) subtracted from the features.
        scale_: (n_features,) by which they are divided.
    """

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
        class_weight: Any = None,
        random_state: Any = None,
    ) -> None:
        super().__init__(
            hidden_layers,
            activation=activation,
            training=training,
            cost=cost,
            optimizer=optimizer,
            learning_rate=learning_rate,
            learning_rate_decay=learning_rate_decay,
            l2=l2,
            dropout=dropout,
            batch_norm=batch_norm,
            epochs=epochs,
            batch_size=batch_size,
            validation_fraction=validation_fraction,
            patience=patience,
            particles=particles,
            generations=generations,
            standardise=standardise,
            random_state=random_state,
        )
        self.class_weight = class_weight

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Train from scratch on X (n, d) and labels y (n,), or a 0/1 matrix (n, labels)."""
        samples, y = self._checked(X, y, reset=True)
        self._name_classes(unique_labels(y), multilabel=y.ndim == 2)
        self._start(samples, *self._shape())
        strata = None if self.multilabel_ else y
        self._train(samples, self._targets(y), "cross_entropy", self._cost(), self._weight(y), strata)
        return self

    @available_if(trains_by_gradient)  # type: ignore[untyped-decorator]
    def partial_fit(self, X: ArrayLike, y: ArrayLike, classes: ArrayLike | None = None) -> Self:
        """Train one epoch more; the first call needs all ``classes``, and its samples decide the standardisation."""
        first = not hasattr(self, "network_")
        samples, y = self._checked(X, y, reset=first)
        if first:
            if classes is None and y.ndim == 1:
                raise ValueError("classes must be given to the first partial_fit: later batches may hold others")
            self._name_classes(unique_labels(y if classes is None else classes), multilabel=y.ndim == 2)
            self._start(samples, *self._shape())
        if y.ndim == 1 and not np.isin(y, self.classes_).all():
            unknown = np.setdiff1d(y, self.classes_)
            raise ValueError(f"y has classes {unknown.tolist()} that the first partial_fit did not name")
        self._continue(samples, self._targets(y), self._cost(), self._weight(y))
        return self

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Probability of each class (n, classes), or of each label (n, labels)."""
        return self._outputs(X)

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """The most probable class (n,), or the labels with probability above one half (n, labels)."""
        probability = self._outputs(X)
        if self.multilabel_:
            return (probability > 0.5).astype(int)
        chosen: NDArray[Any] = self.classes_[probability.argmax(axis=1)]
        return chosen

    def predict_frame(self, X: ArrayLike) -> pd.DataFrame:
        """Predictions as a pandas table with the rows of X: ``prediction`` and one probability column per class."""
        import pandas as pd

        index = X.index if isinstance(X, pd.DataFrame) else None
        frame = pd.DataFrame(self.predict_proba(X), index=index, columns=[f"p_{name}" for name in self.classes_])
        if not self.multilabel_:
            frame.insert(0, "prediction", self.predict(X))
        return frame

    def to_onnx(self) -> ModelProto:
        """The whole way from features [N, d] to ``probability`` [N, classes] as one ONNX model."""
        return self._onnx("probability", None)

    def _checked(self, X: ArrayLike, y: ArrayLike, *, reset: bool) -> tuple[Array, NDArray[Any]]:
        samples, labels = validate_data(self, X, y, reset=reset, dtype=np.float64, multi_output=True)
        check_classification_targets(labels)
        if type_of_target(labels) != "multilabel-indicator":
            labels = column_or_1d(labels, warn=True)
        return samples, np.asarray(labels)

    def _name_classes(self, classes: NDArray[Any], *, multilabel: bool) -> None:
        if not multilabel and len(classes) < 2:
            raise ValueError(f"y has one class, {classes[0]!r}; a classifier needs samples of at least two")
        self.classes_, self.multilabel_ = classes, multilabel

    def _shape(self) -> tuple[int, str]:
        return len(self.classes_), "sigmoid" if self.multilabel_ else "softmax"

    def _cost(self) -> costs.Cost:
        return costs.resolve("cross_entropy" if self.cost is None else self.cost, self._shape()[1])

    def _targets(self, y: NDArray[Any]) -> Array:
        if self.multilabel_:
            return y.astype(np.float32)
        one_hot: Array = np.eye(len(self.classes_), dtype=np.float32)[np.searchsorted(self.classes_, y)]
        return one_hot

    def _weight(self, y: NDArray[Any]) -> Array | None:
        if self.class_weight is None:
            return None
        if self.multilabel_:
            raise ValueError("class_weight was given for several labels at once; weigh them in a cost of your own")
        weight: Array = compute_sample_weight(self.class_weight, y)
        return weight

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


class SwarmNetRegressor(RegressorMixin, SwarmNet):  # type: ignore[misc]
    """A network that predicts one or several numbers.

    The parameters are those of `SwarmNetClassifier` without class_weight; cost None is the mean squared error. A cost
    of your own sees numbers in their own units.

    Attributes:
        network_: the trained `Network`; inputs are standardised features, outputs standardised numbers.
        history_: the course of the training, on standardised numbers if the cost is the mean squared error.
        mean_: (n_features,) subtracted from the features.
        scale_: (n_features,) by which they are divided.
        target_mean_: (k,) mean of the numbers to predict.
        target_scale_: (k,) their standard deviation.
    """

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Train from scratch on X (n, d) and numbers y (n,) or (n, k)."""
        samples, numbers = self._checked(X, y, reset=True)
        self._measure(samples, numbers)
        self._train(samples, self._scaled(numbers), "mse", self._cost(), None, None)
        return self

    @available_if(trains_by_gradient)  # type: ignore[untyped-decorator]
    def partial_fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Train one epoch more; the samples of the first call decide the standardisation."""
        first = not hasattr(self, "network_")
        samples, numbers = self._checked(X, y, reset=first)
        if first:
            self._measure(samples, numbers)
        self._continue(samples, self._scaled(numbers), self._cost(), None)
        return self

    def predict(self, X: ArrayLike) -> NDArray[np.float64]:
        """Numbers (n,), or (n, k) if it was trained on such."""
        numbers = self._outputs(X) * self.target_scale_ + self.target_mean_
        return numbers if self._as_matrix else numbers[:, 0]

    def predict_frame(self, X: ArrayLike) -> pd.DataFrame:
        """Predictions as a pandas table with the rows of X and the columns of the y it was trained on."""
        import pandas as pd

        index = X.index if isinstance(X, pd.DataFrame) else None
        return pd.DataFrame(np.atleast_2d(self.predict(X).T).T, index=index, columns=self._target_names)

    def to_onnx(self) -> ModelProto:
        """The whole way from features [N, d] to ``prediction`` [N, k] as one ONNX model."""
        check_is_fitted(self, "network_")
        return self._onnx("prediction", (self.target_mean_, self.target_scale_))

    def _checked(self, X: ArrayLike, y: ArrayLike, *, reset: bool) -> tuple[Array, Array]:
        names = getattr(y, "columns", [getattr(y, "name", None) or "prediction"])
        samples, numbers = validate_data(self, X, y, reset=reset, dtype=np.float64, multi_output=True, y_numeric=True)
        if reset:
            self._as_matrix = numbers.ndim == 2
            columns = numbers.shape[1] if self._as_matrix else 1
            self._target_names = list(names) if len(names) == columns else [f"prediction_{k}" for k in range(columns)]
        return samples, np.asarray(numbers, np.float64)

    def _measure(self, X: Array, y: Array) -> None:
        y = y if y.ndim == 2 else y[:, None]
        self._start(X, y.shape[1], "linear")
        self.target_mean_, self.target_scale_ = location_and_spread(y, self.standardise)

    def _scaled(self, y: Array) -> Array:
        scaled: Array = ((y if y.ndim == 2 else y[:, None]) - self.target_mean_) / self.target_scale_
        return scaled

    def _cost(self) -> costs.Cost:
        if self.cost is None or self.cost == "mse":
            return costs.resolve("mse", "linear")
        return _InOwnUnits(costs.resolve(self.cost, "linear"), self.target_mean_, self.target_scale_)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.single_output = True
        tags.target_tags.multi_output = True
        return tags


class _InOwnUnits(costs.Cost):
    """A cost of numbers in their own units, for a network whose outputs are standardised."""

    def __init__(self, cost: costs.Cost, mean: Array, scale: Array) -> None:
        self._cost, self._mean, self._scale = cost, mean[:, None], scale[:, None]
        self.name, self.differentiable = cost.name, cost.differentiable

    def value(self, outputs: Array, targets: Array, weights: Array | None = None) -> Array:
        """The inner cost (...), in own units."""
        return self._cost.value(self._own(outputs), self._own(targets), weights)

    def slope(self, outputs: Array, targets: Array) -> Array:
        """The inner slope (k, n), by the chain rule."""
        slope: Array = self._cost.slope(self._own(outputs), self._own(targets)) * self._scale
        return slope

    def _own(self, standardised: Array) -> Array:
        own: Array = standardised * self._scale + self._mean
        return own
