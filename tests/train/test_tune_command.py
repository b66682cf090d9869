"""`okko tune` from the outside: what it writes, what it says, and how it refuses."""

import json
import re
from xml.etree import ElementTree

import numpy as np
import onnxruntime
import pytest
from click.testing import CliRunner
from sklearn.datasets import load_iris

from okko_models.errors import OkkoError
from okko_train.commands.tune import tune
from okko_train.report.svg import house_style
from okko_train.report.swarm_plots import swarm_pictures
from okko_train.result import Trial
from okko_train.search_files import standing_alone
from okko_train.tabular import read_table


@pytest.fixture
def iris(tmp_path):
    """Iris with a gap, a category, and a group column."""
    data = load_iris()
    lines = ["length,width,petal length,petal width,bed,plot,species"]
    for i, (row, kind) in enumerate(zip(data.data, data.target, strict=True)):
        numbers = ["" if i % 40 == 0 else str(row[0]), *map(str, row[1:])]
        lines.append(",".join([*numbers, "north" if i % 4 else "south", f"plot {i // 5}", data.target_names[kind]]))
    file = tmp_path / "iris.csv"
    file.write_text("\n".join(lines) + "\n")
    return file


def run(*arguments):
    done = CliRunner().invoke(tune, [str(argument) for argument in arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def test_a_table_becomes_a_model_a_result_and_pictures(iris, tmp_path):
    out = tmp_path / "new" / "folder"
    done = run(iris, "--target", "species", "--group-by", "plot", "--trials", 10, "--out", out, "--json")
    assert done.exit_code == 0, done.output
    printed = json.loads(done.stdout)
    result = json.loads((out / "result.json").read_text())
    assert {**result, "folder": str(out)} == printed
    assert result["task"] == "classification"
    assert result["best"]["accuracy"] > 0.85
    assert len(result["trials"]) == 10
    assert result["best"]["cost"] <= result["cost_of_the_default"]
    assert any("'length': 4 rows missing" in note for note in result["notes"])
    assert result["model"]["largest_deviation_from_training"] <= 1e-5
    assert "Tuning on 150 rows: 10 of 10" in done.stderr

    table = read_table(iris)
    session = onnxruntime.InferenceSession(out / "model.onnx")
    documented = {one["name"]: one for one in result["model"]["inputs"]}
    assert [i.name for i in session.get_inputs()] == list(documented)
    assert documented["bed"]["categories"] == ["north", "south"]
    feed = {name: table.column(name)[:, None] for name in documented}
    probability, label = session.run(["probability", "label"], feed)
    np.testing.assert_allclose(probability.sum(axis=1), 1, atol=1e-5)
    assert (label == table.column("species")).mean() > 0.9

    assert {"plots/convergence.svg", "plots/path.svg", "plots/importance.svg", "plots/parallel-coordinates.svg"} <= set(
        result["plots"]
    )
    for name in result["plots"]:
        text = (out / name).read_text()
        root = ElementTree.fromstring(text)
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert float(root.attrib["width"]) > 300
        assert "var(" not in text
        assert "<script" not in text
        assert not re.search(r'(href|src)="(?!#)', text)


def test_numbers_are_predicted_by_another_tuner_and_the_search_goes_on(iris, tmp_path):
    arguments = [iris, "--target", "petal width", "--out", tmp_path / "m", "--tuner", "tpe", "--folds", 2]
    stored = ["--storage", tmp_path / "trials.db"]
    assert run(*arguments, *stored, "--trials", 2).exit_code == 0
    done = run(*arguments, *stored, "--trials", 3)
    assert "regression, 150 rows" in done.stdout
    assert re.search(r"r2 +0\.[89]", done.stdout)
    result = json.loads((tmp_path / "m" / "result.json").read_text())
    assert len(result["trials"]) == 3
    assert result["model"]["outputs"] == [{"name": "prediction", "type": "float32 [N, 1]"}]


def test_two_steps_are_told_apart(iris, tmp_path):
    arguments = ["--run-type", "two_steps", "--trials", 4, "--folds", 2]
    done = run(iris, "--target", "species", "--out", tmp_path / "m", *arguments)
    result = json.loads((tmp_path / "m" / "result.json").read_text())
    assert [(trial["step"], trial["number"]) for trial in result["trials"]] == [(1, 0), (1, 1), (2, 0), (2, 1)]
    assert result["cost_of_the_default"] is None
    assert "untuned" not in done.stdout


def test_a_time_budget_ends_the_search(iris, tmp_path):
    run(iris, "--target", "species", "--out", tmp_path / "m", "--trials", 10_000, "--budget", 1.5, "--folds", 2)
    result = json.loads((tmp_path / "m" / "result.json").read_text())
    assert result["stopped_by_budget"]
    assert 1 <= len(result["trials"]) < 10_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--target", "spezies"], "did you mean 'species'"),
        (["--target", "species", "--ignore", "wdth"], "did you mean 'width'"),
        (["--target", "species", "--task", "regression"], "regression needs numbers"),
        (["--target", "species", "--budget", "0.00001"], "budget was over before the first trial"),
        (["--target", "species", "--run-type", "two_steps", "--trials", "1"], "at least 2 trials"),
    ],
)
def test_what_cannot_work_is_said_and_nothing_is_written(iris, tmp_path, arguments, message):
    with pytest.raises(OkkoError, match=message):
        run(iris, *arguments, "--out", tmp_path / "m")
    assert not (tmp_path / "m" / "model.onnx").exists()


def test_a_file_where_the_folder_should_be_is_refused_before_any_trial(iris, tmp_path):
    with pytest.raises(OSError, match="exists"):
        run(iris, "--target", "species", "--out", iris)


@pytest.mark.parametrize(
    "arguments", [["--budget", "-1"], ["--trials", "0"], ["--tuner", "grid"], ["--gap-penalty", "2"]]
)
def test_bad_usage_is_exit_2(iris, tmp_path, arguments):
    assert run(iris, "--target", "species", "--out", tmp_path / "m", *arguments).exit_code == 2


def test_a_picture_of_numbers_names_their_cost():
    trials = [Trial(number, 0, {"rate": float(number)}, 1.0 + number % 3, 0.0, 0.1) for number in range(12)]
    with house_style():
        pictures = swarm_pictures(trials, "squared error / variance")
    text = "".join(standing_alone(str(picture.svg)) for picture in pictures)
    assert "log loss" not in text
    assert "squared error / variance" in text


def test_a_picture_as_a_file_stands_alone():
    text = standing_alone('<svg viewBox="0 0 4 3"><text fill="var(--ink)">cost</text></svg>')
    assert 'fill="#' in text
    assert "var(--" not in text
    assert 'width="4"' in text
