"""`okko completion`: the script that teaches a shell to complete okko's commands and options."""

from __future__ import annotations

import click


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion script for SHELL.

    \b
    bash: okko completion bash >> ~/.bashrc
    zsh:  okko completion zsh >> ~/.zshrc
    fish: okko completion fish > ~/.config/fish/completions/okko.fish
    """  # noqa: D301
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    if kind is None:  # every choice above has one
        raise click.BadParameter(f"no completion for {shell}")
    click.echo(kind(context.find_root().command, {}, "okko", "_OKKO_COMPLETE").source())
