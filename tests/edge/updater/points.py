"""Every point at which a process changes the disk, found by watching it, and a way to end it or to fail it there.

While `Points` is on, all functions of `os` and all open files that write below one folder go through it. An audit hook
holds that against what the interpreter itself reports, so that a way of writing that nobody thought of is an error and
not a gap.
"""

from __future__ import annotations

import builtins
import contextlib
import io
import os
import signal
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.edge.updater.power import Unflushed

if TYPE_CHECKING:
    from pathlib import Path

# name -> how many of its first arguments are paths (0: the first is a file descriptor)
_FUNCTIONS = {
    "open": 1, "write": 0, "fsync": 0, "fdatasync": 0, "rename": 2, "replace": 2, "unlink": 1, "remove": 1, "rmdir": 1,
    "mkdir": 1, "symlink": 2, "link": 2, "chmod": 1, "fchmod": 0, "truncate": 1, "ftruncate": 0, "utime": 1,
    "pwrite": 0, "writev": 0, "sendfile": 0, "copy_file_range": 0, "mknod": 1, "mkfifo": 1, "chown": 1, "setxattr": 1,
}  # fmt: skip
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_AUDITED = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.symlink", "os.link", "os.truncate", "os.chmod")
STEP = "step "
BEFORE, TORN, AFTER = "before", "torn", "after"
POWER, POWER_NAMES = "power", "power and names"


@dataclass(frozen=True)
class Plan:
    """What happens at one point.

    Attributes:
        number: of the point, from 0; -1: nothing happens.
        kill: `before`, `torn` (half of a write) or `after`; `power`: before, and data that were not flushed are lost;
            `power and names`: and names; empty: it is not killed.
        error: an errno that is raised instead of what was to be done; 0: none.
        stays: the error is raised at all later points as well.
    """

    number: int = -1
    kill: str = ""
    error: int = 0
    stays: bool = False


