"""Puts together what the settings ask for: a camera, the trigger that suits it, a gate, and the clock they share.

This is the only place that knows which kinds of parts exist; the sorting path knows their protocols.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from okko_edge.camera import CameraChoice, CameraError, FolderCamera, load_slots
from okko_edge.cameras.opening import open_camera
from okko_edge.clock import MonotonicClock, SimulatedClock
from okko_edge.gates.opening import open_gate
from okko_edge.photos import find_photos
from okko_edge.simulator import Belt, SimulatedCamera, SimulatedConveyor
from okko_edge.trigger import EveryFrame
from okko_edge.triggers.opening import open_trigger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from okko_edge.camera import Camera, Slot
    from okko_edge.clock import Clock
    from okko_edge.events import Counters
    from okko_edge.gate import NoGate
    from okko_edge.gates.scheduled import ScheduledGate
    from okko_edge.photos import StoredPhoto
    from okko_edge.settings import Settings
    from okko_edge.trigger import Trigger
    from okko_models.photo import PhotoError


@dataclass(frozen=True, kw_only=True)
class Simulation:
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
    """Parts that belong together: what sees, what says when to look, what moves, and the time they share."""

    camera: Camera
    trigger: Trigger
    gate: ScheduledGate | NoGate
    clock: Clock

    def close(self) -> None:
        """Lets go of all parts; the gate goes to its safe side first."""
        self.gate.close()
        self.trigger.close()
        self.camera.close()


def set_up(
    settings: Settings,
    simulation: Simulation,
    count: int | None,
    counters: Counters,
    skip: Callable[[PhotoError], None],
) -> Rig:
    """Opens the camera, the trigger and the gate that the settings name.

    Args:
        settings: of which the sections camera, trigger and gate are read.
        simulation: how fast and how noisy a rig without hardware is.
        count: how many marbles are wanted; None for each photo once, or without end before a real camera. A simulated
            belt carries its photos again and again in a new order, a folder is shown once.
        counters: hear of what goes wrong.
        skip: is told of each photo that cannot be read, once.

    Raises:
        OkkoError: a part cannot be opened, or there are no photos.
        ValueError: the settings of the simulation do not fit together.
    """
    choice = CameraChoice.parse(settings.camera.source)
    if simulation.fast and choice.is_hardware:
        raise ValueError(f"camera {choice} is real and cannot be hurried; --pace fast is for sim and folder")
    clock = SimulatedClock(time.monotonic(), time.time()) if simulation.fast else MonotonicClock()
    with contextlib.ExitStack() as opened:
        camera, trigger = _eyes(choice, settings, simulation, count, counters, clock, skip)
        opened.callback(camera.close)
        gate = open_gate(settings.gate, clock=clock, counters=counters)
        opened.pop_all()
    return Rig(camera, trigger, gate, clock)


def _eyes(
    choice: CameraChoice,
    settings: Settings,
    simulation: Simulation,
    count: int | None,
    counters: Counters,
    clock: Clock,
    skip: Callable[[PhotoError], None],
) -> tuple[Camera, Trigger]:
    if choice.is_hardware:
        trigger = open_trigger(settings.trigger, clock=clock)
        return open_camera(choice, settings.camera, clock, counters), trigger
    photos = find_photos(choice.folder)
    if choice.kind == "folder":
        slots = load_slots(photos, skip)
        return FolderCamera(slots, clock=clock, frames_per_s=simulation.belt_speed), EveryFrame()
    belt = Belt.at(simulation.belt_speed)
    rounds = _rounds(photos, simulation.seed, skip, once=count is None)
    camera = SimulatedCamera(
        SimulatedConveyor(itertools.islice(rounds, count), belt),
        clock=clock,
        frames_per_s=simulation.frames_per_s,
        noise_levels=simulation.noise_levels,
        seed=simulation.seed,
    )
    # A belt that rests for a short time must not be waited for longer than it rests.
    settle_s = min(settings.trigger.settle_s, belt.rest_s / 3)
    return camera, open_trigger(msgspec.structs.replace(settings.trigger, settle_s=settle_s), clock=clock)


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
