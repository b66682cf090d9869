"""What a search space promises: both directions agree, scales are even where they say, errors name the parameter."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from okko_train.space import Categorical, Float, Integer, Space

SPACE = Space(
    {
        "learning_rate": Float(1e-4, 1e-1, scale="log"),
        "momentum": Float(0.5, 0.999, scale="reverse_log"),
        "dropout": Float(0, 0.5),
        "layers": Integer(1, 3),
        "width_2": Integer(4, 64, scale="log", when=("layers", [2, 3])),
        "activation": Categorical(["relu", "tanh", "sigmoid"]),
        "slope": Float(0, 1, when=("activation", "relu")),
        "batch_norm": Categorical([False, True]),
        "cost": Categorical(["cross_entropy"]),
    }
)
UNITS = st.lists(st.floats(0, 1), min_size=SPACE.dimension, max_size=SPACE.dimension)


@given(UNITS)
def test_every_point_of_the_cube_is_a_valid_set_of_parameters(unit):
    values = SPACE.decode(unit)
    assert 1e-4 <= values["learning_rate"] <= 1e-1
    assert 0.5 <= values["momentum"] <= 0.999
    assert type(values["layers"]) is int
    assert values["layers"] in (1, 2, 3)
    assert values.get("width_2", 4) in range(4, 65)
    assert values["activation"] in ("relu", "tanh", "sigmoid")
    assert type(values["batch_norm"]) is bool


@given(UNITS)
def test_encoding_a_decoded_point_gives_the_same_parameters(unit):
    values = SPACE.decode(unit)
    again = SPACE.decode(SPACE.encode(values))
    assert again.keys() == values.keys()
    for name, value in values.items():
        assert again[name] == pytest.approx(value, rel=1e-12) if isinstance(value, float) else again[name] == value


@given(UNITS)
def test_a_conditional_parameter_is_there_exactly_when_its_condition_holds(unit):
    values = SPACE.decode(unit)
    assert ("width_2" in values) == (values["layers"] in (2, 3))
    assert ("slope" in values) == (values["activation"] == "relu")


def test_a_parameter_that_depends_on_an_inactive_one_is_inactive():
    space = Space({"a": Integer(1, 2), "b": Integer(1, 2, when=("a", 2)), "c": Float(0, 1, when=("b", [1, 2]))})
    assert space.decode([0.1, 0.9, 0.5]) == {"a": 1}
    assert space.decode([0.9, 0.1, 0.5]) == {"a": 2, "b": 1, "c": 0.5}


def test_the_middle_of_each_scale_is_where_it_says():
    middle = SPACE.decode([0.5] * SPACE.dimension)
    assert middle["learning_rate"] == pytest.approx(math.sqrt(1e-4 * 1e-1))
    assert 1 - middle["momentum"] == pytest.approx(math.sqrt(0.5 * 0.001))
    assert middle["dropout"] == 0.25


def test_both_ends_of_a_range_can_be_reached_and_are_exact():
    for parameter in (Float(1e-3, 0.3, "log"), Float(0.1, 0.7, "reverse_log"), Float(0.1, 0.7), Integer(3, 9, "log")):
        space = Space({"p": parameter})
        assert space.decode([0.0])["p"] == parameter.low
        assert space.decode([1.0])["p"] == parameter.high


def test_every_whole_number_gets_the_same_share_of_a_linear_axis():
    space = Space({"n": Integer(-1, 3)})
    counts = np.bincount([space.decode([u])["n"] + 1 for u in np.linspace(0, 1, 5001)[:-1] + 1e-9])
    assert counts.min() >= 999
    assert counts.max() <= 1001


def test_choices_have_no_order_the_highest_coordinate_wins():
    space = Space({"c": Categorical(["a", "b", "c"])})
    assert space.coordinates == ("c=a", "c=b", "c=c")
    assert [space.decode(unit)["c"] for unit in ([0.9, 0.1, 0.2], [0, 0.3, 0.2], [0.1, 0.2, 0.3])] == ["a", "b", "c"]


def test_two_choices_need_one_coordinate_and_one_choice_needs_none():
    space = Space({"two": Categorical([False, True]), "one": Categorical("adam")})
    assert space.dimension == 1
    assert space.decode([0.2]) == {"two": False, "one": "adam"}
    assert space.decode([0.8]) == {"two": True, "one": "adam"}


def test_a_choice_keeps_its_type():
    space = Space({"c": Categorical([1, True, "1", None, 1.5])})
    for choice in (1, True, "1", None, 1.5):
        decoded = space.decode(space.encode({"c": choice}))["c"]
        assert decoded == choice
        assert type(decoded) is type(choice)


def test_a_space_travels_as_plain_dicts_through_json():
    assert Space.from_dict(json.loads(json.dumps(SPACE.to_dict()))) == SPACE


def test_points_outside_the_cube_count_as_its_border():
    space = Space({"x": Float(2, 4)})
    assert space.decode([-3])["x"] == 2
    assert space.decode([7])["x"] == 4


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Space({}), "at least one"),
        (lambda: Space({"x": 3}), "'x'"),
        (lambda: Float(2, 1), "low < high"),
        (lambda: Float(0, math.inf), "finite"),
        (lambda: Float(0, 1, "log"), "low > 0"),
        (lambda: Float(0, 1, "reverse_log"), "high < 1"),
        (lambda: Float(0, 1, "logarithmic"), "logarithmic"),
        (lambda: Integer(0.5, 3), "whole"),
        (lambda: Integer(0, 3, "log"), "low >= 1"),
        (lambda: Categorical([]), "empty"),
        (lambda: Categorical(["a", "a"]), "once"),
        (lambda: Float(0, 1, when="layers"), "when"),
        (lambda: Space({"x": Float(0, 1, when=("y", 1)), "y": Integer(1, 2)}), "'y', which must stand before"),
        (lambda: Space({"y": Integer(1, 2), "x": Float(0, 1, when=("y", 3))}), "'x' depends on 'y'"),
        (lambda: Space.from_dict({"rate": {"type": "real", "low": 0, "high": 1}}), "'rate'"),
        (lambda: Space.from_dict({"rate": {"type": "float", "low": 0, "high": 1, "step": 2}}), "'rate'"),
        (lambda: Space.from_dict({"rate": {"type": "float", "low": 3, "high": 1}}), "'rate'"),
        (lambda: SPACE.decode([0.5]), "shape"),
        (lambda: SPACE.decode([math.nan] + [0.5] * (SPACE.dimension - 1)), "learning_rate"),
        (lambda: SPACE.encode({"speed": 1}), "'speed'"),
        (lambda: Space({"n": Integer(1, 5)}).encode({"n": 9}), "'n'"),
        (lambda: Space({"n": Integer(1, 5)}).encode({"n": 2.5}), "'n'"),
        (lambda: Space({"n": Integer(1, 5)}).encode({"n": "two"}), "'n'"),
        (lambda: Space({"n": Integer(1, 5)}).encode({}), "'n' is missing"),
        (lambda: Space({"x": Float(1, 5)}).encode({"x": None}), "'x'"),
        (lambda: Space({"x": Float(1, 5)}).encode({"x": math.nan}), "'x'"),
        (lambda: Space({"c": Categorical("ab")}).encode({"c": "x"}), "'c'"),
    ],
)
def test_an_error_names_what_is_wrong(make, words):
    with pytest.raises(ValueError, match=words):
        make()
