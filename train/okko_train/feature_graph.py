"""From the raw photo to its features, as one ONNX graph: crop, resize, normalisation, backbone, pooling.

The same graph computes the features in training and stands, unchanged, in the bundle; there is no second implementation
of preprocessing. What to look at is stated by a `Recipe`; what to do with the features is the head's business.
"""

from __future__ import annotations

import enum
import hashlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from onnx import ModelProto, TensorProto, checker, helper, numpy_helper

from okko_train.backbone import EFFICIENTNET_LITE0, EMBEDDING, Backbone, TrainedBackbone

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import NodeProto

OPSET: Final = 18
"""The first operator set whose Resize can filter before it shrinks (antialias)."""
IR_VERSION: Final = 8
MINIMUM_ONNXRUNTIME: Final = "1.14"
"""The first onnxruntime that knows operator set 18."""
IMAGE: Final = "image"
FEATURES: Final = "features"
CENTRE_SPREAD: Final = 0.22
"""Standard deviation of the bell curve of `Pooling.CENTRE`, as a share of the view's side."""
SMALLEST_PART: Final = 0.01
"""Of the photo's width or height; what is smaller is a slip of the mouse."""
_BUILD: Final = "2"
"""Goes into the digest of every recipe; to be raised whenever the same recipe gives other numbers."""


@dataclass(frozen=True)
class Rectangle:
    """A part of the photo, as shares of its width and height.

    Attributes:
        x: left edge.
        y: upper edge.
        width: at least `SMALLEST_PART`.
        height: at least `SMALLEST_PART`.
    """

    x: float
    y: float
    width: float
    height: float

    def __post_init__(self) -> None:
        inside = min(self.x, self.y) >= 0 and max(self.x + self.width, self.y + self.height) <= 1 + 1e-6
        if not (inside and min(self.width, self.height) >= SMALLEST_PART):
            raise ValueError(
                f"{self} is not a part of the photo: x, y, width and height are shares of it, x + width and y + height "
                f"at most 1, width and height at least {SMALLEST_PART}"
            )

    def __str__(self) -> str:
        return f"{self.x:g},{self.y:g},{self.width:g},{self.height:g}"


@dataclass(frozen=True)
class View:
    """One look at the photo.

    Attributes:
        crop: side of the square that is seen, as a share of the photo's shorter side; or the rectangle that is seen,
            squeezed into a square; None squeezes the whole photo.
        size: pixels along each side after resizing; a multiple of 32.
        x: middle of the square, as a share of the photo's width; moved inwards where the square would stick out.
        y: middle of the square, as a share of the photo's height.
    """

    crop: float | Rectangle | None
    size: int
    x: float = 0.5
    y: float = 0.5

    def __post_init__(self) -> None:
        if self.size % 32:
            raise ValueError(f"size must be a multiple of 32, else the backbone pads wrongly; got {self.size}")

    def box(self, width: int, height: int) -> tuple[int, int, int, int]:
        """Returns left, top, right, bottom of what is seen of a photo, in pixels; the graph computes the same."""
        if self.crop is None:
            return 0, 0, width, height
        if isinstance(self.crop, Rectangle):
            left, right = _edges(self.crop.x, self.crop.width, width)
            top, bottom = _edges(self.crop.y, self.crop.height, height)
            return left, top, right, bottom
        side = max(1, round(np.float32(min(width, height)) * np.float32(self.crop)))
        left, top = (
            min(max(0, math.floor(np.float32(extent) * np.float32(middle) - side / 2)), extent - side)
            for extent, middle in ((width, self.x), (height, self.y))
        )
        return left, top, left + side, top + side


def _edges(start: float, length: float, extent: int) -> tuple[int, int]:
    first, last = (round(np.float32(extent) * np.float32(share)) for share in (start, start + length))
    first = min(first, extent - 1)
    return first, min(max(last, first + 1), extent)


class Pooling(enum.StrEnum):
    """How a map of the backbone becomes one number a channel."""

    MEAN = "mean"
    CENTRE = "centre"
    """The mean, weighted by a bell curve round the middle of the view: neighbours count little."""


