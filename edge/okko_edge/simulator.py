"""A belt and a camera that exist only in memory, but move: what the sorting path sees is motion, noise and rest.

The belt is the pausing conveyor of the LEGO sorter: it carries one slot into view, rests, and carries it out again
while the next comes in. Each stored photo is the view of one slot at rest. Friction, vibration and motion blur are
not simulated.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from okko_edge.camera import Slot
from okko_edge.frame import Frame

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from okko_edge.clock import Clock

# The slat between two slots, as a share of the view's width: wider than one spot of the trigger's thumbnail.
_SLAT_SHARE = 0.05
# Black and white fields across the slat: whatever the photos look like, some field differs from them.
_SLAT_FIELDS = 12
_EMPTY_BELT_GREY = 96
# A fresh sample of noise for each frame would cost more than all the rest of the simulation; frames share this many
# samples more than they have pixels, and start at random places among them.
_NOISE_SHIFT = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Belt:
    """How a pausing belt moves.

    Attributes:
        slots_per_s: marbles that pass in a second.
        move_s: seconds that the belt takes from one slot to the next; it rests for the remainder.

    Raises:
        ValueError: a value is not positive, or there is no time left to rest.
    """

    slots_per_s: float = 2.0
    move_s: float = 0.2

    def __post_init__(self) -> None:
        if not self.slots_per_s > 0:
            raise ValueError(f"slots_per_s must be positive, not {self.slots_per_s}")
        if not 0 < self.move_s < self.period_s:
            raise ValueError(f"move_s must be between 0 and the {self.period_s:g} s of one slot, not {self.move_s:g}")

    @classmethod
    def at(cls, slots_per_s: float) -> Belt:
        """Returns a belt that moves as briskly as the original, but never for more than 40 % of the time."""
        return cls(slots_per_s=slots_per_s, move_s=min(0.2, 0.4 / slots_per_s) if slots_per_s > 0 else 0.2)

    @property
    def period_s(self) -> float:
        """Seconds from one slot's rest to the next."""
        return 1 / self.slots_per_s

    @property
    def rest_s(self) -> float:
        """Seconds that a slot rests in view."""
        return self.period_s - self.move_s

    def position(self, at_s: float) -> tuple[int, float]:
        """Where the belt is `at_s` seconds after its start.

        Returns:
            Which slot is coming into view or rests there, counted from 0, and how far it has come: 0 is at the edge
            of the view, 1 is at rest. The belt starts and stops gently: (1 - cos(pi u)) / 2.
        """
        # The small addition keeps a frame that is due at the very start of a move from falling into the rest before.
        slot = math.floor(at_s * self.slots_per_s + 1e-9)
        moving = (at_s - slot * self.period_s) / self.move_s
        return slot, 1.0 if moving >= 1 else (1 - math.cos(math.pi * max(moving, 0.0))) / 2


class SimulatedConveyor:
    """A belt with photos on it, seen through a window as large as one photo.

    Args:
        slots: what lies on the belt, slot after slot; taken one at a time as the belt moves.
        belt: how it moves.
    """

    def __init__(self, slots: Iterator[Slot], belt: Belt) -> None:
        self.belt = belt
        self._slots = slots
        self._index = -1
        self._leaving: Slot | None = None
        self._coming: Slot | None = None
        self._strip: NDArray[np.uint8] | None = None

    def view(self, at_s: float) -> Slot | None:
        """What is in view `at_s` seconds after the belt's start; time must not go back.

        Returns:
            The slot at rest; or, while the belt moves, the seam between two slots, which has no truth and no name;
            or None after the last slot was at rest.
        """
        index, progress = self.belt.position(at_s)
        while self._index < index:
            self._leaving, self._coming, self._strip = self._coming, next(self._slots, None), None
            self._index += 1
        if self._coming is None or progress == 1.0:
            return self._coming
        if self._strip is None:
            self._strip = _strip(self._leaving, self._coming)
        width = self._coming.image.shape[1]
        left = round(progress * (self._strip.shape[1] - width))
        return Slot(np.ascontiguousarray(self._strip[:, left : left + width]))


