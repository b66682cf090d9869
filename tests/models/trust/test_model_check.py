import ast
import re
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper, parser

from okko_models.bundle import Bundle
from okko_models.errors import BundleError
from okko_models.trust.model_check import check_bundle, check_model
from okko_models.trust.onnx_graph import MAX_FIELDS, TYPES, read_graph
from okko_models.trust.operators import OPERATORS
from okko_models.trust.shapes import measure

TRAIN = Path(__file__).parents[3] / "train" / "okko_train"

# Every operator that is allowed, with parameters that are easy to get wrong.
ZOO = """
<ir_version: 8, opset_import: ["" : 18]>
zoo (uint8[N, H, W, 3] image) => (float[N, 2] probability, float[N, 8] embedding, float[N] novelty)
<int64[1] one = {1}, int64[1] three = {3}, int64[2] zeros = {0, 0}, int64[2] middle = {1, 2}, int64[1] last = {-1},
 int64[2] plane = {2, 3}, int64[1] minus = {-1}, int64[3] chw = {3, 14, 10}, float half = {0.5},
 float[4, 3, 3, 2] kernel = {KERNEL}, float[4] offset = {0, 0, 0, 0}, float[4, 1, 2, 2] depth = {DEPTH},
 float six = {6.0}, uint8 zero = {0}, int64[2] flat = {0, -1}, float[4, 8] matrix = {MATRIX}, float[8] bias = {BIAS},
 float[2, 8] rows = {ROWS}, float[8] direction = {BIAS}, int64[2] halves = {3, 5}, int64[1] axis1 = {1}>
{
  extent = Shape <start = 1, end = 3> (image)
  shorter = ReduceMin <keepdims = 1> (extent)
  real = Cast <to = 1> (shorter)
  share = Mul (real, half)
  down = Floor (share)
  near = Round (share)
  least = Min (down, near)
  side = Cast <to = 7> (least)
  more = Max (side, one)
  twice = Add (more, one)
  ratio = Div (twice, three)
  steps = Concat <axis = 0> (ratio, ratio)
  thin = Slice (image, zeros, extent, middle, steps)
  back = Slice (thin, minus, minus, one, minus)
  planes = Transpose <perm = [0, 3, 1, 2]> (thin)
  pixels = Cast <to = 1> (planes)
  batch = Shape <start = 0, end = 1> (image)
  sizes = Concat <axis = 0> (batch, chw)
  small = Resize <mode = "linear", antialias = 1> (pixels, , , sizes)
  seen = Conv <kernel_shape = [3, 2], strides = [2, 1], pads = [1, 0, 2, 1], dilations = [2, 1]> (small, kernel, offset)
  deep = Conv <group = 4, strides = [2, 2]> (seen, depth)
  cut = Clip (deep, half, six)
  leak = LeakyRelu (cut)
  relu = Relu (leak)
  quantized = QuantizeLinear (relu, half, zero)
  again = DequantizeLinear (quantized, half, zero)
  pooled = GlobalAveragePool (again)
  line = Flatten (pooled)
  same = Reshape (line, flat)
  mean = ReduceMean <keepdims = 0> (again, plane)
  sum = Sub (same, mean)
  embedding = Gemm (sum, matrix, bias)
  soft = Gemm <transB = 1> (embedding, rows)
  probability = Softmax (soft)
  left, right = Split <axis = 1> (embedding, halves)
  length = ReduceL2 <keepdims = 1> (right, axis1)
  logarithm = Log (length)
  bent = Tanh (logarithm)
  odds = Sigmoid (bent)
  thinner = Squeeze (odds, axis1)
  along = MatMul (embedding, direction)
  is = Less (along, thinner)
  chosen = Where (is, along, thinner)
  summed = ReduceSum <keepdims = 0> (left, axis1)
  added = Add (chosen, summed)
  novelty = Identity (added)
}
"""


def zoo() -> bytes:
    text = ZOO
    for name, count in {"KERNEL": 72, "DEPTH": 16, "MATRIX": 32, "ROWS": 16, "BIAS": 8}.items():
        text = text.replace(name, ", ".join(str(0.01 * (i % 7 + 1)) for i in range(count)))
    model = parser.parse_model(text)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def altered(change) -> bytes:
    model = onnx.load_from_string(zoo())
    change(model)
    return model.SerializeToString()


