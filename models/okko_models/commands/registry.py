"""`okko registry`: publishing models, signed, to devices; the rules are in `okko_models.registry`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from okko_models.commands.registry_reading import list_, log, show, verify

if TYPE_CHECKING:
    from okko_models.registry.publisher import Publisher
    from okko_models.registry.store import Store

_PASSPHRASE = "OKKO_REGISTRY_PASSPHRASE"  # noqa: S105 (the name of a variable)


@dataclass(frozen=True)
class Place:
    """Where the registry is, and whose keys are at hand.

    Attributes:
        location: a folder or `s3://bucket/prefix`.
        endpoint_url: another S3 than Amazon's.
        keys: folders with key files; the first also keeps what this publisher trusts.
        root: the root metadata to trust, for reading without keys.
        who: what the log calls the one who does it.
    """

    location: str
    endpoint_url: str
    keys: tuple[Path, ...]
    root: Path | None
    who: str

    def store(self) -> Store:
        """Returns the registry's store."""
        from okko_models.errors import OkkoError
        from okko_models.registry.store import open_store

        if not self.location:
            raise OkkoError(
                "which registry? Give --registry DIR or --registry s3://BUCKET/PREFIX, or set OKKO_REGISTRY"
            )
        return open_store(self.location, endpoint_url=self.endpoint_url)

    def publisher(self, *, new: bool = False) -> Publisher:
        """Returns whoever publishes, with the keys at hand."""
        from okko_models.errors import OkkoError
        from okko_models.registry.keys import KeyRing
        from okko_models.registry.publisher import Publisher

        if not self.keys:
            raise OkkoError("whose keys? Give --keys DIR, or set OKKO_REGISTRY_KEYS")
        ring = KeyRing(self.keys, lambda role: _passphrase(role, new=new))
        trusted = self.keys[0] / "trusted"
        publisher = Publisher(self.store(), ring, trusted, who=self.who)
        root = self.root or self.keys[0] / "root.json"
        if not new and not (trusted / "root.json").is_file():
            if not root.is_file():
                raise OkkoError(f"{root} is missing: put there the root.json that okko registry init wrote")
            publisher.enroll(root.read_bytes())
        return publisher

    def reader(self, scratch: Path) -> Publisher:
        """Returns somebody who only looks; without keys and root, the registry's own first root is believed."""
        from okko_models.registry.errors import MissingError
        from okko_models.registry.keys import KeyRing
        from okko_models.registry.metadata import metadata_key
        from okko_models.registry.publisher import Publisher

        if self.keys:
            return self.publisher()
        store = self.store()
        reader = Publisher(store, KeyRing([scratch], lambda _: ""), scratch, who="")
        if self.root:
            reader.enroll(self.root.read_bytes())
            return reader
        first = store.get(metadata_key("root", 1))
        if first is None:
            raise MissingError(f"{store} is no registry; okko registry init makes one")
        click.echo("note: the registry's own root metadata are believed; give --root FILE to be sure", err=True)
        reader.enroll(first.data)
        return reader


def _passphrase(role: str, *, new: bool) -> str:
    for name in (f"{_PASSPHRASE}_{role.upper()}", _PASSPHRASE):
        if value := os.environ.get(name):
            return value
    value = click.prompt(f"Passphrase of the {role} key", hide_input=True, confirmation_prompt=new, err=True)
    return str(value)


def _me() -> str:
    import getpass
    import socket

    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        name = "somebody"
    return f"{name}@{socket.gethostname()}"


@click.group()
@click.option("--registry", "location", envvar="OKKO_REGISTRY", default="", metavar="PLACE",
              help="A folder or s3://BUCKET/PREFIX.  [env: OKKO_REGISTRY]")  # fmt: skip
@click.option("--keys", envvar="OKKO_REGISTRY_KEYS", multiple=True, type=click.Path(path_type=Path), metavar="DIR",
              help="A folder with key files; may be given again.  [env: OKKO_REGISTRY_KEYS]")  # fmt: skip
@click.option("--root", type=click.Path(path_type=Path, exists=True, dir_okay=False), metavar="FILE",
              help="The root.json to trust.  [default: root.json beside the keys]")  # fmt: skip
@click.option("--endpoint-url", envvar="AWS_ENDPOINT_URL_S3", default="", metavar="URL",
              help="Another S3 than Amazon's.")  # fmt: skip
