import os
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from okko_models.errors import OkkoError
from okko_train import tuning
from okko_train.calibration import Calibration, softmax
from okko_train.export import ParityError, assemble, check_parity
from okko_train.head import Head, Projection, hyperparameter_space, train_network
from okko_train.network import Network
from okko_train.tuning import CrossValidation, Look, choose_look, first_unless_beaten, tune

RNG = np.random.default_rng(0)
PARAMETERS = {
    "look": "a",
    "components": 8,
    "hidden_layers": 1,
    "hidden_units": 8,
    "dropout": 0.2,
    "learning_rate": 0.01,
    "l2": 1e-3,
    "epochs": 20,
}


def photos(n=120, n_features=40, gap=1.5):
    truth = np.arange(n) % 2
    features = np.random.default_rng(1).normal(0, 1, (n, n_features)).astype(np.float32)
    features[:, :8] += gap * truth[:, None]
    return features, truth.astype(np.int64)


def cross_validation(workers=1, **looks):
    features, truth = photos()
    looks = looks or {"a": features}
    data = {name: Look(values, values[None], np.ones(values.shape[1], np.float32)) for name, values in looks.items()}
    return CrossValidation.of(data, truth, np.arange(len(truth)) // 2 % 4, n_labels=2, seed=0, workers=workers)


def test_projecting_keeps_all_distances_when_no_axis_is_left_out():
    features, _ = photos(30, 10)
    emphasis = np.ones(10, np.float32)
    projection = Projection.fit(features, emphasis)
    spread = features.std(0)
    standardised = (features - features.mean(0)) / (spread + 0.05 * np.median(spread))
    before = np.linalg.norm(standardised[:, None] - standardised, axis=2)
    after = np.linalg.norm(projection(features)[:, None] - projection(features), axis=2)
    np.testing.assert_allclose(after / after.max(), before / before.max(), atol=1e-4)


def test_components_come_strongest_first_and_are_uncorrelated():
    features, _ = photos()
    components = Projection.fit(features, np.ones(40, np.float32))(features)
    spread = components.std(axis=0)
    assert spread[0] == pytest.approx(1, abs=1e-3)
    assert (np.diff(spread) <= 1e-4).all()
    np.testing.assert_allclose(np.corrcoef(components[:, :8].T), np.eye(8), atol=1e-3)


def test_a_feature_that_never_varies_does_no_harm():
    features, _ = photos()
    features[:, 7] = 3.0
    assert np.isfinite(Projection.fit(features, np.ones(40, np.float32))(features)).all()


def test_units_do_not_matter():
    features, _ = photos()
    emphasis = np.ones(40, np.float32)
    plain = Projection.fit(features, emphasis)(features)
    scaled = Projection.fit(features * 1000 + 5, emphasis)(features * 1000 + 5)
    np.testing.assert_allclose(scaled, plain, atol=2e-2)


def test_calibration_divides_the_scores_and_shifts_them_within_the_network():
    features, truth = photos()
    projection = Projection.fit(features, np.ones(40, np.float32)).first(8)
    network, _ = train_network(projection(features), truth, 2, PARAMETERS, seed=0)
    head = Head(projection, network)
    softened = head.calibrated(Calibration(2.5, (0.0, 0.7)))
    expected = softmax(network.logits(projection(features)) / 2.5 + np.array([0.0, 0.7]))
    np.testing.assert_allclose(softened.probability(features), expected, atol=1e-5)
    assert not np.array_equal(head.probability(features), softened.probability(features))


@pytest.mark.parametrize("hidden", [(), (8,)])
def test_the_exported_head_computes_what_was_trained(hidden):
    features, _ = photos()
    projection = Projection.fit(features, np.ones(40, np.float32)).first(8)
    network = Network((8, *hidden, 2), ("relu",) * len(hidden) + ("softmax",), seed=1)
    head = Head(projection, network)
    passes_on = helper.make_model(
        helper.make_graph(
            [helper.make_node("Identity", ["image"], ["features"])],
            "features",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 40])],
            [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["N", 40])],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=8,
    )
    model = assemble(passes_on, head)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    probability, embedding = session.run(("probability", "embedding"), {"image": features})
    assert check_parity(head.probability(features), probability) < 1e-5
    np.testing.assert_allclose(embedding, projection(features), atol=1e-4)


