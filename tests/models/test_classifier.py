import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from okko_models.bundle import Bundle
from okko_models.classifier import Classifier
from okko_models.decision import Verdict
from okko_models.errors import BundleError, SelfTestError


def photo(red):
    return np.full((24, 32, 3), (red, 20, 20), np.uint8)


def other_model(bias):
    """A graph of the right shape that says something else than the golden frames."""
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels"], ["mean"], axes=[1, 2], keepdims=0),
        helper.make_node("Identity", ["mean"], ["embedding"]),
        helper.make_node("Constant", [], ["zero"], value_floats=[0.0, bias]),
        helper.make_node("Softmax", ["zero"], ["constant"], axis=0),
        helper.make_node("Unsqueeze", ["constant"], ["probability"], axes=[0]),
    ]
    graph = helper.make_graph(
        nodes,
        "other",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", "H", "W", 3])],
        [
            helper.make_tensor_value_info("probability", TensorProto.FLOAT, [1, 2]),
            helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", 3]),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 12)], ir_version=8).SerializeToString()


def test_a_photo_gets_probabilities_a_label_and_a_verdict(redness_bundle):
    classifier = Classifier(Bundle.open(redness_bundle()))
    red, blue, between = (classifier.classify(photo(value)) for value in (250, 5, 128))
    assert (red.verdict, red.label) == (Verdict.OK, "OK")
    assert (blue.verdict, blue.label) == (Verdict.KO, "KO")
    assert between.verdict is Verdict.UNCERTAIN
    assert sum(classifier.by_label(red).values()) == pytest.approx(1)
    assert red.probability_of_ok == pytest.approx(classifier.by_label(red)["OK"])


def with_novelty(redness_bundle, shape):
    """The usual graph, and how green the photo is as its novelty: 1.0 at a mean green of 100."""
    model = onnx.load_from_string(Bundle.open(redness_bundle("plain.okko")).read("model.onnx"))
    model.graph.node.extend(
        [
            helper.make_node("Constant", [], ["weights"], value=onnx.numpy_helper.from_array(GREEN)),
            helper.make_node("MatMul", ["embedding", "weights"], ["greenness"]),
            helper.make_node("Constant", [], ["shape"], value_ints=shape),
            helper.make_node("Reshape", ["greenness", "shape"], ["novelty"]),
        ]
    )
    shape = ["N", *shape[1:]]
    model.graph.output.append(helper.make_tensor_value_info("novelty", TensorProto.FLOAT, shape))
    return model.SerializeToString()


GREEN = np.array([[0], [1 / 100], [0]], np.float32)


def test_a_model_that_cannot_tell_what_is_new_to_it_says_zero(redness_bundle):
    assert Classifier(Bundle.open(redness_bundle())).classify(photo(250)).novelty == 0


def test_a_frame_that_the_model_finds_new_is_uncertain(redness_bundle):
    classifier = Classifier(Bundle.open(redness_bundle(model=with_novelty(redness_bundle, [-1]))))
    known, new = (np.full((24, 32, 3), (250, green, 20), np.uint8) for green in (90, 110))
    assert (classifier.classify(known).verdict, classifier.classify(new).verdict) == (Verdict.OK, Verdict.UNCERTAIN)
    assert classifier.classify(known).novelty == pytest.approx(0.9)
    assert classifier.classify(new).novelty == pytest.approx(1.1)


def test_a_novelty_of_another_shape_is_refused(redness_bundle):
    bundle = Bundle.open(redness_bundle(model=with_novelty(redness_bundle, [-1, 1])))
    with pytest.raises(BundleError, match="novelty has the shape"):
        Classifier(bundle)


@pytest.mark.parametrize("size", [(1, 1), (3, 500), (600, 800)])
def test_photos_of_any_size_are_taken(redness_bundle, size):
    image = np.full((*size, 3), 200, np.uint8)
    assert Classifier(Bundle.open(redness_bundle())).classify(image).label == "OK"


def test_golden_frames_repeat(redness_bundle):
    assert Classifier(Bundle.open(redness_bundle())).self_test() < 1e-6


def test_a_model_that_says_something_else_than_the_golden_frames_is_not_trusted(redness_bundle):
    bundle = Bundle.open(redness_bundle(model=other_model(0.3)))
    with pytest.raises(SelfTestError, match="golden frames differ"):
        Classifier(bundle).self_test()


def test_bytes_that_are_no_model_are_an_error_that_a_person_can_read(redness_bundle):
    bundle = Bundle.open(redness_bundle(model=b"not a model at all"))
    with pytest.raises(BundleError, match="cannot load the model"):
        Classifier(bundle)