@dataclass(frozen=True)
class Pool:
    """Features taken at one depth of the backbone.

    Attributes:
        tap: the place, a name from `Architecture.taps`.
        pooling: how its map is reduced.
    """

    tap: str
    pooling: Pooling = Pooling.MEAN


@dataclass(frozen=True)
class Recipe:
    """Which features a photo has.

    Attributes:
        view: the look at the photo.
        pools: what is taken from the backbone.
        backbone: the pretrained network.
    """

    view: View
    pools: tuple[Pool, ...] = (Pool(EMBEDDING),)
    backbone: Backbone | TrainedBackbone = EFFICIENTNET_LITE0

    @property
    def widths(self) -> tuple[int, ...]:
        """Number of features of each pool."""
        return tuple(self.backbone.architecture.taps[pool.tap].channels for pool in self.pools)

    @property
    def length(self) -> int:
        """Number of features of one photo."""
        return sum(self.widths)

    @property
    def emphasis(self) -> NDArray[np.float32]:
        """(length,) how loud each standardised feature is: all pools are equally loud, however wide they are."""
        return np.concatenate([np.full(width, width**-0.5, np.float32) for width in self.widths])

    @property
    def digest(self) -> str:
        """Names the numbers that this recipe computes, SHA-256."""
        text = f"{self.view} {self.pools} {self.backbone.digest} build {_BUILD}"
        return hashlib.sha256(text.encode()).hexdigest()


def bell(side: int) -> NDArray[np.float32]:
    """Returns the weights (side, side) of `Pooling.CENTRE`; they sum to 1."""
    distance = (np.arange(side) + 0.5) / side - 0.5
    curve = np.exp(-(distance[:, None] ** 2 + distance**2) / (2 * CENTRE_SPREAD**2))
    return np.asarray(curve / curve.sum(), np.float32)


def feature_model(recipe: Recipe) -> ModelProto:
    """Returns the graph from `image`, uint8 (n, height, width, 3), to `features`, float32 (n, recipe.length)."""
    graph = _Graph()
    taps = tuple(dict.fromkeys(pool.tap for pool in recipe.pools))
    subgraph = recipe.backbone.architecture.nodes(
        recipe.backbone.load_weights(), graph.view(recipe.view), "backbone_", taps
    )
    graph.nodes += subgraph.nodes
    graph.initializers += subgraph.initializers
    pooled = []
    for pool in recipe.pools:
        tap, value = recipe.backbone.architecture.taps[pool.tap], subgraph.taps[pool.tap]
        side = None if tap.stride is None else recipe.view.size // tap.stride
        pooled.append(value if side is None else graph.pool(value, pool.pooling, side))
    features = pooled[0] if len(pooled) == 1 else graph.add("Concat", pooled, axis=1)
    graph.nodes.append(helper.make_node("Identity", [features], [FEATURES], FEATURES))
    return graph.model({FEATURES: ["N", recipe.length]})


