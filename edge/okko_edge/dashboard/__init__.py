"""The dashboard: a web page to look at and steer a device, and /metrics, on a thread of its own.

Nothing of it is on the sorting path: `hear` and `see` only keep references, and whatever happens on the dashboard's
thread stays there. The page is HTML, CSS and JavaScript as they stand in `page/`, asks for news once a second and needs
nothing from the network. Who may do what is in `guard`; the headers follow https://owasp.org/www-project-secure-headers/.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib.util
import ipaddress
import os
import socket
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from okko_edge.dashboard.marbles import LiveView, Marbles
from okko_edge.events import Event
from okko_models.errors import OkkoError

if TYPE_CHECKING:
    from collections.abc import Callable

    from okko_edge.about import About
    from okko_edge.dashboard.server import Limits
    from okko_edge.dashboard.state import Controls, Corrections
    from okko_edge.events import Counters
    from okko_edge.frame import Frame
    from okko_edge.settings import DashboardSettings
    from okko_edge.sorter import Decision
    from okko_edge.statistics import Statistics

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0
_CLOSE_S = 5.0
_NICENESS = 10


@dataclass(frozen=True, slots=True)
class Listen:
    """An address to listen on.

    Attributes:
        family: of the address.
        host: the numeric address.
        port: 0 is any free one.
    """

    family: socket.AddressFamily
    host: str
    port: int

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return ipaddress.ip_address(self.host.partition("%")[0]).is_loopback

    @classmethod
    def parse(cls, text: str) -> Listen:
        """Reads ADDRESS:PORT, with an IPv6 address in brackets.

        Raises:
            OkkoError: it is not of that form, or the name has no address.
        """
        host, colon, port = text.rpartition(":")
        bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
        if not (colon and bare and port.isascii() and port.isdecimal() and int(port) < 65536) or (
            ":" in bare and bare == host
        ):
            raise OkkoError(f"the dashboard cannot listen on {text!r}: write ADDRESS:PORT, such as 127.0.0.1:8080")
        try:
            found = socket.getaddrinfo(bare, int(port), type=socket.SOCK_STREAM)
        except OSError as error:
            raise OkkoError(f"the dashboard cannot listen on {text}: {error.strerror}") from error
        family, _, _, _, address = found[0]
        return cls(family, str(address[0]), int(port))


class Dashboard:
    """Serves the pages from `start` to `close`.

    Args:
        settings: where to listen, and the password's hash.
        about: the model, and what stands around it.
        statistics: counts and rolling statistics; hears of decisions by itself, not through the dashboard.
        counters: the counted events.
        controls: what the buttons do.
        corrections: where a person's labels go; None: nowhere.
        warn: takes one sentence for the user.
        limits: what clients may take.

    Raises:
        OkkoError: the address is none, or others could reach it and there is no password.
    """

    def __init__(
        self,
        settings: DashboardSettings,
        *,
        about: About,
        statistics: Statistics,
        counters: Counters,
        controls: Controls,
        corrections: Corrections | None = None,
        warn: Callable[[str], None] = lambda _: None,
        limits: Limits | None = None,
    ) -> None:
        # Only who wants a dashboard pays for its modules.
        from okko_edge.dashboard import passwords
        from okko_edge.dashboard.app import App, Parts

        self._listen = Listen.parse(settings.listen)
        if settings.password_hash:
            passwords.check_hash(settings.password_hash)
        elif not self._listen.loopback:
            raise OkkoError(
                f"the dashboard would be open to everyone who can reach {settings.listen}: set a password with "
                "okko config password, or listen on 127.0.0.1"
            )
        self.marbles = Marbles()
        self.live = LiveView()
        self._counters = counters
        self._warn = warn
        self._limits = limits
        host = socket.gethostname().lower()
        names = {host, f"{host.partition('.')[0]}.local", *(name.lower().rstrip(".") for name in settings.host_names)}
        parts = Parts(
            about=about,
            statistics=statistics,
            counters=counters,
            controls=controls,
            corrections=corrections,
            marbles=self.marbles,
            live=self.live,
        )
        self._app = App(parts, password_hash=settings.password_hash, names=frozenset(names))
        self._socket: socket.socket | None = None
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopped: asyncio.Event | None = None

    def change_model(self, about: About) -> None:
        """Shows another model from now on; returns at once."""
        self._app.about = about

    def hear(self, decision: Decision) -> None:
        """Takes a decision; returns at once. For the sorting path's thread."""
        self.marbles.hear(decision)

    def see(self, frame: Frame) -> None:
        """Takes the newest frame for the live view; returns at once. For the camera's thread."""
        self.live.see(frame)

    @property
    def url(self) -> str:
        """Where the page is, once started."""
        host = f"[{self._listen.host}]" if ":" in self._listen.host else self._listen.host
        port = self._socket.getsockname()[1] if self._socket else self._listen.port
        return f"http://{host}:{port}/"

    def start(self) -> None:
        """Starts to serve.

        Raises:
            OkkoError: the address cannot be listened on, or h11 is not installed.
        """
        if importlib.util.find_spec("h11") is None:
            raise OkkoError("the dashboard needs the package h11, which is not installed: pip install 'okko[edge]'")
        listen = self._listen
        try:
            self._socket = socket.create_server((listen.host, listen.port), family=listen.family)
        except OSError as error:
            raise OkkoError(
                f"the dashboard cannot listen on {listen.host}:{listen.port}: {error.strerror}; "
                "name another address or port with --dashboard"
            ) from error
        # A daemon, because a visitor must not keep the program from ending.
        self._thread = threading.Thread(target=self._serve_until_closed, name="dashboard", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stops serving; waits for 5 seconds at most."""
        self._closing.set()
        if self._loop is not None and self._stopped is not None:
            with contextlib.suppress(RuntimeError):  # the loop has just ended
                self._loop.call_soon_threadsafe(self._stopped.set)
        if self._thread is not None:
            self._thread.join(_CLOSE_S)
        if self._socket is not None:
            self._socket.close()
        # A connection that was accepted, but that no task had taken over yet, is only let go by the collector.
        gc.collect()

    def _serve_until_closed(self) -> None:
        with contextlib.suppress(OSError):  # sorting goes first where processors are short
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
        pause_s = _FIRST_PAUSE_S
        while not self._closing.is_set():
            try:
                asyncio.run(self._serve())
            except Exception as error:  # whatever it was, sorting does not notice, and the page comes back
                self._counters.add(Event.DASHBOARD_FAILED)
                with contextlib.suppress(Exception):
                    self._warn(f"the dashboard failed ({type(error).__name__}: {error}) and starts again")
                self._closing.wait(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    async def _serve(self) -> None:
        from okko_edge.dashboard.server import Server

        assert self._socket is not None
        self._stopped = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        if self._closing.is_set():
            return
        # A duplicate, because the server closes what it is given, and a restart needs it again.
        await Server(self._app.answer, self._limits).serve(self._socket.dup(), self._stopped)
