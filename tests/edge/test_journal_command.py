from __future__ import annotations

import csv
import io
import json
import shutil
import sqlite3
from dataclasses import replace

import pytest
from click.testing import CliRunner

from okko_edge.commands.journal import journal
from okko_edge.journal import Journal
from okko_models.errors import OkkoError
from tests.edge.journal_fakes import make_first_format
from tests.edge.test_journal import RUN, entry, until, write


def okko_journal(*arguments):
    return CliRunner().invoke(journal, list(map(str, arguments)), env={"OKKO_CONFIG": "", "TZ": "UTC"})


def rows(*arguments):
    return [json.loads(line) for line in okko_journal(*arguments, "--json").stdout.splitlines()]


@pytest.fixture
def path(tmp_path):
    """Two runs: six marbles in r1, of which two KO, and three in r2, one with an error."""
    place = tmp_path / "journal.sqlite"
    write(place, [entry(number, verdict="KO" if number % 3 == 0 else "OK") for number in range(1, 7)])
    second = [entry(1, unix_s=1.72e9, verdict="UNCERTAIN", novelty=1.25), entry(2, unix_s=1.72e9 + 1, outcome="two")]
    second.append(
        entry(3, unix_s=1.72e9 + 2, verdict="KO", label=None, probability=None, error="no frame, and\nno idea")
    )
    write(place, second, run=replace(RUN, run="r2", started_unix_s=1.72e9))
    return place


def test_the_latest_decisions_are_shown_as_a_table_the_newest_last(path):
    told = okko_journal("--journal", path, "--limit", 4)
    lines = told.stdout.splitlines()
    assert told.exit_code == 0
    assert lines[0].split() == ["time", "run", "number", "verdict", "label", "p", "novelty", "path", "remarks"]
    assert [line.split()[2:5] for line in lines[1:5]] == [
        ["r1", "6", "KO"],
        ["r2", "1", "UNCERTAIN"],
        ["r2", "2", "OK"],
        ["r2", "3", "KO"],
    ]
    assert "1.25" in lines[2]
    assert lines[3].endswith("two")
    assert "no frame" in lines[4]


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ((), [("r1", number) for number in range(1, 7)] + [("r2", number) for number in range(1, 4)]),
        (("--verdict", "ko"), [("r1", 3), ("r1", 6), ("r2", 3)]),
        (("--run", "r1", "--limit", "2"), [("r1", 5), ("r1", 6)]),
        (("--since", "2024-07-01"), [("r2", 1), ("r2", 2), ("r2", 3)]),
        (("--since", "1s"), []),
        (("--verdict", "UNCERTAIN", "--run", "r1"), []),
    ],
)
def test_decisions_are_chosen_by_time_verdict_and_run(path, arguments, found):
    assert [(row["run"], row["number"]) for row in rows("--journal", path, *arguments)] == found


def test_a_row_says_all_that_the_journal_knows(path):
    first = rows("--journal", path)[0]
    assert first["probability"] == {"KO": 0.25, "OK": 0.75}
    assert (first["bundle_digest"], first["frame_digest"]) == ("d" * 64, "e" * 64)
    assert (first["outcome"], first["novelty"]) == ("marble", None)


def test_each_run_is_summed_up(path):
    newest, oldest = (
        json.loads(line) for line in okko_journal("runs", "--journal", path, "--json").stdout.splitlines()
    )
    assert (newest["run"], newest["marbles"], newest["uncertain"], newest["ko"], newest["errors"]) == ("r2", 3, 1, 1, 1)
    assert (oldest["run"], oldest["marbles"], oldest["ok"], oldest["ko"]) == ("r1", 6, 4, 2)
    assert oldest["sorting_s"] == 5
    assert oldest["mean_path_ms"] == 2.5
    assert "marbles 3" in okko_journal("runs", "--journal", path).stdout


