from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from benchmarks.tables import replace_section
from tests.edge.fakes import make_bundle, photo, save_photo
from tests.faults.table import ROWS, as_markdown

DOCUMENT = Path(__file__).parents[2] / "docs" / "reliability.md"


@pytest.fixture(scope="session")
def bundle(tmp_path_factory):
    """Bright photos are OK, dark ones KO."""
    return make_bundle(tmp_path_factory.mktemp("bundles") / "brightness.okko")


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for index in range(4):
        save_photo(folder / "OK" / f"bright{index}.png", photo(200, seed=index))
        save_photo(folder / "KO" / f"dark{index}.png", photo(60, seed=10 + index))
    return folder


class Disk:
    """A folder that can be full or read-only: a small file system of its own where that is allowed (root).

    Attributes:
        real: whether it is one.
    """

    def __init__(self, folder: Path, size: str = "1m") -> None:
        folder.mkdir()
        self.folder = folder
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "okko-test", folder]
        try:
            self.real = subprocess.run(command, capture_output=True, check=False).returncode == 0
        except OSError:
            self.real = False

    def fill(self) -> None:
        with (self.folder / "filler").open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                return

    def empty(self) -> None:
        (self.folder / "filler").unlink()

    def set_writable(self, writable: bool) -> None:
        if self.real:
            subprocess.run(["mount", "-o", f"remount,{'rw' if writable else 'ro'}", self.folder], check=True)
        else:
            self.folder.chmod(0o755 if writable else 0o555)

    def close(self) -> None:
        if self.real:
            subprocess.run(["umount", "--lazy", self.folder], check=True)


@pytest.fixture
def disk(tmp_path):
    disk = Disk(tmp_path / "disk")
    yield disk
    disk.close()


def pytest_terminal_summary(terminalreporter):
    """Shows the table; with $OKKO_FAULT_TABLE set, it also goes into docs/reliability.md."""
    if not ROWS:
        return
    table = as_markdown(ROWS)
    terminalreporter.write_line("")
    terminalreporter.write_line(table)
    if os.environ.get("OKKO_FAULT_TABLE"):
        replace_section(DOCUMENT, "faults", table)
