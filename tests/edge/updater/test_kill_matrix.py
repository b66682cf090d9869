"""A sample of the kill matrix; all of it is `python -m tests.edge.updater.matrix`, and is in docs/reliability.md."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.edge.updater.points import Plan, Points

ROOT = Path(__file__).parents[3]


def test_wherever_an_update_is_interrupted_a_model_sorts_and_trying_again_succeeds():
    done = subprocess.run(
        [sys.executable, "-m", "tests.edge.updater.matrix", "--every", "97"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    points, runs, failures = map(int, re.search(r"(\d+) points, (\d+) runs, (\d+) failures", done.stdout).groups())
    assert points > 800
    assert runs > 60
    assert failures == 0


def test_what_writes_to_the_folder_is_seen_and_what_writes_elsewhere_is_not(tmp_path):
    inside, outside = tmp_path / "in", tmp_path / "out"
    inside.mkdir()
    outside.mkdir()
    with Points(inside) as points:
        for folder in (inside, outside):
            with (folder / "a").open("wb") as file:
                file.write(b"x")
            (folder / "a").rename(folder / "b")
            (folder / "c").symlink_to("b")
            (folder / "b").unlink()
            (folder / "d").mkdir()
            (folder / "d").rmdir()
        (inside / "c").readlink()
    assert points.seen == ["open a", "write a", "rename b", "symlink c", "unlink b", "mkdir d", "rmdir d"]
    assert points.missed == []


def test_a_way_of_writing_that_is_not_watched_is_noticed(tmp_path):
    truncate = os.truncate
    (tmp_path / "a").write_bytes(b"xyz")
    with Points(tmp_path) as points:
        truncate(tmp_path / "a", 1)
    assert len(points.missed) == 1


def test_a_disk_that_fails_once_fails_once_and_one_that_is_full_stays_full(tmp_path):
    def made(stays):
        with Points(tmp_path, Plan(1, error=28, stays=stays)):
            for number in range(3):
                with contextlib.suppress(OSError):
                    (tmp_path / f"{stays}{number}").mkdir()
        return sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(str(stays)))

    assert made(False) == ["False0", "False2"]
    assert made(True) == ["True0"]


@pytest.mark.parametrize(("kill", "left"), [("before", b""), ("torn", b"12"), ("after", b"1234")])
def test_a_process_is_really_gone_after_the_point_where_it_was_ended(tmp_path, kill, left):
    program = (
        "import sys; from pathlib import Path; from tests.edge.updater.points import Plan, Points\n"
        "folder = Path(sys.argv[1])\n"
        f"with Points(folder, Plan(1, kill={kill!r})):\n"
        "    (folder / 'a').open('wb').write(b'1234')\n"
        "    (folder / 'b').mkdir()\n"
    )
    done = subprocess.run([sys.executable, "-c", program, tmp_path], cwd=ROOT, timeout=60, check=False)
    assert done.returncode == -9
    assert (tmp_path / "a").read_bytes() == left
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("kill", "left"),
    [
        ("power", {"not": b"", "renamed": b"2", "made": None}),
        ("power and names", {"flushed": b"1", "new": b"2", "renamed": b"0"}),
    ],
)
def test_with_the_power_goes_what_was_not_flushed(tmp_path, kill, left):
    program = """
import os, sys
from pathlib import Path
from tests.edge.updater.points import Plan, Points
from okko_models.registry.files import sync_folder
folder = Path(sys.argv[1])
with Points(folder, Plan(int(sys.argv[2]), kill=sys.argv[3])):
    (folder / "renamed").write_bytes(b"0")
    for name in ("flushed", "new"):
        with (folder / name).open("wb") as file:
            file.write(b"1" if name == "flushed" else b"2")
            os.fsync(file.fileno())
    with (folder / "renamed").open("ab") as file:
        os.fsync(file.fileno())
    sync_folder(folder)
    (folder / "not").write_bytes(b"3")
    (folder / "new").rename(folder / "renamed")
    (folder / "made").mkdir()
    (folder / "flushed").unlink()
    (folder / "end").mkdir()
"""
    points = 16
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path, str(points), kill], cwd=ROOT, timeout=60, check=False
    )
    assert done.returncode == -9
    found = {path.name: path.read_bytes() if path.is_file() else None for path in tmp_path.iterdir()}
    assert found == left
