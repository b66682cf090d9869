"""Looks at models: does each load, repeat its golden frames, and answer in time here; and with how many threads.

Every look happens in a process of its own (`okko_edge.doctor.probe`), which may crash without taking the doctor along.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from okko_edge.doctor import probe
from okko_edge.doctor.findings import fail, ok, warn
from okko_edge.doctor.probe import Failed, Measured

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from okko_edge.doctor.findings import Line
    from okko_edge.settings import Settings

    Run = Callable[..., Measured | Failed]

# More threads must be worth it: what one of them saves in time, another part of okko misses on its processor.
_WORTH_A_THREAD = 0.9


def look(bundles: Sequence[Path], settings: Settings, *, processors: int, run: Run = probe.run) -> Iterator[Line]:
    """Looks at each bundle, and then compares them and the numbers of threads.

    Args:
        bundles: folders; the first is the one to sort with.
        settings: say how many threads to use and how long a marble may wait.
        processors: how many there are.
        run: measures a bundle, as `probe.run`.
    """
    measured: dict[Path, Measured] = {}
    for bundle in bundles:
        result = run(bundle, threads=min(settings.sorting.threads, processors), seconds=2.0)
        if isinstance(result, Failed):
            yield fail("model", f"{bundle}: {result.reason}", _remedy(result))
            continue
        measured[bundle] = result
        yield from _judge(bundle, result, settings)
    if len(measured) > 1:
        yield _compare(measured)
    if measured:
        first, at_one = next(iter(measured.items()))
        yield from _threads(first, at_one, settings, processors, run)


def _judge(bundle: Path, result: Measured, settings: Settings) -> Iterator[Line]:
    if result.golden_frames:
        yield ok(
            "model",
            f"{bundle}: {result.golden_frames} golden frames repeated, probabilities within "
            f"{result.golden_difference:.1g}; first verdict {result.start_s:.1f} s after the start",
        )
    else:
        yield warn(
            "model",
            f"{bundle}: it brings no golden frames, so nothing shows that it computes the same here",
            "train it again with this okko",
        )
    said = (
        f"{result.precision}, {result.threads} thread{'s' * (result.threads > 1)}: p50 {result.p50_ms:.1f} ms, "
        f"p95 {result.p95_ms:.1f} ms, p99 {result.p99_ms:.1f} ms; {result.rss_mb:.0f} MB of memory"
    )
    if result.p99_ms > settings.sorting.deadline_s * 1000:
        yield fail(
            "latency",
            said,
            f"slower than sorting.deadline_s = {settings.sorting.deadline_s:g}: "
            "raise it, use the int8 model, or a faster board",
        )
    else:
        yield ok("latency", f"{said}; at most about {result.frames_per_s:.0f} marbles a second")


def _compare(measured: dict[Path, Measured]) -> Line:
    fastest = min(measured, key=lambda bundle: measured[bundle].p50_ms)
    told = ", ".join(
        f"{bundle.name} ({result.precision}) {result.p50_ms:.1f} ms" for bundle, result in measured.items()
    )
    others = [result.p50_ms for bundle, result in measured.items() if bundle != fastest]
    times = min(others) / measured[fastest].p50_ms
    return ok(
        "models",
        f"{told}: {fastest.name} is {times:.1f} times as fast here",
        "compare what they get right with okko evaluate",
    )


def _threads(bundle: Path, known: Measured, settings: Settings, processors: int, run: Run) -> Iterator[Line]:
    results = {known.threads: known}
    for threads in range(1, processors + 1):
        if threads not in results and isinstance(result := run(bundle, threads=threads, seconds=1.0), Measured):
            results[threads] = result
    told = ", ".join(f"{threads}: {results[threads].p50_ms:.1f} ms" for threads in sorted(results))
    best = recommend({threads: result.p50_ms for threads, result in results.items()}, processors)
    if best == settings.sorting.threads:
        yield ok("threads", f"{told}; sorting.threads = {best} is right")
    else:
        yield warn("threads", f"{told}; now {settings.sorting.threads}", f"set sorting.threads = {best}")


def recommend(p50_ms: dict[int, float], processors: int) -> int:
    """Returns with how many threads to sort: each further one must save a tenth of the time, one processor stays free.

    Args:
        p50_ms: time of a classification by number of threads; has an entry for 1.
        processors: how many there are; one of several is left to the camera, the servo and the rest.
    """
    best = 1
    for threads in sorted(p50_ms):
        if best < threads <= max(1, processors - 1) and p50_ms[threads] <= _WORTH_A_THREAD * p50_ms[best]:
            best = threads
    return best


def _remedy(result: Failed) -> str:
    if "SIGILL" in result.reason:
        return (
            "this onnxruntime was compiled for another processor (1.21.0 does this on Pi 3, Zero 2 and 4): "
            'pip install --upgrade "onnxruntime!=1.21.0"'
        )
    if result.crashed:
        return "install onnxruntime and numpy again; if it stays, look for too little memory: dmesg | tail"
    return "copy the bundle again, or train it again"
