"""What is running, as facts that never change during a run: for the dashboard, the metrics and MQTT to show.

Taken from a bundle's manifest and from what the command opened; nothing here looks at the machine.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from okko_models.manifest import Manifest

_USUAL_CROP = 0.5


@dataclass(frozen=True, slots=True)
class Region:
    """The square of the photo that the model looks at.

    Attributes:
        x: its middle, as a share of the photo's width.
        y: its middle, as a share of the photo's height.
        crop: its side, as a share of the photo's shorter side.
    """

    x: float
    y: float
    crop: float = _USUAL_CROP

    def square(self, width: int, height: int) -> tuple[int, int, int]:
        """Returns left, top and side in pixels of a photo, rounded and moved inwards just as the model does it."""
        side = max(1, round(min(width, height) * self.crop))
        left = min(max(math.floor(width * self.x - side / 2), 0), width - side)
        top = min(max(math.floor(height * self.y - side / 2), 0), height - side)
        return left, top, side


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

    @classmethod
    def of(cls, manifest: Manifest, digest: str, *, camera: str, gate: str, device: str, okko: str) -> About:
        """Returns the facts of a manifest; a region stands there only if the model does not look at the whole photo."""
        found = [manifest.provenance.hyperparameters.get(key) for key in ("region_x", "region_y")]
        crop = manifest.provenance.hyperparameters.get("region_crop", _USUAL_CROP)
        places = [float(place) for place in (*found, crop) if isinstance(place, int | float)]
        return cls(
            name=manifest.name,
            version=manifest.version,
            digest=digest,
            labels=manifest.labels,
            ok_labels=manifest.decision.ok_labels,
            ok_threshold=manifest.decision.ok_threshold,
            ko_threshold=manifest.decision.ko_threshold,
            region=Region(*places) if len(places) == 3 else None,
            camera=camera,
            gate=gate,
            device=device,
            okko=okko,
        )
