"""What the device's side of okko takes: megabytes on the disk and in memory, seconds to start, milliseconds a marble.

    python -m benchmarks.edge BUNDLE PHOTOS [--only install,start,memory,path] [--marbles 10000] [--write]

Everything is measured in a fresh virtual environment that holds what `pip install "okko[edge]"` brings at the versions
of requirements.lock, and in processes of their own. --write puts the tables into docs/reliability.md.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from importlib.metadata import distributions
from pathlib import Path

import numpy as np

from benchmarks.tables import replace_section
from tests.device.packages import install_wheels, requirements

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs" / "reliability.md"
PROBE = Path(__file__).with_name("edge_probe.py")
INSTALL_MB, START_S, MEMORY_MB, PATH_MS, GROWTH_MB = 140, 2.5, 130, 3, 2
_STARTS = 10
# Ahead of whatever else the machine does: what is left in wall time is okko's own.
_REAL_TIME = ("chrt", "-f", "10")
_WATCH_S = 20.0
# Those that come with every virtual environment, or that a package asks for in vain.
_NOT_OURS = {"pip", "setuptools"}


def make_environment(folder: Path) -> Path:
    """Makes a virtual environment with the base and edge install of this checkout; returns its python."""
    python = folder / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    _, pins = requirements(platform.python_version().rpartition(".")[0], "edge")
    (folder / "pins.txt").write_text("\n".join(pins) + "\n")
    _pip(sys.executable, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, ROOT)
    (wheel,) = folder.glob("okko-*.whl")
    _pip(python, "install", "--prefer-binary", "--constraint", folder / "pins.txt", f"{wheel}[edge]")
    return python


def _pip(python: Path | str, *arguments: object) -> None:
    command = [str(part) for part in (python, "-m", "pip", "-q", "--disable-pip-version-check", *arguments)]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)


def sizes(site: Path) -> dict[str, tuple[float, float]]:
    """Returns the megabytes of each package in a folder, with and without what Python compiled of it."""
    found = {}
    for distribution in distributions(path=[str(site)]):
        plain = compiled = 0
        for file in distribution.files or ():
            path = Path(distribution.locate_file(file))
            if path.is_file():
                size = path.stat().st_size
                compiled += size * (path.suffix == ".pyc")
                plain += size * (path.suffix != ".pyc")
        found[f"{distribution.metadata['Name']} {distribution.version}"] = (plain / 1e6, compiled / 1e6)
    return {name: size for name, size in found.items() if name.split()[0] not in _NOT_OURS}


def measure_install(python: Path, folder: Path) -> str:
    """Returns the table of packages, for this machine and for the Pi's."""
    (site,) = (python.parents[1] / "lib").glob("python*/site-packages")
    here = sizes(site)
    version = platform.python_version().rpartition(".")[0]
    there = sizes(install_wheels(folder / "aarch64", version, *requirements(version, "edge")))
    okko = next(name for name in here if name.startswith("okko "))
    there[okko] = here[okko]  # pure Python
    lines = [f"| package | {platform.machine()}, MB | compiled by pip | aarch64, MB |", "|---|---:|---:|---:|"]
    for name in sorted(here, key=lambda name: -here[name][0]):
        plain, compiled = here[name]
        lines.append(f"| {name} | {plain:.1f} | {compiled:.1f} | {there.get(name, (float('nan'),))[0]:.1f} |")
    totals = [sum(plain for plain, _ in table.values()) for table in (here, there)]
    compiled = sum(size for _, size in here.values())
    lines.append(f"| **all** (goal {INSTALL_MB}) | **{totals[0]:.1f}** | {compiled:.1f} | **{totals[1]:.1f}** |")
    return "\n".join(lines)


def probe(python: Path, folder: Path, *arguments: object, before: tuple[str, ...] = ()) -> tuple[dict, dict]:
    """Runs `okko run` with a stopwatch, after the words `before`; returns its report and the stopwatch's."""
    result = folder / "probe.json"
    command = [*before, python, PROBE, result, "run", *arguments, "--journal", folder / "probe.sqlite", "--json"]
    ran = subprocess.run(
        [str(part) for part in command], check=True, capture_output=True, text=True, env=_environment()
    )
    for file in folder.glob("probe.sqlite*"):
        file.unlink()
    return json.loads(ran.stdout), json.loads(result.read_text())


def _environment() -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "HOME": tempfile.gettempdir(), "LC_ALL": "C.UTF-8"}


def measure_start(python: Path, folder: Path, bundle: Path, photos: Path) -> str:
    """Returns the line about how long it takes from the first import to the first verdict."""
    told = [
        probe(python, folder, bundle, "--camera", f"folder:{photos}", "--count", 1, "--pace", "fast")[1]["first_s"]
        for _ in range(_STARTS)
    ]
    return (
        f"From the first import to the first verdict (`okko run`, {_STARTS} starts): median "
        f"{statistics.median(told):.2f} s, longest {max(told):.2f} s; goal {START_S:g} s."
    )


