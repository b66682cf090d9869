"""A training on more photos takes over where the model before looked, and looks anew when that serves no more."""

import dataclasses
import shutil
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest

from okko_models.bundle import Bundle, write_bundle
from okko_models.decision import Costs
from okko_train import features, variants
from okko_train.candidates import Task, on_pretrained
from okko_train.dataset import load_dataset
from okko_train.lineage import LINEAGE, Lineage, lineage_of
from okko_train.preparation import split_photos
from okko_train.variants import Measured, is_worse
from tests.conftest import manifest, png, redness_model

SAMPLES = Path(__file__).parents[2] / "train" / "samples" / "marbles" / "one_rig"
KNOWN = Lineage(
    labels=("KO", "OK"), x=0.5, y=0.4, n_photos=100, log_loss=0.2, int8=True, parameters={}, ranges={"r": {"t": (0, 6)}}
)
LIKE_BEFORE = {"log_loss": 0.21, "standard_error": 0.02, "int8": True}


@pytest.mark.parametrize("n_photos", [67, 100, 105, 149])
def test_about_as_many_photos_need_not_be_looked_at_anew(n_photos):
    assert KNOWN.why_not_for(("KO", "OK"), n_photos) == ""


@pytest.mark.parametrize(
    ("labels", "n_photos", "why"),
    [
        (("KO", "OK"), 150, "150 photos"),
        (("KO", "OK"), 66, "66 photos"),
        (("KO", "OK", "dotted"), 100, "labels are KO, OK, dotted"),
    ],
)
def test_with_half_as_many_photos_more_or_other_labels_all_are_looked_at_anew(labels, n_photos, why):
    assert why in KNOWN.why_not_for(labels, n_photos)


def test_what_serves_no_worse_than_chance_explains_is_kept():
    assert KNOWN.why_worse(**LIKE_BEFORE) == ""
    assert "log loss is 0.2300" in KNOWN.why_worse(**LIKE_BEFORE | {"log_loss": 0.23})
    assert "int8" in KNOWN.why_worse(**LIKE_BEFORE | {"int8": False})
    assert msgspec.structs.replace(KNOWN, int8=False).why_worse(**LIKE_BEFORE | {"int8": False}) == ""


def test_int8_that_was_good_is_given_up_only_when_it_is_surely_worse():
    random = np.random.default_rng(0)
    noise = random.normal(0, 1, 400)
    noise = (noise - noise.mean()) / noise.std()

    def measured(losses):
        return Measured("", None, None, None, None, None, losses, np.zeros(400), 0.0)

    float32 = measured(np.zeros(400))
    a_little, surely = (measured(noise + errors / 20) for errors in (1.5, 2.5))
    assert is_worse(a_little, float32)
    assert not is_worse(a_little, float32, errors=KNOWN.errors)
    assert is_worse(surely, float32, errors=KNOWN.errors)


def test_a_bundle_says_where_its_model_looked_and_one_that_does_not_is_no_obstacle(tmp_path):
    def bundle(name, files):
        data = redness_model()
        golden = {"golden/00.png": png((250, 10, 10)), "golden/01.png": png((10, 10, 250))}
        return write_bundle(tmp_path / name, manifest(data, golden), {"model.onnx": data, **golden, **files})

    assert lineage_of(bundle("some", {LINEAGE: KNOWN.encode()})) == KNOWN
    assert lineage_of(bundle("none", {})) is None
    assert lineage_of(bundle("other", {LINEAGE: KNOWN.encode().replace(b'"form":1', b'"form":2')})) is None
    assert lineage_of(Bundle.open(tmp_path / "some")) == KNOWN


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Trains on 16 photos, then on 2 more; returns what does it, both results, and what the second one computed."""
    folder = tmp_path_factory.mktemp("lineage")
    patch = pytest.MonkeyPatch()
    patch.setenv("OKKO_CACHE", str(folder / "cache"))
    patch.setattr(variants, "latency_ms", lambda model, photos: 1.0)  # a busy machine must not decide what ships here
    paths = {label: sorted((SAMPLES / label).iterdir())[::11] for label in ("OK", "KO")}
    computed = []
    compute = features.compute
    patch.setattr(
        features, "compute", lambda photos, *args, **kw: computed.extend(photos) or compute(photos, *args, **kw)
    )

    def train(each, earlier=None, trials=2):
        photos = folder / f"{each}"
        for label, found in paths.items():
            (photos / label).mkdir(parents=True, exist_ok=True)
            for path in found[:each]:
                shutil.copy(path, photos / label)
        dataset = load_dataset(photos)
        test = {photo.digest for photo in dataset.photos if Path(photo.name).name in names}
        task = Task(dataset, split_photos(dataset, seed=0, test=test), ("OK",), Costs(), None, None, 0, 1)
        return on_pretrained(task, trials=trials, budget_s=None, started=time.monotonic(), earlier=earlier)

    names = {path.name for found in paths.values() for path in found[:3]}
    try:
        first = train(8)
        generous = msgspec.structs.replace(first.lineage, log_loss=9.0, int8=False)
        computed.clear()
        second = train(9, generous)
        yield dataclasses.make_dataclass("Trained", ["train", "folder", "first", "second", "earlier", "computed"])(
            train, folder, first, second, generous, list(computed)
        )
    finally:
        patch.undo()


def test_only_new_photos_are_looked_at(trained):
    new = {path.name for path in (trained.folder / "9").rglob("*.*")} - {
        path.name for path in (trained.folder / "8").rglob("*.*")
    }
    assert len(new) == 2
    assert {Path(photo.name).name for photo in trained.computed} == new
    assert trained.second.recipe == trained.first.recipe


def test_where_it_looked_and_the_scales_are_handed_on(trained):
    was, now = trained.earlier, trained.second.lineage
    assert (now.x, now.y, now.n_photos, now.log_loss) == (was.x, was.y, was.n_photos, was.log_loss)
    assert was.ranges.items() <= now.ranges.items()


def test_the_search_begins_with_what_was_best_and_needs_a_third_of_the_trials(trained):
    assert trained.second.search.trials[0].parameters == trained.first.hyperparameters
    assert len(trained.first.search.trials) == 2
    assert len(trained.second.search.trials) == 1
    assert trained.earlier.trials(30) == 10


def test_the_same_photos_and_the_same_earlier_model_give_the_same_weights_whatever_is_remembered(trained, monkeypatch):
    monkeypatch.setenv("OKKO_CACHE", str(trained.folder / "empty"))
    again = trained.train(9, trained.earlier)
    assert again.measured.precision == trained.second.measured.precision
    assert again.measured.model == trained.second.measured.model
    for one, other in zip(again.head.network.layers, trained.second.head.network.layers, strict=True):
        np.testing.assert_array_equal(one.matrix, other.matrix)


def test_when_the_networks_got_worse_all_is_done_as_without_an_earlier_model(trained, capsys):
    proud = msgspec.structs.replace(trained.earlier, log_loss=-9.0)
    anew = trained.train(8, proud)
    assert "Looking at all photos anew: the log loss is" in capsys.readouterr().err
    assert anew.lineage == trained.first.lineage
    assert anew.hyperparameters == trained.first.hyperparameters
    np.testing.assert_array_equal(anew.head.network.layers[-1].matrix, trained.first.head.network.layers[-1].matrix)
