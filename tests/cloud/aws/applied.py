"""The loop on AWS as a user makes it: okko's own commands in a folder, with the emulator for AWS."""

import csv
import json
import subprocess
import sys
import time
from functools import cached_property
from pathlib import Path

from tests.cloud.aws.emulator import Emulator

SAMPLES = Path(__file__).parents[3] / "train" / "samples" / "marbles" / "one_rig"
APPLY_S = 300


class Cloud:
    """The loop, applied to an emulator."""

    def __init__(self, folder: Path) -> None:
        self.emulator = Emulator(folder)
        self.environment = self.emulator.environment() | {
            "OKKO_CACHE": str(folder / "cache"),
            "OKKO_REGISTRY_PASSPHRASE": "of the root key",
            "OMP_NUM_THREADS": "1",
        }
        self.folder, self.keys = folder / "okko-aws", folder / "okko-keys"

    def okko(self, *arguments, check=True, **options):
        done = subprocess.run(
            [sys.executable, "-m", "okko.cli", *map(str, arguments)],
            capture_output=True,
            text=True,
            check=False,
            env=self.environment,
            timeout=APPLY_S,
            **options,
        )
        if check:
            assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
        return done

    @cached_property
    def state(self):
        """What Terraform has made and says of it, as it was when first asked."""
        return json.loads(self.terraform("show", "-json"))["values"]

    @cached_property
    def outputs(self):
        return {name: each["value"] for name, each in self.state["outputs"].items()}

    @cached_property
    def bucket(self):
        return self.outputs["place"].removeprefix("s3://")

    def managed(self, kind=""):
        """The resources of a kind, or of all kinds that begin so."""
        resources = self.state["root_module"]["resources"]
        return [each for each in resources if each["mode"] == "managed" and each["type"].startswith(kind)]

    def terraform(self, *arguments):
        done = subprocess.run(
            ["terraform", *arguments], cwd=self.folder, env=self.environment, capture_output=True, text=True, check=True
        )
        return done.stdout

    def policies(self, kind, name):
        """Decoded identity policies of a role or user, by the name that Terraform's files give it."""
        return [
            json.loads(each["values"]["policy"])
            for each in self.managed(f"aws_iam_{kind}_policy")
            if each["name"] == name.partition("[")[0] and (not name.endswith("]") or each["address"].endswith(name))
        ]

    def jobs(self):
        batch = self.emulator.client("batch")
        states = ("SUBMITTED", "PENDING", "RUNNABLE", "STARTING", "RUNNING", "SUCCEEDED", "FAILED")
        found = [
            job["jobId"]
            for state in states
            for job in batch.list_jobs(jobQueue="okko", jobStatus=state)["jobSummaryList"]
        ]
        return batch.describe_jobs(jobs=found)["jobs"] if found else []

    def wait_for_a_job(self, number):
        end = time.monotonic() + 60
        while len(self.jobs()) < number:
            assert time.monotonic() < end, self.emulator.log.read_text()[-3000:]
            time.sleep(0.3)
        return self.jobs()

    def upload(self, label, count, skip=0):
        """Puts sample photos there, one after the other; returns their keys."""
        with (SAMPLES / "photos.csv").open() as file:
            rows = [row["file"] for row in csv.DictReader(file) if row["label"] == label]
        s3, keys = self.emulator.client("s3"), []
        for row in rows[7 * skip :: 7][:count]:
            keys.append(f"photos/{label}/day-1/{Path(row).name}")
            s3.put_object(Bucket=self.bucket, Key=keys[-1], Body=(SAMPLES / row).read_bytes())
        return keys
