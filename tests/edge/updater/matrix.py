"""The kill matrix of the updater: `python -m tests.edge.updater.matrix`.

Each life (`lives`) is lived in a process of its own that is ended by SIGKILL before and after every point at which it
changes the disk (`points`), and in the middle of every write; and again with the disk failing there: full or broken
once, full or read-only from there on. After each, in another process: the agent starts, a model that verifies loads and
repeats its golden frames, and the same life, lived again, comes to its goal.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import errno
import gc
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

import click
import msgspec
import securesystemslib.signer  # noqa: F401 (here, so that not every process imports it)
import tuf.api.metadata
import tuf.ngclient  # noqa: F401
from PIL import Image

from okko_edge.updater.shelf import Shelf
from okko_models.bundle import write_bundle
from okko_models.classifier import Classifier
from okko_models.errors import OkkoError
from tests.conftest import manifest, png, redness_model
from tests.edge.updater.lives import LIVES, Device, Life, Past, make_past
from tests.edge.updater.points import AFTER, BEFORE, POWER, POWER_NAMES, STEP, TORN, Plan, Points
from tests.edge.updater.updater_fakes import OKKO

LONGEST_S = 60.0
PAGE = Path(__file__).parents[3] / "docs" / "reliability.md"
WAYS = {
    "killed before": {"kill": BEFORE},
    "killed in the middle": {"kill": TORN},
    "killed after": {"kill": AFTER},
    "power lost": {"kill": POWER},
    "power lost, names too": {"kill": POWER_NAMES},
    "ENOSPC once": {"error": errno.ENOSPC},
    "ENOSPC from there on": {"error": errno.ENOSPC, "stays": True},
    "EIO once": {"error": errno.EIO},
    "EROFS from there on": {"error": errno.EROFS, "stays": True},
}


class Matrix:
    """Runs lives.

    Args:
        folder: for all that is written; best on a disk in memory.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.done: Counter[str] = Counter()
        self.failures: list[str] = []
        Image.init()
        gc.freeze()  # so that collecting garbage does not copy all memory into every process
        answer = self._apart(lambda: msgspec.json.encode(_to_builtins(make_past(folder / "past", self._bundle))))
        self.past = _from_builtins(msgspec.json.decode(answer))

    def points_of(self, life: Life) -> list[str]:
        """Lives a life to its end and returns the points that it went through."""
        device = self._device(life)

        def live():
            with Points(device) as points:
                self._live(life, device, points)
            assert not points.missed, points.missed
            assert life.goal(Shelf(device, okko=OKKO), self.past.digests), "the life does not come to its goal"
            return msgspec.json.encode(points.seen)

        return msgspec.json.decode(self._apart(live), type=list[str])

    def run(self, life: Life, way: str, number: int, what: str) -> None:
        """Ends or fails a life at one point, and looks what came of it."""
        device = self._device(life)
        plan = Plan(number, **WAYS[way])
        try:
            if plan.kill:
                self._killed(lambda: self._planned(life, device, plan))
            else:
                self._apart(lambda: self._planned(life, device, plan))
            self._apart(lambda: self._after(life, device))
        except AssertionError as error:
            self.failures.append(f"{life.name}, {way} point {number} ({what}): {error}")
            print(self.failures[-1], file=sys.stderr, flush=True)
        self.done[way] += 1
        shutil.rmtree(device)

    def _live(self, life: Life, device: Path, points: Points) -> None:
        life.live(Device(device, self.past, points.step))

    def _planned(self, life: Life, device: Path, plan: Plan) -> bytes:
        with Points(device, plan) as points:
            try:
                self._live(life, device, points)
            except (OkkoError, OSError):
                # Commands tell a person that the disk does not take it; the agent is told of nothing.
                assert life.name in {"first update ever", "update, pin, go back by hand"}, traceback.format_exc()
        assert not points.missed, points.missed
        return b""

    def _after(self, life: Life, device: Path) -> bytes:
        allowed = {self.past.digests.get(name, "") for name in life.may_sort}
        for _ in range(2):  # what was found once is found again
            shelf = Shelf(device, okko=OKKO)
            assert shelf.started() or not device.exists()
            bundle = shelf.bundle_in_service()
            assert (bundle.digest if bundle else "") in allowed, f"{bundle} sorts"
            if bundle is not None:
                Classifier(bundle).self_test()
            shelf.ended_well()
        life.live(Device(device, self.past, lambda _: None))
        assert life.goal(Shelf(device, okko=OKKO), self.past.digests), (
            f"trying again came to {Shelf(device, okko=OKKO).state}, current {Shelf(device).current[:12]}, "
            f"{sorted(path.name for path in device.rglob('.new-*'))}"
        )
        return b""

    def _device(self, life: Life) -> Path:
        device = self.folder / "device"
        prepared = self.folder / f"prepared-{life.name}"
        if not prepared.exists():
            shutil.copytree(self.past.device, prepared, symlinks=True)
            self._apart(lambda: life.prepare(Device(prepared, self.past, lambda _: None)) or b"")
            prepared.mkdir(exist_ok=True)
        shutil.rmtree(device, ignore_errors=True)
        return Path(shutil.copytree(prepared, device, symlinks=True))

    def _bundle(self, name: str) -> Path:
        model = redness_model()
        golden = {"golden/00.png": png((250, 10, 10)), "golden/01.png": png((10, 10, 250))}
        write_bundle(self.folder / name, manifest(model, golden), {"model.onnx": model, **golden})
        return self.folder / name

    def _apart(self, act) -> bytes:
        """Has something done in a process of its own that ends well, and returns what that says."""
        status, said = _in_child(act)
        assert status == 0, said.decode(errors="replace") or f"the process ended with {status}"
        return said

    def _killed(self, act) -> None:
        status, said = _in_child(act)
        assert os.WIFSIGNALED(status), f"it was not killed: {status} {said.decode(errors='replace')}"
        assert os.WTERMSIG(status) == signal.SIGKILL


