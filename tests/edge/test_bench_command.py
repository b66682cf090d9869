"""`okko bench`: a table to post, or JSON."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from okko_edge.commands.bench import bench


def invoke(*arguments):
    return CliRunner().invoke(bench, [str(argument) for argument in arguments], env={"OKKO_CONFIG": ""})


def test_the_table_has_a_line_for_each_number_of_threads_and_progress_stands_beside_it(bundle):
    ran = invoke(bundle.path, "--threads", "2,1", "--seconds", 0.05)
    assert ran.exit_code == 0
    header, _, *table = ran.stdout.strip().splitlines()
    assert "onnxruntime 1." in header
    assert "processors" in header
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    assert [row[3] for row in rows[2:]] == ["1", "2"]
    assert len({len(row) for row in rows}) == 1
    assert rows[2][:2] == ["brightness 1", "float32"]
    assert ran.stderr.splitlines() == [
        f"Measuring {bundle.path.name}, 1 thread (1 of 2)",
        f"Measuring {bundle.path.name}, 2 threads (2 of 2)",
    ]


def test_json_holds_the_board_and_the_results(bundle):
    told = json.loads(invoke(bundle.path, "--threads", 1, "--seconds", 0.05, "--json").stdout)
    assert told["board"]["processors"] >= 1
    (result,) = told["results"]
    assert 0 < result["p50_ms"] <= result["p99_ms"]
    assert result["threads"] == 1


@pytest.mark.parametrize("threads", ["0", "a", "1,,2", "65", "-1"])
def test_a_list_of_threads_that_is_none_is_refused(bundle, threads):
    ran = invoke(bundle.path, f"--threads={threads}")
    assert ran.exit_code == 2
    assert "expected numbers from 1 to 64" in " ".join(ran.stderr.split())


def test_without_a_bundle_the_one_of_the_configuration_is_measured(bundle, tmp_path):
    assert invoke().exit_code == 2
    (tmp_path / "okko.toml").write_text(f'bundle = "{bundle.path}"\n')
    ran = invoke("--config", tmp_path / "okko.toml", "--threads", 1, "--seconds", 0.05)
    assert "brightness 1" in ran.stdout


def test_a_bundle_that_does_not_run_is_named(tmp_path):
    ran = invoke(tmp_path / "none.okko", "--threads", 1)
    assert "none.okko does not exist" in str(ran.exception)