@click.option("--who", default="", metavar="NAME", help="What the log calls you.  [default: user@host]")
@click.pass_context
def registry(
    context: click.Context, location: str, keys: tuple[Path, ...], root: Path | None, endpoint_url: str, who: str
) -> None:
    """Publish models, signed, to devices that trust no server.

    \b
    export OKKO_REGISTRY=s3://my-models/okko OKKO_REGISTRY_KEYS=~/okko-keys
    okko registry init
    okko registry publish marbles.okko        into the channel candidate
    okko registry promote candidate           into the channel stable
    okko registry rollback                    stable goes back to the one before
    """  # noqa: D301
    context.obj = Place(location, endpoint_url, keys, root, who or _me())


_WHY = click.option("--why", default="", metavar="TEXT", help="For the log.")
_CHANNEL = click.Choice(["candidate", "stable"])


def _pairs(_: click.Context, option: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for value in values:
        role, separator, rest = value.partition("=")
        if role not in {"root", "targets", "snapshot", "timestamp"} or not separator or role in pairs:
            raise click.BadParameter(
                f"{value!r}; expected ROLE=... for root, targets, snapshot or timestamp", param=option
            )
        pairs[role] = rest
    return pairs


def _numbers(context: click.Context, option: click.Parameter, values: tuple[str, ...]) -> dict[str, int]:
    pairs = _pairs(context, option, values)
    if not all(text.isdigit() and int(text) for text in pairs.values()):
        raise click.BadParameter("expected whole numbers of days", param=option)
    return {role: int(text) for role, text in pairs.items()}


@registry.command()
@click.option("--share", "shares", multiple=True, callback=_pairs, metavar="ROLE=M/N",
              help="Make N keys for a role, of which M must sign.  [default: 1/1 for each]")  # fmt: skip
@click.option("--key", "uris", multiple=True, callback=_pairs, metavar="ROLE=URI",
              help="The role's key is in a key service: timestamp=awskms:alias/okko.")  # fmt: skip
@click.option("--days", multiple=True, callback=_numbers, metavar="ROLE=N",
              help="How long its signatures last.  [default: 730, 365, 365, 60]")  # fmt: skip
@click.pass_obj
def init(place: Place, shares: dict[str, str], uris: dict[str, str], days: dict[str, int]) -> None:
    """Make a registry, and the keys that sign it."""
    from okko_models.registry.files import write_durably
    from okko_models.registry.root import init as make

    publisher = place.publisher(new=True)
    data = make(publisher, {role: _share(shares.get(role, ""), uris.get(role, "")) for role in {*shares, *uris}}, days)
    path = place.keys[0] / "root.json"
    write_durably(path, data)
    click.echo(f"{publisher.store} is a registry now; its keys are in {place.keys[0]}")
    click.echo(f"enrol each device with {path}; it is no secret, but it must not be exchanged on the way")


def _share(share: str, uri: str) -> Any:
    from okko_models.registry.root import Share

    if uri:
        return Share(0, 1, (uri,))
    threshold, _, keys = share.partition("/")
    if not (threshold.isdigit() and keys.isdigit() and 1 <= int(threshold) <= int(keys) <= 20):
        raise click.UsageError(f"--share {share!r}: expected ROLE=M/N, for example root=2/3")
    return Share(int(keys), int(threshold))


@registry.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--channel", type=_CHANNEL, default="candidate", show_default=True)
@_WHY
@click.pass_obj
def publish(place: Place, bundle: Path, channel: str, why: str) -> None:
    """Put a bundle into the registry and in service in a channel."""
    from okko_models.bundle import Bundle

    opened = Bundle.open(bundle)
    changed = place.publisher().publish(opened, channel, why)
    _said(
        changed, f"{opened.manifest.name} {opened.manifest.version} ({opened.digest[:12]}) is in service in {channel}"
    )


@registry.command()
@click.argument("what", metavar="CHANNEL|DIGEST")
@click.option("--channel", type=_CHANNEL, default="stable", show_default=True, help="Where to.")
@_WHY
@click.pass_obj
def promote(place: Place, what: str, channel: str, why: str) -> None:
    """Put a bundle of the registry in service in a channel."""
    publisher = place.publisher()
    changed = publisher.promote(what, channel, why)
    _said(changed, f"{publisher.look().catalog.resolve(channel)[:12]} is in service in {channel}")


@registry.command()
@click.option("--channel", type=_CHANNEL, default="stable", show_default=True)
@click.option("--to", default="", metavar="DIGEST", help="Which earlier bundle.  [default: the one before]")
@_WHY
@click.pass_obj
def rollback(place: Place, channel: str, to: str, why: str) -> None:
    """Go back to a bundle that was in service before."""
    publisher = place.publisher()
    changed = publisher.roll_back(channel, to, why)
    _said(changed, f"{publisher.look().catalog.resolve(channel)[:12]} is in service in {channel} again")


@registry.command()
@click.argument("device")
@click.argument("what", metavar="CHANNEL|DIGEST")
@_WHY
@click.pass_obj
def pin(place: Place, device: str, what: str, why: str) -> None:
    """Put a bundle in service on one device, whatever the channels say."""
    _said(place.publisher().pin(device, what, why), f"{device} runs {what} until it is unpinned")


@registry.command()
@click.argument("device")
@_WHY
@click.pass_obj
def unpin(place: Place, device: str, why: str) -> None:
    """Let a device follow its channel again."""
    _said(place.publisher().unpin(device, why), f"{device} follows its channel")


@registry.command()
@click.pass_obj
def refresh(place: Place) -> None:
    """Renew the signatures before they expire; a job for a calendar."""
    publisher = place.publisher()
    publisher.refresh()
    click.echo(f"signed; devices accept it until {publisher.look().trusted.timestamp.expires:%Y-%m-%d}")


@registry.command()
@click.option("--keep", type=click.IntRange(0, 10), default=5, show_default=True,
              help="Earlier bundles of each channel to keep, for going back.")  # fmt: skip
@_WHY
@click.pass_obj
def gc(place: Place, keep: int, why: str) -> None:
    """Remove bundles that no channel and no pin needs, and what interrupted publishing left."""
    from okko_models.registry.store import FolderStore

    publisher = place.publisher()
    gone = publisher.sweep(keep, why)
    if isinstance(publisher.store, FolderStore):
        publisher.store.delete_leftovers()
    click.echo(f"{len(gone)} bundles removed{':' if gone else ''} {' '.join(digest[:12] for digest in gone)}".rstrip())


@registry.command("rotate-key")
@click.argument("role", type=click.Choice(["root", "targets", "snapshot", "timestamp"]), required=False)
@click.option("--old", default="", metavar="ID", help="Which of the role's keys to replace.")
@click.option("--lost", is_flag=True, help="The old key is not at hand any more.")
@click.option("--key", "uri", default="", metavar="URI", help="The new key is in a key service: awskms:alias/okko.")
@click.option("--renew", is_flag=True, help="Replace no key, only renew the root metadata.")
@click.option("--resume", is_flag=True, help="Go on where bringing in new keys was interrupted.")
@click.option("--draft", type=click.Path(path_type=Path), default="root.draft.json", show_default=True, metavar="FILE",
              help="Where the new root metadata go if others must sign them.")  # fmt: skip
@_WHY
@click.pass_obj
def rotate_key(
    place: Place, role: str | None, old: str, lost: bool, uri: str, renew: bool, resume: bool, draft: Path, why: str
) -> None:
    """Replace a key; devices follow by themselves."""
    from okko_models.registry.root import finish_rotation, rotate

    if (bool(role) + renew + resume) != 1:
        raise click.UsageError("name a ROLE, or give --renew, or --resume")
    publisher = place.publisher()
    if resume:
        finish_rotation(publisher, lost=lost, why=why)
        click.echo("the new keys are in service")
        return
    made = rotate(publisher, role or "", old, lost=lost, uri=uri, why=why)
    _drafted(made, draft, "the new root metadata are in service" if renew else f"a new {role} key is in service")


@registry.command()
@click.argument("draft", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--lost", is_flag=True, help="As rotate-key was told.")
@_WHY
@click.pass_obj
def sign(place: Place, draft: Path, lost: bool, why: str) -> None:
    """Add your signature to new root metadata; the last one brings them in."""
    from okko_models.registry.root import finish_rotation, sign_draft

    publisher = place.publisher()
    made = sign_draft(publisher, draft.read_bytes(), lost=lost)
    if made.complete:
        finish_rotation(publisher, made.data, lost=lost, why=why)
    _drafted(made, draft, "the new root metadata are in service")


def _drafted(made: Any, draft: Path, done: str) -> None:
    from okko_models.registry.files import write_durably

    if made.complete:
        click.echo(done)
        return
    write_durably(draft, made.data)
    missing = ", ".join(f"{count} by {whose} root keys" for whose, count in made.missing.items() if count)
    click.echo(f"{draft} needs more signatures: {missing}. Whoever has the keys: okko registry sign {draft}")


def _said(changed: bool, what: str) -> None:
    click.echo(what if changed else f"{what} (it was already)")


for _command in (list_, show, log, verify):
    registry.add_command(_command)
