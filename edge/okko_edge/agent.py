"""The agent: reads the camera, lets the sorter decide, and tells everything beside the path what was decided.

The order is the promise: first the gate moves, then the journal and the listeners hear of it, and whatever goes wrong
with them is counted and stops nothing. The agent opens nothing; its parts are made elsewhere and given to it.
"""

from __future__ import annotations

import hashlib
import time
from collections import deque
from typing import TYPE_CHECKING, Protocol

from okko_edge.camera import CameraError, CameraTimeoutError, CorruptFrameError
from okko_edge.events import Event
from okko_edge.gate import Position
from okko_edge.journal import Entry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from okko_edge.camera import Camera
    from okko_edge.clock import Clock
    from okko_edge.frame import Frame
    from okko_edge.sorter import Decision, Sorter
    from okko_edge.summary import Summary, Tally
    from okko_models.decision import Verdict


# Without a frame, the trigger and the clock are asked this often: a marble that broke a beam is then known in time.
_PATIENCE_S = 0.05


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
        labels: the model's labels, in the order of its probabilities; those that a decision's judge has go first.
        clock: says when a marble was sorted.
        listeners: hear of each decision after the gate has moved, on the sorting thread; they must return at once.
        watchers: see each frame, after it was decided about; they must return at once.
        heartbeat: called whenever the camera has answered, or was given up in time for the marbles that wait.

    Attributes:
        listeners: the agent's own, then those given; more may be added before `run`.
        watchers: likewise.
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
        listeners: Iterable[Callable[[Decision], None]] = (),
        watchers: Iterable[Callable[[Frame], None]] = (),
        heartbeat: Callable[[], object] = lambda: None,
    ) -> None:
        self.failure: str | None = None
        self._camera = camera
        self._sorter = sorter
        self._tally = tally
        self._journal = journal
        self._labels = tuple(labels)
        self._clock = clock
        self.listeners = [tally.add, self._remember, *listeners]
        self.watchers = list(watchers)
        self._heartbeat = heartbeat
        self._stopped = False
        self._frames = 0
        self._calls: deque[Callable[[], None]] = deque()

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._stopped

    def stop(self) -> None:
        """Lets the run end after the marble that is being sorted; may be called from a signal handler."""
        self._stopped = True

    @property
    def paused(self) -> bool:
        """Whether sorting is paused."""
        return self._sorter.paused

    def pause(self) -> None:
        """Sorts nothing: the gate rests, and marbles that come are counted and let pass. Any thread may call it."""
        self._sorter.paused = True

    def resume(self) -> None:
        """Sorts again. Any thread may call it."""
        self._sorter.paused = False

    def test_gate(self, verdict: Verdict) -> None:
        """Sends the gate to a verdict's position, for a person who looks; raises `GateError` if it cannot now."""
        self._sorter.gate.test(Position.of(verdict))

    def call_between_frames(self, call: Callable[[], None]) -> None:
        """Has `call` made on the sorting thread, after what the frame in hand shows was decided. Any thread may ask.

        It is never made when no further frame is read; see `withdraw`. It must return at once.
        """
        self._calls.append(call)

    def withdraw(self, call: Callable[[], None]) -> bool:
        """Takes back what `call_between_frames` was given; returns False if it was made, or is being made."""
        try:
            self._calls.remove(call)
        except ValueError:
            return False
        return True

    def run(self, count: int | None = None) -> Summary:
        """Sorts until there are `count` decisions, the camera has no more frames, or `stop` is called.

        A camera that is late is waited for as long as it takes; meanwhile the marbles keep their deadlines. One that
        fails for good ends the run, but is not raised: the counts are still wanted. Its message is in `failure`.
        """
        start_s = time.perf_counter()
        while not self._stopped and (count is None or self._tally.decisions < count):
            if self._calls:
                self._make_call()
            try:
                frame = self._camera.read(self._patience_s())
            except CameraTimeoutError:
                self._note(self._sorter.tick())
            except CorruptFrameError:
                self._sorter.counters.add(Event.CORRUPT_FRAME)
                self._note(self._sorter.tick())
            except CameraError as error:
                self.failure = str(error)
                break
            else:
                if frame is None:
                    break
                self._frames += 1
                self._note(self._sorter.see(frame))
                self._show(frame)
            self._beat()
        self._note(self._sorter.give_up())
        return self._tally.summary(
            frames=self._frames,
            duration_s=time.perf_counter() - start_s,
            events=self._sorter.counters.snapshot(),
        )

    def _patience_s(self) -> float:
        """How long the camera may take: no longer than the first marble that waits for a frame."""
        deadline_s = self._sorter.deadline_s
        return _PATIENCE_S if deadline_s is None else min(max(deadline_s - self._clock.now_s(), 0.0), _PATIENCE_S)

    def _note(self, decisions: Sequence[Decision]) -> None:
        for decision in decisions:
            for listener in self.listeners:
                try:
                    listener(decision)
                except Exception:  # the next marble comes, whoever cannot bear to hear of this one
                    self._sorter.counters.add(Event.LISTENER_FAILED)

    def _show(self, frame: Frame) -> None:
        for watcher in self.watchers:
            try:
                watcher(frame)
            except Exception:  # likewise
                self._sorter.counters.add(Event.LISTENER_FAILED)

    def _make_call(self) -> None:
        try:
            call = self._calls.popleft()
        except IndexError:  # withdrawn in the last moment
            return
        try:
            call()
        except Exception:  # likewise
            self._sorter.counters.add(Event.LISTENER_FAILED)

    def _beat(self) -> None:
        try:
            self._heartbeat()
        except Exception:  # likewise
            self._sorter.counters.add(Event.LISTENER_FAILED)

    def _remember(self, decision: Decision) -> None:
        frame, said = decision.frame, decision.classification
        labels = decision.judge.labels if decision.judge else self._labels
        self._journal.append(
            Entry(
                number=decision.number,
                unix_s=self._clock.unix_s(),
                monotonic_s=decision.decided_at_s,
                verdict=decision.verdict.value,
                label=said.label if said else None,
                probability=dict(zip(labels, said.probability.tolist(), strict=True)) if said else None,
                truth=frame.truth if frame else None,
                photo=frame.photo if frame else None,
                error=decision.error,
                frame_sequence=frame.sequence if frame else None,
                frame_digest=hashlib.sha256(frame.image.data).hexdigest() if frame else None,
                frame_captured_at_s=frame.captured_at_s if frame else None,
                inference_ms=decision.inference_ms,
                path_ms=decision.path_ms,
                outcome=decision.outcome.value,
                novelty=said.novelty if said else None,
            )
        )
