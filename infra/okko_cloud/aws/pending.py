"""What the trigger on AWS knows between two calls, and what follows from it; a pure core, standard library only.

It adds two things to `okko_cloud.debounce`: a start that is claimed before it is made, so that of several calls at once
one starts the job and a call that dies in between loses nothing; and a limit on the jobs of a month, which is what caps
costs. Times are seconds since 1970 and come in as arguments.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from okko_cloud.debounce import Waiting

if TYPE_CHECKING:
    from okko_cloud.debounce import Debounce

MONTH_S: Final = 30 * 86400.0
CLAIM_S: Final = 120.0
"""A start that was claimed so long ago and never made is taken for lost; longer than the trigger may run."""


_NOTHING: Final = Waiting()


@dataclass(frozen=True, slots=True)
class Pending:
    """What is to be done.

    Attributes:
        waiting: changes that no job has been started for.
        claimed: changes that one call is starting a job for.
        claimed_s: since when; meaningless without `claimed`.
        starts_s: when jobs were started, the last month's, oldest first.
    """

    waiting: Waiting = _NOTHING
    claimed: Waiting = _NOTHING
    claimed_s: float = 0.0
    starts_s: tuple[float, ...] = ()

    def heard(self, changes: int, now_s: float) -> Pending:
        """Returns what is to be done when so many changes were heard of; lost claims wait again."""
        waiting = self.waiting
        claimed, claimed_s = self.claimed, self.claimed_s
        if claimed.changes and now_s >= claimed_s + CLAIM_S:
            waiting = _together(claimed, waiting)
            claimed = _NOTHING
        starts_s = tuple(at_s for at_s in self.starts_s if at_s > now_s - MONTH_S)
        return replace(self, waiting=waiting.heard(now_s, changes), claimed=claimed, starts_s=starts_s)

    def due_s(self, rule: Debounce, max_jobs: int) -> float | None:
        """Returns when a job is to start; None while nothing waits.

        Args:
            rule: when photos have come to rest.
            max_jobs: in a month; when it is reached, the next one starts when the oldest is a month old.
        """
        due_s = self.waiting.due_s(rule)
        if due_s is None or len(self.starts_s) < max_jobs:
            return due_s
        return max(due_s, self.starts_s[-max_jobs] + MONTH_S)

    def claim(self, now_s: float) -> Pending:
        """Returns what is to be done while a job is being started for all that waits."""
        return replace(self, waiting=_NOTHING, claimed=self.waiting, claimed_s=now_s)

    def started(self, now_s: float) -> Pending:
        """Returns what is to be done after the job was started."""
        return replace(self, claimed=_NOTHING, starts_s=(*self.starts_s, now_s))

    def encode(self) -> bytes:
        """Returns it as JSON."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def decode(cls, data: bytes) -> Pending:
        """Reads what `encode` wrote.

        Raises:
            ValueError: it is something else.
        """
        try:
            raw: dict[str, Any] = json.loads(data)
            starts_s = tuple(float(at_s) for at_s in raw["starts_s"])
            return cls(Waiting(**raw["waiting"]), Waiting(**raw["claimed"]), float(raw["claimed_s"]), starts_s)
        except (KeyError, TypeError) as error:
            raise ValueError(f"no state of the trigger ({type(error).__name__}: {error})") from error


def _together(one: Waiting, other: Waiting) -> Waiting:
    if not other.changes:
        return one
    return Waiting(one.changes + other.changes, min(one.first_s, other.first_s), max(one.last_s, other.last_s))
