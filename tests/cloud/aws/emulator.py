"""AWS on loopback, and Terraform's providers wherever this machine has them.

The emulator is ministack, which runs functions and rings alarms for real, in a virtual environment of its own (it needs
another botocore than okko), with what `ministack_more` adds.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
import venv
from pathlib import Path

REQUIREMENTS = Path(__file__).with_name("ministack.txt")
CACHE = Path(os.environ.get("OKKO_TEST_CACHE", "~/.cache/okko-tests")).expanduser()
REGION = "us-east-1"
_MIRRORS = ("~/.terraform.d", "~/.local/share/terraform", "/usr/local/share", "/usr/share/terraform", "/opt")
_START_S = 60.0


def installed() -> Path:
    """Returns the interpreter that has ministack; installs it the first time, at the versions and digests pinned."""
    digest = hashlib.sha256(REQUIREMENTS.read_bytes() + sys.version.encode()).hexdigest()[:12]
    folder = CACHE / f"ministack-{digest}"
    python = folder / "bin" / "python"
    done = folder / "installed"
    if not done.is_file():
        shutil.rmtree(folder, ignore_errors=True)
        venv.create(folder, with_pip=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--require-hashes"]
        subprocess.run([*pip, "-r", str(REQUIREMENTS)], check=True, timeout=300)
        done.touch()
    return python


class Emulator:
    """Ministack in a process of its own; close it."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.log = folder / "ministack.log"
        settings = {
            "BIND_HOST": "127.0.0.1",
            "GATEWAY_PORT": str(port),
            "LAMBDA_EXECUTOR": "local",
            "SFTP_ENABLED": "0",
            "IOT_MTLS_ENABLED": "0",
            "S3_DATA_DIR": str(folder / "s3"),
        }
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [str(installed()), str(Path(__file__).with_name("ministack_more.py"))],
                cwd=folder,
                env={**self.environment(), **settings},
                stdin=subprocess.PIPE,  # it ends when this does, however this process ends
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        end = time.monotonic() + _START_S
        while True:
            try:
                with urllib.request.urlopen(f"{self.url}/_ministack/health", timeout=2):
                    return
            except OSError:
                if time.monotonic() > end or self._process.poll() is not None:
                    self.close()
                    raise RuntimeError(f"ministack did not start:\n{self.log.read_text()[-2000:]}") from None
                time.sleep(0.2)

    def environment(self) -> dict[str, str]:
        """An environment in which boto3 and Terraform find the emulator, and nothing else of AWS."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "TF_"))}
        return {
            **inherited,
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": REGION,
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "TF_CLI_ARGS_init": " ".join(plugin_dir()),
            "TF_IN_AUTOMATION": "1",
            "CHECKPOINT_DISABLE": "1",
        }

    def client(self, service: str):
        import boto3

        return boto3.client(
            service, endpoint_url=self.url, region_name=REGION, aws_access_key_id="test", aws_secret_access_key="test"
        )

    def close(self) -> None:
        self._process.kill()
        self._process.wait(10)
        if self._process.stdin is not None:
            self._process.stdin.close()


def plugin_dir() -> list[str]:
    """Terraform's argument for a mirror of its providers, where this machine has one; else it asks its registry."""
    for place in map(Path, map(os.path.expanduser, _MIRRORS)):
        for depth in ("", "*/", "*/*/"):
            for found in place.glob(f"{depth}registry.terraform.io/hashicorp/aws"):
                return [f"-plugin-dir={found.parents[2]}"]
    return []
