import json

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper
from PIL import Image, ImageDraw

from okko_models.bundle import Bundle
from okko_models.classifier import Classifier
from okko_models.decision import Costs, Verdict
from okko_models.errors import OkkoError
from okko_train import novelty_learning
from okko_train.dataset import load_dataset
from okko_train.feature_graph import FEATURES, OPSET
from okko_train.one_class import MEANING, fit_one_class
from okko_train.one_class_training import OneClassOptions, one_class_model, train_one_class

WIDTHS = (12, 7)


def good(n, seed):
    rng = np.random.default_rng(seed)
    return [(rng.normal(size=(n, width)) * np.geomspace(2, 0.2, width)).astype(np.float32) for width in WIDTHS]


@pytest.fixture(scope="module")
def judge():
    return fit_one_class(good(400, 0), np.arange(400) % 20, 0.05)[0]


def test_no_more_good_ones_than_stated_fail_to_be_called_ok(judge):
    of_ok = judge.probability(np.concatenate(good(4000, 1), axis=1))[:, 1]
    assert 0.01 < (of_ok < 0.5).mean() < 0.08
    assert (of_ok < judge.ko_threshold).mean() < 0.04
    assert np.median(of_ok) == pytest.approx(0.9, abs=0.03)


@pytest.mark.parametrize("look", [0, 1])
def test_what_looks_strange_in_one_look_is_bad(judge, look):
    looks = good(100, 2)
    looks[look][:, -1] += 5
    assert (judge.probability(np.concatenate(looks, axis=1))[:, 1] < judge.ko_threshold).mean() > 0.95


def test_the_graph_computes_what_was_fitted(judge):
    nodes = [helper.make_node("Identity", ["image"], [FEATURES])]
    shape = ["N", sum(WIDTHS)]
    graph = helper.make_graph(
        nodes,
        "given",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(FEATURES, TensorProto.FLOAT, shape)],
    )
    given = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    session = onnxruntime.InferenceSession(one_class_model(given, judge).SerializeToString())
    features = 1.5 * np.concatenate(good(50, 3), axis=1)
    probability, embedding = session.run(("probability", "embedding"), {"image": features})
    np.testing.assert_allclose(probability, judge.probability(features), atol=1e-5)
    assert embedding.shape == (50, sum(look.axes.shape[1] for look in judge.looks))


def disc(path, rng, *, chipped=False):
    image = Image.new("RGB", (96, 72), (40, 60, 60))
    draw = ImageDraw.Draw(image)
    x, y = 48 + rng.integers(-2, 3), 36 + rng.integers(-2, 3)
    draw.ellipse([x - 20, y - 20, x + 20, y + 20], fill=(200, 40, 40))
    if chipped:
        draw.rectangle([x - 4, y - 20, x + 20, y + 2], fill=(40, 60, 60))
    noisy = np.asarray(image) + rng.normal(0, 12, (72, 96, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(path)


@pytest.fixture(scope="module", autouse=True)
def few_wrong_pictures():
    """The usual number takes long, and these discs are easily told from anything else."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(novelty_learning, "WRONG_PICTURES", 60)
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A model made of good discs alone; chipped ones lie beside them and must only be tested on."""
    root = tmp_path_factory.mktemp("one-class")
    rng = np.random.default_rng(0)
    for number in range(40):
        disc(root / "photos" / "whole" / f"{number}.png", rng)
    for number in range(6):
        disc(root / "photos" / "chipped" / f"{number}.png", rng, chipped=True)
    options = OneClassOptions(name="discs", normal=("whole",), costs=Costs(), workers=2)
    result = train_one_class(load_dataset(root / "photos"), root / "discs.okko", options)
    return root, result


def test_defects_never_seen_are_found(trained):
    _, result = trained
    assert result.test.false_ok == 0
    assert result.test.truly_ok.sum() == 8
    assert (~result.test.truly_ok).sum() == 6
    assert result.test.verdicts["OK"] >= 7


def test_the_manifest_says_what_the_probability_means(trained):
    root, _ = trained
    manifest = json.loads((root / "discs.okko" / "manifest.json").read_text())
    assert manifest["probability_means"] == MEANING
    assert manifest["labels"] == ["KO", "OK"]
    assert manifest["provenance"]["hyperparameters"]["false_alarms"] == 0.05


def test_a_defect_is_thrown_out_and_no_picture_at_all_is_not_called_ok(trained):
    root, _ = trained
    classifier = Classifier(Bundle.open(root / "discs.okko"))
    classifier.self_test()
    chipped = np.asarray(Image.open(root / "photos" / "chipped" / "0.png"))
    assert classifier.classify(chipped).verdict is Verdict.KO
    for frame in (
        np.zeros((72, 96, 3)),
        np.full((72, 96, 3), 255),
        np.random.default_rng(0).integers(0, 256, (72, 96, 3)),
    ):
        assert classifier.classify(frame.astype(np.uint8)).verdict is not Verdict.OK


def test_photos_of_one_folder_are_enough(trained, tmp_path):
    root, _ = trained
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "whole").symlink_to(root / "photos" / "whole")
    options = OneClassOptions(name="discs", normal=("whole",), costs=Costs(), workers=2)
    result = train_one_class(load_dataset(tmp_path / "photos", minimum_labels=1), tmp_path / "discs.okko", options)
    assert result.test.n == 8
    assert result.test.false_ok == 0


def test_too_few_photos_and_unknown_labels_are_refused_in_words(trained, tmp_path):
    root, _ = trained
    dataset = load_dataset(root / "photos")
    for normal, said in ((("chipped",), "at least 10"), (("nice",), "--normal names nice")):
        options = OneClassOptions(name="discs", normal=normal, costs=Costs(), workers=2)
        with pytest.raises(OkkoError, match=said):
            train_one_class(dataset, tmp_path / "x.okko", options)
