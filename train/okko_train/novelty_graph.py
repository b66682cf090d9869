"""A glance at the whole frame, and novelty, as parts of the exported graph.

The look at a photo that tells the labels apart may see nothing of a hand at the rim or of a camera that was moved. So a
second, tiny view takes in the whole frame: every so many-th pixel, shrunk to 64 by 64, through the first blocks of the
pretrained backbone, and keeps what is where. It costs a few hundredths of the first view and stays in float.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from onnx import ModelProto, TensorProto, checker, helper, parser

from okko_train.backbone import EFFICIENTNET_LITE0
from okko_train.feature_graph import FEATURES, IMAGE, IR_VERSION, OPSET

if TYPE_CHECKING:
    from onnx import NodeProto

    from okko_train.novelty import Novelty

GLANCE: Final = "glance"
NOVELTY: Final = "novelty"
_SIZE: Final = 64
_FINEST: Final = 120
"""Pixels along the shorter side that are left when every so many-th one is taken."""
_TAP: Final = "block7"
_SEEN: Final = f"""
glance (uint8[N, H, W, 3] image) => (float[N, 3, {_SIZE}, {_SIZE}] glance_seen)
<int64[2] glance_zeros = {{0, 0}}, int64[2] glance_axes = {{1, 2}}, int64[1] glance_one = {{1}},
 int64[1] glance_three = {{3}}, int64[1] glance_finest = {{{_FINEST}}}, int64[3] glance_chw = {{3, {_SIZE}, {_SIZE}}},
 float glance_middle = {{127.0}}, float glance_scale = {{0.0078125}}>
{{
    glance_shape = Shape(image)
    glance_extent = Slice(glance_shape, glance_one, glance_three)
    glance_shorter = ReduceMin<keepdims = 1>(glance_extent)
    glance_ratio = Div(glance_shorter, glance_finest)
    glance_step = Max(glance_ratio, glance_one)
    glance_steps = Concat<axis = 0>(glance_step, glance_step)
    glance_thinned = Slice(image, glance_zeros, glance_extent, glance_axes, glance_steps)
    glance_planes = Transpose<perm = [0, 3, 1, 2]>(glance_thinned)
    glance_batch = Shape<start = 0, end = 1>(image)
    glance_sizes = Concat<axis = 0>(glance_batch, glance_chw)
    glance_small = Resize<mode = "linear", antialias = 1, coordinate_transformation_mode = "half_pixel">
        (glance_planes, , , glance_sizes)
    glance_pixels = Cast<to = 1>(glance_small)
    glance_centred = Sub(glance_pixels, glance_middle)
    glance_seen = Mul(glance_centred, glance_scale)
}}
"""


def glance_length() -> int:
    """Returns the number of features of a glance."""
    tap = EFFICIENTNET_LITE0.architecture.taps[_TAP]
    assert tap.stride is not None
    return tap.channels * (_SIZE // tap.stride) ** 2


def glance_model() -> ModelProto:
    """Returns the graph from `image` to `features`, which are the glance alone."""
    graph = helper.make_graph(
        [helper.make_node("Identity", [GLANCE], [FEATURES], FEATURES)],
        GLANCE,
        [helper.make_tensor_value_info(IMAGE, TensorProto.UINT8, ["N", "H", "W", 3])],
        [helper.make_tensor_value_info(FEATURES, TensorProto.FLOAT, ["N", glance_length()])],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="okko"
    )
    nodes, initializers = _glance_nodes()
    model.graph.initializer.extend(initializers)
    for number, node in enumerate(nodes):
        model.graph.node.insert(number, node)
    checker.check_model(model, full_check=True)
    return model


def _glance_nodes() -> tuple[list[NodeProto], list[TensorProto]]:
    view, backbone = parser.parse_graph(_SEEN), EFFICIENTNET_LITE0
    subgraph = backbone.architecture.nodes(backbone.load_weights(), "glance_seen", "glance_backbone_", (_TAP,))
    flatten = helper.make_node("Flatten", [subgraph.taps[_TAP]], [GLANCE], "glance_flatten")
    return [*view.node, *subgraph.nodes, flatten], [*view.initializer, *subgraph.initializers]


def with_glance(feature_model: ModelProto) -> ModelProto:
    """Returns the graph with one more output, `glance` (n, `glance_length()`)."""
    model = ModelProto()
    model.CopyFrom(feature_model)
    nodes, initializers = _glance_nodes()
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(initializers)
    model.graph.output.append(helper.make_tensor_value_info(GLANCE, TensorProto.FLOAT, ["N", glance_length()]))
    checker.check_model(model, full_check=True)
    return model


def with_novelty(model: ModelProto, novelty: Novelty) -> ModelProto:
    """Returns a graph that holds `features` with one more output, `novelty` (n,).

    Args:
        model: a graph that computes `features` somewhere.
        novelty: fitted on features with the glance behind them, or on the glance alone.
    """
    outputs = list(model.graph.output)
    model = with_glance(model)
    graph, inputs = model.graph, GLANCE
    if len(novelty.mean) > glance_length():
        inputs = "novelty_features"
        graph.node.append(helper.make_node("Concat", [FEATURES, GLANCE], [inputs], "novelty_concat", axis=1))
    nodes, initializers = novelty.nodes(inputs, NOVELTY, "novelty")
    graph.node.extend(nodes)
    graph.initializer.extend(initializers)
    del graph.output[:]
    graph.output.extend([*outputs, helper.make_tensor_value_info(NOVELTY, TensorProto.FLOAT, ["N"])])
    checker.check_model(model, full_check=True)
    return model
