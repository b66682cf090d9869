import sqlite3
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from okko_models.decision import Costs
from okko_train import features
from okko_train.augment import Augmentation
from okko_train.dataset import load_dataset
from okko_train.embedding import n_copies
from okko_train.feature_graph import Recipe, View, feature_model
from okko_train.features import embed, remembered
from okko_train.golden import choose_golden, golden_frames
from okko_train.quantize import quantize
from okko_train.variants import Measured, choose, measure

SAMPLES = Path(__file__).parents[2] / "train" / "samples" / "marbles"
RECIPE = Recipe(View(None, 64))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("OKKO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def dataset(tmp_path):
    random = np.random.default_rng(0)
    for label, level in (("OK", 180), ("KO", 60)):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for number in range(6):
            pixels = random.integers(0, 60, (48, 64, 3), np.uint8) + level
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "photos" / label / f"{number}.png")
    return load_dataset(tmp_path / "photos")


@pytest.fixture(scope="module")
def model():
    return feature_model(RECIPE)


def count_runs(monkeypatch):
    """Counts the photos that are really computed."""
    seen = []
    real = features.read_photo
    monkeypatch.setattr(features, "read_photo", lambda path: seen.append(path) or real(path))
    return seen


def test_a_photo_is_computed_once_and_then_remembered(dataset, model, monkeypatch):
    seen, data = count_runs(monkeypatch), model.SerializeToString()
    first = embed(dataset.photos, data, RECIPE.digest, workers=2)
    assert len(seen) == len(dataset)
    again = embed(dataset.photos, data, RECIPE.digest, workers=1)
    assert len(seen) == len(dataset)
    np.testing.assert_array_equal(first, again)


def test_a_copy_and_another_model_are_not_taken_for_the_photo(dataset, model, monkeypatch):
    seen, data = count_runs(monkeypatch), model.SerializeToString()
    plain = embed(dataset.photos, data, RECIPE.digest, workers=1)
    altered = embed(dataset.photos, data, RECIPE.digest, workers=1, augmentation=Augmentation(0))
    embed(dataset.photos, data, "another model", workers=1)
    assert len(seen) == 3 * len(dataset)
    assert not np.allclose(plain, altered)


def test_features_come_in_the_order_of_the_photos_whatever_is_remembered(dataset, model):
    data = model.SerializeToString()
    some = embed(dataset.photos[3:5], data, RECIPE.digest, workers=1)
    everything = embed(dataset.photos, data, RECIPE.digest, workers=3)
    np.testing.assert_array_equal(everything[3:5], some)


@pytest.mark.parametrize("damage", ["garbage", "folder", "other schema"])
def test_a_cache_that_cannot_be_used_costs_time_and_nothing_else(dataset, model, cache, damage):
    cache.mkdir()
    path = cache / "features.sqlite"
    if damage == "garbage":
        path.write_bytes(b"this is not a database" * 100)
    elif damage == "folder":
        path.mkdir()
    else:
        sqlite3.connect(path).execute("CREATE TABLE features (other TEXT)").connection.commit()
    assert embed(dataset.photos, model.SerializeToString(), RECIPE.digest, workers=1).shape == (12, RECIPE.length)


def test_what_was_found_once_is_not_searched_again():
    calls = []

    def find():
        calls.append(1)
        return np.array([0.25, 0.75], np.float32)

    for _ in range(2):
        np.testing.assert_array_equal(remembered("region", "key", find), [0.25, 0.75])
    assert len(calls) == 1
    remembered("region", "another key", find)
    assert len(calls) == 2


def test_few_photos_get_more_copies_than_many():
    assert n_copies(50) > n_copies(1000) >= 1


def test_int8_is_a_quarter_of_the_size_and_points_the_same_way():
    photos = load_dataset(SAMPLES / "one_rig_next_day").photos[::4]
    recipe = Recipe(View(0.5, 224))
    model = feature_model(recipe)
    int8 = quantize(model, photos)
    assert int8.ByteSize() < model.ByteSize() / 3
    float_features, int8_features = (
        embed(photos, each.SerializeToString(), name, workers=1) for name, each in (("f", model), ("q", int8))
    )
    norms = np.linalg.norm(float_features, axis=1) * np.linalg.norm(int8_features, axis=1)
    assert ((float_features * int8_features).sum(axis=1) / norms).min() > 0.9


def measured(precision, latency_ms, losses, costs=None):
    costs = losses if costs is None else costs
    return Measured(precision, None, None, None, None, None, np.asarray(losses), np.asarray(costs), latency_ms)


def test_int8_ships_unless_it_is_worse_or_clearly_slower():
    random = np.random.default_rng(0)
    losses = random.gamma(1, 0.1, 400)
    noise = random.normal(0, 0.05, 400)
    as_good, worse = losses + noise - noise.mean(), losses + 0.05 + noise
    assert choose(measured("float32", 9, losses), measured("int8", 4, as_good)).precision == "int8"
    assert choose(measured("float32", 9.0, losses), measured("int8", 9.1, as_good)).precision == "int8"
    assert choose(measured("float32", 9, losses), measured("int8", 10, as_good)).precision == "float32"
    assert choose(measured("float32", 9, losses), measured("int8", 4, worse)).precision == "float32"
    assert choose(measured("float32", 9, losses), measured("int8", 4, as_good, costs=worse)).precision == "float32"


def test_a_variant_is_measured_on_what_its_networks_have_not_seen(dataset, model):
    truth = dataset.targets
    logits = np.where(np.arange(2) == truth[:, None], 2.0, -2.0)
    result = measure(
        "float32", model, None, logits=logits, truth=truth, folds=np.arange(len(truth)) // 2 % 2, labels=("KO", "OK"),
        ok_labels=("OK",), costs=Costs(), max_error=None, photos=dataset.photos,
    )  # fmt: skip
    assert result.latency_ms > 0
    assert result.costs.sum() == 0
    assert result.describe("backbone", shipped=True).log_loss == pytest.approx(result.losses.mean())


def test_golden_frames_cover_every_label_both_sure_and_unsure(dataset):
    probability = np.array([[0.9, 0.1], [0.6, 0.4], [0.7, 0.3], [0.2, 0.8], [0.45, 0.55]])
    assert choose_golden(probability, np.array([0, 0, 0, 1, 1])) == [0, 1, 3, 4]
    frames = golden_frames(dataset.photos[:3])
    assert sorted(frames) == ["golden/00.png", "golden/01.png", "golden/02.png"]
    assert all(data.startswith(b"\x89PNG") for data in frames.values())