def test_events_are_shown(path):
    book = Journal(path, replace(RUN, run="r3"), warn=print)
    book.note("camera_stalls", "no frame for 2.1 s")
    book.close()
    told = okko_journal("events", "--journal", path).stdout
    assert "camera_stalls" in told
    assert "no frame for 2.1 s" in told
    [event] = [json.loads(line) for line in okko_journal("events", "--journal", path, "--json").stdout.splitlines()]
    assert (event["run"], event["event"]) == ("r3", "camera_stalls")


def test_csv_is_read_back_as_it_was(path, tmp_path):
    told = okko_journal("export", "--format", "csv", "--journal", path)
    table = list(csv.DictReader(io.StringIO(told.stdout)))
    assert len(table) == 9
    assert (table[0]["p(KO)"], table[0]["p(OK)"], table[0]["verdict"]) == ("0.25", "0.75", "OK")
    assert (table[8]["p(KO)"], table[8]["error"]) == ("", "no frame, and\nno idea")
    out = tmp_path / "table.csv"
    assert okko_journal("export", "--format", "csv", "--journal", path, "--out", out).exit_code == 0
    assert out.read_text() == told.stdout
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith(".")] == []


def test_json_is_read_back_as_it_was(path):
    told = okko_journal("export", "--format", "json", "--journal", path, "--verdict", "KO")
    assert json.loads(told.stdout) == rows("--journal", path, "--verdict", "KO", "--limit", "100")
    assert json.loads(okko_journal("export", "--format", "json", "--journal", path, "--since", "1s").stdout) == []


def test_a_journal_is_read_while_it_is_written(path):
    book = Journal(path, replace(RUN, run="r3"), warn=print)
    book.append(entry(1))
    until(lambda: book.written == 1)
    assert rows("--journal", path, "--limit", "1")[0]["run"] == "r3"
    book.append(entry(2))
    until(lambda: book.written == 2)
    assert rows("--journal", path, "--limit", "1")[0]["number"] == 2
    book.close()


def test_a_copy_is_read_even_where_nothing_can_be_written(path, tmp_path):
    copy = tmp_path / "copies" / "a copy #1 100%.sqlite"
    copy.parent.mkdir()
    shutil.copy(path, copy)
    before = copy.read_bytes()
    assert len(rows("--journal", copy)) == 9
    assert copy.read_bytes() == before


def test_a_journal_of_the_first_format_is_read_as_it_is(tmp_path):
    path = tmp_path / "old.sqlite"
    make_first_format(path)
    [row] = rows("--journal", path)
    assert (row["run"], row["outcome"], row["novelty"]) == ("r1", "marble", None)
    assert "no event" in okko_journal("events", "--journal", path).stdout
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (1,)


def test_the_configuration_says_where_the_journal_is(path, tmp_path):
    config = tmp_path / "okko.toml"
    config.write_text('[journal]\npath = "journal.sqlite"\n')
    assert len(rows("--config", config)) == 9


def of_a_later_format(path):
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")


def of_another_program(path):
    path.unlink()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE people (name TEXT)")


def text(path):
    path.write_text("these are my notes\n" * 100)


def missing(path):
    path.unlink()


def folder(path):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (of_a_later_format, "format 99"),
        (of_another_program, "another program's"),
        (text, "not a database"),
        (missing, "does not exist"),
        (folder, "is a folder"),
    ],
)
def test_what_is_no_journal_is_named(path, spoil, said):
    spoil(path)
    failed = okko_journal("--journal", path)
    assert isinstance(failed.exception, OkkoError)
    assert said in str(failed.exception)
    assert str(path) in str(failed.exception)


def test_a_run_that_is_not_there_or_not_clear_is_named(path):
    assert "no run begins so" in str(okko_journal("--journal", path, "--run", "x").exception)
    assert "r1, r2" in str(okko_journal("--journal", path, "--run", "r").exception)
    assert okko_journal("--journal", path, "--since", "yesterday").exit_code == 2
