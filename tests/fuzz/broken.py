"""Readers that do what no reader may do, for every third input or so."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from okko_models.errors import OkkoError

if TYPE_CHECKING:
    import random
    from pathlib import Path


class _Broken:
    def make(self, chance: random.Random) -> bytes:
        return bytes([chance.randrange(3)])

    def lay(self, data: bytes, folder: Path) -> None:
        pass

    def feed(self, data: bytes, folder: Path) -> str:
        if data == b"\0":
            self.misbehave(folder)
        return ""

    def misbehave(self, folder: Path) -> None:
        raise NotImplementedError


class Hangs(_Broken):
    def misbehave(self, folder: Path) -> None:
        time.sleep(1000)


class Dies(_Broken):
    def misbehave(self, folder: Path) -> None:
        os.abort()


class Raises(_Broken):
    def misbehave(self, folder: Path) -> None:
        raise KeyError("x")


class EatsMemory(_Broken):
    def misbehave(self, folder: Path) -> None:
        bytearray(64 << 20)


class TakesLong(_Broken):
    def misbehave(self, folder: Path) -> None:
        end_s = time.process_time() + 0.6
        while time.process_time() < end_s:
            pass


class WritesElsewhere(_Broken):
    def misbehave(self, folder: Path) -> None:
        (folder.parent / "mine").write_bytes(b"")
        (folder.parent / "mine").unlink()


class ReadsElsewhere(_Broken):
    def misbehave(self, folder: Path) -> None:
        (folder / "link").symlink_to("../outside/secret")
        (folder / "link").read_bytes()


class SaysMuch(_Broken):
    def misbehave(self, folder: Path) -> None:
        class LoudError(OkkoError):
            def __str__(self) -> str:
                return "\x1b[2J"

        raise LoudError
