"""The state on the disk, and what the disk would not take: a rejection counts at once, whether written or not.

A full or read-only disk must not bring a model back that was just found to be bad.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import msgspec

from okko_edge.updater import state as rules
from okko_edge.updater.state import Rejection, State
from okko_models.errors import OkkoError
from okko_models.registry.errors import BusyError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from okko_edge.updater.disk import Disk


class ShelfError(OkkoError):
    """The models on the disk are not what was asked for, or cannot be changed."""


class Memory:
    """What a device remembers about its models.

    Args:
        disk: where.
        warn: takes one sentence for the user; the same one is not said twice in a row.
    """

    def __init__(self, disk: Disk, warn: Callable[[str], None]) -> None:
        self._disk = disk
        self._warn = warn
        self._warned = ""
        self._unwritten: dict[str, Rejection] = {}

    @property
    def complete(self) -> bool:
        """Whether the disk has taken all of it."""
        return not self._unwritten

    def now(self) -> State:
        """Returns what is remembered; nothing, if the disk cannot be read."""
        try:
            return self.read()
        except OSError as error:
            self.warn(f"{self._disk.folder} cannot be read: {error.strerror}")
            return self._whole(State())

    def read(self) -> State:
        """Returns what is remembered.

        Raises:
            OSError: the disk cannot be read; a file that was damaged is forgotten instead.
        """
        try:
            return self._whole(self._disk.read())
        except msgspec.DecodeError as error:
            self.warn(f"{self._disk.folder}: what was remembered about models is damaged and forgotten ({error})")
            return self._whole(State())

    @contextlib.contextmanager
    def changing(self) -> Iterator[Disk]:
        """Holds the lock; gives the disk.

        Raises:
            ShelfError: the disk does not take what is done meanwhile, or another process keeps the lock.
        """
        try:
            with self._disk.locked():
                yield self._disk
        except OSError as error:
            raise ShelfError(f"{self._disk.folder} cannot be written: {error.strerror or error}") from error
        except BusyError as error:
            raise ShelfError(str(error)) from error

    def change(self, rule: Callable[[State], State]) -> None:
        """Changes what is remembered.

        Raises:
            ShelfError: see `changing`; nothing has changed.
        """
        with self.changing() as disk:
            before = self.read()
            after = rule(before)
            if after != before or self._unwritten:
                disk.write(after)
                self._unwritten.clear()

    def reject(self, rejection: Rejection) -> None:
        """Remembers a rejection; on the disk only if that takes it."""
        self._unwritten[rejection.digest] = rejection
        try:
            self.change(lambda state: rules.rejected(state, rejection))
        except ShelfError as error:
            self.warn(str(error))

    def forgive(self, digest: str) -> None:
        """Forgets a rejection; raises `ShelfError` if the disk does not take it."""
        self._unwritten.pop(digest, None)
        self.change(lambda state: rules.forgiven(state, digest))

    def warn(self, message: str) -> None:
        """Tells the user, unless it is what was told last."""
        if message != self._warned:
            self._warned = message
            self._warn(message)

    def _whole(self, state: State) -> State:
        for rejection in self._unwritten.values():
            state = rules.rejected(state, rejection)
        return state
