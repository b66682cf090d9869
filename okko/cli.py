"""The `okko` command: a table of subcommands, each loaded when it is called.

`okko --help` must answer at once on a Raspberry Pi, and a Pi must never import training code; so this module imports
only click, and every subcommand imports its own dependencies when it runs. Exit codes: 0 fine, 1 the job failed, 2 bad
usage.
"""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from typing import Any

import click

from okko_models.errors import OkkoError


@dataclass(frozen=True)
class _Entry:
    target: str
    extra: str | None
    summary: str


_COMMANDS = {
    "train": _Entry("okko_train.commands.train:train", "train", "Make a model from a folder of photos, or a bucket."),
    "evaluate": _Entry("okko_train.commands.evaluate:evaluate", "train", "Measure a model on labelled photos."),
    "data": _Entry("okko_train.commands.data:data", "train", "Look for what is wrong with a folder of photos."),
    "explain": _Entry("okko_train.commands.explain:explain", "train", "Draw what spoke for a verdict."),
    "tune": _Entry("okko_train.commands.tune:tune", "train", "Tune a network on a table (CSV) and export it."),
    "predict": _Entry("okko_edge.commands.predict:predict", None, "Classify single photos."),
    "run": _Entry("okko_edge.commands.run:run", "edge", "Sort: camera frames in, gate positions out."),
    "calibrate": _Entry("okko_edge.commands.calibrate:calibrate", "edge", "Find the gate's positions, live."),
    "journal": _Entry("okko_edge.commands.journal:journal", None, "Show and export what was decided."),
    "replay": _Entry("okko_edge.commands.replay:replay", None, "Judge kept frames again with another model."),
    "outbox": _Entry("okko_edge.commands.outbox:outbox", None, "Show and upload frames that are worth a label."),
    "config": _Entry("okko_edge.commands.config:config", None, "Check, show or write a configuration file."),
    "doctor": _Entry("okko_edge.commands.doctor:doctor", None, "Say what is wrong with this device, and what to do."),
    "bench": _Entry("okko_edge.commands.bench:bench", None, "Measure how fast this device classifies."),
    "device": _Entry("okko_edge.commands.device:device", "registry", "Say and decide which model this device runs."),
    "update": _Entry("okko_edge.commands.update:update", "registry", "Bring the newest model, also from a stick."),
    "capture": _Entry("okko_edge.commands.capture:capture", "edge", "Take photos to learn from, on the real conveyor."),
    "label": _Entry("okko_cloud.commands.label:label", "cloud", "Give photos labels, in the browser, by keys."),
    "cloud": _Entry("okko_cloud.commands.cloud:cloud", "cloud", "Retrain when photos arrive, here or on AWS."),
    "registry": _Entry("okko_models.commands.registry:registry", "registry", "Publish models to devices, signed."),
    "completion": _Entry("okko.completion:completion", None, "Print the completion script for your shell."),
}


class _LazyGroup(click.Group):
    """A click group that knows its commands by name and imports each one on first use."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _COMMANDS:
            return None
        module, _, attribute = _COMMANDS[cmd_name].target.partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in _COMMANDS.items()])


def _buckets() -> Any:
    """Returns what opens places in S3; training itself knows nothing of buckets."""
    return importlib.import_module("okko_cloud.photo_source")


def _print_version(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        from importlib.metadata import version

        click.echo(f"okko {version('okko')}")
        context.exit()


@click.group(
    cls=_LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100, "obj": _buckets},
    epilog="Exit codes: 0 fine, 1 the job failed, 2 bad usage. Help on one command: okko COMMAND --help",
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show the version and exit.",
)
def okko() -> None:
    """Photos go in, a model comes out, and a Raspberry Pi sorts OK from KO with it, offline.

    \b
    okko train photos/ --out marbles.okko
    okko evaluate marbles.okko other-photos/
    okko run marbles.okko --camera sim:other-photos/ --gate sim --count 50
    """  # noqa: D301


def _name_missing_extra(error: ModuleNotFoundError) -> str:
    called = next((word for word in sys.argv[1:] if word in _COMMANDS), "")
    entry = _COMMANDS.get(called)
    package = f"okko[{entry.extra}]" if entry and entry.extra else "okko"
    return f'okko {called} needs: pip install "{package}"  (the Python package {error.name} is not installed)'


def main() -> None:
    """Runs the command line and exits."""
    try:
        okko(prog_name="okko")
    except OkkoError as error:
        message = str(error)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("okko"):
            raise
        message = _name_missing_extra(error)
    except OSError as error:
        message = f"{error.strerror or error}" + (f": {error.filename}" if error.filename else "")
    click.echo(f"Error: {message}", err=True)
    sys.exit(1)


if __name__ == "__main__":
    main()
