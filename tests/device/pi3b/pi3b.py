"""Boots an emulated Raspberry Pi 3B with okko on it, and another board for the beam sensor; prints what was measured.

Time inside is counted in instructions, a thousand million a second (about what a Cortex-A53 at 1.2 GHz does), so what
is measured does not depend on how busy this machine is. It is no measurement of a real Pi's jitter.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from machine import Machine, Pieces
from packages import CACHE
from train_both import PHOTOS, trained

HERE = Path(__file__).resolve().parent
GUEST = HERE / "guest"
REVISION = "a02082"  # Pi 3 Model B 1.2; the firmware of a real one writes it, and gpiozero reads it
# One instruction lasts 2^0 ns, and time in which nothing happens is left out.
TIME = ["-icount", "shift=0,sleep=off"]
KERNEL = "rdinit=/init panic=1 loglevel=3"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", nargs="?", type=Path, help="what the Pi sorts with; without, one is trained")
    parser.add_argument(
        "--long", action="store_true", help="let okko doctor measure the model's latency too, 7 minutes"
    )
    parser.add_argument("--log", type=Path, default=CACHE / "logs", help="folder for what the machines say")
    arguments = parser.parse_args()
    started = time.monotonic()
    bundle = arguments.bundle or trained("float32")
    pieces = Pieces.fetch()
    arguments.log.mkdir(parents=True, exist_ok=True)
    print(f"prepared in {time.monotonic() - started:.0f} s")
    with tempfile.TemporaryDirectory(prefix="okko-pi3b-") as folder:
        ok = [
            _pi(pieces, bundle, Path(folder), arguments.log, long=arguments.long),
            _beam(pieces, Path(folder), arguments.log),
        ]
    print(f"all of it: {time.monotonic() - started:.0f} s; the machines' own words are in {arguments.log}")
    if not all(ok):
        raise SystemExit("not every line is ok")


def _pi(pieces: Pieces, bundle: Path, folder: Path, logs: Path, *, long: bool) -> bool:
    disk, tree = folder / "disk.cpio", folder / "pi.dtb"
    photos = {f"photos/{path.parent.name}-{path.name}": path for path in _photos()}
    modules = ["pwm-bcm2835", "bcm2835_wdt", "bcm2835_thermal", "vivid"]
    files = {"init": GUEST / "init.py", "guest": GUEST, "bundle": bundle, **photos}
    pieces.write_disk(disk, modules, files)
    shutil.copy(pieces.device_tree("bcm2837-rpi-3-b"), tree)
    _write_revision(pieces, tree)
    arguments = [
        *("-M", "raspi3b", "-m", "1G", "-kernel", pieces.image, "-dtb", tree, "-initrd", disk, *TIME),
        *(
            "-append",
            f"console=ttyS1,115200 {KERNEL} -- /guest/pi.py{' long' * long}",
            "-serial",
            "null",
            "-serial",
            "stdio",
        ),
    ]
    return _run("emulated Raspberry Pi 3B", Machine(pieces, arguments, logs / "pi3b.log", limit_s=900))


def _beam(pieces: Pieces, folder: Path, logs: Path) -> bool:
    disk, tree = folder / "disk.cpio", folder / "virt.dtb"
    board = ["-M", "virt,acpi=off", "-cpu", "cortex-a53", "-m", "1G", "-nic", "none"]
    dump = [*board[:1], f"{board[1]},dumpdtb={tree}", *board[2:]]
    subprocess.run([*pieces.tool("qemu-system-aarch64"), *pieces.firmware, *dump, "-display", "none"], check=True)
    # The board has a power key on one line of its chip; the revision makes gpiozero take it for a Pi.
    subprocess.run([*pieces.tool("fdtput"), "-r", tree, "/gpio-keys"], check=True)
    _write_revision(pieces, tree)
    pieces.write_disk(disk, [], {"init": GUEST / "init.py", "guest": GUEST})
    arguments = [
        *(*board, "-kernel", pieces.image, "-dtb", tree, "-initrd", disk, *TIME),
        *("-append", f"console=ttyAMA0 {KERNEL} -- /guest/beam.py", "-serial", "stdio"),
    ]
    return _run("emulated ARM board with a PL061", Machine(pieces, arguments, logs / "beam.log", limit_s=300))


def _photos() -> list[Path]:
    return [path for label in ("KO", "OK") for path in sorted((PHOTOS / label).glob("*.jpg"))[:2]]


def _write_revision(pieces: Pieces, tree: Path) -> None:
    subprocess.run([*pieces.tool("fdtput"), "-c", tree, "/system"], check=True)
    subprocess.run([*pieces.tool("fdtput"), "-t", "x", tree, "/system", "linux,revision", REVISION], check=True)


def _run(name: str, machine: Machine) -> bool:
    started = time.monotonic()
    print(f"\n{name}")
    rows = []
    with machine:
        for said in machine.says():
            rows.append(said)
            verdict = "ok" if said["ok"] else "NOT OK"
            print(f"  {said['part']:<22}  {said['asked']:<32}  {verdict:<6}  {said['found']}", flush=True)
    print(f"{len(rows)} lines, {sum(not row['ok'] for row in rows)} not ok, {time.monotonic() - started:.0f} s")
    return bool(rows) and all(row["ok"] for row in rows) and machine.finished


if __name__ == "__main__":
    main()
