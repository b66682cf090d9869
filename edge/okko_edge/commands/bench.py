"""`okko bench`: how fast this board is, as a table that can be posted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from okko_edge.board import Board
    from okko_edge.doctor.probe import Measured


@click.command()
@click.argument("bundle", nargs=-1, type=click.Path(path_type=Path))
@click.option("--config", "file", type=click.Path(path_type=Path), metavar="FILE", help="Another configuration file.")
@click.option("--threads", metavar="LIST", help="Numbers of threads, such as 1,2,4.  [default: 1 to all processors]")
@click.option(
    "--seconds",
    type=click.FloatRange(0, 600, min_open=True),
    default=5.0,
    show_default=True,
    help="How long to measure each.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, and nothing else.")
def bench(bundle: tuple[Path, ...], file: Path | None, threads: str | None, seconds: float, as_json: bool) -> None:
    """Measure how long BUNDLE takes for a photo on this board, with one thread, two, and so on.

    \b
    okko bench marbles.okko
    okko bench float.okko int8.okko --threads 1,4

    Each line is a process of its own that classifies the bundle's golden frames one after the other, from the raw photo
    to the verdict. The table is Markdown, made to be posted.
    """  # noqa: D301
    import json
    from dataclasses import asdict

    from okko_edge.board import read_board
    from okko_edge.config import load
    from okko_edge.doctor import probe
    from okko_models.errors import OkkoError

    board = read_board()
    counts = _counts(threads, board.processors)
    bundles = bundle or tuple(Path(named) for named in (load(file).bundle,) if named)
    if not bundles:
        raise click.UsageError("name a bundle: okko bench marbles.okko")
    measured: list[Measured] = []
    for number, (path, count) in enumerate([(path, count) for path in bundles for count in counts], 1):
        _progress(f"{path.name}, {count} thread{'s' * (count > 1)} ({number} of {len(bundles) * len(counts)})")
        result = probe.run(path, threads=count, seconds=seconds)
        if isinstance(result, probe.Failed):
            raise OkkoError(f"{path}: {result.reason}; `okko doctor {path}` says more")
        measured.append(result)
    if as_json:
        click.echo(json.dumps({"board": asdict(board), "results": [asdict(result) for result in measured]}))
    else:
        click.echo(_table(board, measured))


def _counts(text: str | None, processors: int) -> list[int]:
    if text is None:
        return list(range(1, processors + 1))
    words = [word.strip() for word in text.split(",")]
    if not all(word.isascii() and word.isdigit() and 0 < int(word) <= 64 for word in words):
        raise click.BadParameter(f"{text!r}; expected numbers from 1 to 64, such as 1,2,4", param_hint="--threads")
    return sorted({int(word) for word in words})


def _progress(text: str) -> None:
    click.echo(f"Measuring {text}", err=True)


def _table(board: Board, measured: list[Measured]) -> str:
    from importlib.metadata import version

    versions = f"okko {version('okko')}, onnxruntime {measured[0].onnxruntime}, Python {board.python}"
    memory = f", {board.memory_mb} MB" if board.memory_mb else ""
    rows = [
        f"**{board.model}**, {board.processors} processors{memory}, {board.system}, kernel {board.kernel}; {versions}",
        "",
        "| model | precision | size | threads | p50 | p95 | p99 | frames/s | memory | first verdict after |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for one in measured:
        times = (one.p50_ms, one.p95_ms, one.p99_ms)
        cells = [one.bundle, one.precision, f"{one.model_mb:.1f} MB", str(one.threads)]
        cells += [f"{time_ms:.1f} ms" for time_ms in times]
        cells += [f"{one.frames_per_s:.1f}", f"{one.rss_mb:.0f} MB", f"{one.start_s:.1f} s"]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)