def test_every_shape_type_and_small_number_is_what_onnxruntime_computes():
    model = onnx.load_from_string(zoo())
    names = [name for node in model.graph.node for name in node.output]
    outputs = {value.name for value in model.graph.output}
    typed = onnx.shape_inference.infer_shapes(model)
    kinds = {value.name: value for value in typed.graph.value_info}
    model.graph.output.extend(kinds[name] for name in names if name not in outputs)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    for height, width in ((31, 45), (64, 20), (7, 9)):
        found = measure(read_graph(zoo()), (height, width), 1 << 30).tensors
        image = np.zeros((1, height, width, 3), np.uint8)
        for name, value in zip(names, session.run(names, {"image": image}), strict=True):
            assert found[name].shape == value.shape, name
            assert TYPES[found[name].type] == value.dtype, name
            if found[name].values is not None:
                assert np.array_equal(found[name].values, value), name
    assert found["steps"].values is not None


def test_the_graph_is_what_the_package_onnx_reads():
    model = onnx.load_from_string(zoo())
    graph = read_graph(zoo())
    assert [(node.operator, node.name, node.inputs, node.outputs) for node in graph.nodes] == [
        (node.op_type, node.name, tuple(node.input), tuple(node.output)) for node in model.graph.node
    ]
    for mine, theirs in zip(graph.nodes, model.graph.node, strict=True):
        read = {entry.name: helper.get_attribute_value(entry) for entry in theirs.attribute}
        assert mine.attributes == {name: tuple(v) if isinstance(v, list) else v for name, v in read.items()}
    assert set(graph.constants) == {tensor.name for tensor in model.graph.initializer}
    for tensor in model.graph.initializer:
        assert np.array_equal(graph.constants[tensor.name].values(), numpy_helper.to_array(tensor))
    assert [value.shape for value in graph.inputs] == [("N", "H", "W", 3)]


def test_numbers_may_be_stored_raw_or_by_type():
    for array, field in (([-3, 4], "int64_data"), ([1, 255], "int32_data"), ([0.5, -1], "float_data")):
        kind = {"int64_data": 7, "int32_data": 2, "float_data": 1}[field]
        typed = helper.make_tensor("x", kind, [2], array)
        raw = numpy_helper.from_array(numpy_helper.to_array(typed), "x")
        for tensor in (typed, raw):
            model = altered(lambda model, tensor=tensor: model.graph.initializer.append(tensor))
            assert read_graph(model).constants["x"].values().tolist() == array


def test_a_sound_model_passes_and_its_facts_are_right():
    facts = check_model(zoo())
    assert (facts.opset, facts.labels, facts.embedding_size, facts.tells_novelty) == (18, 2, 8, True)
    assert facts.operators == OPERATORS
    assert facts.parameter_bytes == sum(
        numpy_helper.to_array(tensor).nbytes for tensor in onnx.load_from_string(zoo()).graph.initializer
    )


