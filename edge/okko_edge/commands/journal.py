"""`okko journal`: what was decided, from the journal's file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from okko_edge.commands.default_group import DefaultGroup, Moment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import TextIO

    from okko_edge.journal.reading import JournalReader, Row, Selection

_Command = TypeVar("_Command", bound="Callable[..., object]")
_SHORT = 8  # digits of a run's name: enough to tell runs of a device apart

_LONGEST_REMARK = 100


class _Group(DefaultGroup):
    default = "show"


def _where(command: _Command) -> _Command:
    file = click.option(
        "--journal",
        "path",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="The journal's file.  [default: journal.path in the configuration]",
    )
    config = click.option("--config", type=click.Path(path_type=Path), metavar="FILE", help="The configuration file.")
    return file(config(command))


def _selected(command: _Command) -> _Command:
    since = click.option("--since", type=Moment(), help="Not older: 90s, 15min, 12h, 3d, or a local date and time.")
    verdict = click.option(
        "--verdict", type=click.Choice(["OK", "KO", "UNCERTAIN"], case_sensitive=False), help="Only this verdict."
    )
    run = click.option("--run", metavar="RUN", help="Only this run; the first digits of its name will do.")
    return _where(since(verdict(run(command))))


@click.group(cls=_Group)
def journal() -> None:
    """Look at what was decided.

    \b
    okko journal                            the latest decisions
    okko journal --verdict KO --since 2h    of the last two hours, those that were KO
    okko journal runs                       a line for each run
    okko journal export --format csv        everything, as a table

    A journal can be read while okko writes it, and a copy of one on any machine. Times are the device's, which may have
    been wrong.
    """  # noqa: D301


@journal.command()
@_selected
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="At most the newest so many.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
def show(
    path: Path | None,
    config: Path | None,
    since: float | None,
    verdict: str | None,
    run: str | None,
    limit: int,
    as_json: bool,
) -> None:
    """Show the latest decisions, the newest last."""
    import json
    from dataclasses import asdict

    with _open(path, config) as reader:
        rows = list(reader.decisions(_selection(since, verdict, run, limit)))
        if as_json:
            for row in rows:
                click.echo(json.dumps(asdict(row)))
        elif rows:
            click.echo(_as_table(rows))
        else:
            click.echo(f"{reader.path} holds no such decision")


@journal.command()
@_where
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="At most the newest so many.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
def runs(path: Path | None, config: Path | None, limit: int, as_json: bool) -> None:
    """Sum up each run, the newest first."""
    import json
    from dataclasses import asdict

    from okko_edge.commands.default_group import local_time, table

    with _open(path, config) as reader:
        found = reader.runs(limit)
        if as_json:
            for run in found:
                click.echo(json.dumps(asdict(run)))
        elif not found:
            click.echo(f"{reader.path} holds no run")
        else:
            head = ("started", "run", "model", "camera", "marbles", "OK", "KO", "UNCERTAIN", "errors", "for", "path")
            lines = [
                (
                    local_time(run.started_unix_s),
                    run.run[:_SHORT],
                    f"{run.bundle_name} {run.bundle_version}",
                    run.camera,
                    *map(str, (run.marbles, run.ok, run.ko, run.uncertain, run.errors)),
                    _duration(run.sorting_s),
                    "" if run.mean_path_ms is None else f"{run.mean_path_ms:.1f} ms",
                )
                for run in found
            ]
            click.echo(table(head, lines, right=head[4:]))


@journal.command()
@_where
@click.option("--run", metavar="RUN", help="Only this run; the first digits of its name will do.")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="At most the newest so many.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
def events(path: Path | None, config: Path | None, run: str | None, limit: int, as_json: bool) -> None:
    """Show what happened beside the verdicts, the newest last."""
    import json
    from dataclasses import asdict

    from okko_edge.commands.default_group import local_time, table

    with _open(path, config) as reader:
        found = reader.events(run=run, limit=limit)
        if as_json:
            for event in found:
                click.echo(json.dumps(asdict(event)))
        elif not found:
            click.echo(f"{reader.path} holds no event")
        else:
            lines = [(local_time(one.unix_s), one.run[:_SHORT], one.event, one.detail) for one in found]
            click.echo(table(("time", "run", "event", "detail"), lines))


@journal.command()
@_selected
@click.option("--limit", type=click.IntRange(1), help="At most the newest so many.")
@click.option("--format", "kind", type=click.Choice(["csv", "json"]), required=True, help="As a table or as an array.")
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="Where to.  [default: standard output]")
def export(
    path: Path | None,
    config: Path | None,
    since: float | None,
    verdict: str | None,
    run: str | None,
    limit: int | None,
    kind: str,
    out: Path | None,
) -> None:
    """Write decisions as CSV or JSON, the oldest first.

    A file is complete or not there. In CSV each label's probability is a column of its own.
    """
    import sys

    with _open(path, config) as reader:
        write = _write_csv if kind == "csv" else _write_json
        wanted = _selection(since, verdict, run, limit)
        if out is None:
            write(reader, wanted, sys.stdout)
            return
        part = out.with_name(f".{out.name}.part")
        try:
            with part.open("w", encoding="utf-8", newline="") as file:
                count = write(reader, wanted, file)
            part.replace(out)
        finally:
            part.unlink(missing_ok=True)
        click.echo(f"{count} decisions written to {out}")


def _open(path: Path | None, config: Path | None) -> JournalReader:
    from okko_edge.journal.reading import JournalReader

    return JournalReader(path or configured_path(config))


def configured_path(config: Path | None) -> Path:
    """Returns where the journal is according to the configuration file, or where it is by default."""
    from okko_edge.config import find, read
    from okko_edge.journal import default_path

    named = read(find(config)).settings.journal.path
    return Path(named) if named else default_path()


def _selection(since: float | None, verdict: str | None, run: str | None, limit: int | None) -> Selection:
    from okko_edge.journal.reading import Selection

    return Selection(since_unix_s=since, verdict=verdict, run=run, limit=limit)


def _as_table(rows: list[Row]) -> str:
    from okko_edge.commands.default_group import local_time, table

    head = ("time", "run", "number", "verdict", "label", "p", "novelty", "path", "remarks")
    lines = [
        (
            local_time(row.unix_s),
            row.run[:_SHORT],
            str(row.number),
            row.verdict,
            row.label or "",
            f"{row.probability[row.label]:.3f}" if row.probability and row.label in row.probability else "",
            "" if row.novelty is None else f"{row.novelty:.2f}",
            f"{row.path_ms:.1f} ms",
            _remarks(row),
        )
        for row in rows
    ]
    return table(head, lines, right=("number", "p", "novelty", "path"))


def _remarks(row: Row) -> str:
    said = [] if row.outcome == "marble" else [row.outcome]
    if row.truth is not None and row.label is not None and row.truth != row.label:
        said.append(f"truly {row.truth}")
    if row.error is not None:
        said.append(row.error)
    remarks = "; ".join(said)
    return remarks if len(remarks) <= _LONGEST_REMARK else remarks[: _LONGEST_REMARK - 3] + "..."


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"


def _write_json(reader: JournalReader, wanted: Selection, file: TextIO) -> int:
    import json
    from dataclasses import asdict

    count = 0
    file.write("[")
    for count, row in enumerate(reader.decisions(wanted), 1):
        file.write(("\n" if count == 1 else ",\n") + json.dumps(asdict(row)))
    file.write("\n]\n")
    return count


def _write_csv(reader: JournalReader, wanted: Selection, file: TextIO) -> int:
    import csv

    names = sorted(_all_labels(reader.decisions(wanted)))
    fields = [name for name in _row_fields() if name != "probability"]
    table = csv.writer(file, lineterminator="\n")
    table.writerow([*fields, *(f"p({name})" for name in names)])
    count = 0
    for row in reader.decisions(wanted):
        count += 1
        shares: dict[str, Any] = row.probability or {}
        table.writerow([*(getattr(row, name) for name in fields), *(shares.get(name) for name in names)])
    return count


def _all_labels(rows: Iterable[Row]) -> set[str]:
    return {label for row in rows for label in row.probability or ()}


def _row_fields() -> tuple[str, ...]:
    from okko_edge.journal.reading import Row

    return tuple(Row.__slots__)