class Points:
    """Watches the process while it is entered as a context.

    Args:
        folder: what counts is below it.
        plan: what happens, and where.

    Attributes:
        seen: what was done at each point, in order.
        missed: what the interpreter reports to have been done otherwise.
    """

    _active: Points | None = None
    _hooked = False

    def __init__(self, folder: Path, plan: Plan = Plan()) -> None:
        self.folder = os.path.realpath(folder)
        self.plan = plan
        self.seen: list[str] = []
        self.missed: list[str] = []
        self._inside = 0
        self._unflushed = Unflushed(self.folder)

    def __enter__(self) -> Points:
        self._real = {name: getattr(os, name) for name in _FUNCTIONS if hasattr(os, name)}
        self._open = io.open
        for name in self._real:
            setattr(os, name, self._patched(name))
        io.open = builtins.open = self._opened
        if not Points._hooked:
            sys.addaudithook(_audit)
            Points._hooked = True
        Points._active = self
        return self

    def __exit__(self, *_: object) -> None:
        Points._active = None
        for name, function in self._real.items():
            setattr(os, name, function)
        io.open = builtins.open = self._open

    def step(self, what: str) -> None:
        """A change that is not one of the disk: the process may end there, but the disk cannot fail."""
        self._do(f"{STEP}{what}", lambda: None, lambda: None)

    def _patched(self, name):
        real, paths = self._real[name], _FUNCTIONS[name]

        def call(*arguments, **named):
            if name == "open" and not arguments[1] & _WRITES:
                return real(*arguments, **named)
            where = self._where(arguments, paths, named)
            if where is None:
                return real(*arguments, **named)

            path = os.path.normpath(os.path.join(self.folder, where))  # noqa: PTH118

            def act():
                if not paths:
                    if name in {"write", "ftruncate"}:
                        self._unflushed.writing(arguments[0])
                    done = real(*arguments, **named)
                    if name in {"fsync", "fdatasync"}:
                        self._unflushed.flushed(arguments[0], path)
                    return done
                other = os.path.abspath(os.fsdecode(arguments[0]))  # noqa: PTH100
                made = self._unflushed.before(name, path, other)
                done = real(*arguments, **named)
                made()
                return done

            def half():
                if name == "write":
                    real(arguments[0], arguments[1][: len(arguments[1]) // 2])

            return self._do(f"{name} {where}", act, half)

        return call

    def _opened(self, file, mode="r", *arguments, **named):
        writes = any(letter in mode for letter in "wax+")
        where = self._where((file,), 0 if isinstance(file, int) else 1, {}) if writes else None
        if where is None:
            return self._open(file, mode, *arguments, **named)
        assert "b" in mode, f"{where} is written as text"

        def act():
            made = self._unflushed.before("open", os.path.abspath(file), "")  # noqa: PTH100
            raw = self._open(file, mode, 0)
            made()
            if "w" in mode:
                self._unflushed.writing(raw.fileno(), emptied=True)
            return raw

        # Without a buffer, so that each write is one.
        raw = self._open(file, mode, 0) if isinstance(file, int) else self._do(f"open {where}", act, lambda: None)
        return _File(raw, where, self)

    def _where(self, arguments, paths, named):
        """The name below the folder that a call is about; None: it is about something else."""
        if self._inside:
            return None
        if not paths or isinstance(arguments[0], int):
            target = _name_of(arguments[0])
        else:
            target = os.fspath(arguments[paths - 1])
            if named.get("dir_fd") is not None:
                target = os.path.join(_name_of(named["dir_fd"]), target)  # noqa: PTH118
        target = os.path.abspath(os.fsdecode(target))  # noqa: PTH100
        return (
            os.path.relpath(target, self.folder)
            if target.startswith(self.folder + "/") or target == self.folder
            else None
        )

    def _do(self, what, act, half):
        number = len(self.seen)
        self.seen.append(what)
        plan = self.plan
        now = number == plan.number or (plan.stays and 0 <= plan.number < number)
        if plan.error and now and not what.startswith(STEP):
            raise OSError(plan.error, os.strerror(plan.error), what)
        if number == plan.number and plan.kill in {BEFORE, POWER, POWER_NAMES}:
            self._inside += 1
            if plan.kill != BEFORE:
                self._unflushed.lose(names=plan.kill == POWER_NAMES)
            _die()
        self._inside += 1
        try:
            if number == plan.number and plan.kill == TORN:
                half()
                _die()
            return act()
        finally:
            self._inside -= 1
            if number == plan.number and plan.kill == AFTER:
                _die()


class _File:
    """An open file without a buffer, each write of which is a point."""

    def __init__(self, raw, where, points) -> None:
        self._raw, self._where, self._points = raw, where, points

    def __getattr__(self, name):
        return getattr(self._raw, name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._raw.close()

    def write(self, data):
        def act(piece=data):
            self._points._unflushed.writing(self._raw.fileno())
            _write_all(self._raw, piece)

        self._points._do(f"write {self._where}", act, lambda: act(data[: len(data) // 2]))
        return len(data)

    def truncate(self, size=None):
        def act():
            self._points._unflushed.writing(self._raw.fileno())
            return self._raw.truncate(size)

        return self._points._do(f"truncate {self._where}", act, lambda: None)


def _write_all(raw, data) -> None:
    view = memoryview(data)
    while view:
        view = view[raw.write(view) :]


def _name_of(descriptor):
    return os.readlink(f"/proc/self/fd/{descriptor}")  # noqa: PTH115


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    signal.pause()


def _audit(event, arguments) -> None:
    """Notes what changes the folder and did not come through a point."""
    points = Points._active
    if points is None or points._inside:
        return
    if event == "open":
        path, mode, flags = arguments
        if not isinstance(path, (str, bytes)) or not (flags & _WRITES or (mode and any(x in mode for x in "wax+"))):
            return
    elif event in _AUDITED:
        path = arguments[1] if event in {"os.rename", "os.symlink", "os.link"} else arguments[0]
    else:
        return
    with contextlib.suppress(TypeError, ValueError, OSError):
        target = os.path.abspath(os.fsdecode(path))  # noqa: PTH100
        if target.startswith(points.folder + "/"):
            points.missed.append(f"{event} {target}")
