"""Tables: what is read, what is wrong with them and said, and what becomes features."""

import numpy as np
import onnxruntime
import pandas as pd
import pytest

from okko_models.errors import OkkoError
from okko_train.table_encoder import SHAPES, TableEncoder, input_name
from okko_train.tabular import Table, as_problem, read_table
from okko_train.tuned_network import Targets, train

ROWS = "\n".join(f"{i / 3:.3f},{'red' if i % 3 else 'blue'},{'yes' if i % 2 else 'no'}" for i in range(24))


def table_of(tmp_path, text, encoding="utf-8"):
    file = tmp_path / "table.csv"
    file.write_bytes(text.encode(encoding))
    return read_table(file)


def test_numbers_and_words_are_told_apart_and_missing_values_found(tmp_path):
    table = table_of(tmp_path, "size,colour,mixed\n1.5, red ,1\nNA,,x\n 3e2 ,NaN,2\n")
    assert table.number_names == ("size",)
    assert table.word_names == ("colour", "mixed")
    np.testing.assert_array_equal(table.column("size"), [1.5, np.nan, 300])
    assert table.column("colour").tolist() == ["red", "", ""]
    assert table.column("mixed").tolist() == ["1", "x", "2"]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_the_usual_delimiters_quotes_and_byte_order_marks_are_read(tmp_path, delimiter):
    text = f'a{delimiter}b\n1{delimiter}"x{delimiter}y"\n2{delimiter}"two\nlines"\n'
    table = table_of(tmp_path, text, "utf-8-sig")
    assert table.names == ("a", "b")
    assert table.column("b").tolist() == [f"x{delimiter}y", "two\nlines"]


def test_infinite_numbers_count_as_missing_and_that_is_said(tmp_path):
    table = table_of(tmp_path, "a,b\n1,2\ninf,3\n-Infinity,4\n")
    assert np.isnan(table.column("a")).tolist() == [False, True, True]
    assert table.notes == ("column 'a': 2 rows infinite, taken for missing",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "at least two"),
        ("a,b\n", "no rows"),
        ("a,a\n1,2\n", "'a' twice"),
        ("a,\n1,2\n", "without a name"),
        ("a,b\n1,2\n1,2,3\n", "line 3: 3 fields, but the header has 2"),
    ],
)
def test_a_broken_file_is_refused_with_the_place(tmp_path, text, message):
    with pytest.raises(OkkoError, match=message):
        table_of(tmp_path, text)


def test_no_file_a_folder_and_no_text_are_refused(tmp_path):
    for path, message in ((tmp_path / "no.csv", "no such file"), (tmp_path, "is a folder")):
        with pytest.raises(OkkoError, match=message):
            read_table(path)
    with pytest.raises(OkkoError, match="UTF-8"):
        table_of(tmp_path, "größe,b\n1,2\n", "latin-1")


def test_an_unknown_column_is_answered_with_the_nearest(tmp_path):
    table = table_of(tmp_path, "size,colour,class\n" + ROWS)
    for asked in (
        {"target": "klass"},
        {"target": "class", "group_by": "colr"},
        {"target": "class", "ignore": ["sise"]},
    ):
        with pytest.raises(OkkoError, match=r"there is no column .* did you mean '(class|colour|size)'"):
            as_problem(table, **asked)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x,y\n" + "1,a\n" * 12, "'y' is a in every row; there is nothing to predict"),
        ("x,y\n" + "1,7\n2,7\n" * 6, "'y' is 7.0 in every row"),
        ("x,y\n" + "1,a\n2,b\n" * 6 + "3,\n", "1 row without a value .*row 13 "),
        ("x,y\n" + "1,a\n2,b\n" * 6 + "3,c\n", "class 'c' has one row"),
        ("x,y\n" + "1,a\n2,b\n" * 3, "6 rows; at least 10"),
        ("x,y\n" + "1,a\n1,b\n" * 6, "no column is left to predict from .*'x' is 1 in every row"),
    ],
)
def test_a_target_or_table_that_teaches_nothing_is_refused(tmp_path, text, message):
    with pytest.raises(OkkoError, match=message):
        as_problem(table_of(tmp_path, text), "y")


def test_what_cannot_be_regressed_or_grouped_is_refused(tmp_path):
    table = table_of(tmp_path, "size,colour,class\n" + ROWS)
    with pytest.raises(OkkoError, match="regression needs numbers"):
        as_problem(table, "class", task="regression")
    with pytest.raises(OkkoError, match="both the target"):
        as_problem(table, "class", group_by="class")
    alone = table_of(tmp_path, "size,all,class\n" + ROWS.replace("red", "x").replace("blue", "x"))
    with pytest.raises(OkkoError, match="at least two groups"):
        as_problem(alone, "class", group_by="all")