def _strip(leaving: Slot | None, coming: Slot) -> NDArray[np.uint8]:
    """The slot that leaves, a slat, and the slot that comes, side by side, as tall as the latter."""
    height, width, _ = coming.image.shape
    if leaving is None:
        before = np.full_like(coming.image, _EMPTY_BELT_GREY)
    else:
        rows = np.arange(height) * leaving.image.shape[0] // height
        columns = np.arange(width) * leaving.image.shape[1] // width
        before = leaving.image[rows[:, None], columns]
    slat = np.zeros((height, max(1, round(_SLAT_SHARE * width)), 3), dtype=np.uint8)
    slat[np.arange(height) * _SLAT_FIELDS // height % 2 == 0] = 255
    return np.hstack([before, slat, coming.image])


class SimulatedCamera:
    """A camera above a simulated conveyor; it never loses a frame: on a machine that is too slow, the belt waits.

    Args:
        conveyor: what it looks at.
        clock: what it waits for, and what stamps its frames.
        frames_per_s: its frame rate.
        noise_levels: standard deviation of the sensor's noise in grey levels, 0 for none.
        seed: of the noise.

    Raises:
        ValueError: an argument is out of range, or the belt is too fast for the frame rate.
    """

    def __init__(
        self,
        conveyor: SimulatedConveyor,
        *,
        clock: Clock,
        frames_per_s: float = 30.0,
        noise_levels: float = 1.0,
        seed: int = 0,
    ) -> None:
        if not noise_levels >= 0:
            raise ValueError(f"noise_levels must be at least 0, not {noise_levels}")
        if not frames_per_s > 0 or min(conveyor.belt.move_s * frames_per_s, conveyor.belt.rest_s * frames_per_s) < 3:
            least = 3 / min(conveyor.belt.move_s, conveyor.belt.rest_s)
            raise ValueError(
                f"frames_per_s is {frames_per_s:g}, but a belt with {conveyor.belt.slots_per_s:g} marbles per second "
                f"needs at least {least:g}: three frames while it moves and three while it rests"
            )
        self._conveyor = conveyor
        self._clock = clock
        self._period_s = 1 / frames_per_s
        self._start_s = clock.now_s()
        self._sequence = 0
        self._noise_levels = noise_levels
        self._random = np.random.default_rng(seed)
        self._noise = np.zeros(0, dtype=np.int16)
        self._open = True

    def read(self, timeout_s: float | None = None) -> Frame | None:  # noqa: ARG002 (its frames are never late)
        """Returns the next frame when it is due, None after the last slot was at rest."""
        belt_s = self._sequence * self._period_s
        self._clock.sleep_until(self._start_s + belt_s)
        now_s = self._clock.now_s()
        # A frame that is late by more than one period delays the belt: see the class.
        self._start_s = max(self._start_s, now_s - belt_s - self._period_s)
        view = self._conveyor.view(belt_s) if self._open else None
        if view is None:
            return None
        frame = Frame(self._with_noise(view.image), now_s, self._sequence, view.truth, view.photo)
        self._sequence += 1
        return frame

    def close(self) -> None:
        """Shows nothing any more."""
        self._open = False

    def _with_noise(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if self._noise_levels == 0:
            return image
        if self._noise.size < image.size + _NOISE_SHIFT:
            noise = self._random.standard_normal(image.size + _NOISE_SHIFT, dtype=np.float32)
            self._noise = np.rint(noise * self._noise_levels).astype(np.int16)
        start = int(self._random.integers(self._noise.size - image.size))
        noisy = np.add(image, self._noise[start : start + image.size].reshape(image.shape), dtype=np.int16)
        return np.clip(noisy, 0, 255, out=noisy).astype(np.uint8)
