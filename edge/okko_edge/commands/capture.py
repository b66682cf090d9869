"""`okko capture`: take photos of marbles that a model is to learn from."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from okko_models.errors import OkkoError

if TYPE_CHECKING:
    from okko_edge.capture import Captured
    from okko_models.photo import PhotoError


@click.command()
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
@click.option("--label", metavar="LABEL", help="What all these marbles are, such as OK.  [default: nobody knows yet]")
@click.option("--count", type=click.IntRange(1), help="Stop after so many photos.  [default: on Ctrl-C]")
@click.option(
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The configuration file.  [default: $OKKO_CONFIG, or /etc/okko/okko.toml if it is there]",
)
@click.option(
    "--camera", metavar="KIND:PLACE", help="Where frames come from: pi, v4l2:/dev/video0, sim:DATA or folder:DIR."
)
@click.option("--trigger", metavar="KIND", help="When to look: motion, gpio:PIN or interval:SECONDS.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Order of the simulated marbles.")
@click.option(
    "--pace",
    type=click.Choice(["real", "fast"]),
    default="real",
    show_default=True,
    help="Simulate in real time, or as fast as possible.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the summary as one JSON object, and nothing else.")
def capture(
    directory: Path,
    label: str | None,
    count: int | None,
    config: Path | None,
    camera: str | None,
    trigger: str | None,
    seed: int,
    pace: str,
    as_json: bool,
) -> None:
    """Store one photo of each marble that passes, in DIR/LABEL.

    \b
    okko capture photos/ --label OK --count 200
    okko capture photos/ --label KO --camera pi --trigger motion
    okko capture photos/                            into photos/unlabelled/, for okko label

    Run the belt with marbles of one kind, then with the other; begin with one in view. Camera and trigger are those of
    `okko run`, from the same configuration; the gate is not touched. Photos are PNG, and none overwrites another.
    Frames that are black, stale or show two marbles are not stored. Ctrl-C ends it after the photo in hand.
    """  # noqa: D301
    from okko_edge import config as configuration
    from okko_edge.camera import CameraChoice
    from okko_edge.capture import Capture, check_label
    from okko_edge.commands.stopping import stopped_by_signal
    from okko_edge.events import Counters
    from okko_edge.rig import Simulation, set_up
    from okko_models.layout import UNLABELLED

    if camera is not None:
        try:
            CameraChoice.parse(camera)
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="--camera") from error
    elif configuration.find(config) is None:
        raise click.UsageError("no camera is named: add --camera (or a configuration file, see `okko config example`)")
    folder = directory / (check_label(label) if label is not None else UNLABELLED)
    # Nothing may move while a person stands at the belt with a bowl of marbles.
    flags = {"camera.source": camera, "trigger.kind": trigger, "gate.kind": "none"}
    try:
        settings = configuration.load(config, flags)
    except configuration.ConfigError as error:
        raise click.UsageError(str(error)) from error
    counters = Counters()
    skipped: list[PhotoError] = []
    try:
        rig = set_up(settings, Simulation(seed=seed, fast=pace == "fast"), count, counters, skipped.append)
    except ValueError as error:
        raise click.UsageError(f"{error}; change --pace") from error
    try:
        run = Capture(
            folder, settings=settings, rig=rig, counters=counters, count=count, label=label or UNLABELLED, tell=_warn
        )
        with stopped_by_signal(run.stop):
            captured = run.run()
    finally:
        rig.close()
    for problem in skipped:
        _warn(f"skipped {problem}")
    click.echo(json.dumps(dataclasses.asdict(captured)) if as_json else _text(captured))
    if captured.failure:
        raise OkkoError(captured.failure)


def _text(captured: Captured) -> str:
    lines = [f"{captured.stored} photos in {captured.folder}"]
    refused = {
        "black": captured.black,
        "the same frame again": captured.repeated,
        "no fresh frame": captured.missed,
        "more than one marble": captured.crowded,
    }
    found = ", ".join(f"{count} {why}" for why, count in refused.items() if count)
    if found:
        lines.append(f"not stored: {found}")
    if captured.nearly_equal:
        lines.append(f"{captured.nearly_equal} look like the one before; `okko data check` finds such photos")
    return "\n".join(lines)


def _warn(message: str) -> None:
    click.echo(f"Warning: {message}", err=True)