def test_a_model_that_differs_from_what_was_trained_is_never_shipped():
    with pytest.raises(ParityError, match="differs"):
        check_parity(np.array([[0.5, 0.5]]), np.array([[0.5001, 0.4999]]))
    with pytest.raises(ParityError):
        check_parity(np.array([[0.5, 0.5]]), np.array([[np.nan, 0.5]]))


def test_a_photo_is_judged_by_networks_that_have_not_seen_it():
    features, truth = photos(gap=0.0)
    data = cross_validation(a=features)
    logits, _ = data.out_of_fold({**PARAMETERS, "hidden_units": 32, "dropout": 0.0, "epochs": 60, "l2": 1e-5})
    accuracy = (logits.argmax(axis=1) == truth).mean()
    assert 0.3 < accuracy < 0.7, "on labels that mean nothing, anything better than chance has seen the answer"


def test_the_swarm_finds_the_look_that_tells_the_labels_apart():
    features, _ = photos()
    noise = RNG.normal(0, 1, (120, 40)).astype(np.float32)
    result = tune(cross_validation(noise=noise, a=features), n_trials=18, workers=1)
    assert result.chosen.parameters["look"] == "a"
    assert result.chosen.accuracy > 0.9
    assert [trial.number for trial in result.trials] == list(range(18))
    assert not result.stopped_by_budget


@pytest.mark.parametrize(("gain", "chosen"), [(0.05, 2), (0.001, 0)])
def test_the_first_is_kept_unless_another_is_clearly_better(gain, chosen):
    first = RNG.exponential(0.3, 200)
    scored = [first, first + 1, first - gain + RNG.normal(0, 0.1, 200), np.full(200, np.inf)]
    assert first_unless_beaten(scored, np.arange(200)) == chosen


def test_what_is_better_on_one_group_alone_is_not_clearly_better():
    first = RNG.exponential(0.3, 200)
    groups = np.arange(200) // 20
    scored = [first, first - 0.5 * (groups == 3) + 0.01 * groups * (groups < 3)]
    assert first_unless_beaten(scored, groups) == 0
    assert first_unless_beaten(scored, np.arange(200)) == 1


def test_a_first_that_failed_is_not_kept():
    assert first_unless_beaten([np.full(50, np.inf), np.full(50, 0.4)], np.arange(50)) == 1


def test_another_look_than_the_first_is_taken_where_it_is_clearly_better():
    features, _ = photos()
    noise = RNG.normal(0, 1, (120, 40)).astype(np.float32)
    assert choose_look(cross_validation(noise=noise, a=features)) == "a"
    assert choose_look(cross_validation(a=features, noise=noise)) == "a"
    assert choose_look(cross_validation(one=noise, other=noise[:, ::-1].copy())) == "one"


def test_the_number_of_workers_changes_nothing():
    one, two = (tune(cross_validation(workers=n), n_trials=14, workers=n) for n in (1, 2))
    assert [(t.parameters, t.cost) for t in one.trials] == [(t.parameters, t.cost) for t in two.trials]


def test_a_worker_that_is_killed_is_an_error_that_a_person_can_read(monkeypatch):
    class KillsItsWorkers(ProcessPoolExecutor):
        def submit(self, *_):
            return super().submit(os._exit, 9)

    monkeypatch.setattr(tuning, "ProcessPoolExecutor", KillsItsWorkers)
    with pytest.raises(OkkoError, match="memory"):
        tune(cross_validation(), n_trials=4, workers=2)


def test_a_deadline_that_has_passed_still_allows_one_trial():
    result = tune(cross_validation(), n_trials=1000, workers=1, deadline_s=0.0)
    assert len(result.trials) == 1
    assert result.stopped_by_budget


def test_the_space_never_asks_for_more_components_than_photos():
    space = hyperparameter_space(9, ["a"])
    for corner in (np.zeros(space.dimension), np.ones(space.dimension)):
        assert 1 <= space.decode(corner)["components"] <= 8
