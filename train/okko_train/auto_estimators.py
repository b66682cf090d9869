"""Networks that tune themselves, with scikit-learn's face: `AutoNetClassifier` and `AutoNetRegressor`.

`fit` looks for preprocessing, shape and training of the network by cross-validation, then trains the best on all rows.
They take matrices of numbers, and pandas tables with categories and missing values. How it is searched is elsewhere.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import (
    _check_feature_names,
    _check_n_features,
    assert_all_finite,
    check_consistent_length,
    check_is_fitted,
    column_or_1d,
    validate_data,
)

from okko_train.network_search import NetworkOptions, tune_network
from okko_train.search import Options
from okko_train.tabular import Table
from okko_train.tuned_network import Targets

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import ArrayLike, NDArray
    from onnx import ModelProto


class _AutoNet(BaseEstimator):  # type: ignore[misc]
    """What classifier and regressor share; see `AutoNetClassifier` for the parameters."""

    def __init__(
        self,
        *,
        n_trials: int = 30,
        budget: float | None = None,
        tuner: str = "swarm",
        cv: int = 5,
        gap_penalty: float = 0.0,
        run_type: str = "normal",
        prune: bool = True,
        fixed: dict[str, Any] | None = None,
        storage: str | Path | None = None,
        workers: int = 1,
        random_state: Any = None,
    ) -> None:
        self.n_trials = n_trials
        self.budget = budget
        self.tuner = tuner
        self.cv = cv
        self.gap_penalty = gap_penalty
        self.run_type = run_type
        self.prune = prune
        self.fixed = fixed
        self.storage = storage
        self.workers = workers
        self.random_state = random_state

    def _tune(self, table: Table, targets: Targets, groups: ArrayLike | None) -> None:
        started = time.monotonic()
        if len(table) < 2:
            raise ValueError(f"X has n_samples = {len(table)}; cross-validation needs at least 2")
        if groups is not None:
            groups = np.unique(column_or_1d(groups), return_inverse=True)[1]
            check_consistent_length(groups, targets.values)
        search = Options(
            trials=self.n_trials,
            deadline_s=math.inf if self.budget is None else started + self.budget,
            tuner=self.tuner,
            seed=int(check_random_state(self.random_state).randint(2**31 - 1)),
            workers=self.workers,
            storage=None if self.storage is None else Path(self.storage),
            prune=self.prune,
        )
        options = NetworkOptions(search, self.run_type, self.cv, self.gap_penalty, self.fixed or {})
        found = tune_network(table, targets, options, groups=groups)
        self.model_, self.best_params_, self.trials_ = found.model, found.hyperparameters, found.trials
        self.best_score_, self.best_cost_ = found.best.score.skill, found.best.score.cost

    def _table(self, X: Any, *, reset: bool) -> Table:
        """X as a table; numbers are checked as scikit-learn does, but may be missing."""
        if reset:
            self._from_frame = hasattr(X, "columns") and hasattr(X, "dtypes")
            self._has_words = self._from_frame and any(dtype.kind not in "iuf" for dtype in X.dtypes)
        if self._has_words:
            if not hasattr(X, "columns"):
                raise ValueError("X is no pandas DataFrame, but the model was fitted on one with categories")
            _check_feature_names(self, X, reset=reset)
            _check_n_features(self, X, reset=reset)
            table = Table.of_frame(X)
            if reset:
                self._kinds = table.number_names, table.word_names
            return table.as_kinds(*self._kinds)
        numbers = validate_data(self, X, reset=reset, dtype=np.float64, ensure_all_finite="allow-nan")
        names = [str(name) for name in getattr(self, "feature_names_in_", range(numbers.shape[1]))]
        return Table(tuple(names), numbers, (), np.empty((len(numbers), 0), object))

    def _outputs(self, X: Any) -> NDArray[np.float64]:
        check_is_fitted(self, "model_")
        return self.model_.outputs(self._table(X, reset=False))

    def to_onnx(self) -> ModelProto:
        """Everything from the columns to the prediction as one ONNX model.

        Fitted on a DataFrame, it has one input [N, 1] per column, named like it: float64 for numbers, string for
        categories. Fitted on a matrix, it has one input ``features``, float64 [N, d]. NaN, infinity and "" are missing.
        """
        check_is_fitted(self, "model_")
        return self.model_.to_onnx(None if self._from_frame else "features")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.categorical = True
        return tags


class AutoNetClassifier(ClassifierMixin, _AutoNet):  # type: ignore[misc]
    """A network that tells classes apart, and finds its own hyperparameters.

    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True, as_frame=True)
    >>> model = AutoNetClassifier(n_trials=3, random_state=0).fit(X, y)
    >>> model.score(X, y) > 0.9, sorted(model.best_params_)[:3]
    (True, ['activation', 'batch_size', 'dropout'])

    Args:
        n_trials: sets of hyperparameters to try; the first is a sensible default.
        budget: seconds after which no further trial starts, None for no limit.
        tuner: "swarm", "tpe", "cmaes", "random".
        cv: folds of the cross-validation; fewer where there are fewer rows or groups.
        gap_penalty: 0 scores by the cost on held-out rows; 1 adds the gap to the cost on the rows learnt from, as R's
            automl does.
        run_type: "normal", "two_steps", "overfitting", "regularization"; see `okko_train.network_search`.
        prune: give up trials that are worse than the median after a fold.
        fixed: hyperparameters that are not tuned, such as {"hidden_layers": 0}.
        storage: SQLite file that keeps the trials, so that a search can be continued; None for memory.
        workers: processes side by side.
        random_state: seed, RandomState or None.

    Attributes:
        classes_: (n_classes,) in the order of the probabilities.
        best_params_: the best hyperparameters.
        best_cost_: their cross-validated cost.
        best_score_: their cross-validated accuracy (for a regressor: coefficient of determination).
        trials_: all trials, `okko_train.search.TrialResult`.
        model_: the `TunedNetwork`, trained on all rows.
    """

    def fit(self, X: Any, y: ArrayLike, groups: ArrayLike | None = None) -> Self:
        """Tune and train on X (n, d) and labels y (n,); rows of one group (n,) are never on both sides of a fold."""
        if hasattr(X, "columns") and hasattr(X, "dtypes"):
            labels = column_or_1d(y, warn=True)
            check_consistent_length(X, labels)
        else:
            _, labels = validate_data(self, X, y, dtype=np.float64, ensure_all_finite="allow-nan")
            labels = column_or_1d(labels, warn=True)
        table = self._table(X, reset=True)
        if labels.dtype.kind in "fO":
            assert_all_finite(labels, input_name="y")
        check_classification_targets(labels)
        targets = Targets.of(labels, "classification")
        assert targets.classes is not None
        if len(targets.classes) < 2:
            raise ValueError(f"y has one class, {targets.classes[0]!r}; a classifier needs rows of at least two")
        self.classes_ = targets.classes
        self._tune(table, targets, groups)
        return self

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Probability of each class (n, classes)."""
        return self._outputs(X)

    def predict(self, X: Any) -> NDArray[Any]:
        """The most probable class (n,)."""
        chosen = self._outputs(X).argmax(axis=1)
        predicted: NDArray[Any] = self.classes_[chosen]
        return predicted

    def predict_frame(self, X: Any) -> pd.DataFrame:
        """Predictions as a pandas table with the rows of X: ``prediction`` and one probability column per class."""
        import pandas as pd

        probability = self.predict_proba(X)
        frame = pd.DataFrame(probability, index=getattr(X, "index", None), columns=[f"p_{c}" for c in self.classes_])
        frame.insert(0, "prediction", self.classes_[probability.argmax(axis=1)])
        return frame


