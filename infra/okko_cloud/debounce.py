"""When to retrain: once photos have stopped coming for a while, or have been coming for long enough; a pure core.

Many uploads become one job. Time comes in as an argument, in seconds of any one clock; nothing here waits.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Debounce:
    """The rule.

    Attributes:
        quiet_s: a job starts when nothing has changed for so long.
        at_most_s: and at the latest so long after the first change.

    Raises:
        ValueError: `quiet_s` is negative, or longer than `at_most_s`.
    """

    quiet_s: float
    at_most_s: float

    def __post_init__(self) -> None:
        if not 0 <= self.quiet_s <= self.at_most_s:
            raise ValueError(f"0 <= quiet_s <= at_most_s must hold, not quiet_s={self.quiet_s}, {self.at_most_s=}")


@dataclass(frozen=True, slots=True)
class Waiting:
    """Changes that no job has seen yet.

    Attributes:
        changes: how many.
        first_s: when the first one was heard of; meaningless without changes.
        last_s: when the last one was heard of; likewise.
    """

    changes: int = 0
    first_s: float = 0.0
    last_s: float = 0.0

    def heard(self, at_s: float, changes: int = 1) -> Waiting:
        """Returns what waits when so many more changes were heard of."""
        if not changes:
            return self
        if not self.changes:
            return Waiting(changes, at_s, at_s)
        # Clocks may step back; what was heard first stays first.
        return Waiting(self.changes + changes, min(self.first_s, at_s), max(self.last_s, at_s))

    def due_s(self, rule: Debounce) -> float | None:
        """Returns when a job is to start; None while nothing waits."""
        if not self.changes:
            return None
        return min(self.last_s + rule.quiet_s, self.first_s + rule.at_most_s)