def measure_memory(python: Path, folder: Path, bundle: Path, photos: Path) -> str:
    """Returns the table of resident memory while it runs."""
    lines = [
        "| `okko run`, 2 marbles/s | resident after 20 s, MB | of that its own | most ever |",
        "|---|---:|---:|---:|",
    ]
    for name, watched, outbox in (
        ("journal and gate", False, False),
        ("and the dashboard, which nobody looks at", None, False),
        ("and looked at by two browsers", True, False),
        ("and the outbox", True, True),
    ):
        resident, own, most = _memory(python, folder, bundle, photos, watched=watched, outbox=outbox)
        lines.append(f"| {name} | {resident:.1f} | {own:.1f} | {most:.1f} |")
    return "\n".join([*lines, "", f"Goal: {MEMORY_MB} MB."])


def _memory(
    python: Path, folder: Path, bundle: Path, photos: Path, *, watched: bool | None, outbox: bool
) -> tuple[float, float, float]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    config = folder / "memory.toml"
    config.write_text(f'[outbox]\nenabled = {str(outbox).lower()}\nfolder = "{folder}/outbox"\nrandom_share = 0.2\n')
    command = [python, "-m", "okko.cli", "run", bundle, "--config", config, "--camera", f"sim:{photos}"]
    command += ["--count", 1000, "--journal", folder / "memory.sqlite"]
    command += [] if watched is False else ["--dashboard", address]
    with subprocess.Popen(
        [str(part) for part in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=_environment()
    ) as process:
        end_s = time.monotonic() + _WATCH_S
        while time.monotonic() < end_s:
            for page in ("/", "/state", "/live.jpg", "/metrics", "/state") if watched else ():
                with contextlib.suppress(OSError):
                    urllib.request.urlopen(f"http://{address}{page}", timeout=3).read()
            time.sleep(0.5)
        status = Path(f"/proc/{process.pid}/status").read_text()
        process.terminate()
    kb = dict(line.split(":", 1) for line in status.splitlines())
    resident, own, most = (int(kb[key].split()[0]) / 1000 for key in ("VmRSS", "RssAnon", "VmHWM"))
    return resident, own, most


def measure_path(python: Path, folder: Path, bundle: Path, photos: Path, marbles: int) -> str:
    """Returns the table of what a marble costs beside the inference."""
    camera = ("--camera", f"sim:{photos}", "--pace", "fast", "--count", marbles, "--belt-speed", 4)
    runs = {"usual priority": probe(python, folder, bundle, *camera)}
    load = os.getloadavg()[1]
    if subprocess.run([*_REAL_TIME, "true"], capture_output=True, check=False).returncode == 0:
        runs["before all other programs"] = probe(python, folder, bundle, *camera, before=_REAL_TIME)
    lines = ["| all but the inference, ms | p50 | p95 | p99 | p99.9 | most |", "|---|---:|---:|---:|---:|---:|"]
    for priority, (_, watch) in runs.items():
        for name, times in (("wall time", watch["wall_ms"]), ("the thread's processor time", watch["cpu_ms"])):
            values = np.percentile(times, (50, 95, 99, 99.9, 100))
            lines.append(f"| {priority}, {name} | " + " | ".join(f"{value:.2f}" for value in values) + " |")
    said = []
    for priority, (report, watch) in runs.items():
        late = {name: report["events"][name] for name in ("deadlines_missed", "gate_late", "journal_lost")}
        memory = dict(watch["memory"])
        growth = (memory[max(memory)] - memory[1000]) / 1000
        said.append(
            f"{priority.capitalize()}: {report['marbles']:,} verdicts, {report['journal']['written']:,} rows in the "
            f"journal, {report['errors']} errors; {', '.join(f'{name} {count}' for name, count in late.items())}; "
            f"{report['marbles_per_s']:g} marbles/s, inference p50 {report['inference_ms']['p50']:.1f} ms. Resident at "
            f"marble 1,000: {memory[1000] / 1000:.1f} MB, at {max(memory):,}: {memory[max(memory)] / 1000:.1f} MB, "
            f"{growth:+.1f} MB."
        )
    return "\n".join(
        [
            f"{marbles:,} simulated marbles as fast as the machine can; load of the machine by then {load:.1f} on "
            f"{os.cpu_count()} processors. Goals: p99 {PATH_MS} ms, memory {GROWTH_MB} MB.",
            "",
            *lines,
            "",
            "\n\n".join(said),
        ]
    )


def main(arguments: list[str]) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.edge", description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--only", default="install,start,memory,path")
    parser.add_argument("--marbles", type=int, default=10_000)
    parser.add_argument("--write", action="store_true", help="put the tables into docs/reliability.md")
    asked = parser.parse_args(arguments)
    bundle, photos = asked.bundle.resolve(), asked.photos.resolve()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        python = make_environment(folder)
        measures = {
            "install": lambda: measure_install(python, folder),
            "start": lambda: measure_start(python, folder, bundle, photos),
            "memory": lambda: measure_memory(python, folder, bundle, photos),
            "path": lambda: measure_path(python, folder, bundle, photos, asked.marbles),
        }
        for name in asked.only.split(","):
            text = measures[name]()
            print(text, end="\n\n", flush=True)
            if asked.write:
                replace_section(DOCUMENT, name, text)


if __name__ == "__main__":
    main(sys.argv[1:])
