"""The child process: makes inputs of one target, feeds them, and says for each what came of it.

It judges what can be judged from inside: exceptions, memory, processor time, and what was touched outside of the
input's folder. Whether it hangs or dies is judged by `watching`, from outside.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from okko_models.errors import OkkoError
from tests.fuzz.targets import BROKEN, PLANS

if TYPE_CHECKING:
    from tests.fuzz.targets import Plan, Target

HEADROOM_MB = 1024
"""Beyond what the process has when ready, by RLIMIT_AS; more than any target may take, so that it can tell."""
LONGEST_MESSAGE = 10_000
_OURS = ("okko_models", "okko_edge", "okko_train")
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = {
    "os.remove",
    "os.rename",
    "os.mkdir",
    "os.rmdir",
    "os.link",
    "os.symlink",
    "os.truncate",
    "os.chmod",
    "os.chown",
}
_FORBIDDEN = {
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "subprocess.Popen",
    "socket.connect",
    "ctypes.dlopen",
}


class Guard:
    """Notes whatever is changed outside of the input's folder, and any program or connection that is begun.

    Args:
        base: the folder that holds the input's folder and, beside it, `outside` with a file that nobody may touch.
    """

    def __init__(self, base: Path) -> None:
        self.inside, self.outside = base / "inside", base / "outside"
        self.watching = False
        self.touched: list[str] = []
        self.outside.mkdir(parents=True)
        (self.outside / "secret").write_text("secret")
        self._before = self._look()
        sys.addaudithook(self._hear)

    def begin(self) -> None:
        """Everything is watched from now on."""
        self.touched.clear()
        self.watching = True

    def end(self) -> list[str]:
        """Returns what was touched that must not be."""
        self.watching = False
        found = list(self.touched)
        if self._look() != self._before:
            found.append("the folder outside has changed")
        subprocess.run(["rm", "-rf", self.inside], check=True) if self._odd() else shutil.rmtree(self.inside)
        return found

    def _odd(self) -> bool:
        # shutil.rmtree cannot remove folders that lie too deep.
        return (self.inside / "bundle").exists()

    def _look(self) -> list[tuple[str, int, int]]:
        found = []
        for path in (*self.outside.parent.iterdir(), *self.outside.iterdir()):
            if path != self.inside:
                facts = path.lstat()
                found.append((path.name, facts.st_mtime_ns, facts.st_size))
        return sorted(found)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.watching:
            return
        if event in _FORBIDDEN and not (event == "ctypes.dlopen" and arguments == (None,)):
            self.touched.append(f"{event} {arguments!r}"[:200])
        elif event == "open" and isinstance(arguments[0], str | bytes):
            path, mode, flags = arguments
            writes = bool(flags & _WRITING) if isinstance(flags, int) else any(c in (mode or "") for c in "wax+")
            real = os.path.realpath(os.fsdecode(path))
            if (writes and not self._within(real)) or real.startswith(str(self.outside)):
                self.touched.append(f"open {real}")
        elif event in _CHANGES and not all(
            self._within(os.path.realpath(os.fsdecode(p))) for p in _paths(event, arguments)
        ):
            self.touched.append(f"{event} {arguments!r}"[:200])

    def _within(self, real: str) -> bool:
        return real.startswith((f"{self.inside}", "/dev/null"))


def _paths(event: str, arguments: tuple[Any, ...]) -> list[str | bytes]:
    if event == "os.symlink":
        return [str(Path(os.fsdecode(arguments[1])).parent)]
    # With a descriptor of a folder (dir_fd), a name alone says nothing; what is opened below it was judged before.
    names = arguments[:2] if event in {"os.rename", "os.link"} else arguments[:1]
    whole = event == "os.truncate" or -1 in arguments[1:]
    return [name for name in names if isinstance(name, str | bytes) and whole]


def peak_mb() -> float:
    """Returns the most memory that this process had in use since `forget_peak`."""
    with Path("/proc/self/status").open() as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) / 1024


def forget_peak() -> float:
    """Begins to measure anew; returns what is in use now, in megabytes."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak_mb()


def reason_of(error: OkkoError) -> str:
    """Returns the kind of a refusal: the error's type, and the module of okko that raised it."""
    modules = []
    trace = error.__traceback__
    while trace is not None:
        modules.append(trace.tb_frame.f_globals.get("__name__", ""))
        trace = trace.tb_next
    ours = [name for name in modules if name.startswith(_OURS)]
    return f"{type(error).__name__} in {ours[-1].partition('.')[2]}" if ours else type(error).__name__


def judge(plan: Plan, target: Target, data: bytes, guard: Guard) -> dict[str, Any]:
    """Feeds one input; returns its kind (accepted, refused, defect), why, and what it took."""
    guard.inside.mkdir()
    target.lay(data, guard.inside)
    before_mb, begun_s = forget_peak(), time.process_time()
    guard.begin()
    kind, why = "accepted", ""
    try:
        why = target.feed(data, guard.inside)
        kind = "refused" if why else kind
    except OkkoError as error:
        kind, why = "refused", reason_of(error)
        message = str(error)
        if len(message) > LONGEST_MESSAGE or not all(c.isprintable() or c == "\n" for c in message):
            kind, why = "defect", f"the message of {why} is too long or not printable: {message[:300]!r}"
    except BaseException:
        kind, why = "defect", traceback.format_exc(limit=-12)
    took_s, took_mb = time.process_time() - begun_s, peak_mb() - before_mb
    touched = guard.end()
    if touched:
        kind, why = "defect", f"touched {touched[:5]}"
    elif kind != "defect" and (took_s > plan.processor_s or took_mb > plan.memory_mb):
        kind, why = "defect", f"took {took_s:.2f} s of {plan.processor_s}, {took_mb:.0f} MB of {plan.memory_mb} ({why})"
    return {"kind": kind, "why": why, "s": took_s, "mb": took_mb}


def main() -> None:
    """Called by `watching` with: target, seed, first and last number, descriptor to write to, two folders."""
    name, seed, first, last, descriptor, base, keep = sys.argv[1:]
    plan = {**PLANS, **BROKEN}[name]
    ready = plan.open()
    guard = Guard(Path(base))
    _limit_memory()
    for number in range(int(first), int(last)):
        _say(descriptor, {"begun": number})
        data = ready.make(random.Random(f"{seed} {name} {number}"))
        # Written first: an input may be the last thing that this process sees.
        kept = Path(keep) / f"{name}-{seed}-{number}"
        if keep:
            kept.write_bytes(data)
        told = judge(plan, ready, data, guard)
        if keep and told["kind"] != "defect":
            kept.unlink()
        _say(descriptor, {"number": number, **told})


def _limit_memory() -> None:
    there = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (there + (HEADROOM_MB << 20),) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _say(descriptor: str, told: dict[str, Any]) -> None:
    os.write(int(descriptor), json.dumps(told).encode() + b"\n")


if __name__ == "__main__":
    main()
