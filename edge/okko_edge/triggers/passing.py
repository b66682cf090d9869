"""A belt that never rests: says when a marble is in the middle of the view, once for each marble that passes.

Every spot of the view learns how bright the empty belt is there and how much its texture and the noise change that, and
follows slow changes by one small step a frame (Manzanera and Richefeu, "A new motion detection algorithm based on
Sigma-Delta background estimation", 2007). What differs is a marble; its middle is followed along the belt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from okko_edge.trigger import thumbnail

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from okko_edge.frame import Frame


@dataclass(slots=True)
class _Track:
    """A marble on its way: where it was last, as a share of the view, and how far it goes in one frame."""

    place: float
    step: float = 0.0
    told: bool = False
    unseen: int = 0


class PassingTrigger:
    """Follows what passes, and tells when it is nearest to the middle.

    The first `LEARN_FRAMES` frames teach it the belt and trigger nothing; a marble among them does no harm. Marbles
    must be `GAP_SHARE` of the view apart, or they are one, and each must be seen at least once before the middle.

    Args:
        axis: "across" when the belt moves left or right through the view, "down" when it moves up or down.

    Raises:
        ValueError: no such axis.
    """

    LEARN_FRAMES = 30
    """Half a second at 60 frames a second."""

    LEAST_CHANGE = 8.0
    """Grey levels that a spot must differ by, however smooth the belt."""

    MOST_CHANGE = 64.0
    """Grey levels that always count, however rough the belt."""

    NOISE_FACTOR = 5.0
    """Times the typical change; a belt's texture is no normal distribution and has longer tails."""

    STEP = 0.5
    """Grey levels by which a spot follows the belt in one frame, and a tenth of it under a marble."""

    GAP_SHARE = 0.12
    """Parts of one marble (a glint, a dark stripe) are closer than this share of the view."""

    LEAST_SHARE = 0.01
    """Share of the spots that a marble covers at least."""

    REACH_SHARE = 0.4
    """Share of the view that a marble moves in one frame at most."""

    def __init__(self, *, axis: str = "across") -> None:
        if axis not in {"across", "down"}:
            raise ValueError(f"axis must be across or down, not {axis!r}")
        self._down = axis == "down"
        self._lesson: list[NDArray[np.float32]] = []
        self._belt: NDArray[np.float32] | None = None
        self._spread: NDArray[np.float32] | None = None
        self._tracks: list[_Track] = []

    def see(self, frame: Frame) -> Sequence[float]:
        """Takes the next frame; returns its time once for each marble that is in the middle now."""
        spots = thumbnail(frame.image)
        if self._down:
            spots = spots.T
        if self._belt is None or self._spread is None or self._belt.shape != spots.shape:
            self._learn(spots)
            return ()
        change = np.abs(spots - self._belt)
        there = change > np.clip(self.NOISE_FACTOR * self._spread, self.LEAST_CHANGE, self.MOST_CHANGE)
        pace = np.where(there, np.float32(self.STEP / 10), np.float32(self.STEP))
        self._belt += pace * np.sign(spots - self._belt)
        self._spread += pace / 4 * np.sign(change - self._spread)
        crossed = self._follow(self._places(there))
        return (frame.captured_at_s,) * crossed

    def poll(self, now_s: float) -> Sequence[float]:  # noqa: ARG002
        """Nothing arrives unseen."""
        return ()

    def close(self) -> None:
        """Does nothing."""

    def _learn(self, spots: NDArray[np.float32]) -> None:
        if self._lesson and self._lesson[0].shape != spots.shape:
            self._lesson = []
        self._belt = self._spread = None
        self._tracks = []
        self._lesson.append(spots)
        if len(self._lesson) == self.LEARN_FRAMES:
            lesson = np.stack(self._lesson)
            self._belt = np.median(lesson, axis=0)
            self._spread = np.median(np.abs(lesson - self._belt), axis=0)
            self._lesson = []

    def _places(self, there: NDArray[np.bool_]) -> list[float]:
        """Where along the belt something is: the middle of each piece, as a share of the view."""
        rows, columns = there.shape
        covered = there.sum(axis=0)
        occupied = np.flatnonzero(covered >= max(2, round(0.08 * rows)))
        if occupied.size == 0:
            return []
        breaks = np.flatnonzero(np.diff(occupied) > max(1, round(self.GAP_SHARE * columns))) + 1
        places = []
        for piece in np.split(occupied, breaks):
            weights = covered[piece]
            if weights.sum() >= self.LEAST_SHARE * there.size:
                places.append(float((piece + 0.5) @ weights / weights.sum() / columns))
        return places

    def _follow(self, places: list[float]) -> int:
        """Gives each marble its new place; returns how many have come to the middle."""
        pairs = sorted(
            (abs(track.place + track.step - place), index, number)
            for index, track in enumerate(self._tracks)
            for number, place in enumerate(places)
        )
        seen: set[int] = set()
        found: set[int] = set()
        crossed = 0
        for distance, index, number in pairs:
            if distance > self.REACH_SHARE or index in seen or number in found:
                continue
            seen.add(index)
            found.add(number)
            crossed += self._advance(self._tracks[index], places[number])
        for index, track in enumerate(self._tracks):
            if index not in seen:
                track.unseen += 1
                track.place += track.step
        self._tracks = [track for track in self._tracks if track.unseen < 3]
        self._tracks += [_Track(place) for number, place in enumerate(places) if number not in found]
        return crossed

    @staticmethod
    def _advance(track: _Track, place: float) -> bool:
        """Moves a marble; True when this frame shows it nearest to the middle, or just past it."""
        before, track.step, track.place, track.unseen = track.place, place - track.place, place, 0
        ahead = place + track.step / 2
        if track.told or abs(track.step) < 1e-3 or (before - 0.5) * (ahead - 0.5) > 0:
            return False
        track.told = True
        return True
