"""Trains one network on one set of photos: first its linear layer alone, then all of it, gently.

The order matters where the next day differs from today: a network whose linear layer starts at random distorts the
pretrained features before it learns anything (Kumar et al., 2022, "Fine-tuning can distort pretrained features"). Early
layers move less than late ones (discriminative learning rates; Howard and Ruder, 2018), and the first not at all.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from torch.nn import functional

from okko_train.finetune.torch_network import TorchNetwork
from okko_train.finetune.views import altered_views, plain_views

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from okko_train.feature_graph import Recipe
    from okko_train.finetune.views import Alteration

BATCH: Final = 32
_EVALUATED_AT_A_TIME: Final = 64
_PROBE_PASSES: Final = 3
_PROBE_L2: Final = 1e-4
_SMOOTHING: Final = 0.05
_DROPOUT: Final = 0.3
_LARGEST_GRADIENT: Final = 5.0
_WARM_UP: Final = 0.1
_FEW: Final = 400


@dataclass(frozen=True)
class Schedule:
    """How a network is trained.

    Attributes:
        epochs: at most, with few photos; see `epochs_for`.
        patience: so many epochs without a better log loss on the watched photos end the training, and the best epoch
            counts; None: the last epoch counts, for which the learning rate has become small.
        learning_rate: of the deepest layers; it rises at first and falls along a cosine (Loshchilov and Hutter, 2017).
        linear_learning_rate: of the linear layer.
        decay: each block nearer to the photo learns at this share of the next one's rate.
        frozen_blocks: blocks that are kept as they are, from the photo on.
        weight_decay: of AdamW.
    """

    epochs: int
    patience: int | None
    learning_rate: float
    linear_learning_rate: float
    decay: float
    frozen_blocks: int
    weight_decay: float

    def epochs_for(self, n_photos: int) -> int:
        """Returns how often each of so many photos is seen: with many, fewer give as many steps; half at least."""
        return round(self.epochs * min(1.0, max(0.5, _FEW / n_photos)))


FINE_TUNING: Final = Schedule(60, None, 6e-4, 1e-3, 0.9, 3, 0.02)
FROM_SCRATCH: Final = Schedule(60, 20, 3e-3, 3e-3, 1.0, 0, 0.05)


@dataclass(frozen=True)
class Fitted:
    """A trained network and the course of its training.

    Attributes:
        network: with the weights of the epoch that counts.
        first_linear: what `linear_on_features` was before the backbone moved.
        epochs: how many it was trained for until then.
        train: (n_epochs,) log loss on the altered training views, in nats.
        watched: (n_epochs,) log loss on the watched photos as they are.
    """

    network: TorchNetwork
    first_linear: tuple[NDArray[np.float64], NDArray[np.float64]]
    epochs: int
    train: NDArray[np.float64]
    watched: NDArray[np.float64]


@dataclass(frozen=True)
class Photos:
    """Canvases (n, side, side, 3) uint8 of photos, and the (n,) index of each one's label."""

    canvases: NDArray[np.uint8]
    truth: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.truth)

    def rows(self, rows: NDArray[np.int64]) -> Photos:
        """Returns some of them."""
        return Photos(self.canvases[rows], self.truth[rows])


