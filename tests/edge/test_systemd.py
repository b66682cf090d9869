"""Messages to systemd, over a real socket."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from okko_edge.systemd import Notifier, Watchdog


class Manager(socket.socket):
    address: str


@pytest.fixture(params=["file", "abstract"])
def manager(request, tmp_path):
    """A socket as systemd has one, and the environment that it gives to a service."""
    name = str(tmp_path / "notify")
    with Manager(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(name if request.param == "file" else "\0" + name)
        listener.setblocking(False)
        listener.address = name if request.param == "file" else "@" + name
        yield listener


def received(listener):
    messages = []
    while True:
        try:
            messages.append(listener.recv(4096).decode())
        except BlockingIOError:
            return messages


class Clock:
    now_s = 100.0

    def __call__(self):
        return self.now_s


def watchdog(listener, clock, usec="3000000", **more):
    environ = {"NOTIFY_SOCKET": listener.address, "WATCHDOG_USEC": usec, **more}
    return Watchdog(Notifier(environ), environ=environ, now=clock)


def test_systemd_hears_of_ready_status_and_stopping(manager):
    notifier = Notifier({"NOTIFY_SOCKET": manager.address})
    assert notifier.ready("sorting\nwith marbles.okko")
    assert notifier.status("12 marbles")
    assert notifier.stopping()
    assert received(manager) == [
        "READY=1\nSTATUS=sorting with marbles.okko",
        "STATUS=12 marbles",
        "STOPPING=1\nSTATUS=stopping",
    ]


def test_the_watchdog_is_fed_at_most_three_times_a_period(manager):
    clock = Clock()
    dog = watchdog(manager, clock)
    assert dog.period_s == 3
    sent = 0
    for step in range(60):
        clock.now_s = 100 + step / 10
        sent += dog.beat()
    assert sent == 6
    assert received(manager) == ["WATCHDOG=1"] * 6


def test_a_status_is_only_made_when_it_is_sent_and_may_fail(manager):
    clock, asked = Clock(), []
    dog = watchdog(manager, clock)

    def status():
        asked.append(1)
        if len(asked) == 2:
            raise RuntimeError
        return "5 marbles"

    for clock.now_s in (100, 100.5, 101, 101.5):
        dog.beat(status)
    assert len(asked) == 2
    assert received(manager) == ["WATCHDOG=1\nSTATUS=5 marbles", "WATCHDOG=1"]


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:1234"}])
def test_without_systemd_nothing_happens(environ):
    notifier = Notifier(environ)
    assert not notifier.listening
    assert not notifier.ready()
    assert not Watchdog(notifier, environ={**environ, "WATCHDOG_USEC": "1000"}).beat()
    notifier.close()


def test_a_watchdog_that_is_meant_for_another_process_or_for_nobody_is_not_fed(manager):
    assert watchdog(manager, Clock(), WATCHDOG_PID=str(os.getpid() + 1)).period_s is None
    assert watchdog(manager, Clock(), WATCHDOG_PID=str(os.getpid())).period_s == 3
    for usec in ("0", "", "soon"):
        assert not watchdog(manager, Clock(), usec).beat()


def test_a_manager_that_is_gone_or_does_not_read_stops_nothing(manager):
    notifier = Notifier({"NOTIFY_SOCKET": manager.address})
    taken = [notifier.status("x" * 1000) for _ in range(5000)]
    assert taken[0]
    assert not taken[-1], "a full socket must refuse, not wait"
    manager.close()
    assert not notifier.status("anyone?")
    notifier.close()
    assert not notifier.status("nobody")


def test_a_service_started_by_a_manager_reports_to_it(manager):
    program = "from okko_edge.systemd import *; n = Notifier(); n.ready(); Watchdog(n).beat(); n.stopping('bye')"
    subprocess.run(
        [sys.executable, "-c", program],
        env={"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "10000000", "PATH": os.environ["PATH"]},
        check=True,
    )
    assert received(manager) == ["READY=1\nSTATUS=sorting", "WATCHDOG=1", "STOPPING=1\nSTATUS=bye"]
