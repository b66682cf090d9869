from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.edge.fakes import make_bundle, photo, save_photo

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from okko_models.bundle import Bundle


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("bundles") / "brightness.okko")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with three bright photos in OK/ and three dark ones in KO/."""
    folder = tmp_path / "photos"
    for index in range(3):
        save_photo(folder / "OK" / f"bright{index}.png", photo(200, seed=index))
        save_photo(folder / "KO" / f"dark{index}.png", photo(60, seed=10 + index))
    return folder


@pytest.fixture
def okko(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the okko command as a user does, with its state under tmp_path."""

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "okko.cli", *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={"XDG_STATE_HOME": str(tmp_path / "state"), "PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
        )

    return run
