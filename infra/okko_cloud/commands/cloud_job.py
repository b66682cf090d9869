"""`okko cloud job`: one job, now; what the local cloud, a container or a person starts."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from okko_cloud.job import Job


def _say(line: str) -> None:
    click.echo(f"{time.strftime('%H:%M:%S')} {line}", err=True)


@click.command()
@click.argument("place", metavar="S3://BUCKET/PREFIX")
@click.option("--keys", envvar="OKKO_REGISTRY_KEYS", required=True, type=click.Path(path_type=Path), metavar="DIR",
              help="Folder with the keys that sign, and root.json.  [env: OKKO_REGISTRY_KEYS]")  # fmt: skip
@click.option("--folder", default=None, type=click.Path(path_type=Path), metavar="DIR",
              help="Where fetched photos are kept for the next job.  [default: okko's cache]")  # fmt: skip
@click.option("--endpoint-url", envvar="AWS_ENDPOINT_URL_S3", default="", metavar="URL",
              help="Another S3 than Amazon's.")  # fmt: skip
@click.option("--lease", "lease_s", default=60.0, show_default=True, type=click.FloatRange(min=1), metavar="SECONDS",
              help="A worker not heard of for so long is taken for dead.")  # fmt: skip
@click.option("--watch-parent", is_flag=True, hidden=True)
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON alone on standard output.")
def job(
    place: str, keys: Path, folder: Path | None, endpoint_url: str, lease_s: float, watch_parent: bool, as_json: bool
) -> None:
    """Train on the photos in S3 now, unless that was done, and publish what comes out.

    Exit code 75: another worker is at it, or S3 cannot be reached; try again later.

    \b
    okko cloud job s3://my-marbles --keys okko-keys
    okko cloud job s3://marbles --endpoint-url http://127.0.0.1:9000 --keys okko-keys
    """  # noqa: D301
    from okko_cloud.local.jobs import BUSY, LATER, serve
    from okko_cloud.making import make_job
    from okko_cloud.place import Place
    from okko_train.backbone import cache_folder

    def make() -> Job:
        where = Place.parse(place, endpoint_url)
        return make_job(where, keys, folder or cache_folder() / "cloud", lease_s=lease_s, say=_say)

    if as_json:
        serve(make, watch_parent=watch_parent)
    try:
        outcome = make().run()
    except LATER as error:
        click.echo(f"Try again later: {error}", err=True)
        raise SystemExit(BUSY) from error
    done = outcome.done
    photos = ", ".join(f"{count} {label}" for label, count in sorted(done.photos.items()))
    click.echo(f"{photos}; {done.test_photos} of them for the test; dataset {done.dataset[:12]}")
    said = {"unchanged": "was trained before", "kept": "is a candidate", "promoted": "is in service"}[outcome.kind]
    click.echo(f"model {done.version} ({done.bundle[:12]}) {said}: {done.ruling.reason}")


if __name__ == "__main__":
    job()
