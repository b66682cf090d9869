"""`okko cloud`: the loop from photos to models, on this machine or on AWS; each command is imported when called."""

from __future__ import annotations

import importlib
from dataclasses import dataclass

import click


@dataclass(frozen=True)
class _Entry:
    target: str
    summary: str


_COMMANDS = {
    "up": _Entry("okko_cloud.commands.cloud_local:up", "Start the loop: on this machine (--local DIR), or on AWS."),
    "upload": _Entry("okko_cloud.commands.cloud_local:upload", "Put photos there to learn from."),
    "status": _Entry("okko_cloud.commands.cloud_local:status", "Show what waits, what runs, and what is in service."),
    "logs": _Entry("okko_cloud.commands.cloud_local:logs", "Show what was said."),
    "env": _Entry("okko_cloud.commands.cloud_local:env", "Print the variables by which other tools find the local S3."),
    "down": _Entry("okko_cloud.commands.cloud_local:down", "End the loop; photos and models stay."),
    "job": _Entry("okko_cloud.commands.cloud_job:job", "Train on the photos in S3 now, once."),
    "plan": _Entry("okko_cloud.commands.cloud_aws:plan", "Show what would be made on AWS."),
    "cost": _Entry("okko_cloud.commands.cost:cost", "Estimate what it costs, before anything is started."),
}
_ON_AWS = {"up": "okko_cloud.commands.cloud_aws:up", "down": "okko_cloud.commands.cloud_aws:down"}


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        return _load(_COMMANDS[cmd_name].target) if cmd_name in _COMMANDS else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] in _ON_AWS and "--aws" in args:
            return args[0], _load(_ON_AWS[args[0]]), args[1:]
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in _COMMANDS.items()])


def _load(target: str) -> click.Command:
    module, _, attribute = target.partition(":")
    command: click.Command = getattr(importlib.import_module(module), attribute)
    return command


@click.group(cls=_LazyGroup)
def cloud() -> None:
    """New photos retrain the model: photos land in S3, a better model comes out, by itself, once.

    \b
    okko cloud up --local ~/okko-cloud --detach    a whole cloud on this machine, without an account
    okko cloud upload photos/ --local ~/okko-cloud
    okko cloud status ~/okko-cloud
    okko cloud down ~/okko-cloud
    """  # noqa: D301
