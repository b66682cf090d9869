from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from okko_models.bundle import Bundle
from okko_models.classifier import Classifier
from tests.cloud.labelling import rooms

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true"}


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**KEYS, "AWS_CONFIG_FILE": "/nowhere", "AWS_SHARED_CREDENTIALS_FILE": "/nowhere"}.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="session")
def s3_url() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    yield f"http://{host}:{port}"
    moto.stop()


@pytest.fixture
def client(s3_url: str, credentials: None) -> Any:
    import boto3

    return boto3.client("s3", endpoint_url=s3_url, region_name="us-east-1")


@pytest.fixture(params=["folder", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> rooms.Folder | rooms.Bucket:
    """An empty dataset; the same claims hold in a folder and in a bucket."""
    if request.param == "folder":
        (tmp_path / "photos").mkdir()
        return rooms.Folder(tmp_path / "photos")
    return rooms.Bucket(request.getfixturevalue("client"), rooms.bucket_name())


@pytest.fixture
def folder(tmp_path: Path) -> rooms.Folder:
    (tmp_path / "photos").mkdir()
    return rooms.Folder(tmp_path / "photos")


@pytest.fixture
def model(redness_bundle: Callable[..., Path]) -> Classifier:
    """The redder, the more OK; UNCERTAIN between 0.1 and 0.9, which is red 92 to 163."""
    return Classifier(Bundle.open(redness_bundle()))
