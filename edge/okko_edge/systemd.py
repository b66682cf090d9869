"""Tells systemd how the service is: ready, alive, stopping. Without systemd every call does nothing.

The protocol is one datagram of NAME=value lines to the socket that $NOTIFY_SOCKET names (sd_notify(3)); it needs no
library. The watchdog is fed by whoever calls `Watchdog.beat`: call it from the sorting path and from nothing else, or a
stuck path would look alive.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

SOCKET = "NOTIFY_SOCKET"
# sd_watchdog_enabled(3) advises half of the period; a third leaves room for one beat that comes late.
_BEATS_A_PERIOD = 3


class Notifier:
    """Sends messages to the service manager that started this process.

    A message never waits and never raises: a manager that does not listen is no reason to stop sorting.

    Args:
        environ: where $NOTIFY_SOCKET is looked up; unset or empty means that there is no manager.
    """

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._socket: socket.socket | None = None
        address = environ.get(SOCKET, "")
        if address[:1] not in {"/", "@"}:
            return
        # A leading @ stands for the zero byte of Linux's abstract sockets, which have no file.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.setblocking(False)

    @property
    def listening(self) -> bool:
        """Whether there is a manager to talk to."""
        return self._socket is not None

    def send(self, *lines: str) -> bool:
        """Sends lines such as "READY=1" as one message; returns whether the manager took it."""
        if self._socket is None:
            return False
        try:
            self._socket.sendto("\n".join(lines).encode(), self._address)
        except OSError:
            return False
        return True

    def ready(self, status: str = "sorting") -> bool:
        """Says that marbles can come now."""
        return self.send("READY=1", _status(status))

    def status(self, status: str) -> bool:
        """Says in words how it goes; `systemctl status okko` shows it."""
        return self.send(_status(status))

    def stopping(self, status: str = "stopping") -> bool:
        """Says that the service is ending, so that it is not taken for stuck."""
        return self.send("STOPPING=1", _status(status))

    def close(self) -> None:
        """Lets go of the socket; later messages go nowhere."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class Watchdog:
    """Shows systemd that the sorting path still runs; without a beat for WatchdogSec, systemd starts okko again.

    `beat` may be called for every frame: it sends at most three times a watchdog period, and costs a look at the clock
    otherwise.

    Args:
        notifier: where to send.
        environ: where $WATCHDOG_USEC and $WATCHDOG_PID are looked up, which systemd sets.
        now: the monotonic clock, in seconds.
    """

    def __init__(
        self,
        notifier: Notifier,
        *,
        environ: Mapping[str, str] = os.environ,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._notifier = notifier
        self._now = now
        self.period_s = _period_s(environ) if notifier.listening else None
        self._due_s = now()

    def beat(self, status: Callable[[], str] | None = None) -> bool:
        """Feeds the watchdog if it is time; returns whether a message was sent.

        Args:
            status: is asked for a line for `systemctl status` when a message is sent, and only then.
        """
        if self.period_s is None:
            return False
        now_s = self._now()
        if now_s < self._due_s:
            return False
        self._due_s = now_s + self.period_s / _BEATS_A_PERIOD
        lines = ["WATCHDOG=1"]
        if status is not None:
            # What a status line is made of must not be able to end the service.
            with contextlib.suppress(Exception):
                lines.append(_status(status()))
        return self._notifier.send(*lines)


def _period_s(environ: Mapping[str, str]) -> float | None:
    """The watchdog's period in seconds; None if there is no watchdog, or one for another process."""
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    text = environ.get("WATCHDOG_USEC", "")
    return int(text) / 1e6 if text.isdigit() and int(text) else None


def _status(text: str) -> str:
    return "STATUS=" + " ".join(text.split())