def test_every_operator_that_training_can_export_is_allowed():
    known = set()
    for name in ("backbone", "feature_graph", "head", "network_onnx", "novelty", "novelty_graph", "one_class",
                 "one_class_training", "quantize", "calibration", "export"):  # fmt: skip
        for node in ast.walk(ast.parse((TRAIN / f"{name}.py").read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                words = {node.value, *re.findall(r"= ([A-Z]\w+) ?[(<]", node.value)}
                known |= {word for word in words if onnx.defs.has(word)}
    assert len(known) > 25
    assert known <= OPERATORS


def test_a_bundle_whose_manifest_tells_the_truth_passes(redness_bundle):
    facts = check_bundle(Bundle.open(redness_bundle()))
    assert (facts.labels, facts.embedding_size) == (2, 3)


def test_a_manifest_that_says_other_labels_than_its_model_is_refused(redness_bundle):
    model = zoo()
    with pytest.raises(BundleError, match="embedding"):
        check_bundle(Bundle.open(redness_bundle(model=model)))


def set_opset(version, domain=""):
    def change(model):
        del model.opset_import[:]
        model.opset_import.append(helper.make_opsetid(domain, version))

    return change


def add_node(*arguments, **attributes):
    return lambda model: model.graph.node.append(helper.make_node(*arguments, **attributes))


def external(model):
    tensor = model.graph.initializer[0]
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")


def located_elsewhere(model):
    model.graph.initializer[0].data_location = TensorProto.EXTERNAL


def set_constant(name, array):
    def change(model):
        for tensor in model.graph.initializer:
            if tensor.name == name:
                tensor.CopyFrom(numpy_helper.from_array(array, name))

    return change


def doubling(model):
    name = "embedding"
    for number in range(40):
        model.graph.node.append(helper.make_node("Concat", [name, name], [f"double{number}"], axis=1))
        name = f"double{number}"


def sub_graph(model):
    graph = helper.make_graph([], "inner", [], [])
    model.graph.node.append(helper.make_node("Identity", ["image"], ["copy"], body=graph))


def function(model):
    model.functions.append(helper.make_function("okko", "f", [], [], [], [helper.make_opsetid("", 18)]))


def second_input(model):
    model.graph.input.append(helper.make_tensor_value_info("second", TensorProto.FLOAT, [1]))


def no_outputs(model):
    del model.graph.output[1:]


def wrong_output(model):
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 3


def cut_constant(model):
    model.graph.initializer[-1].ClearField("raw_data")
    model.graph.initializer[-1].ClearField("int64_data")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_opset(19), "Update okko"),
        (set_opset(17), "Train the model again"),
        (set_opset(18, "com.microsoft"), "operator sets"),
        (add_node("Loop", ["image"], ["x"]), "Loop"),
        (add_node("RandomNormal", [], ["x"], shape=[4]), "RandomNormal"),
        (add_node("Add", ["image", "image"], ["x"], domain="evil"), "evil"),
        (add_node("Add", ["image", "nothing"], ["x"]), "nothing"),
        (add_node("Add", ["image", "matrix"], ["x"]), "does not fit"),
        (add_node("Identity", ["image"], ["pixels"]), "twice"),
        (add_node("Cast", ["image"], ["x"], to=TensorProto.STRING), "element type 8"),
        (external, "file outside"),
        (located_elsewhere, "file outside"),
        (set_constant("chw", np.array([3, 1 << 20, 1 << 20], np.int64)), "more than"),
        (set_constant("matrix", np.zeros((4, 9), np.float32)), "does not fit"),
        (doubling, "more than"),
        (sub_graph, "sub-graph"),
        (function, "functions"),
        (second_input, "inputs"),
        (no_outputs, "outputs"),
        (wrong_output, "says"),
        (cut_constant, "numbers"),
        (lambda model: model.graph.sparse_initializer.add(), "sparse_initializer"),
        (lambda model: model.training_info.add(), "training_info"),
        (lambda model: setattr(model, "ir_version", 99), "format 99"),
        (lambda model: model.ClearField("graph"), "no graph"),
    ],
)
def test_a_model_that_okko_did_not_make_is_refused_with_the_reason(change, message):
    with pytest.raises(BundleError, match=message):
        check_model(altered(change))


@pytest.mark.parametrize(
    "data", [b"", b"\x00", b"\xff" * 64, b"PK\x03\x04" * 100, b"\x3a\xff\xff\xff\xff\x0f", b"\x0b"]
)
def test_bytes_that_are_no_model_are_refused(data):
    with pytest.raises(BundleError):
        check_model(data)


def test_what_another_reader_would_merge_or_cut_is_refused():
    whole = zoo()
    graph = onnx.load_from_string(whole).graph.SerializeToString()
    with pytest.raises(BundleError, match="graph twice"):
        check_model(whole + b"\x3a" + varint(len(graph)) + graph)
    # 2^32 + 1 is 1, EXTERNAL, for a reader that keeps 32 bits.
    tensor = numpy_helper.from_array(np.zeros(1, np.float32), "x").SerializeToString() + b"\x70" + varint((1 << 32) + 1)
    message = b"\x2a" + varint(len(tensor)) + tensor
    model = onnx.load_from_string(whole)
    parts = model.graph.SerializeToString() + message
    model.ClearField("graph")
    with pytest.raises(BundleError, match="data_location"):
        check_model(model.SerializeToString() + b"\x3a" + varint(len(parts)) + parts)


def varint(value: int) -> bytes:
    out = b""
    while value >= 0x80:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def test_a_file_of_endless_tiny_parts_is_refused_before_all_are_read():
    with pytest.raises(BundleError, match="more parts"):
        check_model(b"\x42\x00" * (MAX_FIELDS + 1))


@st.composite
def mutations(draw):
    data = bytearray(SEED)
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, len(data) - 1))
        match draw(st.integers(0, 3)):
            case 0:
                data[at] ^= 1 << draw(st.integers(0, 7))
            case 1:
                data[at : at + draw(st.integers(1, 16))] = draw(st.binary(max_size=16))
            case 2:
                del data[at : at + draw(st.integers(1, 64))]
            case _:
                other = draw(st.integers(0, len(data) - 1))
                data[at:at] = data[other : other + draw(st.integers(1, 64))]
    return bytes(data)


SEED = zoo()


@settings(max_examples=400, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(mutations())
def test_no_mutation_ends_in_anything_but_facts_or_a_clear_refusal(data):
    try:
        facts = check_model(data)
    except BundleError:
        return
    assert facts.activation_bytes <= 512 << 20
