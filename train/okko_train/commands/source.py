"""Where a command's photos come from, and who computes on them: options that commands share, and the dataset they name.

Training knows nothing of buckets; what opens one is handed down by the `okko` command as the click context's object: a
function without arguments that returns `Buckets`.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

import click

from okko_models.errors import OkkoError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from okko_train.dataset import Dataset

_F = TypeVar("_F", bound="Callable[..., Any]")

BUCKET: Final = "s3://"


class Buckets(Protocol):
    """What opens places in S3; `okko_cloud.photo_source` is one."""

    @property
    def bucket_dataset(self) -> Callable[..., contextlib.AbstractContextManager[Dataset]]:
        """Opens `s3://bucket/prefix` as a dataset."""

    @property
    def bucket_file(self) -> Callable[[str, str], contextlib.AbstractContextManager[Path]]:
        """Brings the object at a location and endpoint here for a while."""


class PhotosAt(click.Path):
    """A path, or `s3://BUCKET/PREFIX`, which stays a text."""

    name = "folder or s3://bucket/prefix"

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Returns a Path, or the text of a place in S3."""
        return value if str(value).startswith(BUCKET) else super().convert(value, param, ctx)


def source_options(command: _F) -> _F:
    """Adds --endpoint-url, --dask and --shards to a command; their values go to `opened`."""
    for option in (
        click.option(
            "--shards",
            metavar="PLACE",
            help="With --dask: folder or s3:// place, seen by all workers, for finished work; beside photos in S3.",
        ),
        click.option("--dask", metavar="ADDRESS", help="Compute on this Dask cluster; tcp://HOST:8786, say."),
        click.option("--endpoint-url", metavar="URL", help="With s3://: another S3 than Amazon's."),
    ):
        command = option(command)
    return command


@contextlib.contextmanager
def opened(
    data: Path | str,
    *,
    group_by: str | None,
    workers: int,
    minimum_labels: int = 2,
    endpoint_url: str | None = None,
    dask: str | None = None,
    shards: str | None = None,
) -> Iterator[Dataset]:
    """Yields the photos at `data`, to be computed on by whom the options name.

    Raises:
        OkkoError: they cannot be read or are no dataset, or the cluster cannot be used.
        click.UsageError: options that do not go together.
    """
    in_bucket = isinstance(data, str)
    if shards and not dask:
        raise click.UsageError("--shards is where workers of a cluster keep finished work; add --dask ADDRESS")
    if endpoint_url and not (in_bucket or str(shards).startswith(BUCKET)):
        raise click.UsageError("--endpoint-url is for photos in S3; name them as s3://BUCKET/PREFIX")
    with contextlib.ExitStack() as stack:
        crew = None
        if dask:
            from okko_train.dask_crew import connect

            crew = stack.enter_context(connect(dask))
        if isinstance(data, str):
            yield stack.enter_context(
                _buckets(data).bucket_dataset(
                    data,
                    endpoint_url=endpoint_url or "",
                    group_by=group_by,
                    workers=workers,
                    minimum_labels=minimum_labels,
                    crew=crew,
                    shards=shards or "",
                )
            )
            return
        from okko_train.backbone import cache_folder
        from okko_train.dataset import load_dataset
        from okko_train.engine import Engine, FolderReader
        from okko_train.shards import StoreAt

        engine = None
        if crew is not None:
            place = shards or str(cache_folder() / "shards")
            if not place.startswith(BUCKET):
                place = str(Path(place).absolute())
            engine = Engine(FolderReader(), StoreAt(place, endpoint_url or ""), crew)
        yield load_dataset(data, group_by=group_by, workers=workers, minimum_labels=minimum_labels, engine=engine)


@contextlib.contextmanager
def opened_file(file: Path | str, endpoint_url: str | None) -> Iterator[Path]:
    """Yields a file that may be an object in S3, as a file on this disk.

    Raises:
        OkkoError: it cannot be read.
        click.UsageError: --endpoint-url for a file that is not in S3.
    """
    if not isinstance(file, str):
        if endpoint_url:
            raise click.UsageError("--endpoint-url is for a file in S3; name it as s3://BUCKET/KEY")
        yield file
        return
    with _buckets(file).bucket_file(file, endpoint_url or "") as here:
        yield here


def _buckets(location: str) -> Buckets:
    find = click.get_current_context().find_root().obj
    if find is None:
        raise OkkoError(f'{location}: places in S3 need the `okko` command and pip install "okko[cloud]"')
    found: Buckets = find()
    return found
