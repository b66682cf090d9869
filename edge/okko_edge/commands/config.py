"""`okko config`: look at, check and explain the configuration file."""

from __future__ import annotations

from pathlib import Path

import click


@click.group()
def config() -> None:
    """Check, show and explain the configuration file.

    One file in TOML holds what a device needs to know: --config FILE, else $OKKO_CONFIG, else /etc/okko/okko.toml.

    \b
    okko config example > okko.toml
    okko config check okko.toml
    """  # noqa: D301


@config.command()
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def check(context: click.Context, file: Path | None, as_json: bool) -> None:
    """Say what is wrong with FILE, and what looks wrong; exit code 1 if sorting could not begin with it."""
    import json

    from okko_edge.config import contradictions, find, missing, read

    path = find(file)
    loaded = read(path)
    findings = [*contradictions(loaded.settings), *missing(loaded.settings)]
    fatal = any(finding.fatal for finding in findings)
    if as_json:
        told = [
            {"key": finding.key, "said": finding.said, "fatal": finding.fatal, "where": loaded.origins.get(finding.key)}
            for finding in findings
        ]
        click.echo(json.dumps({"file": str(path) if path else None, "ok": not fatal, "findings": told}))
    else:
        for finding in findings:
            where = loaded.origins.get(finding.key, "default")
            click.echo(f"{'error' if finding.fatal else 'warning'}: {where}: {finding.key} {finding.said}")
        number = len(loaded.origins)
        said = "cannot be used" if fatal else "can be used" if findings else "is fine"
        click.echo(f"{path or 'no file, so the defaults'}: {number} of its keys set; it {said}")
    if fatal:
        context.exit(1)


@config.command()
@click.option("--config", "file", type=click.Path(path_type=Path), metavar="FILE", help="Another file.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, by dotted key.")
def show(file: Path | None, as_json: bool) -> None:
    """Print the values in force, defaults included, and where each was set."""
    import json

    from okko_edge.config import find, read
    from okko_edge.config.keys import all_keys
    from okko_edge.config.text import effective, shown

    loaded = read(find(file))
    if as_json:
        values = {name: shown(key, key.of(loaded.settings)) for name, key in all_keys().items()}
        click.echo(json.dumps(values))
    else:
        click.echo(effective(loaded), nl=False)


@config.command()
@click.option("--markdown", is_flag=True, help="Print the handbook's tables instead.")
def example(markdown: bool) -> None:
    """Print a complete file: every key, explained, commented out at its default."""
    from okko_edge.config import text

    click.echo(text.as_markdown() if markdown else text.example(), nl=False)


@config.command()
def password() -> None:
    """Ask for the dashboard's password twice and print the line that goes under [dashboard]."""
    from okko_edge.config.text import toml
    from okko_edge.dashboard.passwords import hash_password

    word = click.prompt("Password", hide_input=True, confirmation_prompt="Once more", err=True)
    click.echo(f"password_hash = {toml(hash_password(word))}")
