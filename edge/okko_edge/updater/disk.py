"""The folder of models as bytes and names: two links, the file of the state, the locks; each change is one step.

It knows nothing of what a change means (`shelf`) and nothing of which one is allowed (`state`). Whatever it raises is
an OSError, or `BusyError` for a lock.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import time
from typing import TYPE_CHECKING, Final

import msgspec

from okko_edge.updater.state import State
from okko_models.damaged import decode_json
from okko_models.registry.errors import BusyError
from okko_models.registry.files import TEMPORARY, locked, sync_folder, write_durably

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MAX_STATE_BYTES: Final = 1 << 20
PATIENCE_S: Final = 5.0
"""So long is waited for another process that changes something; changes take milliseconds."""
CURRENT: Final = "current"
PREVIOUS: Final = "previous"
_BUNDLES: Final = "bundles"
_DIGEST: Final = re.compile(r"\A[0-9a-f]{64}\Z")


class Disk:
    """The folder.

    Args:
        folder: where it is; made when something is first written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bundles = folder / _BUNDLES
        self.trust = folder / "trust"
        self._state = folder / "state.json"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the lock of whoever changes something.

        Raises:
            BusyError: another process has held it for `PATIENCE_S`.
            OSError: it cannot be made.
        """
        end = time.monotonic() + PATIENCE_S
        with contextlib.ExitStack() as stack:
            while True:
                try:
                    stack.enter_context(locked(self.folder / ".lock", wait=False))
                    break
                except BusyError:
                    if time.monotonic() > end:
                        raise
                time.sleep(0.02)
            yield

    def charge(self) -> contextlib.AbstractContextManager[None]:
        """Returns the lock of whoever leads candidates to service; entering it raises `BusyError` if somebody does."""
        return locked(self.folder / ".in-charge", wait=False)

    def link(self, name: str) -> str:
        """Returns the digest that a link names; empty: there is no such link."""
        try:
            folder, _, digest = str((self.folder / name).readlink()).partition("/")
        except FileNotFoundError:
            return ""
        return digest if folder == _BUNDLES and _DIGEST.match(digest) else ""

    def point(self, name: str, digest: str) -> None:
        """Makes a link name a bundle, in one step that is on the disk when this returns."""
        new = self.folder / f"{TEMPORARY}{name}"
        new.unlink(missing_ok=True)
        new.symlink_to(f"{_BUNDLES}/{digest}")
        new.replace(self.folder / name)
        sync_folder(self.folder)

    def remove(self, name: str) -> None:
        """Removes a link."""
        (self.folder / name).unlink(missing_ok=True)
        sync_folder(self.folder)

    def read(self) -> State:
        """Returns the state; an empty one if there is no file yet.

        Raises:
            msgspec.DecodeError: the file is damaged.
        """
        try:
            with self._state.open("rb") as file:
                return decode_json(file.read(MAX_STATE_BYTES), State)
        except FileNotFoundError:
            return State()

    def write(self, state: State) -> None:
        """Writes the state, in one step that is on the disk when this returns."""
        write_durably(self._state, msgspec.json.format(msgspec.json.encode(state)) + b"\n")

    def present(self) -> list[str]:
        """Returns the digests of the bundles that are there, whether damaged or not."""
        try:
            return sorted(path.name for path in self.bundles.iterdir() if _DIGEST.match(path.name))
        except FileNotFoundError:
            return []

    def discard(self, digest: str) -> None:
        """Removes a bundle."""
        shutil.rmtree(self.bundles / digest)

    def sweep(self) -> None:
        """Removes unfinished files that were left behind; the caller holds the lock."""
        for left in self.folder.glob(f"{TEMPORARY}*"):
            left.unlink()
        # A client that is at work holds this lock; its unfinished files are none of ours.
        with contextlib.suppress(BusyError), locked(self.trust / ".lock", wait=False):
            for left in self.trust.rglob(f"{TEMPORARY}*"):
                left.unlink()
