"""The self-tuning estimators: scikit-learn's own checks, tables with everything in them, and the exported model."""

import numpy as np
import onnxruntime
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_iris
from sklearn.model_selection import cross_val_score
from sklearn.utils.estimator_checks import estimator_checks_generator

from okko_models.errors import OkkoError
from okko_train.auto_estimators import AutoNetClassifier, AutoNetRegressor
from okko_train.network_search import NO_REGULARISATION, RUN_TYPES, open_space
from okko_train.tabular import Table

IRIS = load_iris(as_frame=True)
DIABETES = load_diabetes(as_frame=True)
TINY = {"n_trials": 2, "cv": 2, "random_state": 0}


@pytest.mark.parametrize("estimator", [AutoNetClassifier(**TINY), AutoNetRegressor(**TINY)], ids=repr)
@pytest.mark.filterwarnings("ignore")
def test_it_passes_every_check_of_scikit_learn(estimator):
    # scikit-learn leaves out what does not apply: array_api needs an environment variable.
    names = []
    for one, check in estimator_checks_generator(estimator):
        name = getattr(check, "func", check).__name__
        names.append(name)
        if name != "check_array_api_input":
            check(one)
    assert len(names) > 45


def test_iris_is_learnt_and_the_same_seed_gives_the_same_model():
    model = AutoNetClassifier(n_trials=5, random_state=1).fit(IRIS.data, IRIS.target)
    again = clone(model).fit(IRIS.data, IRIS.target)
    assert model.best_score_ > 0.9
    assert len(model.trials_) == 5
    assert model.best_cost_ == min(trial.score.cost for trial in model.trials_)
    assert model.best_params_ == again.best_params_
    np.testing.assert_array_equal(model.predict_proba(IRIS.data), again.predict_proba(IRIS.data))
    assert cross_val_score(clone(model).set_params(n_trials=2), IRIS.data, IRIS.target, cv=3).mean() > 0.9


def test_numbers_are_learnt_in_their_own_units():
    model = AutoNetRegressor(n_trials=6, random_state=0).fit(DIABETES.data, DIABETES.target)
    assert model.best_score_ > 0.4
    frame = model.predict_frame(DIABETES.data)
    assert list(frame.columns) == ["target"]
    assert abs(frame.target.mean() - DIABETES.target.mean()) < 10


def passengers(n=80):
    """A table with numbers, categories and gaps, in which the category decides nearly everything."""
    random = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "age": np.where(random.random(n) < 0.2, np.nan, random.integers(1, 80, n)),
            "sex": random.choice(["male", "female"], n),
            "deck": np.where(random.random(n) < 0.5, None, random.choice(list("ABC"), n)),
        },
        index=[f"row {i}" for i in range(n)],
    )
    return frame, np.where((frame.sex == "female") ^ (random.random(n) < 0.05), "saved", "lost")


def test_a_frame_with_categories_and_gaps_is_learnt_and_exported():
    X, y = passengers()
    model = AutoNetClassifier(n_trials=3, random_state=0).fit(X, y)
    assert model.best_score_ > 0.85
    assert model.classes_.tolist() == ["lost", "saved"]
    frame = model.predict_frame(X)
    assert list(frame.columns) == ["prediction", "p_lost", "p_saved"]
    assert list(frame.index) == list(X.index)
    session = onnxruntime.InferenceSession(model.to_onnx().SerializeToString())
    assert [(i.name, i.type) for i in session.get_inputs()] == [
        ("age", "tensor(double)"),
        ("sex", "tensor(string)"),
        ("deck", "tensor(string)"),
    ]
    table = Table.of_frame(X)
    probability, label = session.run(None, {name: table.column(name)[:, None] for name in table.names})
    np.testing.assert_allclose(probability, model.predict_proba(X), atol=1e-5)
    assert label.tolist() == model.predict(X).tolist()


def test_other_columns_or_a_matrix_are_refused_where_a_frame_was_learnt():
    X, y = passengers()
    model = AutoNetClassifier(**TINY).fit(X, y)
    with pytest.raises(ValueError, match="feature names"):
        model.predict(X.rename(columns={"sex": "gender"}))
    with pytest.raises(ValueError, match="DataFrame"):
        model.predict(X.to_numpy())
    with pytest.raises(ValueError, match="column 'age' holds words"):
        model.predict(X.assign(age="old"))
    all_missing = model.predict(X.assign(age=None, deck=None))
    assert set(all_missing) == {"lost", "saved"}