def _in_child(act) -> tuple[int, bytes]:
    """Forks; the child writes what it says into a file that is read when it has ended."""
    with tempfile.TemporaryFile() as said:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                os.write(said.fileno(), act())
                code = 0
            except BaseException:
                os.write(said.fileno(), traceback.format_exc().encode())
            finally:
                os._exit(code)
        end = time.monotonic() + LONGEST_S
        while True:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                said.seek(0)
                return status, said.read()
            if time.monotonic() > end:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                return -1, b"it did not end"
            time.sleep(0.001)


def _to_builtins(past: Past) -> dict[str, object]:
    return {"registry": str(past.registry), "root": past.root.decode(), "device": str(past.device), "d": past.digests}


def _from_builtins(said) -> Past:
    return Past(Path(said["registry"]), said["root"].encode(), Path(said["device"]), said["d"])


@click.command()
@click.option("--every", type=click.IntRange(1), default=1, help="Only every so many runs.")
@click.option("--life", "only", default="", help="Only lives whose name begins so.")
@click.option("--write", is_flag=True, help="Put the table into docs/reliability.md.")
def main(every: int, only: str, write: bool) -> None:
    """Runs the matrix, prints its table, and ends with 1 if something broke."""
    start = time.monotonic()
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    table: list[str] = []

    def add(*cells: object) -> None:
        table.append(f"| {' | '.join(map(str, cells))} |")
        print(table[-1], flush=True)

    with tempfile.TemporaryDirectory(dir=memory, prefix="okko-matrix-") as folder:
        matrix = Matrix(Path(folder))
        add("life", "points", *WAYS)
        add("---", *["---:"] * (1 + len(WAYS)))
        total, turn = 0, 0
        for life in LIVES:
            if not life.name.startswith(only):
                continue
            points = matrix.points_of(life)
            total += len(points)
            before = matrix.done.copy()
            for number, what in enumerate(points):
                for way, given in WAYS.items():
                    if given.get("kill") == TORN and not what.startswith("write "):
                        continue
                    if "error" in given and what.startswith(STEP):
                        continue
                    turn += 1
                    if turn % every == 0:
                        matrix.run(life, way, number, what)
            add(life.name, len(points), *(matrix.done[way] - before[way] for way in WAYS))
        add("**all**", total, *(matrix.done[way] for way in WAYS))
    runs = sum(matrix.done.values())
    said = f"{total} points, {runs} runs, {len(matrix.failures)} failures"
    print(f"\n{said}, {time.monotonic() - start:.0f} s")
    if write:
        begin, end = "<!-- updates:begin -->\n", "<!-- updates:end -->"
        head, rest = PAGE.read_text().split(begin)
        PAGE.write_text("".join([head, begin, "\n".join([*table, "", f"{said}."]), "\n", end, rest.split(end)[1]]))
    sys.exit(bool(matrix.failures))


if __name__ == "__main__":
    main()
