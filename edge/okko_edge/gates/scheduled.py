"""Moves an actuator when the marble is there: the way from the camera to the gate takes time, and several are on it.

Each marble is first planned for KO, so one whose verdict never comes, or comes too late, is on the safe side without
anybody's doing. With a real clock a thread waits for the next move; a simulated clock makes the moves itself, at their
exact times. A marble that is sorted where it lies (no travel) is moved by whoever sorts it, without a detour.
"""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Protocol

from okko_edge.clock import SimulatedClock
from okko_edge.events import Event
from okko_edge.gate import GateError, Position

if TYPE_CHECKING:
    from collections.abc import Callable

    from okko_edge.clock import Clock
    from okko_edge.events import Counters

# More marbles than this between camera and gate are not marbles but a sensor that chatters.
MOST_ON_THE_WAY = 256
# A move that is later than this is counted: a marble rolls a few millimetres in that time.
LATE_S = 0.02
# A command waits no longer for another that is being carried out; then it has failed.
_BUSY_S = 0.1
# When the program ends, marbles on their way may still take this long; those behind them go to the safe side.
DRAIN_S = 2.0


class Actuator(Protocol):
    """A part that moves, as the schedule sees it; commands return at once and raise whatever they like.

    Attributes:
        hold_s: seconds from `go` until `release` is due.
        park: where it stands when the program has ended.
    """

    hold_s: float
    park: Position

    def go(self, position: Position, /) -> None:
        """Begins to move."""

    def release(self) -> None:
        """Ends what `go` began: the pulses of a servo, the current of a relay."""

    def close(self) -> None:
        """Lets go of the hardware."""


