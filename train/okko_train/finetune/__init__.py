"""Trains the backbone itself on the user's photos: fine-tuned from pretrained weights, or from scratch.

Cross-validation trains one network a fold, and each judges the photos that it has not seen. Fine-tuned networks start
from the same weights and stay close to them, so the mean of their weights is a good network too, better than each where
the next day looks different (Wortsman et al., 2022, "Model soups"); that mean ships. Part of the way back to the
pretrained weights helps there as well (Wortsman et al., 2022, "Robust fine-tuning of zero-shot models", WiSE-FT).
Networks from scratch share no start, so one more is trained on all photos.

torch is needed here and nowhere else; what comes out are plain arrays.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from okko_models.errors import OkkoError
from okko_train.backbone import EMBEDDING, Architecture, TrainedBackbone
from okko_train.feature_graph import Pool, Recipe
from okko_train.progress import progress

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from okko_train.dataset import Photo
    from okko_train.finetune.fit import Fitted
    from okko_train.result import LearningCurve

TRUST: Final = 0.75
"""Share of the way from the pretrained to the fine-tuned weights that is gone."""
FOLDS: Final = 5
"""So many networks are trained for cross-validation: each takes minutes."""
SMALLEST_SIDE, LARGEST_SIDE = 128, 224
"""Pixels of a view's side: not more than the photo has to show, and never so many that a step takes a second."""

SMALL: Final = Architecture.of_stages(16, [(1, 3, 1, 16, 1), (4, 3, 2, 24, 2), (4, 3, 2, 40, 2), (4, 3, 2, 80, 2)], 160)
"""For training from scratch: a hundred thousand weights instead of three million."""


class TorchMissingError(OkkoError):
    """torch is not installed."""

    def __init__(self) -> None:
        super().__init__(
            "training the backbone itself needs torch, which is not installed; install it with: "
            'pip install "okko[finetune]" (the handbook says how to get the build without CUDA)'
        )


