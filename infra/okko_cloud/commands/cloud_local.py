"""`okko cloud up | upload | status | logs | env | down` for a cloud on this machine."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from okko_cloud.place import Place, Settings

_FOLDER = click.argument("folder", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
_LOCAL = click.option(
    "--local", "folder", metavar="DIR", type=click.Path(path_type=Path, file_okay=False), help="A cloud's folder."
)
_ENDPOINT = click.option("--endpoint-url", default="", metavar="URL", help="Another S3 than Amazon's.")
_COST = click.FloatRange(min=0, max=1e9)
_START_S = 90.0
_POLL_S = 0.5
_HEARD_S = 1.0  # what was uploaded just now is heard of by then


@click.command()
@click.option("--local", "folder", required=True, metavar="DIR", type=click.Path(path_type=Path, file_okay=False),
              help="On this machine; everything is kept in DIR.")  # fmt: skip
@click.option("--place", metavar="S3://BUCKET/PREFIX",
              help="Work on photos in an S3 that runs already, instead of starting one.")  # fmt: skip
@_ENDPOINT
@click.option("--detach", is_flag=True, help="Go on in the background.")
@click.option("--name", help="Name of the model.")
@click.option("--ok", "ok_labels", multiple=True, metavar="LABEL", help="A label that counts as good (repeatable).")
@click.option("--group-by", metavar="COLUMN", help="Column of photos/photos.csv; a group is never divided.")
@click.option("--cost-false-ok", type=_COST, help="Cost of a bad one let through.")
@click.option("--cost-false-ko", type=_COST, help="Cost of a good one thrown out.")
@click.option("--cost-uncertain", type=_COST, help="Cost of one set aside for a person.")
@click.option("--seed", type=click.IntRange(min=0), help="Of everything random.")
@click.option("--trials", type=click.IntRange(min=1), help="Trials of the swarm.")
@click.option("--promotion", type=click.Choice(["auto", "hand"]),
              help="Who puts a better model into service.")  # fmt: skip
@click.option("--confidence", type=click.FloatRange(0.5, 1, max_open=True),
              help="How sure it must be that a new model is better.")  # fmt: skip
@click.option("--max-latency-ms", type=click.FloatRange(min=0, min_open=True), help="Slower models are not promoted.")
@click.option("--max-minutes", type=click.FloatRange(min=0, min_open=True), help="A job that takes longer is ended.")
@click.option("--quiet-minutes", type=click.FloatRange(min=0),
              help="Retrain when no photo has come for so long.")  # fmt: skip
@click.option("--at-most-minutes", type=click.FloatRange(min=0), help="And at the latest so long after the first.")
def up(folder: Path, place: str | None, endpoint_url: str, detach: bool, **wanted: Any) -> None:
    """Start the loop: photos come in, models come out.

    What is not given stays as it was the last time, or is as usual: costs 1, 1 and 0.25; retrain when no photo came for
    2 minutes, at most 15; promote by itself what is better with 95 % confidence.

    \b
    okko cloud up --local ~/okko-cloud
    okko cloud up --local ~/okko-cloud --detach --cost-false-ok 20
    okko cloud up --local ~/okko-cloud --place s3://marbles --endpoint-url http://127.0.0.1:9000
    """  # noqa: D301
    import signal
    import threading

    if endpoint_url and not place:
        raise click.UsageError("--endpoint-url is for an S3 that runs already; say which photos: --place s3://BUCKET")
    if detach and _parent_of_background(folder):
        return

    from okko_cloud.local.cloud import Folder, run
    from okko_cloud.place import Place

    where = Place.parse(place, endpoint_url) if place else None
    cloud = Folder(folder.resolve())
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    cloud.path.mkdir(parents=True, exist_ok=True, mode=0o700)

    def say(line: str) -> None:
        text = f"{time.strftime('%H:%M:%S')} {line}"
        click.echo(text)
        with cloud.log.open("a") as log:
            log.write(f"{text}\n")

    run(cloud, place=where, change=lambda before: _changed(before, wanted), stop=stop, say=say)


def _changed(before: Settings, wanted: dict[str, Any]) -> Settings:
    import msgspec

    from okko_models.errors import OkkoError

    given = {name: value for name, value in wanted.items() if value not in (None, ())}
    costs = {name.removeprefix("cost_"): given.pop(name) for name in list(given) if name.startswith("cost_")}
    try:
        return msgspec.structs.replace(before, costs=msgspec.structs.replace(before.costs, **costs), **given)
    except ValueError as error:
        raise OkkoError(f"these settings cannot be: {error}") from error


def _parent_of_background(folder: Path) -> bool:
    """Divides this process; the child goes on in the background, and the parent waits until the child is up.

    Returns:
        Whether this is the parent.
    """
    # Before anything is imported that starts threads: they do not survive.
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    log = folder / "up.log"
    child = os.fork()
    if child == 0:
        os.setsid()
        with Path(os.devnull).open("rb") as nothing, log.open("wb") as output:
            os.dup2(nothing.fileno(), 0)
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
        return False

    from okko_cloud.local.cloud import Folder
    from okko_models.errors import OkkoError

    cloud = Folder(folder.resolve())
    end = time.monotonic() + _START_S
    while (running := cloud.read_running()) is None or running.pid != child:
        if os.waitpid(child, os.WNOHANG)[0] or time.monotonic() > end:
            said = log.read_text().strip().splitlines()
            raise OkkoError(f"it did not start: {said[-1].removeprefix('Error: ') if said else 'it said nothing'}")
        time.sleep(0.1)
    click.echo(f"up in {folder}; okko cloud down {folder} ends it")
    return True


@click.command()
@click.argument("photos", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("place", required=False, metavar="[S3://BUCKET/PREFIX]")
@_LOCAL
@_ENDPOINT
def upload(photos: Path, place: str | None, folder: Path | None, endpoint_url: str) -> None:
    """Put the photos in PHOTOS, which has a sub-folder for each label, where they are learnt from.

    What is there already is not sent again, so an upload that was interrupted can simply be repeated.

    \b
    okko cloud upload photos/ --local ~/okko-cloud
    okko cloud upload photos/ s3://my-marbles
    """  # noqa: D301
    from okko_cloud.bucket import BucketPhotos, files_below
    from okko_train.progress import progress

    bucket = BucketPhotos(_place(place, folder, endpoint_url))
    files = list(files_below(photos))
    with progress("Uploading", len(files)) as done:
        sent = bucket.upload(files, done)
    click.echo(f"{sent} of {len(files)} photos were new and are at {bucket} now")


def _place(place: str | None, folder: Path | None, endpoint_url: str) -> Place:
    from okko_cloud.local.cloud import Folder
    from okko_cloud.place import Place
    from okko_models.errors import OkkoError

    if (place is None) == (folder is None):
        raise click.UsageError("where? Give s3://BUCKET/PREFIX, or --local DIR for a cloud on this machine")
    if place is not None:
        return Place.parse(place, endpoint_url)
    assert folder is not None
    cloud = Folder(folder.resolve())
    running = cloud.read_running()
    if running is None:
        raise OkkoError(f"no cloud runs in {folder}; start it with: okko cloud up --local {folder}")
    if running.endpoint:
        os.environ.clear()
        os.environ.update(cloud.environment())
    return Place.parse(running.place, running.external)


@click.command()
@_FOLDER
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON alone on standard output.")
@click.option("--wait", is_flag=True, help="Until nothing waits and nothing runs.")
def status(folder: Path, as_json: bool, wait: bool) -> None:
    """Show what waits, what runs, the last jobs, and which model is in service."""
    from okko_cloud.local.cloud import Folder
    from okko_cloud.local.status import is_idle, look, words

    cloud = Folder(folder.resolve())
    if wait:
        time.sleep(_HEARD_S)
        while not is_idle(cloud):
            time.sleep(_POLL_S)
    found = look(cloud)
    if as_json:
        import msgspec

        click.echo(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())
    else:
        click.echo(words(found, time.time()))


@click.command()
@_FOLDER
@click.option("-n", "--lines", type=click.IntRange(min=0), default=50, show_default=True, help="The last lines.")
@click.option("-f", "--follow", is_flag=True, help="Go on until Ctrl-C.")
def logs(folder: Path, lines: int, follow: bool) -> None:
    """Show what was said, by the loop and by its jobs."""
    from okko_cloud.local.cloud import Folder
    from okko_models.errors import OkkoError

    log = Folder(folder.resolve()).log
    if not log.is_file():
        raise OkkoError(
            f"{folder} has no {log.name}: no cloud ran there yet; okko cloud up --local {folder} starts one"
        )
    with log.open(errors="replace") as file:
        for line in file.readlines()[-lines:] if lines else ():
            click.echo(line, nl=False)
        file.seek(0, 2)
        while follow:
            if line := file.readline():
                click.echo(line, nl=False)
            else:
                time.sleep(0.2)


@click.command()
@_FOLDER
def env(folder: Path) -> None:
    """Print the variables by which boto3, the aws command and okko find the S3 of the cloud in DIR.

    They name two files; the files hold the address and a random pair of keys for it.

    \b
    eval "$(okko cloud env ~/okko-cloud)"
    """  # noqa: D301
    import shlex

    from okko_cloud.local.cloud import Folder

    cloud = Folder(folder.resolve())
    for name, value in sorted(cloud.environment().items()):
        if name.startswith("AWS_"):
            click.echo(f"export {name}={shlex.quote(value)}")
    click.echo("unset AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN AWS_PROFILE AWS_ENDPOINT_URL_S3")


@click.command()
@_FOLDER
def down(folder: Path) -> None:
    """End the loop that runs in DIR; photos and models stay, and the next up goes on with them."""
    from okko_cloud.local.cloud import Folder
    from okko_cloud.local.cloud import down as end

    was_up = end(Folder(folder.resolve()))
    click.echo(f"{'nothing runs any more' if was_up else 'nothing ran'} in {folder}; its photos and models are kept")
