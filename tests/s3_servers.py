"""Two S3 servers on loopback that have nothing in common: moto's, and SeaweedFS, which is a real store.

What both accept is less likely to be a habit of one of them. SeaweedFS checks signatures and digests; moto does not.
It is started here by other settings than the local cloud's: dozens of buckets in small volumes, none made unasked.
"""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

from okko_cloud.local.seaweed import find_weed

if TYPE_CHECKING:
    from collections.abc import Iterator

SERVERS = ("moto", "seaweedfs")
KEY, SECRET = "test", "test"
_PORTS = tuple(f"{part}.port{kind}" for part in ("s3", "master", "volume", "filer") for kind in ("", ".grpc"))
_STARTS_S = 60.0
_TRIES = 3


@contextlib.contextmanager
def s3_server(kind: str) -> Iterator[str]:
    """Runs a server until the block ends; gives its URL."""
    with _moto() if kind == "moto" else _seaweedfs() as url:
        yield url


@contextlib.contextmanager
def _moto() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()


@contextlib.contextmanager
def _seaweedfs() -> Iterator[str]:
    with contextlib.ExitStack() as stack:
        # A port that was free a moment ago may be taken by now; then another set is tried.
        for left in reversed(range(_TRIES)):
            with contextlib.ExitStack() as attempt:
                folder = Path(attempt.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
                ports = dict(zip(_PORTS, _free_ports(len(_PORTS)), strict=True))
                process = _start(folder, ports)
                attempt.callback(_remove_sockets, ports)
                attempt.callback(process.wait, 10)
                attempt.callback(process.kill)
                url = f"http://127.0.0.1:{ports['s3.port']}"
                if _answers(process, url):
                    stack.push(attempt.pop_all())
                    break
                assert left, (folder / "log").read_text()[-3000:]
        yield url


def _start(folder: Path, ports: dict[str, int]) -> subprocess.Popen[bytes]:
    identity = {
        "name": "test",
        "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
        "actions": ["Admin", "Read", "List", "Tagging", "Write"],
    }
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    (folder / "data").mkdir()
    flags = [f"-{name}={port}" for name, port in ports.items()]
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(
            [
                find_weed(),
                "server",
                f"-dir={folder / 'data'}",
                "-ip=127.0.0.1",
                "-ip.bind=127.0.0.1",
                "-s3",
                f"-s3.config={folder / 's3.json'}",
                "-s3.autoCreateBucket=false",
                "-s3.port.iceberg=0",
                "-s3.port.lance=0",
                "-master.telemetry=false",
                "-master.volumeSizeLimitMB=64",
                "-volume.max=1000",
                *flags,
            ],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )


def _remove_sockets(ports: dict[str, int]) -> None:
    """A server that is killed leaves these."""
    for name, port in ports.items():
        for kind in ("", "-grpc"):
            Path(f"/tmp/seaweedfs-{name.partition('.')[0]}{kind}-{port}.sock").unlink(missing_ok=True)


def _answers(process: subprocess.Popen[bytes], url: str) -> bool:
    """Waits until an object can be written, which is later than the first answer."""
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    config = Config(connect_timeout=5, read_timeout=20, retries={"total_max_attempts": 1})
    client = boto3.client(
        "s3",
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id=KEY,
        aws_secret_access_key=SECRET,
        config=config,
    )
    until = time.monotonic() + _STARTS_S
    while time.monotonic() < until and process.poll() is None:
        try:
            # Cheaper than a request of boto3, which would try its own times.
            urllib.request.urlopen(url, timeout=5).close()
        except urllib.error.HTTPError:
            pass
        except OSError:
            time.sleep(0.05)
            continue
        try:
            client.create_bucket(Bucket="ready")
            client.put_object(Bucket="ready", Key="x", Body=b"x")
        except (BotoCoreError, ClientError):
            time.sleep(0.1)
            continue
        return True
    return False


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