class AutoNetRegressor(RegressorMixin, _AutoNet):  # type: ignore[misc]
    """A network that predicts a number, and finds its own hyperparameters; parameters as for `AutoNetClassifier`."""

    def fit(self, X: Any, y: ArrayLike, groups: ArrayLike | None = None) -> Self:
        """Tune and train on X (n, d) and numbers y (n,); rows of one group (n,) are never on both sides of a fold."""
        self._name = str(getattr(y, "name", None) or "prediction")
        if hasattr(X, "columns") and hasattr(X, "dtypes"):
            numbers = column_or_1d(y, warn=True).astype(np.float64)
            assert_all_finite(numbers, input_name="y")
            check_consistent_length(X, numbers)
        else:
            _, numbers = validate_data(self, X, y, dtype=np.float64, y_numeric=True, ensure_all_finite="allow-nan")
        self._tune(self._table(X, reset=True), Targets.of(numbers, "regression"), groups)
        return self

    def predict(self, X: Any) -> NDArray[np.float64]:
        """Numbers (n,)."""
        return self._outputs(X)[:, 0]

    def predict_frame(self, X: Any) -> pd.DataFrame:
        """Predictions as a pandas table with the rows of X; the column is named like the y of `fit`."""
        import pandas as pd

        return pd.DataFrame({self._name: self.predict(X)}, index=getattr(X, "index", None))
