"""`okko replay`: what another model would have decided about the frames that were kept."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from okko_edge.commands.default_group import Moment

if TYPE_CHECKING:
    from okko_edge.replay import Replayed
    from okko_edge.settings import Settings


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--journal",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The journal's file.  [default: journal.path in the configuration]",
)
@click.option(
    "--frames",
    multiple=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="Where the frames are; may be given again.  [default: those kept with the journal, and the outbox]",
)
@click.option("--since", type=Moment(), help="Not older: 90s, 15min, 12h, 3d, or a local date and time.")
@click.option(
    "--verdict", type=click.Choice(["OK", "KO", "UNCERTAIN"], case_sensitive=False), help="Only this verdict."
)
@click.option("--run", metavar="RUN", help="Only this run; the first digits of its name will do.")
@click.option("--limit", type=click.IntRange(1), help="At most the newest so many decisions.")
@click.option("--threads", type=click.IntRange(1, 64), default=1, show_default=True, help="Processor threads to use.")
@click.option("--config", type=click.Path(path_type=Path), metavar="FILE", help="The configuration file.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def replay(
    bundle: Path,
    journal: Path | None,
    frames: tuple[Path, ...],
    since: float | None,
    verdict: str | None,
    run: str | None,
    limit: int | None,
    threads: int,
    config: Path | None,
    as_json: bool,
) -> None:
    """Show the frames that were kept to BUNDLE, and say what it would have decided differently.

    \b
    okko replay new.okko
    okko replay new.okko --since 3d --verdict UNCERTAIN
    okko replay new.okko --journal copy.sqlite --frames copied-frames/

    Frames are kept with journal.frames = "all", and in the outbox. Nothing is moved and nothing is changed.
    """  # noqa: D301
    import json
    from dataclasses import asdict

    from okko_edge.config import find, read
    from okko_edge.journal import default_path
    from okko_edge.journal.reading import JournalReader, Selection
    from okko_edge.replay import index_frames
    from okko_edge.replay import replay as replayed
    from okko_models.classifier import Classifier
    from okko_models.errors import OkkoError

    settings = read(find(config)).settings
    path = journal or (Path(settings.journal.path) if settings.journal.path else default_path())
    classifier = Classifier.open(bundle, threads=threads)
    manifest = classifier.bundle.manifest
    with JournalReader(path) as reader:
        index = index_frames(frames or _folders(path, settings))
        result = replayed(
            reader.decisions(Selection(since_unix_s=since, verdict=verdict, run=run, limit=limit)),
            index,
            classifier,
            labels=manifest.labels,
            rule=manifest.decision,
            sorting=settings.sorting,
        )
    if as_json:
        model = {"name": manifest.name, "version": manifest.version, "digest": classifier.bundle.digest}
        click.echo(json.dumps({"bundle": model, "journal": str(path), **asdict(result)}))
    else:
        click.echo(_as_text(result, f"{manifest.name} {manifest.version}"))
    for problem in result.damaged:
        click.echo(f"Warning: {problem}", err=True)
    if result.decisions and not result.replayed:
        raise OkkoError(
            f"none of the {result.decisions} decisions has a frame that was kept; name their folder with --frames, or "
            'set journal.frames = "all" for the future'
        )


def _folders(journal: Path, settings: Settings) -> list[Path]:
    from okko_edge.kept_frames import frames_folder
    from okko_edge.outbox import outbox_folder

    return [folder for folder in (frames_folder(journal), outbox_folder(settings.outbox)) if folder.is_dir()]


def _as_text(result: Replayed, model: str) -> str:
    from okko_edge.commands.default_group import local_time, table

    lines = [
        f"{result.replayed} of {result.decisions} decisions replayed through {model}; "
        f"of {result.without_frame} no frame was kept"
    ]
    if result.replayed:
        names = list(result.verdicts)
        rows = [(was, *(str(result.verdicts[was][now]) for now in names)) for was in names]
        lines += ["", table(("was / would be", *names), rows, right=names)]
        lines += ["", f"{len(result.changes)} would be decided differently" + (":" if result.changes else "")]
    if result.changes:
        head = ("time", "run", "number", "was", "would be", "label and probability", "truly", "frame")
        cells = [
            (
                local_time(one.unix_s),
                one.run[:8],
                str(one.number),
                one.was,
                one.would_be,
                f"{_share(one.label_was, one.probability_was)} -> "
                f"{_share(one.label_would_be, one.probability_would_be)}",
                one.truth or "",
                one.digest[:16],
            )
            for one in result.changes
        ]
        lines.append(table(head, cells, right=("number",)))
    return "\n".join(lines)


def _share(label: str | None, probability: dict[str, float] | None) -> str:
    if label is None or probability is None:
        return "none"
    return f"{label} {probability.get(label, float('nan')):.3f}"
