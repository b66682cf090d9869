"""Runs a bundle in a process of its own, where it may crash, and measures it there.

A wheel that was compiled for another processor ends Python with an illegal instruction, and nothing inside that process
can report it; so the doctor and the bench start `python -m okko_edge.doctor.probe` and read how far it came.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from okko_models.errors import OkkoError

if TYPE_CHECKING:
    from collections.abc import Callable

# Loading may take long on a slow card; a probe that takes longer hangs.
_PATIENCE_S = 120
_WARM_UP_RUNS = 3
_MAX_RUNS = 2000
_STAGES = {
    "import": "while onnxruntime was being imported",
    "open": "while the bundle was being read",
    "load": "while the model was being loaded",
    "golden": "while the golden frames were being repeated",
    "measure": "while the speed was being measured",
}


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A bundle, run on this machine.

    Attributes:
        bundle: its name and version.
        precision: "float32" or "int8".
        model_mb: size of model.onnx, megabytes of 10^6 bytes.
        onnxruntime: version.
        threads: processor threads that one classification used.
        golden_frames: how many golden frames there are.
        golden_difference: largest difference in probability from what the trainer got.
        start_s: from the start of Python to the first verdict.
        runs: classifications that were measured.
        p50_ms: half of them took at most so long.
        p95_ms: 95 % of them did.
        p99_ms: 99 % of them did.
        frames_per_s: classifications in a second, one after the other.
        rss_mb: resident memory afterwards, megabytes of 10^6 bytes.
    """

    bundle: str
    precision: str
    model_mb: float
    onnxruntime: str
    threads: int
    golden_frames: int
    golden_difference: float
    start_s: float
    runs: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    frames_per_s: float
    rss_mb: float


@dataclass(frozen=True)
class Failed:
    """A bundle that does not run on this machine.

    Attributes:
        reason: what happened, for a person.
        crashed: whether the process died of it, instead of saying so itself.
    """

    reason: str
    crashed: bool


def run(
    bundle: Path, *, threads: int, seconds: float, python: str = sys.executable, patience_s: float = _PATIENCE_S
) -> Measured | Failed:
    """Loads, checks and measures `bundle` in a new process.

    Args:
        bundle: the folder.
        threads: for the model.
        seconds: how long to measure.
        python: the interpreter.
        patience_s: how long the process may take beside measuring.
    """
    command = [python, "-m", "okko_edge.doctor.probe", str(bundle), str(threads), str(seconds), str(time.monotonic())]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=patience_s + seconds, check=False
        )
    except subprocess.TimeoutExpired:
        return Failed(f"it gave no result within {patience_s + seconds:.0f} s", crashed=True)
    except OSError as error:
        return Failed(f"{python} cannot be started: {error.strerror}", crashed=True)
    return _read(done)


def _read(done: subprocess.CompletedProcess[str]) -> Measured | Failed:
    stage = ""
    for line in done.stdout.splitlines():
        if not line.startswith("{"):
            continue  # what a library printed
        said = json.loads(line)
        if "error" in said:
            return Failed(said["error"], crashed=False)
        if "measured" in said and done.returncode == 0:
            return Measured(**said["measured"])
        stage = said.get("stage", stage)
    where = _STAGES.get(stage, "before it began")
    if done.returncode < 0:
        return Failed(f"the process died of {_signal_name(-done.returncode)} {where}", crashed=True)
    last = done.stderr.strip().rpartition("\n")[2]
    return Failed(f"the process ended with {done.returncode} {where}: {last}", crashed=True)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def main(arguments: list[str]) -> int:
    """Does the work inside the new process: prints a line of JSON a stage, and the result or an error as the last."""
    bundle, threads, seconds, started_s = Path(arguments[0]), int(arguments[1]), *map(float, arguments[2:])
    try:
        _say(measured=asdict(_measure(bundle, threads, seconds, started_s)))
    except (OkkoError, ImportError) as error:
        _say(error=str(error))
        return 1
    return 0


def _say(**fields: object) -> None:
    print(json.dumps(fields), flush=True)


def _measure(path: Path, threads: int, seconds: float, started_s: float) -> Measured:
    _say(stage="import")
    import numpy as np
    import onnxruntime

    from okko_edge.board import memory_of_this_process_mb
    from okko_models.bundle import MODEL, Bundle
    from okko_models.classifier import Classifier
    from okko_models.photo import read_golden
    from okko_models.trust.model_check import check_bundle

    _say(stage="open")
    bundle = Bundle.open(path)
    check_bundle(bundle)
    golden = bundle.manifest.golden
    images = [read_golden(bundle.read(frame.file), name=frame.file) for frame in golden]
    images = images or [np.full((480, 640, 3), 128, np.uint8)]
    _say(stage="load")
    classifier = Classifier(bundle, threads=threads)
    classifier.classify(images[0])
    start_s = time.monotonic() - started_s
    _say(stage="golden")
    difference = classifier.self_test()
    _say(stage="measure")
    times_ms = _times_ms(lambda index: classifier.classify(images[index % len(images)]), seconds)
    p50, p95, p99 = np.percentile(times_ms, (50, 95, 99)).tolist()
    return Measured(
        bundle=f"{bundle.manifest.name} {bundle.manifest.version}",
        precision=bundle.manifest.model.precision,
        model_mb=bundle.manifest.files[MODEL].size / 1e6,
        onnxruntime=onnxruntime.__version__,
        threads=threads,
        golden_frames=len(golden),
        golden_difference=difference,
        start_s=start_s,
        runs=len(times_ms),
        p50_ms=p50,
        p95_ms=p95,
        p99_ms=p99,
        frames_per_s=1000 * len(times_ms) / sum(times_ms),
        rss_mb=memory_of_this_process_mb(),
    )


def _times_ms(classify: Callable[[int], object], seconds: float) -> list[float]:
    for index in range(_WARM_UP_RUNS):
        classify(index)
    times_ms: list[float] = []
    end_s = time.perf_counter() + seconds
    while len(times_ms) < _MAX_RUNS and (not times_ms or time.perf_counter() < end_s):
        start_s = time.perf_counter()
        classify(len(times_ms))
        times_ms.append((time.perf_counter() - start_s) * 1000)
    return times_ms


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
