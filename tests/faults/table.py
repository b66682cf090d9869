"""The table of faults: what went in, what came out, what was counted. Filled by the tests, shown when they end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, kw_only=True)
class FaultRow:
    """One fault.

    Attributes:
        fault: what was injected.
        marbles: that came.
        verdicts: that were given to them.
        safe: verdicts that are KO because something was wrong, and say what.
        uncertain: verdicts that are UNCERTAIN.
        counted: events that were counted.
        note: what else was found, in a few words.
    """

    fault: str
    marbles: int
    verdicts: int
    safe: int
    uncertain: int
    counted: Mapping[str, int]
    note: str = ""


ROWS: list[FaultRow] = []


def as_markdown(rows: list[FaultRow]) -> str:
    """Returns the table."""
    lines = [
        "| fault | marbles in | verdicts out | KO for safety | UNCERTAIN | counted | and |",
        "|---|---:|---:|---:|---:|---|---|",
    ]
    for row in rows:
        counted = ", ".join(f"{name} {count}" for name, count in row.counted.items() if count)
        cells = (row.fault, row.marbles, row.verdicts, row.safe, row.uncertain, counted or "none", row.note)
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)
