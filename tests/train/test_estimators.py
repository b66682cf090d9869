"""The scikit-learn face: it passes scikit-learn's own checks, and keeps what it adds."""

import numpy as np
import onnxruntime
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, clone
from sklearn.datasets import load_diabetes, load_iris
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder
from sklearn.utils.estimator_checks import estimator_checks_generator

from okko_train import costs
from okko_train.estimators import SwarmNetClassifier, SwarmNetRegressor

IRIS = load_iris(as_frame=True)
DIABETES = load_diabetes(as_frame=True)
MONEY = costs.DecisionCost([[0, 1, 1], [1, 0, 9], [1, 1, 0]])
FAST = {"random_state": 0, "epochs": 80}
ESTIMATORS = [
    SwarmNetClassifier(random_state=0),
    SwarmNetRegressor(random_state=0),
    SwarmNetClassifier(training="swarm", generations=60, random_state=0),
    SwarmNetRegressor(training="swarm", generations=60, random_state=0),
    SwarmNetClassifier(training="hybrid", random_state=0),
    SwarmNetRegressor(training="hybrid", random_state=0),
]


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=repr)
@pytest.mark.filterwarnings("ignore")
def test_it_passes_every_check_of_scikit_learn(estimator: BaseEstimator) -> None:
    # scikit-learn leaves out what does not apply: array_api needs an environment variable, and there is no
    # decision_function beside predict_proba.
    not_applicable = {"check_array_api_input", "check_classifiers_multilabel_output_format_decision_function"}
    names = []
    for one, check in estimator_checks_generator(estimator):
        name = getattr(check, "func", check).__name__
        names.append(name)
        if name not in not_applicable:
            check(one)
    assert len(names) > 50


@pytest.mark.parametrize("training", ["gradient", "swarm", "evolution", "hybrid"])
def test_iris_is_learnt_in_each_of_the_three_ways(training: str) -> None:
    model = SwarmNetClassifier(hidden_layers=(10,), training=training, **FAST)
    assert cross_val_score(model, IRIS.data, IRIS.target, cv=5).mean() > 0.9


@pytest.mark.parametrize("training", ["gradient", "swarm", "evolution", "hybrid"])
def test_numbers_are_learnt_in_their_own_units(training: str) -> None:
    model = SwarmNetRegressor(hidden_layers=(4,), training=training, l2=0.01, random_state=0)
    assert cross_val_score(model, DIABETES.data, DIABETES.target, cv=3).mean() > 0.3


@pytest.mark.parametrize("training", ["gradient", "hybrid"])
def test_a_cost_of_decisions_changes_the_decisions(training: str) -> None:
    plain = SwarmNetClassifier(hidden_layers=(4,), **FAST).fit(IRIS.data, IRIS.target)
    careful = SwarmNetClassifier(hidden_layers=(4,), training=training, cost=MONEY, **FAST).fit(IRIS.data, IRIS.target)

    def paid(model: SwarmNetClassifier) -> float:
        return float(MONEY.matrix[IRIS.target, model.predict(IRIS.data)].mean())

    assert paid(careful) <= paid(plain)
    if training == "hybrid":
        assert careful.refinement_.train_cost[2] == pytest.approx(paid(careful))


def test_a_cost_of_numbers_sees_their_own_units() -> None:
    seen: list[float] = []

    def cost(y: np.ndarray, p: np.ndarray) -> np.ndarray:
        seen.append(float(y.mean()))
        return np.mean(np.abs(p - y), axis=(-2, -1))

    model = SwarmNetRegressor(hidden_layers=(), training="swarm", cost=cost, generations=40, random_state=0)
    model.fit(DIABETES.data, DIABETES.target)
    assert seen[0] == pytest.approx(DIABETES.target.mean(), rel=1e-3)
    error = np.abs(model.predict(DIABETES.data) - DIABETES.target).mean()
    assert model.history_.train_cost[-1] == pytest.approx(error, rel=1e-3)
    mape = SwarmNetRegressor(hidden_layers=(), cost="mape", random_state=0).fit(DIABETES.data, DIABETES.target)
    assert np.median(mape.predict(DIABETES.data)) < np.median(DIABETES.target)


def test_several_labels_at_once() -> None:
    labels = np.column_stack([IRIS.target == 0, IRIS.target == 2, IRIS.data.iloc[:, 0] > 5.8]).astype(int)
    model = SwarmNetClassifier(hidden_layers=(8,), **FAST).fit(IRIS.data, labels)
    assert (model.predict(IRIS.data) == labels).mean() > 0.95
    assert model.predict_proba(IRIS.data).shape == (150, 3)


def test_text_labels_and_pandas_tables_come_back() -> None:
    names = pd.Series(IRIS.target_names[IRIS.target], index=IRIS.data.index + 1000)
    X = IRIS.data.set_index(names.index)
    model = SwarmNetClassifier(hidden_layers=(8,), **FAST).fit(X, names)
    assert model.feature_names_in_.tolist() == IRIS.data.columns.tolist()
    frame = model.predict_frame(X.iloc[:5])
    assert frame.index.tolist() == X.index[:5].tolist()
    assert frame.columns.tolist() == ["prediction", "p_setosa", "p_versicolor", "p_virginica"]
    assert frame["prediction"].tolist() == model.predict(X.iloc[:5]).tolist()
    with pytest.raises(ValueError, match="feature names"):
        model.predict(X.rename(columns={X.columns[0]: "another"}))


