"""What the container runs: a job of the loop, or, told `train`, a training job of SageMaker.

As a job it finds its place and which registry to believe in the environment that Terraform sets, and is
`okko cloud job`; nothing of the loop is here.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from okko_models.errors import OkkoError

if TYPE_CHECKING:
    from okko_cloud.job import Job
    from okko_models.registry.store import Store

PLACE = "OKKO_PLACE"
ROOT_SHA256 = "OKKO_REGISTRY_ROOT_SHA256"
KEYS = "OKKO_REGISTRY_KEYS"


def main() -> NoReturn:
    """Does what the arguments say and ends with the exit code that whoever started the container expects."""
    arguments = sys.argv[1:]
    if arguments == ["train"]:
        from okko_cloud.aws.sagemaker import ML, ROOT, train

        sys.exit(train(Path(os.environ.get(ROOT, ML)), os.environ))
    if arguments in ([], ["job"]):
        _job()
    print(f"Error: {' '.join(arguments)!r} is unknown; expected job, or train as SageMaker says", file=sys.stderr)
    sys.exit(2)


def _job() -> NoReturn:
    from okko_cloud.local.jobs import serve
    from okko_cloud.making import make_job
    from okko_cloud.place import Place
    from okko_train.backbone import cache_folder

    def make() -> Job:
        if not os.environ.get(PLACE):
            raise OkkoError(f"where are the photos? Set {PLACE} to s3://BUCKET")
        place = Place.parse(os.environ[PLACE])
        keys = Path(os.environ.get(KEYS) or tempfile.mkdtemp(prefix="okko-keys-"))
        if not (keys / "root.json").is_file():
            (keys / "root.json").write_bytes(root_metadata(place.registry(), os.environ.get(ROOT_SHA256, "")))
        return make_job(place, keys, cache_folder() / "cloud", lease_s=60.0, say=_say)

    serve(make, watch_parent=False)


def root_metadata(registry: Store, sha256: str) -> bytes:
    """Returns a registry's first root metadata, if they are those that are to be believed.

    Whoever may write the registry could put other root metadata there, and so have a job sign what it must not.

    Args:
        registry: where.
        sha256: of the metadata, hexadecimal.

    Raises:
        OkkoError: it is not said what to believe; or there are no metadata, or others.
    """
    from okko_models.registry.metadata import metadata_key

    if not sha256:
        raise OkkoError(
            f"which registry is to be believed? {ROOT_SHA256} is not set: make the registry with okko registry init, "
            "then give its root.json to okko cloud up --aws --root"
        )
    found = registry.get(metadata_key("root", 1))
    if found is None:
        raise OkkoError(f"{registry} is no registry yet; okko registry init makes one")
    if hashlib.sha256(found.data).hexdigest() != sha256:
        raise OkkoError(
            f"{registry} has other root metadata than those to be believed ({sha256[:12]}); nothing is signed"
        )
    return found.data


def _say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
