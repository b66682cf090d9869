"""What is fuzzed, how often, and what one input of each may take.

A target makes inputs and feeds them to the code that a device would read them with. Whatever is refused comes out as an
`OkkoError`; every other exception is a defect. The limits are for one input: memory beyond what the process had before,
and processor time; a wall clock is watched from outside.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import random
    from pathlib import Path


class Target(Protocol):
    """Inputs and their reader."""

    def make(self, chance: random.Random) -> bytes:
        """Returns a spoiled input; sometimes one that is right."""

    def lay(self, data: bytes, folder: Path) -> None:
        """Puts what `make` returned into the empty `folder`; not measured, and not watched."""

    def feed(self, data: bytes, folder: Path) -> str:
        """Reads it as a device does.

        Args:
            data: what `make` returned.
            folder: where it was laid; nothing may be written elsewhere.

        Returns:
            "" if it was accepted, otherwise how it was answered.

        Raises:
            OkkoError: it was refused.
        """


@dataclass(frozen=True)
class Plan:
    """One line of the table.

    Attributes:
        name: the target's.
        place: its class, as `module:class` in this package.
        share: of all inputs; all shares together are 1.
        memory_mb: what one input may take.
        processor_s: what one input may take.
    """

    name: str
    place: str
    share: float
    memory_mb: int
    processor_s: float = 2.0

    def open(self) -> Target:
        """Makes the target ready; slow, so it is done in the child process alone."""
        module, _, name = self.place.partition(":")
        target: Target = getattr(importlib.import_module(f"tests.fuzz.{module}"), name)()
        return target


PLANS = {
    plan.name: plan
    for plan in (
        Plan("manifest", "models:ManifestTarget", 0.28, 48),
        Plan("metadata", "registry:MetadataTarget", 0.10, 48),
        Plan("model", "models:ModelTarget", 0.14, 256),
        Plan("golden", "models:GoldenTarget", 0.14, 128),
        Plan("config", "edge:ConfigTarget", 0.14, 48),
        Plan("dashboard", "edge:DashboardTarget", 0.14, 48),
        Plan("folder", "models:FolderTarget", 0.06, 300),
    )
}

BROKEN = {
    name: Plan(name, f"broken:{name.title().replace('-', '')}", 0.0, 32, 0.5)
    for name in (
        "hangs",
        "dies",
        "raises",
        "eats-memory",
        "takes-long",
        "writes-elsewhere",
        "reads-elsewhere",
        "says-much",
    )
}
"""Readers with one defect each, to show that it is found."""
