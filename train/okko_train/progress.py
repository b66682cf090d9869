"""Progress of long work: a bar with an estimated end on a terminal, a plain line now and then elsewhere.

Everything goes to standard error, so that standard output holds results alone.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

console = Console(stderr=True, highlight=False)
_PLAIN_EVERY_S = 10.0


@contextlib.contextmanager
def progress(title: str, total: int) -> Iterator[Callable[..., None]]:
    """Shows how far `total` steps of work have come.

    Yields:
        `advance(note="")`: call it once a step; `note` is a short remark, such as the best result so far.
    """
    started = time.monotonic()
    if console.is_terminal:
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, TimeRemainingColumn(), TextColumn("{task.fields[note]}"), console=console) as bars:
            task = bars.add_task(title, total=total, note="")
            yield lambda note="": bars.update(task, advance=1, note=note)
        return
    done, last = 0, started

    def advance(note: str = "") -> None:
        nonlocal done, last
        done += 1
        if time.monotonic() - last >= _PLAIN_EVERY_S and done < total:
            last = time.monotonic()
            console.print(f"{title}: {done} of {total} {note}".rstrip())

    yield advance
    console.print(f"{title}: {done} of {total}, {time.monotonic() - started:.1f} s")
