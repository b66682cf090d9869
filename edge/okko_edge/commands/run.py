"""`okko run`: sort, until told to stop."""

from __future__ import annotations

import contextlib
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from okko_edge.summary import Summary
    from okko_models.photo import PhotoError


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--camera", required=True, metavar="KIND:PLACE", help="Where frames come from: sim:DATA or folder:DIR.")
@click.option(
    "--gate", type=click.Choice(["sim", "none"]), default="sim", show_default=True, help="What moves: a simulated gate."
)
@click.option("--count", type=click.IntRange(1), help="Stop after so many marbles.  [default: each photo once]")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Order of the simulated marbles.")
@click.option(
    "--pace",
    type=click.Choice(["real", "fast"]),
    default="real",
    show_default=True,
    help="Simulate in real time, or as fast as possible.",
)
@click.option(
    "--belt-speed",
    type=click.FloatRange(0, 1000, min_open=True),
    default=2.0,
    show_default=True,
    help="Marbles per second that pass the camera.",
)
@click.option(
    "--frame-rate",
    type=click.FloatRange(0, 10000, min_open=True),
    default=30.0,
    show_default=True,
    help="Frames per second of the simulated camera.",
)
@click.option(
    "--noise",
    type=click.FloatRange(0, 64),
    default=1.0,
    show_default=True,
    help="Noise of the simulated camera, in grey levels.",
)
@click.option("--threads", type=click.IntRange(1, 64), default=1, show_default=True, help="Processor threads to use.")
@click.option(
    "--journal",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The journal's file.  [default: ~/.local/state/okko/journal.sqlite]",
)
@click.option("--json", "as_json", is_flag=True, help="Print the summary as one JSON object, and nothing else.")
def run(
    bundle: Path,
    camera: str,
    gate: str,
    count: int | None,
    seed: int,
    pace: str,
    belt_speed: float,
    frame_rate: float,
    noise: float,
    threads: int,
    journal: Path | None,
    as_json: bool,
) -> None:
    """Sort with BUNDLE: look at each marble that the camera shows, and move the gate.

    \b
    okko run marbles.okko --camera sim:photos/ --gate sim --count 50
    okko run marbles.okko --camera folder:photos/ --gate none --json
    okko run marbles.okko --camera sim:photos/ --pace fast --count 1000

    sim:DATA carries the photos of a folder past a simulated camera on a belt that pauses for each. folder:DIR shows
    them one after another. Sub-folders named like labels (or a photos.csv) say what each photo truly is, and mistakes
    are counted.

    Ctrl-C or SIGTERM lets the marble in hand be sorted, closes the journal and prints the summary.
    """  # noqa: D301
    import time
    import uuid
    from importlib.metadata import version

    from okko_edge import rig as rigs
    from okko_edge.agent import Agent
    from okko_edge.camera import CameraChoice
    from okko_edge.gate import NoGate
    from okko_edge.gates.simulated import SimulatedGate
    from okko_edge.journal import Journal, RunRecord, default_path
    from okko_edge.output import RunReport, live_line
    from okko_edge.sorter import Sorter
    from okko_edge.summary import Tally
    from okko_models.bundle import Bundle
    from okko_models.classifier import Classifier
    from okko_models.errors import OkkoError

    try:
        choice = CameraChoice.parse(camera)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--camera") from error
    opened = Bundle.open(bundle)
    manifest = opened.manifest
    classifier = Classifier(opened, threads=threads)
    classifier.self_test()

    skipped: list[PhotoError] = []
    settings = rigs.RigSettings(
        belt_speed=belt_speed, frames_per_s=frame_rate, noise_levels=noise, seed=seed, fast=pace == "fast"
    )
    try:
        rig = rigs.set_up(choice, count, settings, skipped.append)
    except ValueError as error:
        raise click.UsageError(f"{error}; change --belt-speed or --frame-rate") from error
    mover = SimulatedGate(rig.clock) if gate == "sim" else NoGate()
    tally = Tally(manifest.labels, manifest.decision.ok_labels)
    sorter = Sorter(classifier=classifier, trigger=rig.trigger, gate=mover, clock=rig.clock)
    book = Journal(
        journal or default_path(),
        RunRecord(
            run=uuid.uuid4().hex,
            started_unix_s=time.time(),
            okko=version("okko"),
            bundle_name=manifest.name,
            bundle_version=manifest.version,
            bundle_digest=opened.digest,
            camera=str(choice),
            gate=gate,
            seed=seed,
        ),
        warn=_warn,
    )
    live = not as_json and sys.stdout.isatty()
    agent = Agent(
        camera=rig.camera,
        sorter=sorter,
        tally=tally,
        journal=book,
        labels=manifest.labels,
        clock=rig.clock,
        listeners=[lambda decision: click.echo(live_line(decision, truly_ok=tally.truly_ok(decision)))] if live else [],
    )
    try:
        with _stopped_by_signal(agent.stop):
            summary = agent.run(count)
    finally:
        mover.close()
        rig.camera.close()
        book.close()
    for problem in skipped:
        _warn(f"skipped {problem}")
    report = RunReport(
        bundle={"name": manifest.name, "version": manifest.version, "digest": opened.digest},
        camera=str(choice),
        gate=gate,
        summary=summary,
        skipped_photos=len(skipped),
        journal={"path": str(book.path), "written": book.written, "lost": book.lost},
        stopped=agent.stopped,
        failure=agent.failure or _shortfall(summary, count, choice.kind, stopped=agent.stopped),
    )
    click.echo(report.as_json() if as_json else report.as_text())
    if report.failure:
        raise OkkoError(report.failure)


def _shortfall(summary: Summary, count: int | None, kind: str, *, stopped: bool) -> str | None:
    """What is wrong when fewer marbles were sorted than were there."""
    decisions = summary.marbles + summary.empty_slots
    if stopped or (decisions and (count is None or decisions == count)):
        return None
    if not decisions:
        return "no marble was sorted: the camera showed none"
    if kind == "sim":
        return f"only {decisions} of {count} marbles got a verdict: the trigger missed the others"
    _warn(f"the folder held only {decisions} of the {count} marbles asked for")
    return None


def _warn(message: str) -> None:
    click.echo(f"Warning: {message}", err=True)


@contextlib.contextmanager
def _stopped_by_signal(stop: Callable[[], None]) -> Iterator[None]:
    """While this lasts, the first Ctrl-C or SIGTERM stops gently; a second one ends the program at once."""
    signals = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in signals}

    def gently(number: int, _: object) -> None:
        stop()
        signal.signal(number, before[signal.Signals(number)])

    for number in signals:
        signal.signal(number, gently)
    try:
        yield
    finally:
        for number in signals:
            signal.signal(number, before[number])
