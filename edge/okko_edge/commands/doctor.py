"""`okko doctor`: look a device over."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Iterator

    from okko_edge.config import Loaded
    from okko_edge.doctor.findings import Line


@click.command()
@click.argument("bundle", nargs=-1, type=click.Path(path_type=Path))
@click.option("--config", "file", type=click.Path(path_type=Path), metavar="FILE", help="Another configuration file.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def doctor(context: click.Context, bundle: tuple[Path, ...], file: Path | None, as_json: bool) -> None:
    """Look this device over, and say of each thing whether it is ok, and if not, what to do.

    \b
    okko doctor
    okko doctor marbles.okko
    okko doctor float.okko int8.okko --json

    Looks at the board and its system, power, heat and clock, the Python packages, the configuration, camera, trigger
    and gate, the disk, and the BUNDLE (else the one that the configuration names): does it load, repeat its golden
    frames, and answer in time, with how many threads. Several bundles are compared. Nothing moves, and nothing is
    changed. Exit code 1 if something stands in the way of sorting.
    """  # noqa: D301
    import json

    from okko_edge.doctor.findings import State, conclusion

    lines: list[Line] = []
    for line in _look(bundle, file):
        lines.append(line)
        if not as_json:
            click.echo(_coloured(line))
    failed = any(line.state is State.FAIL for line in lines)
    if as_json:
        told = [{"name": x.name, "state": x.state.value, "said": x.said, "advice": x.advice} for x in lines]
        click.echo(json.dumps({"ok": not failed, "lines": told}))
    else:
        click.echo(conclusion(lines))
    if failed:
        context.exit(1)


def _look(bundles: tuple[Path, ...], file: Path | None) -> Iterator[Line]:
    from okko_edge.board import read_board
    from okko_edge.config import ConfigError, Loaded, find, read
    from okko_edge.doctor import hardware, machine, model, software
    from okko_edge.doctor.findings import fail, warn
    from okko_edge.journal import default_path
    from okko_edge.settings import Settings

    board = read_board()
    yield from machine.look(board=board)
    yield from software.packages()
    loaded: Loaded
    try:
        loaded = read(find(file))
        yield from software.configuration(loaded)
    except ConfigError as error:
        yield fail("config", " ".join(str(error).split()), "mend it; the rest is looked at with the defaults")
        loaded = Loaded(Settings(), None, {})
    settings = loaded.settings
    yield from hardware.look(settings)
    yield from software.places(settings, state=default_path().parent)
    if not bundles and settings.bundle:
        bundles = (Path(settings.bundle),)
    if bundles:
        yield from model.look(bundles, settings, processors=board.processors)
    else:
        yield warn("model", "none named", "okko doctor marbles.okko, or name it as bundle in the configuration")


def _coloured(line: Line) -> str:
    from okko_edge.doctor.findings import State

    colour = {State.OK: "green", State.WARN: "yellow", State.FAIL: "red"}[line.state]
    text = str(line)
    return click.style(text[: len(line.state)], fg=colour, bold=True) + text[len(line.state) :]