def fit_network(
    recipe: Recipe,
    weights: Mapping[str, NDArray[np.float32]] | None,
    learn: Photos,
    watched: Photos | None,
    *,
    n_labels: int,
    schedule: Schedule,
    alteration: Alteration,
    seed: int,
    device: torch.device,
    on_step: Callable[[], None] = lambda: None,
) -> Fitted:
    """Trains a network.

    Args:
        recipe: shape, view and pools.
        weights: to start from; None starts from nothing.
        learn: photos to learn from.
        watched: photos that are judged after each epoch; None: none are, and the last epoch counts.
        n_labels: number of labels.
        schedule: how.
        alteration: how views are altered.
        seed: of everything random.
        device: to compute on.
        on_step: called after each batch.
    """
    torch.manual_seed(seed)
    generator, shuffle = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    numbers = torch.float32 if weights is None else _quick_numbers(device)
    network = TorchNetwork(recipe, n_labels, weights, _DROPOUT, numbers).to(device)

    def altered(rows: NDArray[np.int64]) -> torch.Tensor:
        canvases = torch.from_numpy(learn.canvases[rows])
        return altered_views(canvases, recipe.view.size, alteration, generator).to(device)

    truth = torch.from_numpy(learn.truth).to(device)
    if weights is not None:
        network.freeze(schedule.frozen_blocks)
        _fit_linear(network, altered, truth, recipe)
    first_linear = network.linear_on_features()
    optimizer = _optimizer(network, schedule)
    rates = [group["lr"] for group in optimizer.param_groups]
    steps = math.ceil(len(learn) / BATCH)
    total = steps * schedule.epochs
    train_losses: list[float] = []
    watched_losses: list[float] = []
    best = None
    for epoch in range(schedule.epochs):
        network.train()
        order, lost = shuffle.permutation(len(learn)), 0.0
        for step, rows in enumerate(np.array_split(order, steps)):
            share = _share(epoch * steps + step, total)
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * share
            scores = network(altered(rows))
            loss = functional.cross_entropy(scores, truth[rows], label_smoothing=_SMOOTHING)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), _LARGEST_GRADIENT)
            optimizer.step()
            lost += loss.item() * len(rows)
            on_step()
        train_losses.append(lost / len(learn))
        if watched is None:
            continue
        logits = torch.from_numpy(scores_of(network, watched.canvases, recipe, device))
        watched_losses.append(float(functional.cross_entropy(logits, torch.from_numpy(watched.truth))))
        if schedule.patience is None:
            continue
        if watched_losses[-1] == min(watched_losses):
            best = copy.deepcopy(network.state_dict())
        elif epoch - int(np.argmin(watched_losses)) >= schedule.patience:
            break
    epochs = schedule.epochs
    if best is not None:
        network.load_state_dict(best)
        epochs = int(np.argmin(watched_losses)) + 1
    return Fitted(network.eval(), first_linear, epochs, np.array(train_losses), np.array(watched_losses))


@torch.no_grad()
def scores_of(
    network: TorchNetwork, canvases: NDArray[np.uint8], recipe: Recipe, device: torch.device
) -> NDArray[np.float64]:
    """Returns the scores (n, n_labels) of plain views."""
    network.eval()
    parts = []
    for begin in range(0, len(canvases), _EVALUATED_AT_A_TIME):
        some = torch.from_numpy(canvases[begin : begin + _EVALUATED_AT_A_TIME])
        parts.append(network(plain_views(some, recipe.view.size).to(device)))
    scores: NDArray[np.float64] = torch.cat(parts).double().cpu().numpy()
    return scores


def _quick_numbers(device: torch.device) -> torch.dtype:
    """bfloat16 where the processor multiplies it, else float32. Not with a card, where it was not tried."""
    known: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # older torches cannot say
    return torch.bfloat16 if device.type == "cpu" and known.get("avx512_bf16") else torch.float32


def _share(step: int, total: int) -> float:
    """Warm-up, then a cosine, both as shares of the full learning rate."""
    return min(1.0, (step + 1) / max(1.0, _WARM_UP * total)) * (0.5 + 0.5 * math.cos(math.pi * step / total))


def _fit_linear(
    network: TorchNetwork,
    altered: Callable[[NDArray[np.int64]], torch.Tensor],
    truth: torch.Tensor,
    recipe: Recipe,
) -> None:
    """Fits the linear layer on pretrained features of altered views, by L-BFGS."""
    network.eval()
    rows = np.arange(len(truth))
    with torch.no_grad():
        passes = [
            network.features(altered(rows[begin : begin + _EVALUATED_AT_A_TIME]))
            for _ in range(_PROBE_PASSES)
            for begin in range(0, len(rows), _EVALUATED_AT_A_TIME)
        ]
        features = torch.cat(passes)
        network.standardise_with(features, torch.from_numpy(recipe.emphasis).to(features.device))
        features = network.standardised(features)
    truths = truth.repeat(_PROBE_PASSES)
    optimizer = torch.optim.LBFGS(network.linear.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = functional.cross_entropy(network.linear(features), truths)
        loss = loss + _PROBE_L2 * (network.linear.weight**2).sum()
        loss.backward()
        return loss

    optimizer.step(closure)


def _optimizer(network: TorchNetwork, schedule: Schedule) -> torch.optim.Optimizer:
    deepest = network.depth("head")
    groups = [
        {
            "params": list(layer.parameters()),
            "lr": schedule.learning_rate * schedule.decay ** (deepest - network.depth(name)),
            "weight_decay": 0.0,
        }
        for name, layer in network.convolutions.items()
        if next(layer.parameters()).requires_grad
    ]
    groups += [
        {"params": list(layer.parameters()), "lr": schedule.learning_rate, "weight_decay": 0.0}
        for layer in network.normalisations.values()
    ]
    groups.append({"params": list(network.linear.parameters()), "lr": schedule.linear_learning_rate})
    return torch.optim.AdamW(groups, weight_decay=schedule.weight_decay)
