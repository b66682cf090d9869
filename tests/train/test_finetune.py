from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image

from okko_models.classifier import make_session
from okko_train.backbone import EMBEDDING, TrainedBackbone
from okko_train.feature_graph import FEATURES, IMAGE, Pool, Pooling, Recipe, View, feature_model
from okko_train.finetune import SMALL, from_scratch, sized_for
from okko_train.finetune.torch_network import TorchNetwork
from okko_train.finetune.views import Alteration, altered_views, load_canvases, plain_views

if TYPE_CHECKING:
    from pathlib import Path

POOLS = (Pool("block7", Pooling.CENTRE), Pool("block15"), Pool(EMBEDDING))


def features_by_graph(recipe: Recipe, image: np.ndarray) -> np.ndarray:
    session = make_session(feature_model(recipe).SerializeToString(), threads=1)
    (features,) = session.run((FEATURES,), {IMAGE: image[None]})
    return features[0]


class _Photo:
    def __init__(self, path: Path, image: np.ndarray) -> None:
        Image.fromarray(image).save(path)
        self.path, (self.height, self.width) = path, image.shape[:2]


@pytest.fixture
def image() -> np.ndarray:
    """Smooth enough that two ways to resize agree: the middle is what is looked at."""
    y, x = np.mgrid[:192, :256] / 64
    waves = np.stack([np.sin(x + y), np.cos(2 * x), np.sin(y)], axis=-1)
    return np.uint8(127 + 100 * waves)


@pytest.mark.parametrize("view", [View(crop=0.5, size=96, x=0.4, y=0.5), View(crop=None, size=128)])
def test_torch_and_graph_see_the_same_photo_and_compute_the_same_features(
    view: View, image: np.ndarray, tmp_path: Path
) -> None:
    recipe = Recipe(view, POOLS)
    network = TorchNetwork(recipe, 2, recipe.backbone.load_weights(), dropout=0.0).eval()
    canvases = load_canvases([_Photo(tmp_path / "waves.png", image)], view)
    with torch.no_grad():
        got = network.features(plain_views(torch.from_numpy(canvases), view.size))[0].numpy()
    expected = features_by_graph(recipe, image)
    similarity = got @ expected / np.linalg.norm(got) / np.linalg.norm(expected)
    assert similarity > 0.99


def test_a_network_from_scratch_is_folded_into_what_it_computed(image: np.ndarray) -> None:
    torch.manual_seed(0)
    recipe = from_scratch(Recipe(View(crop=None, size=64), POOLS))
    network = TorchNetwork(recipe, 2, None, dropout=0.0)
    pixels = torch.rand(8, 3, 64, 64) * 2 - 1
    for _ in range(3):
        network.train()(pixels)
    network.eval()
    small = Image.fromarray(image).resize((64, 64))
    view = (torch.from_numpy(np.array(small)).permute(2, 0, 1)[None].float() - 127) / 128
    with torch.no_grad():
        expected = network.features(view)[0].numpy()
    folded = replace(recipe, backbone=TrainedBackbone("folded", SMALL, network.folded()))
    np.testing.assert_allclose(features_by_graph(folded, np.array(small)), expected, atol=1e-4)


def test_the_scores_of_plain_features_are_those_of_the_standardised_ones() -> None:
    torch.manual_seed(0)
    recipe = Recipe(View(crop=None, size=64), (Pool(EMBEDDING),))
    network = TorchNetwork(recipe, 3, recipe.backbone.load_weights(), dropout=0.0).eval()
    torch.nn.init.normal_(network.linear.weight)
    features = torch.rand(50, recipe.length)
    network.standardise_with(features, torch.from_numpy(recipe.emphasis))
    weight, bias = network.linear_on_features()
    with torch.no_grad():
        expected = network.linear(network.standardised(features)).numpy()
    np.testing.assert_allclose(features.numpy() @ weight + bias, expected, rtol=1e-3, atol=1e-4)


def test_training_in_bfloat16_follows_training_in_float32_and_judging_is_the_same() -> None:
    recipe = Recipe(View(crop=None, size=64), POOLS)
    views, truth = torch.rand(8, 3, 64, 64) * 2 - 1, torch.arange(8) % 2
    gradients, judged = [], []
    for numbers in (torch.float32, torch.bfloat16):
        torch.manual_seed(0)
        network = TorchNetwork(recipe, 2, recipe.backbone.load_weights(), dropout=0.0, trained_in=numbers)
        torch.nn.init.normal_(network.linear.weight, std=0.01)
        network.freeze(3)
        torch.nn.functional.cross_entropy(network(views), truth).backward()
        moved = [value.grad for value in network.parameters() if value.requires_grad]
        gradients.append(torch.cat([gradient.flatten() for gradient in moved]))
        with torch.no_grad():
            judged.append(network.eval()(views))
    assert torch.equal(*judged)
    assert torch.nn.functional.cosine_similarity(*gradients, dim=0) > 0.95
    assert not torch.equal(*gradients)


def test_the_first_blocks_and_all_depthwise_kernels_stay() -> None:
    recipe = Recipe(View(crop=None, size=64), POOLS)
    network = TorchNetwork(recipe, 2, recipe.backbone.load_weights(), dropout=0.0)
    network.freeze(3)
    moving = {name for name, layer in network.convolutions.items() if layer.weight.requires_grad}
    assert {"block3_expand", "block3_project", "block15_project", "head"} <= moving
    assert not {name for name in moving if "depthwise" in name or name in ("stem", "block2_project")}


def test_altered_views_repeat_with_their_seed_and_an_upright_object_stays_upright() -> None:
    canvas = np.zeros((1, 96, 96, 3), np.uint8)
    canvas[:, :48] = 255  # white above, black below
    canvases = torch.from_numpy(np.repeat(canvas, 16, axis=0))

    def views(seed: int, *, any_way_up: bool) -> torch.Tensor:
        return altered_views(canvases, 64, Alteration(any_way_up), torch.Generator().manual_seed(seed))

    assert torch.equal(views(1, any_way_up=True), views(1, any_way_up=True))
    assert not torch.equal(views(1, any_way_up=True), views(2, any_way_up=True))
    upright, turned = views(3, any_way_up=False), views(3, any_way_up=True)
    assert (upright[:, :, :16].mean((1, 2, 3)) > upright[:, :, -16:].mean((1, 2, 3))).all()
    assert not (turned[:, :, :16].mean((1, 2, 3)) > turned[:, :, -16:].mean((1, 2, 3))).all()


def test_a_view_is_as_large_as_the_photo_has_pixels_for(image: np.ndarray, tmp_path: Path) -> None:
    small = _Photo(tmp_path / "small.png", image)
    large = _Photo(tmp_path / "large.png", np.zeros((1000, 1000, 3), np.uint8))
    recipe = Recipe(View(crop=0.8, size=224))
    assert sized_for(recipe, [small]).view.size == 160
    assert sized_for(recipe, [large]).view.size == 224
