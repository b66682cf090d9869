"""What the handbook and the docstrings show is what happens."""

import doctest
import re
import warnings
from pathlib import Path

import pytest

import okko_train.costs
import okko_train.estimators
import okko_train.network.model

PAGE = Path(__file__).parents[2] / "docs" / "network.md"


def test_every_block_of_the_page_runs() -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(blocks) >= 8
    shared: dict[str, object] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for block in blocks:
            exec(compile(block, str(PAGE), "exec"), shared)


@pytest.mark.parametrize("module", [okko_train.network.model, okko_train.costs, okko_train.estimators])
def test_the_examples_in_the_docstrings_are_true(module: object) -> None:
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0
