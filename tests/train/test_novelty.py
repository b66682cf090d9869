import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper
from PIL import Image

from okko_train.feature_graph import FEATURES, IMAGE, IR_VERSION, OPSET
from okko_train.novelty import fit_novelty
from okko_train.novelty_frames import SHARES, Scene, kinds, two_objects
from okko_train.novelty_graph import GLANCE, NOVELTY, glance_length, glance_model, with_novelty
from okko_train.region import Place

N, WIDTH = 300, 40


def familiar(n, seed, scale=1.0):
    """Points of a flat cloud, as photos of one rig are."""
    rng = np.random.default_rng(seed)
    turned = np.linalg.qr(np.random.default_rng(0).normal(size=(WIDTH, WIDTH)))[0]
    return (scale * rng.normal(size=(n, WIDTH)) * np.geomspace(3, 0.1, WIDTH) @ turned + 5).astype(np.float32)


def fitted(seed=1):
    photos, copies = familiar(N, seed), np.stack([familiar(N, seed + 1, 1.1)])
    strangers = familiar(120, seed + 2) + np.eye(WIDTH, dtype=np.float32)[3] * 8
    folds = np.arange(N) % 5
    return fit_novelty(photos, copies, strangers, folds, np.ones(WIDTH, np.float32))


def test_photos_like_those_in_training_stay_within_the_limit():
    assert (fitted()(familiar(4000, 9)) > 1).mean() < 0.03


def test_wrong_pictures_of_a_kind_that_was_shown_are_new():
    assert (fitted()(familiar(500, 9) + np.eye(WIDTH, dtype=np.float32)[3] * 8) > 1).mean() > 0.97


def test_what_nobody_thought_of_is_new_by_its_distance():
    far = familiar(200, 9) - 25 * np.eye(WIDTH, dtype=np.float32)[7]
    assert (fitted()(far) > 1).all()


def test_novelty_grows_with_the_distance():
    middle = np.full((1, WIDTH), 5, np.float32)
    away = np.random.default_rng(5).normal(size=WIDTH).astype(np.float32)
    assert (np.diff([fitted()(middle + step * away)[0] for step in (3, 6, 12, 24)]) > 0).all()


def test_the_same_photos_give_the_same_measure():
    for one, other in zip(vars(fitted()).values(), vars(fitted()).values(), strict=True):
        np.testing.assert_array_equal(one, other)


def without_features():
    """A graph whose features are the mean colour."""
    nodes = [
        helper.make_node("Cast", [IMAGE], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels", "axes"], [FEATURES], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "colour",
        [helper.make_tensor_value_info(IMAGE, TensorProto.UINT8, ["N", "H", "W", 3])],
        [helper.make_tensor_value_info(FEATURES, TensorProto.FLOAT, ["N", 3])],
        [helper.make_tensor("axes", TensorProto.INT64, [2], [1, 2])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)


@pytest.mark.parametrize("with_colour", [True, False], ids=["features-and-glance", "glance-alone"])
def test_the_graph_computes_the_novelty_that_was_fitted(with_colour):
    images = np.random.default_rng(0).integers(0, 256, (24, 50, 70, 3), np.uint8)
    glance = onnxruntime.InferenceSession(glance_model().SerializeToString()).run(None, {IMAGE: images})[0]
    features = np.concatenate([images.mean(axis=(1, 2)), glance], axis=1) if with_colour else glance
    features = features.astype(np.float32)
    learn, strange = features[:16], features[16:] * 1.5
    novelty = fit_novelty(learn, learn[None] * 1.01, strange, np.arange(16) % 4, np.ones(features.shape[1], np.float32))
    session = onnxruntime.InferenceSession(with_novelty(without_features(), novelty).SerializeToString())
    (got,) = session.run((NOVELTY,), {IMAGE: images})
    assert got.shape == (24,)
    np.testing.assert_allclose(got, novelty(features), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("size", [(1, 1), (3, 500), (240, 320), (1200, 900)])
def test_a_glance_takes_in_photos_of_any_size(size):
    session = onnxruntime.InferenceSession(glance_model().SerializeToString())
    image = np.full((1, *size, 3), 100, np.uint8)
    assert session.run(None, {IMAGE: image})[0].shape == (1, glance_length())


def test_the_glance_of_a_uniform_photo_does_not_depend_on_its_size():
    session = onnxruntime.InferenceSession(glance_model().SerializeToString())
    small, large = (session.run(None, {IMAGE: np.full((1, *s, 3), 90, np.uint8)})[0] for s in ((64, 64), (900, 1200)))
    np.testing.assert_allclose(small, large, atol=1e-3)
    assert GLANCE != FEATURES


@pytest.mark.parametrize("kind", SHARES, ids=lambda kind: kind.__name__)
def test_every_kind_of_wrong_picture_differs_from_the_photo_and_has_its_size(kind):
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (2, 6, 8, 3), np.uint8)
    image, other = (np.asarray(Image.fromarray(each).resize((80, 60), Image.Resampling.BICUBIC)) for each in coarse)
    for seed in range(8):
        wrong = kind(Scene(image, other[:50], Place(0.1, 0.9)), np.random.default_rng(seed))
        assert (wrong.shape, wrong.dtype) == (image.shape, np.uint8)
        assert np.abs(wrong.astype(int) - image).mean() > 1


def test_kinds_share_the_wrong_pictures_as_stated():
    drawn = kinds(400)
    assert len(drawn) == 400
    assert set(drawn) == set(SHARES)
    assert drawn.count(two_objects) == 200
