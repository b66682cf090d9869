"""The backbone in torch, to be trained: the same convolutions as in the ONNX graph, with a linear layer on its pools.

Pretrained weights come with their batch normalisation folded in and are trained as they are; a network that starts
from nothing gets batch normalisation (Ioffe and Szegedy, 2015), which is folded when its weights are taken out. So what
leaves this module is always kernels and offsets, and the graph's builder needs to know nothing of torch.

Pretrained depthwise kernels stay as they are: in bfloat16 their gradients took two thirds of a step and gained nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

from okko_train.backbone import EMBEDDING
from okko_train.feature_graph import Pooling, bell

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from okko_train.backbone import Architecture
    from okko_train.feature_graph import Recipe

_EPSILON = 1e-3


class TorchNetwork(nn.Module):
    """From normalised views (n, 3, size, size) to scores (n, n_labels).

    Args:
        recipe: shape of the backbone, size of the view, and the pools whose features are scored.
        n_labels: number of labels.
        weights: of the convolutions; None starts from nothing (He et al., 2015), with batch normalisation.
        dropout: of the features.
        trained_in: numbers that convolutions compute with in training; weights, and all that is judged, are float32.
    """

    def __init__(
        self,
        recipe: Recipe,
        n_labels: int,
        weights: Mapping[str, NDArray[np.float32]] | None,
        dropout: float,
        trained_in: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self._trained_in = trained_in
        self._architecture = recipe.backbone.architecture
        self._pools = recipe.pools
        self.convolutions = nn.ModuleDict()
        self.normalisations = nn.ModuleDict()
        for name, shape, stride in _layers(self._architecture):
            outputs, inputs, kernel, _ = shape
            layer = nn.Conv2d(inputs if inputs > 1 else outputs, outputs, kernel, stride, groups=_groups(shape))
            if weights is None:
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(layer.bias)
                self.normalisations[_key(name)] = nn.BatchNorm2d(outputs, eps=_EPSILON)
            else:
                layer.weight.data = torch.from_numpy(weights[f"{name}.weight"].copy())
                layer.bias.data = torch.from_numpy(weights[f"{name}.bias"].copy())
            layer.weight.data = layer.weight.data.contiguous(memory_format=torch.channels_last)
            self.convolutions[_key(name)] = layer
        self.register_buffer("mean", torch.zeros(recipe.length))
        self.register_buffer("scale", torch.from_numpy(recipe.emphasis.copy()))
        for index, pool in enumerate(recipe.pools):
            tap = self._architecture.taps[pool.tap]
            if tap.stride is not None and pool.pooling is Pooling.CENTRE:
                self.register_buffer(f"bell{index}", torch.from_numpy(bell(recipe.view.size // tap.stride)))
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(recipe.length, n_labels)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, views: torch.Tensor) -> torch.Tensor:
        """Returns the scores (n, n_labels)."""
        scores: torch.Tensor = self.linear(self.dropout(self.standardised(self.features(views))))
        return scores

    def standardised(self, features: torch.Tensor) -> torch.Tensor:
        """Returns features (n, length) as the linear layer takes them."""
        return (features - self.mean) * self.scale

    @torch.no_grad()
    def standardise_with(self, features: torch.Tensor, emphasis: torch.Tensor) -> None:
        """Sets what `standardised` does: features (n, length) get mean 0 and a spread of `emphasis` (length,)."""
        spread = features.std(0)
        self.mean = features.mean(0)
        self.scale = emphasis / (spread + 0.05 * spread.median() + 1e-12)

    def features(self, views: torch.Tensor) -> torch.Tensor:
        """Returns the pooled features (n, length), in the recipe's order."""
        maps = self._maps(views)
        pooled = []
        for index, pool in enumerate(self._pools):
            value = maps[pool.tap]
            if value.ndim == 2:
                pooled.append(value)
            elif pool.pooling is Pooling.MEAN:
                pooled.append(value.mean((2, 3)))
            else:
                pooled.append((value * self.get_buffer(f"bell{index}")).sum((2, 3)))
        return torch.cat(pooled, 1).float()

    def freeze(self, n_blocks: int) -> None:
        """Keeps the stem, the first `n_blocks` blocks and all depthwise convolutions as they are."""
        for name, layer in self.convolutions.items():
            layer.requires_grad_(self.depth(name) >= n_blocks and layer.groups == 1)

    def depth(self, key: str) -> int:
        """How deep a convolution lies: -1 for the stem, the block's number, or the number of blocks for the head."""
        if key == "stem":
            return -1
        return len(self._architecture.blocks) if key == "head" else int(key[len("block") :].split("_")[0])

    @torch.no_grad()
    def folded(self) -> dict[str, NDArray[np.float32]]:
        """Returns kernel `NAME.weight` and offset `NAME.bias` of each convolution, normalisation folded in."""
        weights = {}
        for name, _, _ in _layers(self._architecture):
            layer = self.convolutions[_key(name)]
            kernel, offset = layer.weight.double(), layer.bias.double()
            if _key(name) in self.normalisations:
                normalisation = self.normalisations[_key(name)]
                factor = normalisation.weight.double() / (normalisation.running_var.double() + _EPSILON).sqrt()
                kernel = kernel * factor[:, None, None, None]
                offset = normalisation.bias.double() + (offset - normalisation.running_mean.double()) * factor
            weights[f"{name}.weight"] = kernel.float().contiguous().cpu().numpy()
            weights[f"{name}.bias"] = offset.float().cpu().numpy()
        return weights

    @torch.no_grad()
    def linear_on_features(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Returns weight (length, n_labels) and bias (n_labels,) that give the scores of plain features."""
        weight = (self.linear.weight * self.scale).double().T.cpu().numpy()
        bias = self.linear.bias.double().cpu().numpy() - self.mean.double().cpu().numpy() @ weight
        return weight, bias

    def _maps(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        maps = {}
        x = self._convolve("stem", x.contiguous(memory_format=torch.channels_last))
        for i, block in enumerate(self._architecture.blocks):
            y = self._convolve(f"block{i}.expand", x) if block.expansion > 1 else x
            y = self._convolve(f"block{i}.depthwise", y)
            y = self._convolve(f"block{i}.project", y, relu6=False)
            x = x + y if block.shortcut else y
            maps[f"block{i}"] = x
        maps["head"] = self._convolve("head", x)
        maps[EMBEDDING] = maps["head"].mean((2, 3))
        return maps

    def _convolve(self, name: str, x: torch.Tensor, *, relu6: bool = True) -> torch.Tensor:
        layer = self.convolutions[_key(name)]
        kernel, stride = layer.kernel_size[0], layer.stride[0]
        # bfloat16 is slow where a kernel skips pixels.
        numbers = self._trained_in if self.training and stride == 1 else torch.float32
        # TensorFlow's SAME, as in the graph: what cannot be halved goes to the right and the bottom.
        total = kernel - stride if kernel > 1 else 0
        before, after = total // 2, total - total // 2
        x, padding = x.to(numbers), before
        if before != after:
            x, padding = functional.pad(x, (before, after, before, after)), 0
        x = functional.conv2d(x, layer.weight.to(numbers), layer.bias.to(numbers), stride, padding, 1, layer.groups)
        if _key(name) in self.normalisations:
            x = self.normalisations[_key(name)](x)
        return functional.relu6(x) if relu6 else x


def _layers(architecture: Architecture) -> list[tuple[str, tuple[int, int, int, int], int]]:
    """Name, kernel shape (outputs, inputs per group, kernel, kernel) and stride of each convolution, in order."""
    layers: list[tuple[str, tuple[int, int, int, int], int]] = [("stem", (architecture.stem, 3, 3, 3), 2)]
    channels = architecture.stem
    for i, block in enumerate(architecture.blocks):
        inner = channels * block.expansion
        if block.expansion > 1:
            layers.append((f"block{i}.expand", (inner, channels, 1, 1), 1))
        layers.append((f"block{i}.depthwise", (inner, 1, block.kernel, block.kernel), block.stride))
        layers.append((f"block{i}.project", (block.channels, inner, 1, 1), 1))
        channels = block.channels
    return [*layers, ("head", (architecture.head, channels, 1, 1), 1)]


def _groups(shape: tuple[int, int, int, int]) -> int:
    return shape[0] if shape[1] == 1 else 1


def _key(name: str) -> str:
    """Torch allows no dots in the names of modules."""
    return name.replace(".", "_")
