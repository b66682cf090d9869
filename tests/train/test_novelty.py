import functools

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper
from PIL import Image, ImageDraw

from okko_train.dataset import load_dataset
from okko_train.feature_graph import FEATURES, IMAGE, IR_VERSION, OPSET
from okko_train.looks import Embedded
from okko_train.novelty import fit_novelty
from okko_train.novelty_frames import SHARES, Scene, kinds, two_objects
from okko_train.novelty_graph import GLANCE, NOVELTY, glance_length, glance_model, with_novelty
from okko_train.novelty_learning import learn_novelty
from okko_train.preparation import split_photos
from okko_train.region import Place

N, WIDTH = 300, 40


def familiar(n, seed, scale=1.0):
    """Points of a flat cloud, as photos of one rig are."""
    rng = np.random.default_rng(seed)
    turned = np.linalg.qr(np.random.default_rng(0).normal(size=(WIDTH, WIDTH)))[0]
    return (scale * rng.normal(size=(n, WIDTH)) * np.geomspace(3, 0.1, WIDTH) @ turned + 5).astype(np.float32)


@functools.cache
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
    for one, other in zip(vars(fitted()).values(), vars(fitted.__wrapped__()).values(), strict=True):
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


def belt(rng, *discs):
    """A noisy belt with red discs at the given places."""
    image = Image.new("RGB", (160, 120), (50, 70, 70))
    draw = ImageDraw.Draw(image)
    for right in range(0, 160, 32):
        draw.rectangle([right, 0, right + 3, 120], fill=(20, 30, 30))
    for x, y in discs:
        x, y = x + rng.integers(-2, 3), y + rng.integers(-2, 3)
        draw.ellipse([x - 24, y - 24, x + 24, y + 24], fill=(200, int(rng.integers(30, 90)), 40))
    noisy = np.asarray(image) * rng.uniform(0.9, 1.1) + rng.normal(0, 8, (120, 160, 3))
    return np.clip(noisy, 0, 255).astype(np.uint8)


def test_two_objects_and_frames_without_a_picture_are_new_while_good_ones_are_not(tmp_path):
    rng = np.random.default_rng(0)
    for label, places in (("OK", [(80, 60)]), ("KO", [])):
        (tmp_path / label).mkdir()
        for number in range(60):
            Image.fromarray(belt(rng, *places)).save(tmp_path / label / f"{number}.png")
    dataset = load_dataset(tmp_path)
    split = split_photos(dataset, seed=0)
    by_heart = Embedded(np.empty((len(dataset), 3), np.float32), np.empty((0, len(split.learn), 3), np.float32))
    model = without_features()
    novelty = learn_novelty(dataset, split, ("OK",), model, by_heart, Place(0.5, 0.5), seed=0, workers=2)
    session = onnxruntime.InferenceSession(with_novelty(model, novelty).SerializeToString())

    def share_new(frames):
        return np.mean([session.run((NOVELTY,), {IMAGE: frame[None]})[0][0] > 1 for frame in frames])

    shape = (120, 160, 3)
    assert share_new([belt(rng, (80, 60)) for _ in range(100)]) <= 0.02
    assert share_new([belt(rng, (80, 60), (80 + side, 60)) for side in (-50, -44, 44, 50) for _ in range(10)]) >= 0.95
    assert share_new([np.zeros(shape, np.uint8), np.full(shape, 255, np.uint8)]) == 1
    assert share_new([rng.integers(0, 256, shape, np.uint8) for _ in range(20)]) == 1
    assert share_new([np.roll(belt(rng, (80, 60)), 40, axis=0) for _ in range(20)]) >= 0.95
