"""What a worker needs to begin: its keys, a registry, and a job put together from all the parts.

A worker signs what it publishes, so that devices need to trust no server.
Key files are encrypted; the passphrase comes from the environment (OKKO_REGISTRY_PASSPHRASE, or _TARGETS and so on) or,
in a local cloud, from a file that this user alone may read. Keys of a key service need neither.
"""

from __future__ import annotations

import os
import secrets
import socket
from typing import TYPE_CHECKING, Final

from okko_cloud.bucket import BucketPhotos, PhotoCache
from okko_cloud.job import Job
from okko_cloud.place import Place, load_settings
from okko_cloud.publishing import FencedPublisher
from okko_cloud.trainer import train_with_okko
from okko_models.registry.errors import RegistryError
from okko_models.registry.files import write_durably
from okko_models.registry.keys import KeyRing
from okko_models.registry.metadata import metadata_key
from okko_models.registry.root import init

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from okko_models.registry.store import Store

ROOT: Final = "root.json"
"""Beside the keys: what devices are enrolled with."""
_VARIABLE: Final = "OKKO_REGISTRY_PASSPHRASE"
_FILE: Final = "passphrase"


def publisher(registry: Store, keys: Path) -> FencedPublisher:
    """Returns a publisher with the keys in a folder, which trusts the `root.json` beside them.

    Raises:
        OkkoError: tuf is not installed, or the folder has no `root.json`.
    """
    root = keys / ROOT
    if not root.is_file():
        raise RegistryError(f"{root} is missing: put there the root.json that okko registry init wrote")
    found = _publisher(registry, keys)
    found.enroll(root.read_bytes())
    return found


def make_registry(registry: Store, keys: Path) -> None:
    """Makes a registry with new keys where there is none, or goes on where that was interrupted.

    Raises:
        OkkoError: it cannot be made; or there is one already, and its keys are not here.
    """
    root = keys / ROOT
    if not root.is_file():
        keys.mkdir(parents=True, exist_ok=True)
        keys.chmod(0o700)
        if _VARIABLE not in os.environ and not (keys / _FILE).is_file():
            write_durably(keys / _FILE, secrets.token_hex(20).encode(), mode=0o600)
        if registry.get(metadata_key("timestamp")) is not None:
            first = registry.get(metadata_key("root", 1))
            if first is None or not any(keys.glob("targets-*.pem")):
                raise RegistryError(
                    f"{registry} is a registry already, but its keys are not in {keys}; bring them here"
                )
            write_durably(root, first.data)  # making it was interrupted at the very end
        else:
            write_durably(root, init(_publisher(registry, keys)))


def _publisher(registry: Store, keys: Path) -> FencedPublisher:
    return FencedPublisher(
        registry,
        KeyRing([keys], lambda role: _passphrase(role, keys)),
        keys / "trusted",
        who=f"job@{socket.gethostname()}",
    )


def _passphrase(role: str, keys: Path) -> str:
    for name in (f"{_VARIABLE}_{role.upper()}", _VARIABLE):
        if value := os.environ.get(name):
            return value
    try:
        return (keys / _FILE).read_text().strip()
    except OSError as error:
        raise RegistryError(f"the {role} key in {keys} needs its passphrase: set {_VARIABLE}") from error


def make_job(place: Place, keys: Path, folder: Path, *, lease_s: float, say: Callable[[str], None]) -> Job:
    """Returns a job with okko's own training.

    Args:
        place: where the photos are and the models go.
        keys: folder with the keys and `root.json`.
        folder: for what is kept on this disk.
        lease_s: see `okko_cloud.lease.LEASE_S`.
        say: takes one line for people.

    Raises:
        OkkoError: the settings or keys cannot be used.
    """
    store = place.store()
    return Job(
        photos=BucketPhotos(place),
        store=store,
        publisher=publisher(place.registry(), keys),
        settings=load_settings(store),
        cache=PhotoCache(folder / "photos"),
        folder=folder,
        train=train_with_okko,
        say=say,
        lease_s=lease_s,
    )
