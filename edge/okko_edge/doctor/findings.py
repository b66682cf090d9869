"""What the doctor says: one line for each thing that was looked at."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_NAME_WIDTH = 12


class State(enum.StrEnum):
    """How a thing is: `FAIL` when sorting cannot work with it as it is."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True)
class Line:
    """One thing that was looked at.

    Attributes:
        name: what.
        state: how it is.
        said: what was found.
        advice: what to do; empty when there is nothing to do.
    """

    name: str
    state: State
    said: str
    advice: str = ""

    def __str__(self) -> str:
        text = f"{self.state:<4}  {self.name:<{_NAME_WIDTH}}  {self.said}"
        return text + (f"\n{'':<{_NAME_WIDTH + 8}}-> {self.advice}" if self.advice else "")


def ok(name: str, said: str, advice: str = "") -> Line:
    """Returns a line about something that is fine."""
    return Line(name, State.OK, said, advice)


def warn(name: str, said: str, advice: str) -> Line:
    """Returns a line about something that works, but may not always."""
    return Line(name, State.WARN, said, advice)


def fail(name: str, said: str, advice: str) -> Line:
    """Returns a line about something that does not work."""
    return Line(name, State.FAIL, said, advice)


def conclusion(lines: Sequence[Line]) -> str:
    """Returns the sum of all lines as one sentence."""
    count = {state: sum(line.state is state for line in lines) for state in State}
    if count[State.FAIL]:
        return f"{count[State.FAIL]} of {len(lines)} things stand in the way of sorting."
    if count[State.WARN]:
        return f"This device can sort; {count[State.WARN]} of {len(lines)} things could be better."
    return f"This device can sort: {len(lines)} things looked at, all fine."
