"""What this machine is and how it feels: model, system, processors, memory, temperature, throttling, clock.

Everything is read from files below one root folder (/proc, /sys, /etc), so that tests bring a machine of their own.
Nothing here judges; `okko_edge.doctor` does.
"""

from __future__ import annotations

import enum
import os
import platform
import shutil
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

from okko_models.host import processors

ROOT = Path("/")
_DEVICE_TREE_MODEL = "proc/device-tree/model"
_FIRMWARE_THROTTLED = "sys/devices/platform/soc/soc:firmware/get_throttled"
_SYNCHRONISED = "run/systemd/timesync/synchronized"
_VCGENCMD_TIMEOUT_S = 5


@dataclass(frozen=True, kw_only=True)
class Board:
    """A machine.

    Attributes:
        model: what it is, for example "Raspberry Pi 4 Model B Rev 1.4".
        system: its operating system, for example "Debian GNU/Linux 12 (bookworm)".
        codename: the system's release, for example "bookworm".
        kernel: its release.
        machine: the kernel's word for the processor, for example "aarch64".
        bits: 32 or 64, of the running Python, which may be less than the kernel's.
        processors: how many this process may use.
        memory_mb: of the whole machine, megabytes; None if unknown.
        available_mb: memory that can still be used; None if unknown.
        python: version.
        raspberry_pi: whether it is one.
    """

    model: str
    system: str
    codename: str
    kernel: str
    machine: str
    bits: int
    processors: int
    memory_mb: int | None
    available_mb: int | None
    python: str
    raspberry_pi: bool


class Throttled(enum.IntFlag):
    """The bits of the firmware's `get_throttled` (Raspberry Pi documentation, vcgencmd)."""

    UNDER_VOLTAGE = 1 << 0
    FREQUENCY_CAPPED = 1 << 1
    THROTTLED = 1 << 2
    SOFT_TEMPERATURE_LIMIT = 1 << 3
    UNDER_VOLTAGE_SINCE_START = 1 << 16
    FREQUENCY_CAPPED_SINCE_START = 1 << 17
    THROTTLED_SINCE_START = 1 << 18
    SOFT_TEMPERATURE_LIMIT_SINCE_START = 1 << 19


def read_board(root: Path = ROOT) -> Board:
    """Returns what kind of machine this is."""
    release = _assignments(_text(root / "etc/os-release"))
    memory = _memory_mb(root)
    tree = _text(root / _DEVICE_TREE_MODEL).strip("\0 \n")
    return Board(
        model=tree or _processor_name(root) or platform.machine(),
        system=release.get("PRETTY_NAME", platform.system()),
        codename=release.get("VERSION_CODENAME", ""),
        kernel=platform.release(),
        machine=platform.machine(),
        bits=struct.calcsize("P") * 8,
        processors=processors(),
        memory_mb=memory.get("MemTotal"),
        available_mb=memory.get("MemAvailable"),
        python=platform.python_version(),
        raspberry_pi=tree.startswith("Raspberry Pi"),
    )


def temperature_c(root: Path = ROOT) -> float | None:
    """Returns the processor's temperature in degrees Celsius, None if the machine does not tell."""
    zones = sorted((root / "sys/class/thermal").glob("thermal_zone*"))
    # "cpu-thermal" is the Pi's name for it; other machines have zones for batteries and radios too.
    zones.sort(key=lambda zone: not _text(zone / "type").startswith(("cpu", "x86_pkg", "soc")))
    for zone in zones:
        if (text := _text(zone / "temp").strip()).lstrip("-").isdigit():
            return int(text) / 1000
    return None


def throttled(root: Path = ROOT) -> Throttled | None:
    """Returns what the Pi's firmware says about power and heat, None if there is no such firmware."""
    text = _text(root / _FIRMWARE_THROTTLED).strip() or _vcgencmd_throttled(root)
    try:
        return Throttled(int(text, 16) & sum(Throttled))
    except ValueError:
        return None


def clock_is_synchronised(root: Path = ROOT) -> bool:
    """Whether the system has had the time from the network since it started (systemd-timesyncd's mark)."""
    return (root / _SYNCHRONISED).exists()


def has_clock_chip(root: Path = ROOT) -> bool:
    """Whether a real-time clock keeps the time without power."""
    return any((root / "sys/class/rtc").glob("rtc*"))


def memory_of_this_process_mb(root: Path = ROOT) -> float:
    """Returns the resident memory of this process, in megabytes of 10^6 bytes."""
    status = _assignments(_text(root / "proc/self/status").replace(":", "="))
    return int(status["VmRSS"].split()[0]) * 1024 / 1e6


def _vcgencmd_throttled(root: Path) -> str:
    """The same number from the firmware's own tool, where the kernel does not show it."""
    tool = shutil.which("vcgencmd", path=os.fspath(root / "usr/bin"))
    if tool is None:
        return ""
    try:
        done = subprocess.run(
            [tool, "get_throttled"], capture_output=True, text=True, timeout=_VCGENCMD_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip().partition("throttled=")[2]


def _memory_mb(root: Path) -> dict[str, int]:
    lines = (line.partition(":") for line in _text(root / "proc/meminfo").splitlines())
    return {name: int(rest.split()[0]) * 1024 // 1_000_000 for name, _, rest in lines if rest.strip()}


def _processor_name(root: Path) -> str:
    for line in _text(root / "proc/cpuinfo").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return ""


def _assignments(text: str) -> dict[str, str]:
    pairs = (line.partition("=") for line in text.splitlines())
    return {name.strip(): value.strip().strip("\"'") for name, _, value in pairs}


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
