"""`okko label`: people say what photos show, on a local page, the most useful photos first."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from okko_models.errors import OkkoError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from okko_cloud.labelling.catalogue import Catalogue
    from okko_cloud.labelling.photos import Photos
    from okko_models.classifier import Classifier
    from okko_models.registry.store import Store


@click.command()
@click.argument("place", metavar="DIR|s3://BUCKET/PREFIX")
@click.option(
    "--model", type=click.Path(path_type=Path), metavar="BUNDLE", help="Ask this model, and show first what helps it."
)
@click.option(
    "--labels", metavar="A,B,...", default="", help="What photos can be.  [default: the model's, or the folders']"
)
@click.option("--name", metavar="WHO", help="Who you are, for the others.  [default: your login]")
@click.option("--port", type=click.IntRange(0, 65535), default=8765, show_default=True, help="The page's port; 0: any.")
@click.option("--endpoint-url", metavar="URL", default="", help="Another S3 than Amazon's.")
@click.option("--list", "only_list", is_flag=True, help="Print what would be shown, in that order, and end.")
@click.option("--json", "as_json", is_flag=True, help="Print the list, or at the end the sums, as one JSON object.")
def label(
    place: str,
    model: Path | None,
    labels: str,
    name: str | None,
    port: int,
    endpoint_url: str,
    only_list: bool,
    as_json: bool,
) -> None:
    """Open a page to label photos on; the most useful ones come first.

    \b
    okko label photos/
    okko label photos/ --model marbles.okko
    okko label s3://sorters/photos --model marbles.okko --name Anna
    okko label photos/ --model marbles.okko --list --json

    Photos have one sub-folder for each label; those without a label are in unlabelled/, in no sub-folder, or where a
    device's outbox has uploaded them (DEVICE/). A photo that gets a label is moved into the label's folder, and never
    overwritten or lost. Who decided what, when, stands in .okko/decisions/ there.

    Keys: O and K, digits for other labels, S skips, U undoes, arrows go back and forth. Several people can label the
    same photos at once. The page is reachable from this machine alone; Ctrl-C ends it.
    """  # noqa: D301
    from okko_cloud.labelling.book import Book
    from okko_cloud.labelling.catalogue import Catalogue
    from okko_cloud.labelling.looking import Eye

    asked = [each for each in (part.strip() for part in labels.split(",")) if each]
    photos, store = _open(place, endpoint_url)
    classifier = _classifier(model) if model else None
    of_model = classifier.bundle.manifest.labels if classifier else ()
    book = Book(store)
    catalogue = Catalogue(photos, book, Eye(photos, classifier), asked=asked, of_model=of_model)
    if only_list:
        _print_list(catalogue, as_json=as_json)
        return
    from okko_cloud.labelling.app import App
    from okko_cloud.labelling.desk import Desk
    from okko_cloud.labelling.leases import Leases
    from okko_cloud.labelling.server import Helpers, Server

    desk = Desk(catalogue, photos, book, Leases(store))
    guesses = f"{classifier.bundle.manifest.name} {classifier.bundle.manifest.version}" if classifier else None
    app = App(desk, place=str(photos), who=name or _login(), model=guesses)
    server = Server(app, port)
    helpers = Helpers(catalogue, app)
    click.echo(f"Open {server.url} in a browser to label {photos}; Ctrl-C ends", err=True)
    try:
        with _stopped_by_signal() as wait:
            wait()
    finally:
        server.close()
        helpers.close()
        desk.close()
    _print_sums(desk.decisions, catalogue, as_json=as_json)


def _open(place: str, endpoint_url: str) -> tuple[Photos, Store]:
    from okko_cloud.labelling.layout import OWN

    if not place.startswith("s3://"):
        from okko_cloud.labelling.photos import FolderPhotos
        from okko_models.registry.store import FolderStore

        folder = FolderPhotos(Path(place))
        _refuse_outbox(folder)
        return folder, FolderStore(Path(place).resolve() / OWN)
    from okko_cloud.events import PHOTOS
    from okko_cloud.labelling.photos_s3 import S3Photos
    from okko_cloud.place import SETTINGS
    from okko_models.registry.s3 import S3Store

    whole = S3Store.parse(place, endpoint_url=endpoint_url)
    # `okko cloud` keeps photos below its place, beside the models that came of them.
    prefix = whole.prefix + PHOTOS if whole.get(SETTINGS) else whole.prefix
    photos = S3Photos(whole.bucket, prefix, endpoint_url=endpoint_url)
    return photos, S3Store(whole.bucket, f"{prefix}{OWN}/", endpoint_url=endpoint_url)


def _refuse_outbox(photos: Photos) -> None:
    """A device's own outbox is in use: it counts its frames, and would miss those that are moved out of it."""
    import re

    names = {file.key for file in photos.list_all()}
    if any(re.fullmatch(r"[0-9a-f]{64}\.png", name) and f"{name[:-4]}.json" in names for name in names):
        raise OkkoError(
            f"{photos} is the outbox of a device; label what it has uploaded, or a copy of it in the folder unlabelled "
            "of your photos"
        )


def _classifier(model: Path) -> Classifier:
    from okko_models.bundle import Bundle
    from okko_models.classifier import Classifier

    return Classifier(Bundle.open(model))


def _login() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (OSError, KeyError):  # no such user in a container
        return "somebody"


@contextlib.contextmanager
def _stopped_by_signal() -> Iterator[Callable[[], bool]]:
    """Gives a function that waits for Ctrl-C or SIGTERM."""
    import signal
    import threading

    stopped = threading.Event()
    signals = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda *_: stopped.set()) for number in signals]
    try:
        yield stopped.wait
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)


def _print_list(catalogue: Catalogue, *, as_json: bool) -> None:
    while catalogue.look_at_next():
        pass
    rows = []
    for entry in catalogue.queue():
        look, worth = entry.look, entry.worth
        guess = look.guess if look else None
        rows.append(
            {
                "photo": entry.key.encode("utf-8", "replace").decode(),
                "label": entry.label,
                "reason": worth.reason.value if worth else "",
                "guess": guess.label if guess else None,
                "confidence": round(guess.confidence, 6) if guess else None,
                "novelty": round(guess.novelty, 6) if guess else None,
                "corrected": look.corrected if look else None,
                "problem": look.problem if look else None,
            }
        )
    if as_json:
        click.echo(json.dumps({"photos": rows, "labels": catalogue.labels}))
        return
    for row in rows:
        said = f"{row['guess']} {row['confidence']:.0%}" if row["guess"] else row["problem"] or ""
        click.echo(f"{row['reason']:<26} {row['label'] or '-':<12} {said:<16} {row['photo']}")
    click.echo(f"{len(rows)} of {catalogue.progress().photos} photos are worth a look", err=True)


def _print_sums(decisions: int, catalogue: Catalogue, *, as_json: bool) -> None:
    with contextlib.suppress(OkkoError):
        catalogue.refresh()
    progress = catalogue.progress()
    left = sum(progress.left.values())
    if as_json:
        sums = {"decisions": decisions, "left": left, "unlabelled": progress.unlabelled, "labels": progress.labels}
        click.echo(json.dumps(sums))
        return
    labels = ", ".join(f"{count} {label}" for label, count in progress.labels.items())
    click.echo(f"{decisions} decisions; now {labels}, {progress.unlabelled} unlabelled; {left} are worth a look")