def map_model(view: View, taps: tuple[str, ...], backbone: Backbone = EFFICIENTNET_LITE0) -> ModelProto:
    """Returns the graph from `image` to the backbone's maps (n, channels, side, side), named like their taps."""
    graph = _Graph()
    subgraph = backbone.architecture.nodes(backbone.load_weights(), graph.view(view), "backbone_", taps)
    graph.nodes += subgraph.nodes
    graph.initializers += subgraph.initializers
    graph.nodes += [helper.make_node("Identity", [subgraph.taps[tap]], [tap], tap) for tap in taps]
    sides = {tap: view.size // (backbone.architecture.taps[tap].stride or view.size) for tap in taps}
    return graph.model({tap: ["N", backbone.architecture.taps[tap].channels, sides[tap], sides[tap]] for tap in taps})


class _Graph:
    """Nodes and constants under construction; every value gets a name of its own."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.initializers: list[TensorProto] = []

    def model(self, outputs: dict[str, list[str | int]]) -> ModelProto:
        model = helper.make_model(
            helper.make_graph(
                self.nodes,
                "okko",
                [helper.make_tensor_value_info(IMAGE, TensorProto.UINT8, ["N", "H", "W", 3])],
                [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
                self.initializers,
            ),
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="okko",
        )
        checker.check_model(model, full_check=True)
        return model

    def add(self, operator: str, inputs: list[str], **attributes: Any) -> str:
        name = f"pre_{len(self.nodes)}_{operator.lower()}"
        self.nodes.append(helper.make_node(operator, inputs, [name], name, **attributes))
        return name

    def constant(self, array: np.ndarray) -> str:
        name = f"pre_constant_{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(array, name))
        return name

    def integers(self, values: list[int]) -> str:
        return self.constant(np.array(values, np.int64))

    def number(self, value: float) -> str:
        return self.constant(np.array(value, np.float32))

    def view(self, view: View) -> str:
        """From the photo to (n, 3, size, size), normalised as the backbone wants it."""
        if isinstance(view.crop, Rectangle):
            seen = self.rectangle(view.crop)
        else:
            seen = IMAGE if view.crop is None else self.square(view.crop, view.x, view.y)
        pixels = self.add("Transpose", [seen], perm=[0, 3, 1, 2])
        # On bytes onnxruntime resizes in integers. In float the last bit is another on another processor, which an
        # int8 backbone turns into differences of several hundredths.
        resized = self.add(
            "Resize",
            [pixels, "", "", self.sizes(pixels, view.size)],
            mode="linear",
            antialias=1,
            coordinate_transformation_mode="half_pixel",
        )
        centred = self.add("Sub", [self.add("Cast", [resized], to=TensorProto.FLOAT), self.number(127.0)])
        return self.add("Mul", [centred, self.number(1 / 128)])

    def sizes(self, tensor: str, size: int) -> str:
        batch = self.add("Slice", [self.add("Shape", [tensor]), self.integers([0]), self.integers([1])])
        return self.add("Concat", [batch, self.integers([3, size, size])], axis=0)

    def rectangle(self, part: Rectangle) -> str:
        extent = self.add("Slice", [self.add("Shape", [IMAGE]), self.integers([1]), self.integers([3])])
        exact = self.add("Cast", [extent], to=TensorProto.FLOAT)
        corners = ((part.y, part.x), (part.y + part.height, part.x + part.width))
        first, last = (
            self.add("Cast", [self.add("Round", [self.add("Mul", [exact, share])])], to=TensorProto.INT64)
            for share in (self.constant(np.array(corner, np.float32)) for corner in corners)
        )
        start = self.add("Min", [first, self.add("Sub", [extent, self.integers([1])])])
        end = self.add("Min", [self.add("Max", [last, self.add("Add", [start, self.integers([1])])]), extent])
        return self.add("Slice", [IMAGE, start, end, self.integers([1, 2])])

    def square(self, crop: float, x: float, y: float) -> str:
        extent = self.add("Slice", [self.add("Shape", [IMAGE]), self.integers([1]), self.integers([3])])
        shorter = self.add("ReduceMin", [extent], keepdims=1)
        share = self.add("Mul", [self.add("Cast", [shorter], to=TensorProto.FLOAT), self.number(crop)])
        rounded = self.add("Cast", [self.add("Round", [share])], to=TensorProto.INT64)
        side = self.add("Max", [rounded, self.integers([1])])
        middle = self.add(
            "Mul", [self.add("Cast", [extent], to=TensorProto.FLOAT), self.constant(np.array([y, x], np.float32))]
        )
        half = self.add("Mul", [self.add("Cast", [side], to=TensorProto.FLOAT), self.number(0.5)])
        wanted = self.add("Cast", [self.add("Floor", [self.add("Sub", [middle, half])])], to=TensorProto.INT64)
        furthest = self.add("Sub", [extent, side])
        start = self.add("Min", [self.add("Max", [wanted, self.integers([0])]), furthest])
        end = self.add("Add", [start, side])
        return self.add("Slice", [IMAGE, start, end, self.integers([1, 2])])

    def pool(self, tensor: str, pooling: Pooling, side: int) -> str:
        """From a map (n, channels, side, side) to (n, channels)."""
        if pooling is Pooling.MEAN:
            return self.add("ReduceMean", [tensor, self.integers([2, 3])], keepdims=0)
        weighted = self.add("Mul", [tensor, self.constant(bell(side))])
        return self.add("ReduceSum", [weighted, self.integers([2, 3])], keepdims=0)
