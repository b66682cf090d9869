"""Ends a command gently: the first Ctrl-C asks, the second one insists."""

from __future__ import annotations

import contextlib
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextlib.contextmanager
def stopped_by_signal(stop: Callable[[], None]) -> Iterator[None]:
    """While this lasts, the first Ctrl-C or SIGTERM calls `stop`; a second one ends the program at once."""
    signals = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in signals}

    def gently(number: int, _: object) -> None:
        stop()
        signal.signal(number, before[signal.Signals(number)])

    for number in signals:
        signal.signal(number, gently)
    try:
        yield
    finally:
        for number in signals:
            signal.signal(number, before[number])
