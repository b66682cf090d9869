"""The one-way imports are contracts in pyproject.toml; here they are run."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_imports_run_one_way():
    program = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 kept, 0 broken" in done.stdout


def test_the_edge_runs_without_training_code_or_its_dependencies():
    program = (
        "import sys, pkgutil, importlib, okko_edge, okko_models\n"
        "for package in (okko_edge, okko_models):\n"
        "    for module in pkgutil.walk_packages(package.__path__, package.__name__ + '.'):\n"
        "        importlib.import_module(module.name)\n"
        "heavy = {'onnx', 'rich', 'matplotlib', 'sklearn', 'optuna', 'okko_train', 'boto3'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_what_the_documents_say_to_install_can_be_installed():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    code = (path for folder in ("okko", "train", "models", "edge", "infra") for path in (ROOT / folder).rglob("*.py"))
    named = {
        name
        for path in (ROOT / "README.md", *ROOT.glob("docs/*.md"), *code)
        for names in re.findall(r"(?:\bokko|\"\.)\[([a-z,-]+)\]", path.read_text())
        for name in names.split(",")
    }
    assert named >= {"train", "edge", "finetune"}
    assert named <= set(extras)
