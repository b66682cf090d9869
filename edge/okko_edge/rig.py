"""Puts together what the command line asked for: a camera, the trigger that suits it, and the clock they share.

This is the only place that knows which kinds of parts exist; the sorting path knows their protocols.
"""

from __future__ import annotations

import itertools
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from okko_edge.camera import CameraError, FolderCamera, load_slots
from okko_edge.clock import MonotonicClock, SimulatedClock
from okko_edge.photos import find_photos
from okko_edge.simulator import Belt, SimulatedCamera, SimulatedConveyor
from okko_edge.trigger import EveryFrame, MotionTrigger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from okko_edge.camera import Camera, CameraChoice, Slot
    from okko_edge.clock import Clock
    from okko_edge.photos import StoredPhoto
    from okko_edge.trigger import Trigger
    from okko_models.photo import PhotoError

# The trigger waits this long for the belt to settle, but at most a third of the time that a marble rests in view.
_SETTLE_S = 0.06


@dataclass(frozen=True, kw_only=True)
class RigSettings:
    """How a rig behaves that has no hardware.

    Attributes:
        belt_speed: marbles that pass in a second.
        frames_per_s: frame rate of the simulated camera.
        noise_levels: standard deviation of its noise, in grey levels.
        seed: of the order of the marbles and of the noise.
        fast: as fast as the machine can instead of in real time.
    """

    belt_speed: float = 2.0
    frames_per_s: float = 30.0
    noise_levels: float = 1.0
    seed: int = 0
    fast: bool = False


@dataclass(frozen=True)
class Rig:
    """Parts that belong together."""

    camera: Camera
    trigger: Trigger
    clock: Clock


def set_up(choice: CameraChoice, count: int | None, settings: RigSettings, skip: Callable[[PhotoError], None]) -> Rig:
    """Makes the camera that was chosen.

    Args:
        choice: which.
        count: how many marbles are wanted; None for each photo once. A simulated belt carries its photos again and
            again in a new order, a folder is shown once.
        settings: how fast and how noisy.
        skip: is told of each photo that cannot be read, once.

    Raises:
        PhotoFolderError: there are no photos.
        ValueError: the settings do not fit together.
    """
    clock = SimulatedClock(time.monotonic(), time.time()) if settings.fast else MonotonicClock()
    photos = find_photos(choice.folder)
    if choice.kind == "folder":
        camera = FolderCamera(load_slots(photos, skip), clock=clock, frames_per_s=settings.belt_speed)
        return Rig(camera, EveryFrame(), clock)
    belt = Belt.at(settings.belt_speed)
    rounds = _rounds(photos, settings.seed, skip, once=count is None)
    simulated = SimulatedCamera(
        SimulatedConveyor(itertools.islice(rounds, count), belt),
        clock=clock,
        frames_per_s=settings.frames_per_s,
        noise_levels=settings.noise_levels,
        seed=settings.seed,
    )
    return Rig(simulated, MotionTrigger(settle_s=min(_SETTLE_S, belt.rest_s / 3)), clock)


def _rounds(
    photos: Sequence[StoredPhoto], seed: int, skip: Callable[[PhotoError], None], *, once: bool
) -> Iterator[Slot]:
    """All photos in a random order, then all again in another; one that cannot be read is tried once."""
    shuffle = random.Random(seed).shuffle  # noqa: S311 (no secret depends on it)
    left = list(photos)
    while True:
        shuffle(left)
        readable = []
        for photo in left:
            for slot in load_slots([photo], skip):
                readable.append(photo)
                yield slot
        left = readable
        if not left:
            raise CameraError(f"none of the {len(photos)} photos can be read; `okko data check` says more about them")
        if once:
            return
