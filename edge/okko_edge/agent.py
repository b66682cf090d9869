"""The agent: reads the camera, lets the sorter decide, and tells everything beside the path what was decided.

The order is the promise: first the gate moves, then the journal and the counters hear of it. The agent opens nothing;
its parts are made elsewhere and given to it.
"""

from __future__ import annotations

import hashlib
import time
from typing import TYPE_CHECKING, Protocol

from okko_edge.camera import CameraError
from okko_edge.journal import Entry

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from okko_edge.camera import Camera
    from okko_edge.clock import Clock
    from okko_edge.sorter import Decision, Sorter
    from okko_edge.summary import Summary, Tally


class Records(Protocol):
    """What the agent asks of a journal."""

    def append(self, entry: Entry, /) -> None:
        """Takes an entry at once; never raises."""


class Agent:
    """One run of sorting.

    Args:
        camera: gives the frames.
        sorter: decides, and moves the gate.
        tally: counts.
        journal: remembers.
        labels: the model's labels, in the order of its probabilities.
        clock: says when a marble was sorted.

    Attributes:
        on_decision: hears of each decision, after the gate has moved.
        failure: why the camera gave no more frames, None unless it failed.
    """

    def __init__(
        self,
        *,
        camera: Camera,
        sorter: Sorter,
        tally: Tally,
        journal: Records,
        labels: Sequence[str],
        clock: Clock,
    ) -> None:
        self.on_decision: Callable[[Decision], None] = lambda _: None
        self.failure: str | None = None
        self._camera = camera
        self._sorter = sorter
        self._tally = tally
        self._journal = journal
        self._labels = tuple(labels)
        self._clock = clock
        self._stopped = False
        self._frames = 0

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._stopped

    def stop(self) -> None:
        """Lets the run end after the marble that is being sorted; may be called from a signal handler."""
        self._stopped = True

    def run(self, count: int | None = None) -> Summary:
        """Sorts until `count` marbles are sorted, the camera has no more frames or fails, or `stop` is called.

        A failed camera ends the run but is not raised: the counts are still wanted. Its message is in `failure`.
        """
        start_s = time.perf_counter()
        while not self._stopped and (count is None or self._tally.marbles < count):
            try:
                frame = self._camera.read()
            except CameraError as error:
                self.failure = str(error)
                frame = None
            if frame is None:
                break
            self._frames += 1
            self._note(self._sorter.see(frame))
        self._note(self._sorter.give_up())
        return self._tally.summary(
            frames=self._frames,
            stale_frames=self._sorter.stale_frames,
            duration_s=time.perf_counter() - start_s,
        )

    def _note(self, decision: Decision | None) -> None:
        if decision is None:
            return
        self._tally.add(decision)
        self._journal.append(self._entry(decision))
        self.on_decision(decision)

    def _entry(self, decision: Decision) -> Entry:
        frame, said = decision.frame, decision.classification
        return Entry(
            number=decision.number,
            unix_s=self._clock.unix_s(),
            monotonic_s=decision.decided_at_s,
            verdict=decision.verdict.value,
            label=said.label if said else None,
            probability=dict(zip(self._labels, said.probability.tolist(), strict=True)) if said else None,
            truth=frame.truth if frame else None,
            photo=frame.photo if frame else None,
            error=decision.error,
            frame_sequence=frame.sequence if frame else None,
            frame_digest=hashlib.sha256(frame.image.data).hexdigest() if frame else None,
            frame_captured_at_s=frame.captured_at_s if frame else None,
            inference_ms=decision.inference_ms,
            path_ms=decision.path_ms,
        )
