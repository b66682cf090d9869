"""The front door, opened the way a shell opens it."""

import os
import subprocess
import sys

import pytest

COMMANDS = [
    "train",
    "evaluate",
    "data",
    "explain",
    "tune",
    "predict",
    "run",
    "calibrate",
    "journal",
    "replay",
    "outbox",
    "config",
    "doctor",
    "bench",
    "registry",
    "completion",
]


def okko(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "okko.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        check=False,
    )


def test_help_names_every_command_and_imports_nothing_heavy():
    program = (
        "import sys; sys.argv = ['okko', '--help']\n"
        "from okko.cli import main\n"
        "try: main()\n"
        "except SystemExit as stop: code = stop.code\n"
        "heavy = {'numpy', 'onnxruntime', 'onnx', 'PIL', 'rich', 'matplotlib', 'sklearn'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all(f"  {command} " in done.stdout for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_with_an_example_and_without_heavy_imports(command):
    program = (
        f"import sys; sys.argv = ['okko', '{command}', '--help']\n"
        "from okko.cli import main\n"
        "try: main()\n"
        "except SystemExit as stop: code = stop.code\n"
        "assert not {'numpy', 'onnxruntime'} & set(sys.modules)\n"
        "sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"okko {command}" in done.stdout.replace(f"Usage: okko {command}", "")


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["train"],
        ["train", "photos"],
        ["train", "photos", "--out", "x", "--workers", "0"],
        ["train", "photos", "--out", "x", "--budget", "-1"],
        ["train", "photos", "--out", "x", "--cost-false-ok", "0", "--cost-false-ko", "0"],
        ["run", "bundle", "--no-such-option"],
        ["completion", "powershell"],
    ],
)
def test_bad_usage_exits_with_2_and_says_what_is_wrong(arguments):
    done = okko(*arguments)
    assert done.returncode == 2
    assert "Error:" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "/nowhere/photos", "--out", "x"],
        ["evaluate", "/nowhere/bundle", "/nowhere/photos"],
        ["predict", "/nowhere/bundle", "photo.jpg"],
        ["run", "/nowhere/bundle", "--camera", "sim:/nowhere/photos"],
        ["data", "check", "/nowhere/photos"],
    ],
)
def test_a_job_that_fails_exits_with_1_and_names_what_it_did_not_find(arguments, tmp_path):
    done = okko(*arguments)
    assert done.returncode == 1, done.stderr
    assert "/nowhere/" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_missing_extra_is_named(tmp_path):
    (tmp_path / "onnx.py").write_text("raise ModuleNotFoundError(\"No module named 'onnx'\", name='onnx')")
    (tmp_path / "photos").mkdir()
    done = okko("train", tmp_path / "photos", "--out", tmp_path / "b", PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert 'okko train needs: pip install "okko[train]"' in done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_the_commands(shell):
    script = okko("completion", shell)
    assert script.returncode == 0
    assert "_OKKO_COMPLETE" in script.stdout
    words = {"COMP_WORDS": "okko ", "COMP_CWORD": "" if shell == "fish" else "1"}
    offered = okko(_OKKO_COMPLETE=f"{shell}_complete", **words)
    assert all(command in offered.stdout for command in COMMANDS)


def test_the_version_is_the_installed_one():
    from importlib.metadata import version

    assert okko("--version").stdout == f"okko {version('okko')}\n"
