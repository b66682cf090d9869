"""`okko run`: sort, until told to stop."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from okko_edge.events import Counters
    from okko_edge.rig import Simulation
    from okko_edge.settings import Settings
    from okko_edge.summary import Summary
    from okko_edge.updater.starting import Updates
    from okko_models.photo import PhotoError


@click.command()
@click.argument("bundle", required=False, type=click.Path(path_type=Path))
@click.option(
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The configuration file.  [default: $OKKO_CONFIG, or /etc/okko/okko.toml if it is there]",
)
@click.option(
    "--camera", metavar="KIND:PLACE", help="Where frames come from: pi, v4l2:/dev/video0, sim:DATA or folder:DIR."
)
@click.option("--trigger", metavar="KIND", help="When to look: motion, gpio:PIN or interval:SECONDS.")
@click.option("--gate", metavar="KIND", help="What moves: servo:PIN, relay:PIN, sim or none.")
@click.option("--count", type=click.IntRange(1), help="Stop after so many marbles.  [default: each photo once]")
@click.option("--threads", type=click.IntRange(1, 64), help="Processor threads to use.  [default: 1]")
@click.option(
    "--journal",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The journal's file.  [default: ~/.local/state/okko/journal.sqlite]",
)
@click.option("--dashboard", metavar="ADDRESS:PORT", help="Show a web page there, such as 127.0.0.1:8080.")
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
    help="Simulated marbles per second that pass the camera.",
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
@click.option("--json", "as_json", is_flag=True, help="Print the summary as one JSON object, and nothing else.")
def run(
    bundle: Path | None,
    config: Path | None,
    camera: str | None,
    trigger: str | None,
    gate: str | None,
    count: int | None,
    threads: int | None,
    journal: Path | None,
    dashboard: str | None,
    seed: int,
    pace: str,
    belt_speed: float,
    frame_rate: float,
    noise: float,
    as_json: bool,
) -> None:
    """Sort with BUNDLE: look at each marble that the camera shows, and move the gate.

    \b
    okko run marbles.okko --camera sim:photos/ --gate sim --count 50
    okko run marbles.okko --camera folder:photos/ --gate none --json
    okko run marbles.okko --camera sim:photos/ --pace fast --count 1000
    okko run marbles.okko --camera pi --gate servo:18 --dashboard 127.0.0.1:8080
    okko run --config okko.toml

    sim:DATA carries the photos of a folder past a simulated camera on a belt that pauses for each. folder:DIR shows
    them one after another. Sub-folders named like labels (or a photos.csv) say what each photo truly is, and mistakes
    are counted. Everything that can be set is in the configuration file (`okko config example`); what is said here
    goes first.

    Ctrl-C or SIGTERM lets the marble in hand be sorted, closes the journal and prints the summary.
    """  # noqa: D301
    from importlib.metadata import version

    from okko_edge import config as configuration
    from okko_edge.camera import CameraChoice
    from okko_edge.events import Counters
    from okko_edge.rig import Simulation

    if camera is not None:
        try:
            CameraChoice.parse(camera)
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="--camera") from error
    elif configuration.find(config) is None:
        raise click.UsageError("no camera is named: add --camera (or a configuration file, see `okko config example`)")
    flags = {
        "bundle": None if bundle is None else str(bundle),
        "camera.source": camera,
        "trigger.kind": trigger,
        "gate.kind": gate,
        "sorting.threads": threads,
        "journal.path": None if journal is None else str(journal),
        "dashboard.listen": dashboard,
    }
    try:
        settings = configuration.load(config, flags)
    except configuration.ConfigError as error:
        raise click.UsageError(str(error)) from error
    if not settings.bundle and not settings.updates.enabled:
        raise click.UsageError("no model is named: add BUNDLE, or the key bundle to the configuration file")
    simulation = Simulation(
        belt_speed=belt_speed, frames_per_s=frame_rate, noise_levels=noise, seed=seed, fast=pace == "fast"
    )
    counters, release = Counters(), version("okko")
    with contextlib.ExitStack() as ending:
        updates = None
        if settings.updates.enabled:
            from okko_edge.updater.starting import Updates

            updates = ending.enter_context(Updates(settings, counters=counters, okko=release, warn=_warn))
        _sort(settings, simulation, count, counters, updates, release, as_json=as_json)


def _sort(
    settings: Settings,
    simulation: Simulation,
    count: int | None,
    counters: Counters,
    updates: Updates | None,
    release: str,
    *,
    as_json: bool,
) -> None:
    """Puts the parts together, sorts, and prints what came of it."""
    import socket
    import time
    import uuid

    from okko_edge.about import About
    from okko_edge.agent import Agent
    from okko_edge.beside import Beside, Surroundings, journal_path
    from okko_edge.camera import CameraChoice
    from okko_edge.commands.stopping import stopped_by_signal
    from okko_edge.journal import RunRecord
    from okko_edge.memory import keep_little
    from okko_edge.output import RunReport, live_line
    from okko_edge.rig import set_up
    from okko_edge.sorter import Judge, Sorter, verdict_of_two
    from okko_edge.summary import Tally
    from okko_edge.systemd import Notifier, Watchdog
    from okko_models.classifier import Classifier
    from okko_models.errors import OkkoError

    keep_little()
    choice = CameraChoice.parse(settings.camera.source)
    configured = Path(settings.bundle)
    classifier = updates.load() if updates else Classifier.open(configured, threads=settings.sorting.threads)
    opened, manifest = classifier.bundle, classifier.bundle.manifest

    skipped: list[PhotoError] = []
    try:
        rig = set_up(settings, simulation, count, counters, skipped.append)
    except ValueError as error:
        raise click.UsageError(f"{error}; change --belt-speed, --frame-rate or --pace") from error
    run_record = RunRecord(
        run=uuid.uuid4().hex,
        started_unix_s=time.time(),
        okko=release,
        bundle_name=manifest.name,
        bundle_version=manifest.version,
        bundle_digest=opened.digest,
        camera=str(choice),
        gate=settings.gate.kind,
        seed=simulation.seed,
    )
    about = About.of(
        manifest,
        opened.digest,
        camera=str(choice),
        gate=settings.gate.kind,
        device=settings.mqtt.device or settings.outbox.device or socket.gethostname(),
        okko=release,
    )
    notifier = Notifier()
    watchdog = Watchdog(notifier)
    tally = Tally(manifest.labels, manifest.decision.ok_labels)
    sorter = Sorter(
        classifier=classifier,
        trigger=rig.trigger,
        gate=rig.gate,
        clock=rig.clock,
        deadline_s=settings.sorting.deadline_s,
        empty_labels=settings.sorting.empty_labels,
        two_labels=settings.sorting.two_labels,
        two_verdict=verdict_of_two(manifest.decision),
        judge=Judge.of(opened),
        counters=counters,
    )
    del classifier  # the sorter alone holds it, so that its memory is free when another takes its place
    beside = Beside(
        Surroundings(
            settings=settings,
            bundle=opened,
            run=run_record,
            about=about,
            counters=counters,
            clock=rig.clock,
            journal=journal_path(settings),
            warn=_warn,
        )
    )

    def beat() -> None:
        watchdog.beat(lambda: f"{tally.decisions} marbles sorted")
        beside.note_events()

    agent = Agent(
        camera=rig.camera,
        sorter=sorter,
        tally=tally,
        journal=beside.journal,
        labels=manifest.labels,
        clock=rig.clock,
        heartbeat=beat,
    )
    if not as_json and sys.stdout.isatty():
        agent.listeners.append(lambda decision: click.echo(live_line(decision, truly_ok=tally.truly_ok(decision))))
    try:
        beside.show(agent)
        agent.listeners += beside.listeners
        agent.watchers += beside.watchers
        if beside.dashboard is not None:
            click.echo(f"The dashboard is at {beside.dashboard.url}", err=True)
        if updates is not None:
            from okko_edge.updater.in_service import Running

            running = Running(
                agent=agent, sorter=sorter, tally=tally, beside=beside, settings=settings, clock=rig.clock
            )
            updates.start(running, bundle=opened, run=run_record, about=about)
        with stopped_by_signal(agent.stop):
            notifier.ready()
            summary = agent.run(count)
            notifier.stopping()
    finally:
        rig.close()
        if updates is not None:
            updates.close()
        beside.close()
        notifier.close()
    # What stood beside the path has only now written all that waited.
    summary = dataclasses.replace(summary, events=counters.snapshot())
    for problem in skipped:
        _warn(f"skipped {problem}")
    last = opened if updates is None else updates.bundle or opened
    report = RunReport(
        bundle={"name": last.manifest.name, "version": last.manifest.version, "digest": last.digest},
        camera=str(choice),
        gate=settings.gate.kind,
        summary=summary,
        skipped_photos=len(skipped),
        journal={"path": str(beside.journal.path), "written": beside.journal.written, "lost": beside.journal.lost},
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