def test_a_table_of_numbers_comes_back_as_a_table() -> None:
    y = IRIS.data.iloc[:, 2:]
    model = SwarmNetRegressor(hidden_layers=(8,), **FAST).fit(IRIS.data.iloc[:, :2], y)
    frame = model.predict_frame(IRIS.data.iloc[:7, :2])
    assert frame.columns.tolist() == y.columns.tolist()
    assert frame.to_numpy() == pytest.approx(model.predict(IRIS.data.iloc[:7, :2]))


def test_partial_fit_goes_on_where_it_stopped() -> None:
    model = SwarmNetClassifier(hidden_layers=(8,), random_state=0)
    scores = []
    for _ in range(60):
        model.partial_fit(IRIS.data, IRIS.target, classes=[0, 1, 2])
        scores.append(model.score(IRIS.data, IRIS.target))
    assert scores[-1] > 0.9 > scores[0]
    assert model.history_.optimizer.steps == 60 * 5
    numbers = SwarmNetRegressor(hidden_layers=(8,), random_state=0)
    for _ in range(30):
        numbers.partial_fit(DIABETES.data, DIABETES.target)
    assert numbers.score(DIABETES.data, DIABETES.target) > 0.3


def test_partial_fit_says_what_it_needs() -> None:
    with pytest.raises(ValueError, match="classes must be given"):
        SwarmNetClassifier().partial_fit(IRIS.data, IRIS.target)
    model = SwarmNetClassifier(random_state=0).partial_fit(IRIS.data[:100], IRIS.target[:100], classes=[0, 1])
    with pytest.raises(ValueError, match=r"\[2\]"):
        model.partial_fit(IRIS.data, IRIS.target)
    assert not hasattr(SwarmNetClassifier(training="swarm"), "partial_fit")


def test_the_validation_part_stops_the_training() -> None:
    model = SwarmNetClassifier(epochs=400, validation_fraction=0.3, patience=5, learning_rate=0.02, random_state=0)
    model.fit(IRIS.data, IRIS.target)
    assert len(model.history_.validation_cost) == model.history_.best_epoch + 6 < 400


@pytest.mark.parametrize(
    ("model", "X", "y"),
    [
        (SwarmNetClassifier(hidden_layers=(6,), batch_norm=True, **FAST), IRIS.data, IRIS.target),
        (SwarmNetRegressor(hidden_layers=(6,), **FAST), DIABETES.data, DIABETES.target),
        (SwarmNetRegressor(hidden_layers=(6,), standardise=False, **FAST), DIABETES.data, DIABETES.target),
    ],
)
def test_the_exported_graph_starts_from_raw_features(model: BaseEstimator, X: pd.DataFrame, y: pd.Series) -> None:
    model = clone(model).fit(X, y)
    session = onnxruntime.InferenceSession(model.to_onnx().SerializeToString(), providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {"features": X.to_numpy(np.float32)})
    expected = model.predict_proba(X) if hasattr(model, "predict_proba") else model.predict(X)[:, None]
    scale = max(1.0, float(np.abs(expected).max()))
    assert np.abs(output - expected).max() <= 1e-5 * scale


def test_it_works_in_a_pipeline_and_the_seed_decides() -> None:
    X = IRIS.data.round()
    pipeline = make_pipeline(OneHotEncoder(sparse_output=False), SwarmNetClassifier(hidden_layers=(), **FAST))
    first, second = clone(pipeline).fit(X, IRIS.target), clone(pipeline).fit(X, IRIS.target)
    assert np.array_equal(first.predict_proba(X), second.predict_proba(X))
    assert first.score(X, IRIS.target) > 0.9


def test_a_constant_column_does_no_harm() -> None:
    X = IRIS.data.assign(constant=7.0, nearly=1e9 + 1e-7 * np.arange(150))
    assert SwarmNetClassifier(hidden_layers=(8,), **FAST).fit(X, IRIS.target).score(X, IRIS.target) > 0.9


@pytest.mark.parametrize(
    ("settings", "X", "y", "message"),
    [
        ({}, IRIS.data, np.zeros(150), "one class"),
        ({}, IRIS.data.mask(IRIS.data > 7), IRIS.target, "NaN"),
        ({}, IRIS.data.replace(5.1, np.inf), IRIS.target, "infinity"),
        ({}, IRIS.data, IRIS.target.astype(float).mask(IRIS.target == 1), "NaN"),
        ({}, IRIS.data, IRIS.target[:50], "inconsistent numbers of samples"),
        ({}, IRIS.data, IRIS.data.iloc[:, 0] * 1.1, "continuous"),
        ({"training": "magic"}, IRIS.data, IRIS.target, "training is 'magic'"),
        ({"hidden_layers": (0,)}, IRIS.data, IRIS.target, "layer_sizes"),
        ({"activation": "swish"}, IRIS.data, IRIS.target, "swish"),
        ({"learning_rate": -1}, IRIS.data, IRIS.target, "learning_rate"),
        ({"cost": lambda y, p: 0.0}, IRIS.data, IRIS.target, "no gradient"),
        ({"batch_norm": True, "training": "swarm"}, IRIS.data, IRIS.target, "batch_norm"),
    ],
)
def test_what_cannot_be_learnt_is_refused_in_words(
    settings: dict[str, object], X: pd.DataFrame, y: object, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        SwarmNetClassifier(**{"random_state": 0, "epochs": 1, **settings}).fit(X, y)


def test_a_target_with_a_missing_value_is_refused() -> None:
    with pytest.raises(ValueError, match="NaN"):
        SwarmNetRegressor().fit(DIABETES.data, DIABETES.target.mask(DIABETES.target > 300))