@dataclass(frozen=True, eq=False)
class TunedNetwork:
    """A backbone with its scores: features @ weight + bias.

    Attributes:
        recipe: with a `TrainedBackbone`.
        weight: (recipe.length, n_labels).
        bias: (n_labels,).
    """

    recipe: Recipe
    weight: NDArray[np.float64]
    bias: NDArray[np.float64]

    def logits(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """Returns the scores (n, n_labels) of features (n, recipe.length)."""
        return np.asarray(features @ self.weight + self.bias, np.float64)


@dataclass(frozen=True, eq=False)
class TunedBackbone:
    """What training the backbone gave.

    Attributes:
        shipped: the network for the bundle.
        folds: one network a fold, by the fold's number; it has not seen the fold's photos.
        curves: one a fold.
    """

    shipped: TunedNetwork
    folds: dict[int, TunedNetwork]
    curves: tuple[LearningCurve, ...]


def check_torch() -> None:
    """Makes sure that torch can be imported.

    Raises:
        TorchMissingError: it cannot.
    """
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise TorchMissingError from error


def sized_for(recipe: Recipe, photos: Sequence[Photo]) -> Recipe:
    """Returns the recipe with a view as large as the photos have pixels for, within limits."""
    sides = []
    for photo in photos:
        left, top, right, bottom = recipe.view.box(photo.width, photo.height)
        sides.append(max(right - left, bottom - top))
    wanted = 32 * math.ceil(float(np.median(sides)) / 32)
    return replace(recipe, view=replace(recipe.view, size=min(max(wanted, SMALLEST_SIDE), LARGEST_SIDE)))


def from_scratch(recipe: Recipe) -> Recipe:
    """Returns a recipe for a small network that looks where `recipe` looks."""
    backbone = TrainedBackbone("from scratch", SMALL, {})
    return replace(recipe, pools=(Pool("block4"), Pool(EMBEDDING)), backbone=backbone)


def tune_backbone(
    photos: Sequence[Photo],
    truth: NDArray[np.int64],
    folds: NDArray[np.int64],
    recipe: Recipe,
    *,
    n_labels: int,
    any_way_up: bool,
    epochs: int | None,
    seed: int,
    workers: int,
) -> TunedBackbone:
    """Trains one network a fold, and the one to ship.

    Args:
        photos: to learn from.
        truth: (n_photos,) index of the label.
        folds: (n_photos,) number of the fold.
        recipe: the view, the pools and the weights to start from; a backbone without weights starts from nothing.
        n_labels: number of labels.
        any_way_up: whether an object may lie any way round.
        epochs: how often each photo is seen, at most; None: as usual.
        seed: of everything random.
        workers: threads.

    Raises:
        TorchMissingError: torch is not installed.
    """
    check_torch()
    import torch

    from okko_train.finetune.fit import BATCH, FINE_TUNING, FROM_SCRATCH, Photos, fit_network
    from okko_train.finetune.memory import memory_kept
    from okko_train.finetune.views import Alteration, load_canvases
    from okko_train.result import LearningCurve

    torch.set_num_threads(workers)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    start = recipe.backbone.load_weights() or None
    schedule = FINE_TUNING if start else FROM_SCRATCH
    schedule = replace(schedule, epochs=epochs or schedule.epochs_for(len(photos)))
    everything = Photos(load_canvases(photos, recipe.view), truth)
    numbers = np.unique(folds).tolist()
    sizes = [int((folds != number).sum()) for number in numbers] + ([] if start else [len(truth)])
    steps = sum(schedule.epochs * math.ceil(size / BATCH) for size in sizes)
    title = "Fine-tuning the backbone" if start else "Training from scratch"
    fitted: dict[int, Fitted] = {}
    with progress(title, steps) as done, memory_kept():

        def fit(learn: Photos, watched: Photos | None, n_epochs: int) -> Fitted:
            return fit_network(
                recipe,
                start,
                learn,
                watched,
                n_labels=n_labels,
                schedule=replace(schedule, epochs=n_epochs),
                alteration=Alteration(any_way_up),
                seed=seed,
                device=device,
                on_step=done,
            )

        for number in numbers:
            learn = everything.rows(np.flatnonzero(folds != number))
            rest = everything.rows(np.flatnonzero(folds == number))
            fitted[number] = fit(learn, rest, schedule.epochs)
        tuned = {number: _taken_out(each, recipe) for number, each in fitted.items()}
        if start:
            shipped = _mean(list(tuned.values()))
        else:
            usual = round(float(np.median([each.epochs for each in fitted.values()])))
            shipped = _taken_out(fit(everything, None, usual), recipe)
    curves = tuple(LearningCurve(each.train, each.watched) for each in fitted.values())
    return TunedBackbone(shipped, tuned, curves)


def _taken_out(fitted: Fitted, recipe: Recipe) -> TunedNetwork:
    """The network's weights as arrays; fine-tuned ones part of the way back to where they came from."""
    start = recipe.backbone.load_weights()
    weights: dict[str, NDArray[np.float32]] = fitted.network.folded()
    weight, bias = fitted.network.linear_on_features()
    if start:
        share = np.float32(TRUST)
        weights = {name: np.asarray(start[name] + share * (value - start[name])) for name, value in weights.items()}
        first_weight, first_bias = fitted.first_linear
        weight, bias = first_weight + TRUST * (weight - first_weight), first_bias + TRUST * (bias - first_bias)
    backbone = TrainedBackbone(
        f"{recipe.backbone.name}, fine-tuned" if start else recipe.backbone.name, recipe.backbone.architecture, weights
    )
    return TunedNetwork(replace(recipe, backbone=backbone), weight, bias)


def _mean(networks: Sequence[TunedNetwork]) -> TunedNetwork:
    first = networks[0].recipe.backbone
    all_weights = [network.recipe.backbone.load_weights() for network in networks]
    weights = {name: np.asarray(np.mean([each[name] for each in all_weights], axis=0)) for name in all_weights[0]}
    backbone = TrainedBackbone(first.name, first.architecture, weights)
    return TunedNetwork(
        replace(networks[0].recipe, backbone=backbone),
        np.mean([network.weight for network in networks], axis=0),
        np.mean([network.bias for network in networks], axis=0),
    )
