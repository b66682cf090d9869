from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest

from okko_models.bundle import Bundle
from okko_models.classifier import Classifier
from tests.cloud.labelling import rooms
from tests.s3_servers import KEY, SECRET, SERVERS, s3_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": KEY,
    "AWS_SECRET_ACCESS_KEY": SECRET,
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": "/nowhere",
    "AWS_SHARED_CREDENTIALS_FILE": "/nowhere",
}


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="session")
def s3_url_of() -> Iterator[Callable[[str], str]]:
    """Returns the address of a server of a kind, which is started when it is first asked for."""
    with contextlib.ExitStack() as stack:
        running: dict[str, str] = {}

        def url(kind: str) -> str:
            if kind not in running:
                running[kind] = stack.enter_context(s3_server(kind))
            return running[kind]

        yield url


@pytest.fixture
def s3_url(s3_url_of: Callable[[str], str]) -> str:
    return s3_url_of("moto")


@pytest.fixture
def client(s3_url: str) -> Any:
    return client_of(s3_url)


def client_of(url: str) -> Any:
    import boto3

    keys = {"aws_access_key_id": KEY, "aws_secret_access_key": SECRET}
    return boto3.client("s3", endpoint_url=url, region_name="us-east-1", **keys)


@pytest.fixture(params=["folder", *SERVERS])
def place(
    request: pytest.FixtureRequest, tmp_path: Path, s3_url_of: Callable[[str], str]
) -> rooms.Folder | rooms.Bucket:
    """An empty dataset; the same claims hold in a folder and in buckets of different servers."""
    if request.param == "folder":
        (tmp_path / "photos").mkdir()
        return rooms.Folder(tmp_path / "photos")
    return rooms.Bucket(client_of(s3_url_of(request.param)), rooms.bucket_name())


@pytest.fixture
def folder(tmp_path: Path) -> rooms.Folder:
    (tmp_path / "photos").mkdir()
    return rooms.Folder(tmp_path / "photos")


@pytest.fixture
def model(redness_bundle: Callable[..., Path]) -> Classifier:
    """The redder, the more OK; UNCERTAIN between 0.1 and 0.9, which is red 92 to 163."""
    return Classifier(Bundle.open(redness_bundle()))