@pytest.mark.parametrize("y", [IRIS.target.to_numpy(), DIABETES.target.to_numpy()], ids=["classes", "numbers"])
def test_a_matrix_becomes_one_input(y):
    X = (IRIS if len(y) == 150 else DIABETES).data.to_numpy().copy()
    X[::7, 1] = np.nan
    model = (AutoNetClassifier if len(y) == 150 else AutoNetRegressor)(**TINY).fit(X, y)
    session = onnxruntime.InferenceSession(model.to_onnx().SerializeToString())
    output = session.run(None, {"features": X})[0]
    expected = model.predict_proba(X) if len(y) == 150 else model.predict(X)[:, None]
    np.testing.assert_allclose(output, expected, atol=1e-5 * max(1, y.std()))


def test_groups_stay_together():
    rows = np.repeat(np.arange(30), 4)
    X, y = np.random.default_rng(0).normal(size=(30, 6))[rows], (np.arange(30) % 2)[rows]
    model = AutoNetClassifier(
        n_trials=2, fixed={"epochs": 100, "batch_size": 8, "learning_rate": 0.02, "l2": 1e-6}, random_state=0
    )
    alone = model.fit(X, y).best_score_
    assert alone > 0.85  # the same rows again: learnt by heart
    assert model.fit(X, y, groups=rows).best_score_ < 0.7  # noise says nothing about new groups


@pytest.mark.parametrize("run_type", RUN_TYPES)
def test_run_types_open_what_they_say(run_type):
    model = AutoNetClassifier(n_trials=4, cv=2, run_type=run_type, random_state=0).fit(IRIS.data, IRIS.target)
    first, last = model.trials_[0].parameters, model.trials_[-1].parameters
    assert len(model.trials_) == 4
    if run_type in ("overfitting", "two_steps"):
        assert "l2" not in first
        assert model.trials_[0].score.cost == model.trials_[0].score.train
    if run_type in ("regularization", "two_steps"):
        assert set(last) <= {"dropout", "l2"}
    if run_type == "two_steps":
        assert model.best_params_["learning_rate"] in [t.parameters["learning_rate"] for t in model.trials_[:2]]
    if run_type == "overfitting":
        assert {name: model.best_params_[name] for name in NO_REGULARISATION} == NO_REGULARISATION


def test_fixed_hyperparameters_stay_and_their_conditions_are_resolved():
    model = AutoNetClassifier(**TINY, fixed={"hidden_layers": 0}).fit(IRIS.data, IRIS.target)
    assert model.best_params_["hidden_layers"] == 0
    assert len(model.model_.network.layer_sizes) == 2
    assert set(open_space({"hidden_layers": 0}).parameters) & {"units_1", "units_2", "dropout", "activation"} == set()
    assert {"units_1", "dropout"} <= set(open_space({"hidden_layers": 1}).parameters)


def test_a_stored_search_goes_on(tmp_path):
    settings = {"cv": 2, "random_state": 0, "storage": tmp_path / "study.db"}
    AutoNetClassifier(n_trials=2, **settings).fit(IRIS.data, IRIS.target)
    resumed = AutoNetClassifier(n_trials=4, **settings).fit(IRIS.data, IRIS.target)
    whole = AutoNetClassifier(n_trials=4, cv=2, random_state=0).fit(IRIS.data, IRIS.target)
    assert [t.parameters for t in resumed.trials_] == [t.parameters for t in whole.trials_]
    with pytest.raises(OkkoError, match="another table"):
        AutoNetClassifier(n_trials=5, **settings).fit(IRIS.data * 2, IRIS.target)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fixed": {"layers": 2}}, "no hyperparameter 'layers'"),
        ({"fixed": {"hidden_layers": 9}}, "'hidden_layers'"),
        ({"run_type": "2steps"}, "choose from normal"),
        ({"run_type": "two_steps", "n_trials": 1}, "at least 2 trials"),
        ({"gap_penalty": 2}, "gap_penalty is 2"),
        ({"cv": 1}, "at least 2"),
        ({"tuner": "grid"}, "no tuner 'grid'"),
        ({"budget": 0}, "budget was over"),
    ],
)
def test_settings_that_make_no_sense_are_named(settings, message):
    with pytest.raises(OkkoError, match=message):
        AutoNetClassifier(**{**TINY, **settings}).fit(IRIS.data, IRIS.target)


def test_one_class_and_one_row_are_refused():
    with pytest.raises(ValueError, match="one class"):
        AutoNetClassifier(**TINY).fit(IRIS.data[:50], IRIS.target[:50])
    with pytest.raises(ValueError, match="n_samples = 1"):
        AutoNetRegressor(**TINY).fit(IRIS.data[:1], IRIS.target[:1])
