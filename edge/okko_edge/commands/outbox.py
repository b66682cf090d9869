"""`okko outbox`: what waits for a label or for a network, and uploading it now."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from okko_edge.commands.default_group import DefaultGroup

if TYPE_CHECKING:
    from okko_edge.outbox import OutboxFolder
    from okko_edge.settings import OutboxSettings


class _Group(DefaultGroup):
    default = "show"


_FOLDER = click.option(
    "--folder",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="The outbox.  [default: outbox.folder in the configuration]",
)
_CONFIG = click.option("--config", type=click.Path(path_type=Path), metavar="FILE", help="The configuration file.")


@click.group(cls=_Group)
def outbox() -> None:
    """Look at the frames that wait for a label or a network, and upload them.

    \b
    okko outbox            how many wait, why, and how much they take
    okko outbox upload     upload now what waits, once
    """  # noqa: D301


@outbox.command()
@_FOLDER
@_CONFIG
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def show(folder: Path | None, config: Path | None, as_json: bool) -> None:
    """Say how many frames wait, why they were kept, and how much they take."""
    import json

    from okko_edge.commands.default_group import table
    from okko_edge.outbox import Reason

    settings = _settings(config)
    store, target = _open(folder, settings), _target(settings)
    items = store.items()
    waiting = [item for item in items if item.waits_for(target)]
    told = {
        "folder": str(store.folder),
        "bucket": settings.bucket,
        "frames": len(items),
        "mb": round(store.size / 1e6, 3),
        "max_mb": settings.max_mb,
        "waiting": len(waiting),
        "waiting_mb": round(sum(item.size for item in waiting) / 1e6, 3),
        "labelled": sum(item.label is not None for item in items),
        "reasons": {reason.value: sum(item.sidecar.reason is reason for item in items) for reason in Reason},
    }
    if as_json:
        click.echo(json.dumps(told))
        return
    click.echo(
        f"{store.folder}: {told['frames']} frames, {told['mb']:.1f} MB of {settings.max_mb:g} MB, "
        f"{told['labelled']} with a person's label"
    )
    if settings.bucket:
        click.echo(f"{told['waiting']} frames, {told['waiting_mb']:.1f} MB, wait for {settings.bucket}")
    else:
        click.echo("nothing is uploaded: outbox.bucket is not set")
    if items:
        rows = []
        for reason in Reason:
            of_reason = [item for item in items if item.sidecar.reason is reason]
            size = sum(item.size for item in of_reason) / 1e6
            left = sum(item.waits_for(target) for item in of_reason)
            rows.append((reason.value, str(len(of_reason)), f"{size:.1f}", str(left)))
        click.echo(table(("kept because", "frames", "MB", "waiting"), rows, right=("frames", "MB", "waiting")))


@outbox.command()
@_FOLDER
@_CONFIG
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def upload(context: click.Context, folder: Path | None, config: Path | None, as_json: bool) -> None:
    """Upload now what waits, once; exit code 1 if something still waits.

    okko run uploads by itself when outbox.bucket is set. Both at once are safe: S3 takes each frame only once.
    """
    import json
    from dataclasses import asdict

    from okko_edge.events import Counters
    from okko_edge.outbox import S3, Target, Uploader
    from okko_models.errors import OkkoError

    settings = _settings(config)
    if not settings.bucket:
        raise OkkoError("there is nowhere to upload to: set outbox.bucket in the configuration to s3://BUCKET/PREFIX")
    s3 = S3(Target.parse(settings.bucket), endpoint_url=settings.endpoint_url)
    store = _open(folder, settings)
    uploader = Uploader(store, s3, retry_s=settings.retry_s, warn=lambda _: None, counters=Counters())
    done = uploader.upload_waiting()
    if as_json:
        click.echo(json.dumps({"bucket": settings.bucket, **asdict(done)}))
    else:
        click.echo(f"{done.frames} frames and {done.labels} labels uploaded to {settings.bucket}, {done.waiting} wait")
        if done.error:
            click.echo(f"Error: {done.error}", err=True)
    if done.error:
        context.exit(1)


def _settings(config: Path | None) -> OutboxSettings:
    from okko_edge.config import find, read

    return read(find(config)).settings.outbox


def _open(folder: Path | None, settings: OutboxSettings) -> OutboxFolder:
    from okko_edge.outbox import OutboxError, OutboxFolder, outbox_folder

    where = folder or outbox_folder(settings)
    if not where.is_dir():
        what = "is a file" if where.is_file() else "does not exist"
        raise OutboxError(f"{where} {what}; expected an outbox, which okko run makes if outbox.enabled is set")
    return OutboxFolder(where, None)


def _target(settings: OutboxSettings) -> str:
    from okko_edge.outbox import Target

    return str(Target.parse(settings.bucket)) if settings.bucket else ""
