"""Puts the loop on AWS and takes it away again, by Terraform in a folder that holds its state and what was chosen.

Thin: the files in `infra/terraform` say what there is, Terraform says what changes, and finds credentials as it does.
What Terraform needs to be told beside (another mirror of providers, a backend for its state) goes into the folder as a
file of its own, or into TF_CLI_ARGS_init.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import okko_cloud
from okko_cloud.aws.package import write_trigger
from okko_models.errors import OkkoError
from okko_models.registry.files import write_durably

if TYPE_CHECKING:
    from collections.abc import Mapping

PROGRAMS: Final = ("terraform", "tofu")
CHOSEN: Final = "okko.auto.tfvars.json"
PLAN: Final = "okko.plan"
TRIGGER: Final = "trigger.zip"
DELETE: Final = "delete_photos_and_models"

KEPT: Final = (
    "aws_s3_bucket.",
    "aws_s3_bucket_versioning.",
    "aws_s3_bucket_server_side_encryption_configuration.",
    "aws_s3_bucket_public_access_block.",
    "aws_s3_bucket_ownership_controls.",
    "aws_s3_bucket_policy.",
    "aws_s3_bucket_lifecycle_configuration.",
    "aws_kms_",
    "aws_iam_user.",
    "aws_iam_user_policy.",
)
"""What stays when the loop is taken away: photos and models with all that protects them, the key that signed them, and
the devices' permission to fetch them. None of it runs."""


class Terraform:
    """Terraform in a folder.

    Args:
        folder: where its state is, or will be.

    Raises:
        OkkoError: Terraform is not installed, or its files are not there.
    """

    def __init__(self, folder: Path) -> None:
        program = next(filter(None, map(shutil.which, PROGRAMS)), None)
        if program is None:
            raise OkkoError(
                "terraform is not installed: see https://developer.hashicorp.com/terraform/install (or OpenTofu)"
            )
        self.folder, self._program = folder, program

    def prepare(self, chosen: Mapping[str, Any]) -> dict[str, Any]:
        """Brings the files and the trigger's code up to date; returns all that is chosen.

        Args:
            chosen: Terraform's variables by name; those that are not given stay as they were.

        Raises:
            OkkoError: the folder cannot be written, or Terraform cannot fetch its providers.
        """
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for path in sorted(source().glob("*.tf")):
            shutil.copyfile(path, self.folder / path.name)
        write_trigger(self.folder / TRIGGER)
        everything = {**self.chosen(), **chosen, "trigger_zip": TRIGGER}
        write_durably(self.folder / CHOSEN, json.dumps(everything, indent=2, sort_keys=True).encode())
        self.run("init", "-input=false")
        return everything

    def chosen(self) -> dict[str, Any]:
        """Returns the variables that were chosen the last time."""
        try:
            found: dict[str, Any] = json.loads((self.folder / CHOSEN).read_bytes())
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise OkkoError(f"{self.folder / CHOSEN} is not JSON ({error}); correct it") from error
        return found

    def check_there(self) -> None:
        """Refuses a folder that never was one of Terraform's.

        Raises:
            OkkoError: it was not.
        """
        if not (self.folder / CHOSEN).is_file():
            raise OkkoError(f"{self.folder} has no cloud on AWS; name the folder that okko cloud up --aws was given")

    def run(self, *arguments: str) -> None:
        """Runs Terraform; what it says goes where this process's output goes.

        Raises:
            OkkoError: it failed; it has said why.
        """
        code = subprocess.run([self._program, *arguments], cwd=self.folder, check=False).returncode
        if code:
            raise OkkoError(f"terraform {arguments[0]} failed ({code}); it says above why")

    def ask(self, *arguments: str) -> str:
        """Runs Terraform and returns what it says.

        Raises:
            OkkoError: it failed.
        """
        done = subprocess.run([self._program, *arguments], cwd=self.folder, check=False, capture_output=True, text=True)
        if done.returncode:
            raise OkkoError(f"terraform {arguments[0]} failed: {done.stderr.strip()[-1000:]}")
        return done.stdout

    def outputs(self) -> dict[str, Any]:
        """Returns what Terraform's files say of what is there."""
        return {name: each["value"] for name, each in json.loads(self.ask("output", "-json")).items()}

    def there(self) -> list[str]:
        """Returns the addresses of all resources that are there."""
        if not (self.folder / "terraform.tfstate").is_file() and not list(self.folder.glob("backend*.tf")):
            return []
        return [line for line in self.ask("state", "list").splitlines() if not line.startswith("data.")]

    def to_go(self) -> list[str]:
        """Returns the addresses of what goes when photos and models stay."""
        return [address for address in self.there() if not address.startswith(KEPT)]

    def destroy(self, *, everything: bool) -> None:
        """Takes the loop away.

        Args:
            everything: photos and models, too.

        Raises:
            OkkoError: Terraform failed.
        """
        if everything:
            if "aws_s3_bucket.this" in self.there():
                allow = f"-var={DELETE}=true"
                self.run("apply", "-input=false", "-auto-approve", "-target=aws_s3_bucket.this", allow)
            self.run("destroy", "-input=false", "-auto-approve", f"-var={DELETE}=true")
        elif targets := self.to_go():
            self.run("destroy", "-input=false", "-auto-approve", *(f"-target={each}" for each in targets))


def source() -> Path:
    """Returns the folder of Terraform's files.

    Raises:
        OkkoError: this installation of okko has none.
    """
    package = Path(okko_cloud.__file__).parent
    for folder in (package / "terraform", package.parent / "terraform"):
        if (folder / "versions.tf").is_file():
            return folder
    raise OkkoError("this installation of okko lacks Terraform's files; they are in infra/terraform of its sources")