def test_the_task_follows_the_target_unless_it_is_given(tmp_path):
    table = table_of(tmp_path, "a,b,c\n" + "\n".join(f"{i / 7:.3f},{i % 3},{'xy'[i % 2]}" for i in range(30)))
    assert [as_problem(table, name).task for name in "abc"] == ["regression", "classification", "classification"]
    assert as_problem(table, "b").target.tolist()[:3] == ["0", "1", "2"]
    assert as_problem(table, "b", task="regression").target.dtype == np.float64


def test_useless_columns_are_left_out_and_that_is_said(tmp_path):
    rows = "\n".join(f"{i},name {i},same,,{i % 2},{'ab'[i % 2]}" for i in range(30))
    problem = as_problem(table_of(tmp_path, "x,name,constant,empty,twin,y\n" + rows.replace(",1,", ",one,")), "y")
    assert problem.features.names == ("x", "twin")
    said = " ".join(problem.features.notes)
    for words in (
        "'name' has 30 different texts",
        "'constant' is same in every row",
        "'empty' is empty",
        "--ignore twin",
    ):
        assert words in said


def test_a_group_column_is_no_feature(tmp_path):
    problem = as_problem(table_of(tmp_path, "size,colour,class\n" + ROWS), "class", group_by="colour")
    assert problem.features.names == ("size",)
    assert len(np.unique(problem.groups)) == 2


FRAME = pd.DataFrame(
    {
        "size": [1.0, 2.0, np.nan, 4.0, 1e9, 3.0, 2.5, 1.5],
        "count": [1, 2, 3, 4, 5, 6, 7, 8],
        "colour": ["red", "blue", None, "red", "blue", "green", "red", None],
        "okko_odd": [True, False, True, False, True, False, True, False],
    }
)


def test_features_are_standardised_flagged_and_one_per_category():
    table = Table.of_frame(FRAME)
    encoder = TableEncoder.fit(table)
    features = encoder.encode(table)
    assert encoder.feature_names == (
        "size",
        "count",
        "size is missing",
        "colour=",
        "colour=blue",
        "colour=red",
        "okko_odd=False",
        "okko_odd=True",
    )
    np.testing.assert_allclose(features[:, :2].mean(axis=0), 0, atol=1e-9)
    np.testing.assert_allclose(features[:, :2].std(axis=0), 1)
    assert features[:, 2].tolist() == [0, 0, 1, 0, 0, 0, 0, 0]
    assert features[5, 3:6].tolist() == [0, 0, 0]  # green stands in one row alone


def test_shapes_change_numbers_and_nothing_else():
    table = Table.of_frame(FRAME)
    encoder = TableEncoder.fit(table)
    features = encoder.encode(table) * 4
    for shape in SHAPES:
        shaped = encoder.shaped(features, shape)
        np.testing.assert_array_equal(shaped[:, 2:], features[:, 2:])
        assert (np.argsort(shaped[:, 1]) == np.argsort(features[:, 1])).all()
    assert np.abs(encoder.shaped(features, "clip")[:, :2]).max() == 3


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("columns", [["size", "count", "colour", "okko_odd"], ["colour"], ["size"]])
def test_the_graph_repeats_the_encoding_for_missing_unknown_and_huge_values(shape, columns):
    table = Table.of_frame(FRAME[columns])
    encoder = TableEncoder.fit(table)
    targets = Targets.of(np.array(["a", "b"] * 4), "classification")
    model = train({"preprocessing": shape, "epochs": 10}, encoder, encoder.encode(table), targets)
    session = onnxruntime.InferenceSession(model.to_onnx().SerializeToString())
    strange = FRAME.assign(colour=["never seen", *FRAME.colour[1:]], size=[np.nan, *FRAME["size"][1:]])[columns]
    for frame in (FRAME[columns], strange):
        other = Table.of_frame(frame)
        feed = {input_name(name): other.column(name)[:, None] for name in other.names}
        probability, label = session.run(None, feed)
        np.testing.assert_allclose(probability, model.outputs(other), atol=1e-5)
        assert label.tolist() == targets.classes[probability.argmax(axis=1)].tolist()


def test_a_frame_with_infinity_is_refused_with_the_column():
    with pytest.raises(ValueError, match="column 'x' holds infinity"):
        Table.of_frame(pd.DataFrame({"x": [1.0, np.inf]}))
