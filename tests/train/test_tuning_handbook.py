"""What the page on tuning and the docstrings show is what happens."""

import doctest
import re
import warnings
from pathlib import Path

import pytest

import okko_train.auto_estimators
import okko_train.swarm_sampler

PAGE = Path(__file__).parents[2] / "docs" / "tuning.md"


def test_every_block_of_the_page_runs() -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(blocks) == 3
    shared: dict[str, object] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna calls its heartbeat experimental
        for block in blocks:
            exec(compile(block, str(PAGE), "exec"), shared)


@pytest.mark.parametrize("module", [okko_train.swarm_sampler, okko_train.auto_estimators])
def test_the_examples_in_the_docstrings_are_true(module: object) -> None:
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0
