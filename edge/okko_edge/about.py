"""What is running, as facts that change only when the model does: for the dashboard, the metrics and MQTT to show.

Taken from a bundle's manifest and from what the command opened; nothing here looks at the machine.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from okko_models.manifest import Manifest

_USUAL_CROP = 0.5


class Region(Protocol):
    """The part of the photo that the model looks at."""

    def box(self, width: int, height: int) -> tuple[int, int, int, int]:
        """Returns left, top, width and height in pixels of a photo, rounded just as the model does it."""


@dataclass(frozen=True, slots=True)
class FoundRegion:
    """A square that training found.

    Attributes:
        x: its middle, as a share of the photo's width; moved inwards where the square would stick out.
        y: its middle, as a share of the photo's height.
        crop: its side, as a share of the photo's shorter side.
    """

    x: float
    y: float
    crop: float = _USUAL_CROP

    def box(self, width: int, height: int) -> tuple[int, int, int, int]:
        """Returns left, top, width and height in pixels."""
        side = max(1, round(min(width, height) * self.crop))
        left = min(max(math.floor(width * self.x - side / 2), 0), width - side)
        top = min(max(math.floor(height * self.y - side / 2), 0), height - side)
        return left, top, side, side


@dataclass(frozen=True, slots=True)
class DrawnRegion:
    """A rectangle that a person drew: left, top, width and height as shares of the photo."""

    x: float
    y: float
    width: float
    height: float

    def box(self, width: int, height: int) -> tuple[int, int, int, int]:
        """Returns left, top, width and height in pixels."""
        left, top = min(round(width * self.x), width - 1), min(round(height * self.y), height - 1)
        right = min(max(round(width * (self.x + self.width)), left + 1), width)
        bottom = min(max(round(height * (self.y + self.height)), top + 1), height)
        return left, top, right - left, bottom - top


def region_of(manifest: Manifest) -> Region | None:
    """Returns what the manifest says of the region; None if the model looks at the whole photo."""
    said = manifest.provenance.hyperparameters
    drawn = [float(share) for share in str(said.get("roi", "")).split(",") if _is_number(share)]
    if len(drawn) == 4:
        return DrawnRegion(*drawn)
    found = [float(place) for place in (said.get("region_x"), said.get("region_y")) if isinstance(place, int | float)]
    return FoundRegion(*found) if len(found) == 2 else None


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """The model, and what stands around it.

    Attributes:
        name: the bundle's name.
        version: the bundle's version.
        digest: SHA-256 that names exactly this bundle.
        labels: what the model tells apart.
        ok_labels: those that count as good.
        ok_threshold: probability of OK from which the verdict is OK.
        ko_threshold: probability of OK below which the verdict is KO.
        region: where the model looks; None: at the whole photo.
        camera: which camera, as on the command line.
        gate: which gate.
        device: this device's name.
        okko: the version of okko.
    """

    name: str
    version: str
    digest: str
    labels: tuple[str, ...]
    ok_labels: tuple[str, ...]
    ok_threshold: float
    ko_threshold: float
    region: Region | None
    camera: str
    gate: str
    device: str
    okko: str

    def with_model(self, manifest: Manifest, digest: str) -> About:
        """Returns the same of another model."""
        return About.of(manifest, digest, camera=self.camera, gate=self.gate, device=self.device, okko=self.okko)

    @classmethod
    def of(cls, manifest: Manifest, digest: str, *, camera: str, gate: str, device: str, okko: str) -> About:
        """Returns the facts of a manifest."""
        return cls(
            name=manifest.name,
            version=manifest.version,
            digest=digest,
            labels=manifest.labels,
            ok_labels=manifest.decision.ok_labels,
            ok_threshold=manifest.decision.ok_threshold,
            ko_threshold=manifest.decision.ko_threshold,
            region=region_of(manifest),
            camera=camera,
            gate=gate,
            device=device,
            okko=okko,
        )
