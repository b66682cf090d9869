"""`okko device`: which models are on this device, what became of updates, and what a person may do about them."""

from __future__ import annotations

from pathlib import Path

import click

from okko_edge.commands.default_group import DefaultGroup
from okko_edge.commands.update import CONFIG, bring, go_on, open_shelf, read_settings, say_if_disabled, update


class _Group(DefaultGroup):
    default = "status"


@click.group(cls=_Group)
def device() -> None:
    """Look after the models of this device: brought by a network or a stick, tried, and gone back from.

    \b
    okko device enroll s3://my-models/okko root.json    whom to trust; once
    okko device                                         what is in service, and why
    okko device update                                  look for a new model now
    okko device rollback --why "jams"                   back to the one before
    okko device pin 54f63d7a                            this one, and no other
    """  # noqa: D301


@device.command()
@click.argument("registry")
@click.argument("root", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@CONFIG
def enroll(registry: str, root: Path, config: Path | None) -> None:
    """Trust the registry whose root metadata are in the file ROOT (`root.json`), and look for models in REGISTRY.

    REGISTRY is a folder, s3://BUCKET/PREFIX, https://HOST/PATH or http://HOST/PATH. It need not be reachable now.
    """
    import time

    from okko_edge.updater.updater import device_name
    from okko_models.registry.client import Client
    from okko_models.registry.errors import MissingError, OfflineError
    from okko_models.registry.transport import open_transport
    from okko_models.registry.trusted import TrustedFolder

    settings = read_settings(config)
    shelf = open_shelf(settings)
    if "://" not in registry:
        registry = str(Path(registry).absolute())
    transport, note = None, ""
    try:
        transport = open_transport(registry, endpoint_url=settings.updates.endpoint_url)
    except OfflineError as error:
        note = str(error)
    # Whom to trust is said by the file alone; nothing is read from the registry for it.
    TrustedFolder(shelf.trust, time.time).enroll(root.read_bytes())
    shelf.enrolled(registry)
    click.echo(f"this device, {device_name(settings.updates)}, trusts {root} and looks for models in {registry}")
    if transport is not None:
        try:
            wanted = Client(shelf.trust, transport).look(settings.updates.channel, device_name(settings.updates))
            click.echo(f"{wanted.place}: {wanted.name} {wanted.version} ({wanted.digest[:12]})")
        except (OfflineError, MissingError) as error:
            note = str(error)
    if note:
        click.echo(f"note: {note}", err=True)
    say_if_disabled(settings)


@device.command()
@CONFIG
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def status(config: Path | None, as_json: bool) -> None:
    """Say which model is in service, what is being tried, what was rejected and why."""
    import json

    from okko_edge.updater.status import as_text, status_of

    told = status_of(open_shelf(read_settings(config), writing=False), read_settings(config))
    click.echo(json.dumps(told) if as_json else as_text(told))


@device.command()
@click.option("--why", default="", metavar="TEXT", help="Is remembered with the model that is left.")
@CONFIG
def rollback(why: str, config: Path | None) -> None:
    """Go back to the model before; the one that is left is not tried again by itself."""
    from okko_models.errors import OkkoError

    settings = read_settings(config)
    shelf = open_shelf(settings)
    left = shelf.current
    if not left or left not in shelf.state.choices(left, ""):
        raise OkkoError("there is nothing to go back from: no model was put in service by an update")
    alone = shelf.take_charge()
    bundle = shelf.roll_back(f"by hand: {why}" if why else "by hand")
    shelf.give_up_charge()
    if not shelf.complete:
        raise OkkoError(f"{shelf.folder} cannot be written, so going back was not remembered; nothing has changed")
    if bundle is not None:
        now = f"{bundle.manifest.name} {bundle.manifest.version} ({bundle.digest[:12]})"
    else:
        now = f"the bundle that the configuration names ({settings.bundle or 'none: set the key bundle'})"
    when = "from its next start on" if alone else "in a moment"
    click.echo(f"{left[:12]} is left and not tried again; okko run sorts with {now} {when}")


@device.command()
@click.argument("digest", required=False)
@click.option("--none", "unpin", is_flag=True, help="Hold the device on no model any longer.")
@CONFIG
def pin(digest: str | None, unpin: bool, config: Path | None) -> None:
    """Hold this device on the model whose DIGEST begins so, from its disk or from the registry.

    It is tested, but does not have to agree with the model in service. Updates wait until `okko device pin --none`.
    """
    from okko_edge.updater.state import BY_HAND, Arrival
    from okko_models.errors import OkkoError

    if (digest is None) == (not unpin):
        raise click.UsageError("give the beginning of a DIGEST, or --none")
    settings = read_settings(config)
    shelf = open_shelf(settings)
    if digest is None:
        shelf.pin("")
        click.echo("this device follows its channel again")
        return
    here = [known for known in shelf.present() if len(digest) >= 6 and known.startswith(digest)]
    if len(here) > 1:
        raise OkkoError(f"{digest} begins {len(here)} digests on this device; give more of it")
    if here:
        manifest = shelf.open(here[0]).manifest
        wanted = here[0]
        shelf.forgive(wanted)
        if wanted != shelf.chosen:
            shelf.fetched(Arrival(wanted, manifest.name, manifest.version, BY_HAND))
    else:
        wanted = bring(shelf, settings, digest=digest, again=True).digest
    shelf.pin(wanted)
    click.echo(f"this device is held on {wanted[:12]}")
    go_on(shelf, settings)


device.add_command(update)
