"""The configuration file: what is read, what is refused, and what the person is told."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from okko_edge.commands.config import config
from okko_edge.config import ConfigError, contradictions, find, load, read
from okko_edge.config.keys import all_keys
from okko_edge.config.text import as_markdown, effective, example
from okko_edge.settings import GateSettings, Settings

ROOT = Path(__file__).parents[2]


@pytest.fixture
def write(tmp_path):
    def write(text, name="okko.toml"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def refusal(path, overrides=None):
    with pytest.raises(ConfigError) as caught:
        load(path, overrides)
    return str(caught.value)


def invoke(*arguments, **options):
    return CliRunner().invoke(config, [str(argument) for argument in arguments], **options)


def test_an_empty_file_means_the_defaults(write):
    assert load(write("")) == Settings()


def test_every_key_is_described_with_a_default_that_is_itself_allowed():
    for key in all_keys().values():
        assert key.description, key.dotted
        assert key.allowed, key.dotted
    msgspec.convert(msgspec.to_builtins(Settings()), Settings)


def test_the_file_wins_over_defaults_and_flags_win_over_the_file(write):
    path = write('[camera]\nwidth = 320\nheight = 200\n[gate]\nkind = "servo:18"\n')
    settings = load(path, {"camera.width": 800, "gate.kind": None})
    assert (settings.camera.width, settings.camera.height) == (800, 200)
    assert settings.gate.kind == "servo:18"
    assert settings.camera.frames_per_s == 60


def test_an_integer_does_for_a_number_but_not_a_text_for_an_integer(write):
    assert load(write("[camera]\nframes_per_s = 30")).camera.frames_per_s == 30.0
    said = refusal(write('[camera]\nwidth = "640"'))
    assert 'line 2: camera.width is "640"; expected an integer from 16 to 4096' in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[camera]\n\nwidth = 5\n", "line 3: camera.width is 5; expected an integer from 16 to 4096"),
        ("[camera]\nframes_per_s = nan", "line 2: camera.frames_per_s is nan; expected a number above 0, at most 1000"),
        ("[camera]\nwidth = true", "line 2: camera.width is true; expected an integer"),
        ('[gate]\ndriver = "pigpio"', 'line 2: gate.driver is "pigpio"; expected one of "auto", "hardware", "lgpio"'),
        ('[gate]\nkind = "servo:40"', 'line 2: gate.kind is "servo:40"; expected servo:PIN, relay:PIN, sim or none'),
        (
            "[sorting]\nempty_labels = [\n  'a',\n  3,\n]",
            "line 2: sorting.empty_labels is ['a', 3]; expected a list of",
        ),
        ("camera = 3", "line 1: camera is 3; expected a table: [camera]"),
        ('[mqtt]\ntopic = ""', 'line 2: mqtt.topic is ""; expected a text that is not empty'),
        ("[camera]\nwidht = 5", "line 2: there is no key camera.widht; did you mean camera.width?"),
        ("[camera]\ntravel_s = 1", "line 2: there is no key camera.travel_s; did you mean gate.travel_s?"),
        ("travel_s = 1", "line 1: there is no key travel_s; did you mean gate.travel_s?"),
        ("\n\n[gates]\nkind = 'sim'", "line 3: there is no section [gates]; did you mean gate?"),
        ("[camera.lens]\nx = 1", "line 1: there is no section [camera.lens]; did you mean camera?"),
        ("camera = { width = 5, height = 100 }", "line 1: camera.width is 5"),
        ("gate.kind = 'belt'", 'line 1: gate.kind is "belt"'),
    ],
)
def test_what_is_wrong_is_named_with_its_line_and_what_was_expected(write, text, said):
    path = write(text)
    assert refusal(path).startswith(f"{path}: ")
    assert said in refusal(path)


def test_all_problems_of_a_file_are_named_at_once(write):
    said = refusal(write("[camera]\nwidth = 5\nwidht = 5\n[gate]\nok_us = 5\n"))
    assert "3 problems" in said
    assert [line.split(":")[0].strip() for line in said.splitlines()[1:]] == ["line 2", "line 3", "line 5"]


def test_a_wrong_flag_is_named_as_one():
    with pytest.raises(ConfigError, match=r"command line: camera.width is 5; expected an integer"):
        read(None, {"camera.width": 5})
    with pytest.raises(ConfigError, match=r"command line: there is no key camera.widht; did you mean camera.width"):
        read(None, {"camera.widht": 5})


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"[camera\n", "not TOML"),
        (b"[camera]\nsource = pi\n", 'A text needs quotes: source = "pi"'),
        (b"[camera]\nwidth = 1\nwidth = 2\n", "line 3"),
        (b"# fine\n# \xff\xfe\n", "line 2 is not UTF-8"),
        (b"#" * (1 << 21), "not a configuration"),
        (b"a = " + b"[" * 50_000, "not TOML"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused_in_words(write, data, said):
    assert said in refusal(write(data))


_VALUES = st.one_of(
    st.sampled_from(
        ["1979-05-27", "07:32:00", "inf", "-nan", "[]", "{}", "{ a = 1 }", "[[1], {}]", "''", '"""\n"""', "0x"]
    ),
    st.integers().map(str),
    st.integers(300, 5000).map(lambda digits: "9" * digits),
    st.floats().map(str),
    st.text(max_size=5),
)
_NAMES = st.one_of(
    st.sampled_from([*all_keys(), "camera", "[camera]\nwidth", "[[camera]]\nwidth", "'camera.width'", "[gate]\nkind"]),
    st.text(max_size=5),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(_NAMES, _VALUES), max_size=4))
def test_whatever_a_file_holds_it_is_read_or_refused_in_words(write, lines):
    path = write("\n".join(f"{name} = {value}" for name, value in lines).encode(errors="replace"))
    said = ""
    try:
        load(path)
    except ConfigError as error:
        said = str(error)
    assert said == "" or said.startswith(f"{path}: ")


def test_a_file_that_is_not_there_is_refused_with_what_to_do(tmp_path):
    assert "okko config example >" in refusal(tmp_path / "none.toml")
    assert "cannot be read" in refusal(tmp_path)


def test_a_byte_order_mark_and_carriage_returns_do_no_harm(write):
    assert load(write(b"\xef\xbb\xbf[camera]\r\nwidth = 320\r\n")).camera.width == 320


def test_the_named_file_goes_before_the_variable_and_the_variable_before_the_system(write, tmp_path):
    system = write("", "system.toml")
    named, variable = Path("named.toml"), {"OKKO_CONFIG": "variable.toml"}
    assert find(named, environ=variable, system=system) == named
    assert find(None, environ=variable, system=system) == Path("variable.toml")
    assert find(None, environ={}, system=system) == system
    assert find(None, environ={}, system=tmp_path / "absent") is None
    assert find(None, environ={"OKKO_CONFIG": ""}, system=system) is None


def test_a_place_in_the_file_starts_at_the_files_folder_and_one_of_a_flag_does_not(write, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/anna")
    path = write(
        'bundle = "marbles.okko"\n[camera]\nsource = "folder:photos"\n[journal]\npath = "/var/j"\n'
        '[outbox]\nfolder = "~/box"\n'
    )
    settings = load(path)
    assert settings.bundle == str(tmp_path / "marbles.okko")
    assert settings.camera.source == f"folder:{tmp_path / 'photos'}"
    assert (settings.journal.path, settings.outbox.folder) == ("/var/j", "/home/anna/box")
    assert load(path, {"bundle": Path("x.okko")}).bundle == "x.okko"
    for source in ("pi", "pi:1", "v4l2", "v4l2:/dev/video0"):
        assert load(write(f'[camera]\nsource = "{source}"')).camera.source == source


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            '[gate]\nkind="servo:18"\nrest_us = 900',
            "line 3: gate.rest_us is 900, outside the stops: expected 1000 to 2000",
        ),
        ('[gate]\nkind="servo:18"\nmin_us = 2000', "gate.min_us is 2000; expected less than max_us"),
        ('[gate]\nkind="servo:18"\nok_us = 1000', "ko_us are the same place"),
        ('[gate]\nkind="servo:17"\ndriver="hardware"', "GPIO17 does not have"),
        ('[gate]\nkind="servo:18"\nback_to_rest_s=0.1', "before the move of 0.4 s has ended"),
        ('[gate]\nkind="servo:18"\n[trigger]\nkind="gpio:18"', "both use GPIO18"),
        ('[dashboard]\nlisten = "0.0.0.0:8080"', "which others can reach, and there is no dashboard.password_hash"),
        ('[dashboard]\nlisten = "[::]:8080"', "which others can reach"),
        ('[dashboard]\nlisten = "8080"', "expected ADDRESS:PORT"),
        ('[dashboard]\nlisten = "127.0.0.1:99999"', "expected ADDRESS:PORT"),
        ('[outbox]\nbucket = "marbles"', "expected s3://bucket/prefix"),
        ('[mqtt]\npassword_file = "/p"', "without mqtt.username"),
        ("[camera]\nred_gain = 2.0", "set both, or leave both 0"),
        ("[sorting]\ndeadline_s = 0.01", "every marble would be late"),
        ('[sorting]\ntwo_labels = ["empty"]', "a label has one meaning"),
    ],
)
def test_values_that_contradict_each_other_are_refused(write, text, said):
    assert said in refusal(write(text))


@pytest.mark.parametrize(
    "text",
    [
        '[dashboard]\nlisten = "127.0.0.1:8080"',
        '[dashboard]\nlisten = "[::1]:8080"',
        '[dashboard]\nlisten = "localhost:80"',
        '[dashboard]\nlisten = "0.0.0.0:8080"\npassword_hash = "x"',
        '[gate]\nkind = "relay:17"\nmin_us = 1500',  # a relay has no stops
        '[gate]\nkind = "servo:12"\ndriver = "hardware"',
        '[trigger]\nkind = "interval:0.5"',
    ],
)
def test_what_fits_together_is_accepted(write, text):
    assert load(write(text))


def test_what_only_looks_wrong_does_not_stop_sorting(write):
    settings = load(write('[camera]\nexposure_us = 40000\n[outbox]\nbucket = "s3://b/p"\n[mqtt]\ntls = true'))
    findings = contradictions(settings)
    assert {finding.key for finding in findings} == {"camera.exposure_us", "outbox.bucket", "mqtt.port"}
    assert not any(finding.fatal for finding in findings)


def test_check_names_what_the_machine_lacks_and_ends_with_1(write, tmp_path):
    path = write('bundle = "none.okko"\n[camera]\nsource = "v4l2:/dev/video99"\n[sorting]\nthreads = 64')
    ran = invoke("check", path)
    assert ran.exit_code == 1
    assert f"error: line 1: bundle {tmp_path / 'none.okko'} is not a folder" in ran.output
    assert "warning: line 3: camera.source /dev/video99 is not there" in ran.output
    assert "warning: line 5: sorting.threads is 64" in ran.output
    told = json.loads(invoke("check", path, "--json").output)
    assert not told["ok"]
    assert [(finding["key"], finding["fatal"]) for finding in told["findings"]] == [
        ("bundle", True),
        ("camera.source", False),
        ("sorting.threads", False),
    ]


def test_check_of_a_good_file_ends_with_0(write):
    path = write('[gate]\nkind = "none"')
    ran = invoke("check", path)
    assert (ran.exit_code, ran.output) == (0, f"{path}: 1 of its keys set; it is fine\n")


def test_show_says_what_is_in_force_and_since_where_but_no_hash(write):
    path = write('[camera]\n# wide\nwidth = 320\n[dashboard]\npassword_hash = "secret\\n"')
    shown = invoke("show", "--config", path).output
    assert "width = 320  # line 3\n" in shown
    assert "height = 480  # default\n" in shown
    assert "secret" not in shown
    assert tomllib.loads(shown)["camera"]["width"] == 320
    assert "secret" not in invoke("show", "--config", path, "--json").output
    assert json.loads(invoke("show", "--config", path, "--json").output)["camera.width"] == 320


def test_what_show_prints_is_read_back_as_the_same_settings(write):
    path = write('[mqtt]\nusername = "a \\"b\\" \\\\ \\u0001 ü"\n[sorting]\nempty_labels = ["x", "y"]')
    loaded = read(path)
    assert load(write(effective(loaded), "again.toml")) == loaded.settings


def test_the_example_names_every_key_and_means_the_defaults_with_or_without_its_marks(write):
    text = example()
    assert invoke("example").output == text
    assert load(write(text)) == Settings()
    uncommented = re.sub(r"(?m)^#(?! )", "", text)
    given = {
        f"{section}.{key}"
        for section, table in tomllib.loads(uncommented).items()
        if isinstance(table, dict)
        for key in table
    }
    assert given | {"bundle"} == set(all_keys())
    assert load(write(uncommented)) == Settings()


def test_the_handbooks_tables_are_the_ones_that_the_code_makes():
    page = (ROOT / "docs" / "config.md").read_text()
    assert as_markdown() in page, (
        "bring it up to date: sed -i '/^### The whole file/,$d' docs/config.md; "
        "okko config example --markdown >> docs/config.md"
    )


@pytest.mark.parametrize("page", ["config.md", "raspberry-pi.md"])
def test_the_examples_of_the_handbook_are_read(write, page):
    examples = re.findall(r"```toml\n(.*?)```", (ROOT / "docs" / page).read_text(), re.DOTALL)
    assert examples
    for text in examples:
        assert load(write(text))
        assert read(write(text)).origins


def test_the_refusal_that_the_handbook_shows_is_the_one_that_is_given(write):
    text = '[camera]\nwidht = 640\nexposure_us = "4 ms"\n\n[gate]\nkind = "servo:18"\ndriver = "pigpio"\n'
    path = write(text)
    assert "Error: " + refusal(path).replace(str(path), path.name) in (ROOT / "docs" / "config.md").read_text()


def test_a_password_is_asked_twice_and_its_hash_goes_into_the_file(write):
    ran = invoke("password", input="marbles roll far\nmarbles roll far\n")
    assert ran.exit_code == 0
    line = ran.stdout.strip().splitlines()[-1]
    assert "marbles roll" not in line
    settings = load(write(f'[dashboard]\nlisten = "0.0.0.0:80"\n{line}\n'))
    assert settings.dashboard.password_hash


def test_reading_the_configuration_of_a_gate_leaves_it_typed(write):
    assert isinstance(load(write("[gate]\nok_us = 1900")).gate, GateSettings)
