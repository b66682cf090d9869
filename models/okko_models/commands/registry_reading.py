"""The commands of `okko registry` that only read: list, show, log, verify."""

from __future__ import annotations

import functools
import hashlib
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from okko_models.registry.catalog import CHANNELS

if TYPE_CHECKING:
    from collections.abc import Callable

    from okko_models.commands.registry import Place
    from okko_models.registry.publisher import Publisher

_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def _reading(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the registry as it is, verified, in the place of where it is."""

    @functools.wraps(command)
    def run(place: Place, **options: Any) -> None:
        with tempfile.TemporaryDirectory() as scratch:
            reader = place.reader(Path(scratch))
            command(reader, reader.look(), **options)

    return run


def _json(value: Any) -> None:
    import msgspec

    click.echo(msgspec.json.encode(value))


@click.command("list")
@_JSON
@click.pass_obj
@_reading
def list_(reader: Publisher, seen: Any, as_json: bool) -> None:  # noqa: ARG001
    """Show which bundle is in service where, and which ones there are."""
    catalog = seen.catalog
    if as_json:
        _json(catalog)
        return
    for place, now in sorted(catalog.places.items()):
        bundle = catalog.bundles[now.digest]
        click.echo(f"{place:<24} {now.digest[:12]}  {bundle.name} {bundle.version}")
    click.echo(f"{len(catalog.bundles)} bundles:")
    for bundle in sorted(catalog.bundles.values(), key=lambda bundle: bundle.at, reverse=True):
        click.echo(f"  {bundle.digest[:12]}  {bundle.at}  {bundle.name} {bundle.version}")


@click.command()
@click.argument("what", metavar="CHANNEL|DIGEST")
@_JSON
@click.pass_obj
@_reading
def show(reader: Publisher, seen: Any, what: str, as_json: bool) -> None:
    """Show one bundle: what it is, and where and when it was in service."""
    from okko_models import manifest as manifests
    from okko_models.bundle import MANIFEST
    from okko_models.registry.errors import UntrustedError
    from okko_models.registry.metadata import bundle_key
    from okko_models.registry.publisher import read_log

    digest = seen.catalog.resolve(what)
    stored = reader.store.get(bundle_key(digest, MANIFEST))
    if stored is None or hashlib.sha256(stored.data).hexdigest() != digest:
        raise UntrustedError(f"{bundle_key(digest, MANIFEST)} is missing or was altered; publish the bundle again")
    manifest = manifests.decode(stored.data)
    entries = [entry for entry in read_log(reader.store, seen.catalog) if digest in {entry.before, entry.after}]
    if as_json:
        _json({"digest": digest, "manifest": manifest, "log": entries})
        return
    click.echo(f"{manifest.name} {manifest.version}, made {manifest.created}")
    click.echo(f"{'digest':<18} {digest}")
    click.echo(f"{'labels':<18} {', '.join(manifest.labels)}; {manifest.model.precision}")
    for name, metric in manifest.metrics.items():
        click.echo(f"{name:<18} {metric.value:.3f} ({metric.low:.3f} to {metric.high:.3f})")
    for entry in entries:
        _line(entry)


@click.command()
@click.option("--channel", type=click.Choice(CHANNELS), help="Only this channel.")
@click.option("--device", metavar="NAME", help="Only this device's pin.")
@_JSON
@click.pass_obj
@_reading
def log(reader: Publisher, seen: Any, channel: str | None, device: str | None, as_json: bool) -> None:
    """Show which model was in service when, who put it there, and why."""
    from okko_models.registry.publisher import read_log

    wanted = {f"channels/{channel}"} if channel else set()
    wanted |= {f"pins/{device}"} if device else set()
    entries = [entry for entry in read_log(reader.store, seen.catalog) if not wanted or entry.place in wanted]
    if as_json:
        _json(entries)
        return
    for entry in entries:
        _line(entry)


def _line(entry: Any) -> None:
    change = f"{entry.before[:12] or '-'} -> {entry.after[:12] or '-'}" if entry.place else ""
    words = (f"{entry.number:>4}", entry.at, f"{entry.action:<10}", entry.place, change, entry.who, entry.why)
    click.echo("  ".join(word for word in words if word))


@click.command()
@_JSON
@click.pass_context
def verify(context: click.Context, as_json: bool) -> None:
    """Check signatures, files, channels and the log; exit code 1 if something is wrong."""
    from okko_models.registry.checking import check

    with tempfile.TemporaryDirectory() as scratch:
        reader = context.obj.reader(Path(scratch))
        report = check(reader.store, reader.look(), time.time())
    if as_json:
        _json(report)
    else:
        for text in report.errors:
            click.echo(f"wrong: {text}")
        for text in report.remarks:
            click.echo(f"note: {text}")
        click.echo(
            f"{report.files} files of bundles and {report.entries} entries of the log compared with what was signed"
        )
    if report.errors:
        context.exit(1)