class ScheduledGate:
    """A gate that moves its actuator in time.

    Args:
        actuator: what moves.
        clock: says when a marble arrived, and when it will be there.
        counters: count failures (GATE_FAILED) and moves that came too late (GATE_LATE).
        travel_s: seconds from the middle of the view to the gate; 0 moves at once.
        back_to_rest_s: seconds after a marble's move until the gate goes to rest; 0 leaves it where it is.

    Attributes:
        failure: what went wrong last, None if nothing did.
        position: where the gate was sent last, None before its first move.
    """

    def __init__(
        self,
        actuator: Actuator,
        *,
        clock: Clock,
        counters: Counters,
        travel_s: float = 0.0,
        back_to_rest_s: float = 0.0,
    ) -> None:
        self.failure: str | None = None
        self.position: Position | None = None
        self._actuator = actuator
        self._clock = clock
        self._counters = counters
        self._travel_s = travel_s
        self._back_to_rest_s = back_to_rest_s
        self._plans: dict[float, Position] = {}
        self._release_at_s: float | None = None
        self._rest_at_s: float | None = None
        self._resting = False
        self._passed_s = float("-inf")
        self._closed = False
        # The schedule is only ever locked for a moment; whoever moves the actuator holds `_moving` meanwhile.
        self._changed = threading.Condition(threading.Lock())
        self._moving = threading.Lock()
        self._thread: threading.Thread | None = None

    def expect(self, arrived_at_s: float, /) -> None:
        """Plans a marble for KO; with no travel there is no time to plan."""
        if self._travel_s > 0:
            self._plan(arrived_at_s + self._travel_s, Position.KO)

    def sort(self, position: Position, arrived_at_s: float, /) -> bool:
        """Sends a marble to a position when it is there, at once if it is there already; see `Gate.sort`."""
        if self._travel_s == 0:
            self._resting = False
            self._move_now(position)
            return True
        at_s = arrived_at_s + self._travel_s
        with self._changed:
            if at_s in self._plans:
                self._plans[at_s] = position
                return True
            passed = at_s <= self._passed_s
        if not passed and at_s > self._clock.now_s():
            self._plan(at_s, position)
            return True
        self._counters.add(Event.GATE_LATE)
        if not passed:
            self._move_now(position)
        return not passed

    def rest(self) -> None:
        """Goes to rest when the last marble on its way is sorted, now if there is none; see `Gate.rest`."""
        self._resting = True
        if not self._plans:
            self._move_now(Position.REST)

    def test(self, position: Position, /) -> None:
        """Moves at once, for a person who looks.

        Raises:
            GateError: marbles are on their way, or nothing will move.
        """
        if self._plans:
            raise GateError("marbles are on their way to the gate; pause sorting, and try again")
        self._move_now(position)

    def close(self) -> None:
        """Sorts who is on the way, but waits at most 2 seconds; then the safe side, and no more pulses."""
        if self._closed:
            return
        self._back_to_rest_s, self._resting = 0.0, False
        end_s = self._clock.now_s() + DRAIN_S
        while self._plans and max(due_s := min(tuple(self._plans)), self._clock.now_s()) <= end_s:
            self._clock.sleep_until(due_s)
            self.run_due()
        with self._changed:
            self._closed = True
            self._counters.add(Event.GATE_LATE, len(self._plans))
            self._plans.clear()
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(_BUSY_S)
        with contextlib.suppress(GateError):
            self._move_now(self._actuator.park)
            self._clock.sleep_until(self._clock.now_s() + self._actuator.hold_s)
        self._release_at_s = self._rest_at_s = None
        for step in (self._actuator.release, self._actuator.close):
            self._attempt(step)

    def run_due(self) -> None:
        """Makes the moves that are due; called by the gate's own thread, or by a simulated clock."""
        if not self._moving.acquire(timeout=_BUSY_S):
            return  # the hardware hangs; what is due stays due
        try:
            while self._perform_next():
                pass
        finally:
            self._moving.release()

    def _plan(self, at_s: float, position: Position) -> None:
        self._resting = False
        with self._changed:
            if len(self._plans) >= MOST_ON_THE_WAY:
                self._counters.add(Event.GATE_FAILED)
                raise GateError(f"{MOST_ON_THE_WAY} marbles are on their way to the gate; does the trigger chatter?")
            self._plans[at_s] = position
        self._wake(at_s)

    def _wake(self, at_s: float) -> None:
        """Has somebody look at the schedule at that time."""
        if isinstance(self._clock, SimulatedClock):
            self._clock.call_at(at_s, self.run_due)
            return
        with self._changed:
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._run_until_closed, name="gate", daemon=True)
                self._thread.start()
            self._changed.notify()

    def _run_until_closed(self) -> None:
        while True:
            with self._changed:
                while not self._closed:
                    due = self._next()
                    wait_s = None if due is None else due[0] - self._clock.now_s()
                    if wait_s is not None and wait_s <= 0:
                        break
                    self._changed.wait(wait_s)
                if self._closed:
                    return
            self.run_due()

    def _next(self) -> tuple[float, Position | None, bool] | None:
        """What comes next: when, where to (None: release), and whether a marble waits for it."""
        steps: list[tuple[float, Position | None, bool]] = []
        if self._plans:
            at_s = min(self._plans)
            steps.append((at_s, self._plans[at_s], True))
        if self._release_at_s is not None:
            steps.append((self._release_at_s, None, False))
        if self._rest_at_s is not None:
            steps.append((self._rest_at_s, Position.REST, False))
        return min(steps, key=lambda step: step[0], default=None)

    def _perform_next(self) -> bool:
        now_s = self._clock.now_s()
        with self._changed:
            step = self._next()
            if step is None or step[0] > now_s:
                return False
            at_s, position, marble = step
            if marble:
                del self._plans[at_s]
                self._passed_s = max(self._passed_s, at_s)
            elif position is None:
                self._release_at_s = None
            else:
                self._rest_at_s = None
        if marble and now_s - at_s > LATE_S:
            self._counters.add(Event.GATE_LATE)
        if position is None:
            self._attempt(self._actuator.release)
        else:
            with contextlib.suppress(GateError):
                self._go(position)
        return True

    def _move_now(self, position: Position) -> None:
        if not self._moving.acquire(timeout=_BUSY_S):
            self._counters.add(Event.GATE_FAILED)
            raise GateError("the gate does not answer: an earlier command has not come back")
        try:
            self._go(position)
        finally:
            self._moving.release()

    def _go(self, position: Position) -> None:
        """Moves, with `_moving` held; a marble that cannot go where it should is at least tried with KO."""
        if position is Position.REST and self.position is Position.REST:
            return
        failed: str | None = None
        for goal in dict.fromkeys((position, Position.REST if position is Position.REST else Position.KO)):
            try:
                self._actuator.go(goal)
            except Exception as error:  # whatever the hardware says, the next marble comes all the same
                failed = failed or self._failed(error)
                continue
            self.position = goal
            self._settle(goal)
            break
        if failed is not None:
            raise GateError(failed)

    def _settle(self, position: Position) -> None:
        now_s = self._clock.now_s()
        with self._changed:
            self._release_at_s = now_s + self._actuator.hold_s
            if position is Position.REST or (self._plans and self._resting):
                self._rest_at_s = None
            elif self._resting:
                self._rest_at_s = self._release_at_s
            else:
                self._rest_at_s = now_s + self._back_to_rest_s if self._back_to_rest_s > 0 else None
            wake_s = [at_s for at_s in (self._release_at_s, self._rest_at_s) if at_s is not None]
        for at_s in wake_s:
            self._wake(at_s)

    def _attempt(self, command: Callable[[], None]) -> None:
        try:
            command()
        except Exception as error:  # a pulse that does not end is no reason not to sort
            self._failed(error)

    def _failed(self, error: Exception) -> str:
        self._counters.add(Event.GATE_FAILED)
        said = str(error) if isinstance(error, GateError) else f"{type(error).__name__}: {error}"
        self.failure = said
        return said
