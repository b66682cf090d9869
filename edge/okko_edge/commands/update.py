"""`okko update`, which is `okko device update`: look for a new model now, in the registry or on a USB stick."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from okko_edge.settings import Settings
    from okko_edge.updater.fetching import Fetched
    from okko_edge.updater.shelf import Shelf

CONFIG = click.option("--config", type=click.Path(path_type=Path), metavar="FILE", help="The configuration file.")
_LONGEST_S = 6 * 3600.0


@click.command()
@click.option(
    "--from",
    "source",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    metavar="DIR",
    help="A registry on a USB stick, or in any other folder.  [default: the one that the device was enrolled with]",
)
@click.option("--again", is_flag=True, help="Try the model again, though it was rejected before.")
@CONFIG
def update(source: Path | None, again: bool, config: Path | None) -> None:
    """Look for a new model now, and bring it here, verified.

    While okko run is at work, it tries the model beside the one in service and then changes over by itself. Otherwise
    the model is tested here, put in service, and has to prove itself when okko run starts.

    \b
    okko update --from /media/stick    no network needed, and nothing on the stick is trusted that is not signed
    """  # noqa: D301
    settings = read_settings(config)
    shelf = open_shelf(settings)
    bring(shelf, settings, source=source, again=again)
    go_on(shelf, settings)


def bring(
    shelf: Shelf, settings: Settings, *, source: Path | None = None, digest: str = "", again: bool = False
) -> Fetched:
    """Fetches, in a process of its own, and says what came of it.

    Raises:
        OkkoError: nothing came of it.
    """
    import dataclasses
    from importlib.metadata import version

    from okko_edge.updater.alone import sorting_model
    from okko_edge.updater.child import FetchProcess
    from okko_edge.updater.fetching import Result
    from okko_edge.updater.updater import request_of
    from okko_models.errors import OkkoError

    sorting = sorting_model(shelf, settings)
    request = request_of(
        settings.updates,
        shelf,
        okko=version("okko"),
        in_service="" if sorting is None else sorting.digest,
        registry="" if source is None else str(source.absolute()),
    )
    if not request.registry:
        raise OkkoError("this device knows no registry: okko device enroll REGISTRY root.json, or --from DIR")
    process = FetchProcess(dataclasses.replace(request, digest=digest or request.digest, again=again))
    try:
        fetched = process.wait(_LONGEST_S)
    finally:
        process.close()
    if fetched.result not in {Result.FETCHED, Result.NOTHING_NEW}:
        raise OkkoError(fetched.message)
    click.echo(fetched.message)
    return fetched


def go_on(shelf: Shelf, settings: Settings) -> None:
    """Puts the candidate in service if no agent does that."""
    from okko_edge.updater.alone import sorting_model, trials, try_and_switch

    candidate = shelf.candidate()
    if candidate is None:
        return
    if not shelf.take_charge():
        click.echo("okko run goes on with it: okko device status shows how far it is")
        return
    # One that proved itself here before may know fewer labels than the one that is left.
    old = None if candidate.proven else sorting_model(shelf, settings)
    try:
        test = try_and_switch(shelf, settings, trials(settings, old))
    finally:
        shelf.give_up_charge()
    if test is not None:
        click.echo(
            f"{candidate.digest[:12]} repeats its golden frames (difference {test.golden_difference:.2g}) and takes "
            f"{test.latency_ms:.1f} ms for a frame.\nIt is in service from the next start of okko run on. No marbles "
            f"pass now, so it was not compared with the model before; it is on probation for its first "
            f"{settings.updates.probation_marbles} marbles."
        )
        say_if_disabled(settings)


def read_settings(config: Path | None) -> Settings:
    """Returns what is configured."""
    from okko_edge.config import find, read

    return read(find(config)).settings


def open_shelf(settings: Settings, *, writing: bool = True) -> Shelf:
    """Returns this device's models.

    Raises:
        OkkoError: they belong to another user, who could then no longer change what this one writes.
    """
    import os
    from importlib.metadata import version

    from okko_edge.updater import models_folder
    from okko_edge.updater.shelf import Shelf
    from okko_models.errors import OkkoError

    folder = models_folder(settings.updates)
    owned = next((path for path in (folder, *folder.parents) if path.exists()), folder)
    if writing and owned.exists() and owned.stat().st_uid != os.geteuid():
        raise OkkoError(f"{owned} belongs to {_owner(owned)}; do this as that user: sudo -u {_owner(owned)} okko ...")
    return Shelf(folder, okko=version("okko"), warn=lambda message: click.echo(f"Warning: {message}", err=True))


def _owner(path: Path) -> str:
    try:
        return path.owner()
    except KeyError:
        return str(path.stat().st_uid)


def say_if_disabled(settings: Settings) -> None:
    """Says so if what was done has no effect on okko run."""
    if not settings.updates.enabled:
        click.echo("note: okko run does not use it until updates.enabled = true is in the configuration", err=True)
