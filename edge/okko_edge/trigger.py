"""Says when a marble is in view: once for each marble, not zero times, not twice.

A trigger looks at every frame and must cost next to nothing, so `MotionTrigger` compares a few hundred averaged spots
instead of all pixels. It judges only what it sees; which frame is then classified, and what happens when none is, is
the sorter's business. Further triggers are in `okko_edge.triggers`.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from okko_edge.gate import HIGHEST_PIN
from okko_models.errors import OkkoError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from okko_edge.frame import Frame

# A camera stamps its frames to the microsecond; less than that is rounding.
_ROUNDING_S = 1e-6


class TriggerError(OkkoError):
    """The trigger cannot be opened."""


class Trigger(Protocol):
    """Decides when there is something to classify.

    A time that it returns is when a marble is in the middle of the view, in seconds on the monotonic clock, each
    marble's once. It may lie ahead. Two times at once are two marbles.
    """

    def see(self, frame: Frame) -> Sequence[float]:
        """Takes the next frame; returns the times of marbles that were not told of yet."""

    def poll(self, now_s: float) -> Sequence[float]:
        """Returns the same when there is no frame; nothing, if it only knows what it sees."""

    def close(self) -> None:
        """Lets go of what it uses."""


_SPELLINGS = "motion, gpio:PIN or interval:SECONDS"


@dataclass(frozen=True)
class TriggerChoice:
    """Which trigger was asked for: its kind, and the GPIO number or the seconds that belong to it."""

    kind: str
    pin: int | None = None
    period_s: float | None = None

    @classmethod
    def parse(cls, text: str) -> TriggerChoice:
        """Reads what `--trigger` or the key `trigger.kind` says: "motion", "gpio:23" or "interval:0.5".

        Raises:
            ValueError: no such kind of trigger, no such pin, or no time.
        """
        kind, _, argument = text.partition(":")
        if text == "motion":
            return cls(kind)
        if kind == "gpio":
            if not re.fullmatch(r"[0-9]{1,2}", argument) or int(argument) > HIGHEST_PIN:
                raise ValueError(f"trigger {text!r} names no pin; expected a GPIO number from 0 to 27, as in gpio:23")
            return cls(kind, pin=int(argument))
        if kind == "interval":
            if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?", argument) or not float(argument) > 0:
                raise ValueError(f"trigger {text!r} names no time; expected seconds, as in interval:0.5")
            return cls(kind, period_s=float(argument))
        raise ValueError(f"there is no trigger {text!r}; expected {_SPELLINGS}")

    def __str__(self) -> str:
        arguments = [f"{value:g}" for value in (self.pin, self.period_s) if value is not None]
        return ":".join([self.kind, *arguments])


class EveryFrame:
    """Each frame shows another marble: for cameras that show stored photos one after another."""

    def see(self, frame: Frame) -> Sequence[float]:
        """Returns the time of the frame."""
        return (frame.captured_at_s,)

    def poll(self, now_s: float) -> Sequence[float]:  # noqa: ARG002
        """Nothing arrives unseen."""
        return ()

    def close(self) -> None:
        """Does nothing."""


class MotionTrigger:
    """The belt moved, and now it rests.

    A spot counts as changed when it differs from the frame before by more than the camera's noise explains. The noise
    is what the quietest fifth of the latest frames stay below: frames at rest show nothing else, and a few frames that
    a camera hands out twice do not make it look noiseless. The belt moves while more than `MOVING_SHARE` of the spots
    change. A marble that is in view when the program starts is sorted like any other.

    Args:
        settle_s: how long the view must be still before the marble counts as at rest, in seconds.

    Raises:
        ValueError: settle_s is not positive.
    """

    MOVING_SHARE = 0.02
    """Share of changed spots above which the belt moves."""

    LEAST_CHANGE = 2.0
    """Grey levels that a spot must change by, however little noise there is: JPEG artefacts and flicker stay below."""

    MOST_CHANGE = 12.0
    """Grey levels that always count as a change, however much noise there seems to be."""

    NOISE_FACTOR = 6.0
    """Times the median change, about four standard deviations: one spot in 16,000 exceeds that by noise alone."""

    NOISE_FRAMES = 150
    """Frames of memory for the noise: long enough to hold a rest, short enough to follow the camera's gain."""

    def __init__(self, *, settle_s: float = 0.06) -> None:
        if not settle_s > 0:
            raise ValueError(f"settle_s must be positive, not {settle_s}")
        self._settle_s = settle_s
        self._noise: deque[float] = deque(maxlen=self.NOISE_FRAMES)
        self._previous: NDArray[np.float32] | None = None
        self._previous_at_s = 0.0
        self._still_since_s: float | None = None
        self._moved = True

    def see(self, frame: Frame) -> Sequence[float]:
        """Takes the next frame; returns its time if the belt has settled with it."""
        spots = thumbnail(frame.image)
        at_s = frame.captured_at_s
        if self._is_moving(spots):
            self._moved, self._still_since_s = True, None
        elif self._still_since_s is None:
            self._still_since_s = at_s if self._previous is None else self._previous_at_s
        self._previous, self._previous_at_s = spots, at_s
        if not self._moved or self._still_since_s is None:
            return ()
        if at_s - self._still_since_s < self._settle_s - _ROUNDING_S:
            return ()
        self._moved = False
        return (at_s,)

    def poll(self, now_s: float) -> Sequence[float]:  # noqa: ARG002
        """Nothing arrives unseen."""
        return ()

    def close(self) -> None:
        """Does nothing."""

    def _is_moving(self, spots: NDArray[np.float32]) -> bool:
        if self._previous is None:
            return False
        if self._previous.shape != spots.shape:
            return True
        change = np.abs(spots - self._previous)
        middle = change.size // 2
        self._noise.append(float(np.partition(change, middle, axis=None)[middle]))
        noise = sorted(self._noise)[len(self._noise) // 5]
        limit = min(max(self.NOISE_FACTOR * noise, self.LEAST_CHANGE), self.MOST_CHANGE)
        changed = int(np.count_nonzero(change > limit))
        return bool(changed > self.MOVING_SHARE * change.size)


_ROWS, _COLUMNS = 24, 32
# Pixels of a row that are averaged into one spot, at most: more would cost time and buy little less noise.
_SAMPLES = 8


def thumbnail(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Averages about 24 x 32 spots of an image, each over up to 8 pixels of one row and their three colours.

    Args:
        image: (height, width, 3) uint8.

    Returns:
        (rows, columns) float32 in grey levels; rows is 24 to 47 and columns 32 to 63, fewer for a smaller image.
    """
    height, width, _ = image.shape
    across = max(1, width // _COLUMNS)
    step = max(1, across // _SAMPLES)
    down = max(1, height // _ROWS)
    per_spot = max(1, across // step)
    columns = max(1, width // (step * per_spot))
    picked = image[down // 2 :: down, : columns * per_spot * step : step]
    spots = picked.reshape(picked.shape[0], columns, per_spot * 3)
    averages: NDArray[np.float32] = spots.sum(axis=2, dtype=np.uint32).astype(np.float32)
    averages /= per_spot * 3
    return averages
