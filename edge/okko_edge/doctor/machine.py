"""Looks at the machine itself: system, processor, memory, heat, power and clock."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from okko_edge import board as boards
from okko_edge.board import ROOT, Throttled
from okko_edge.doctor.findings import fail, ok, warn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from okko_edge.board import Board
    from okko_edge.doctor.findings import Line

SYSTEMS = ("bookworm", "trixie")
PYTHONS = ("3.11", "3.12", "3.13")
# A Pi slows itself down at 80 degrees (85 at the latest); a Pi 3B+ at 60, softly.
_WARM_C, _HOT_C = 70.0, 80.0
# okko needs about 130 MB while it sorts.
_TIGHT_MB, _TOO_TIGHT_MB = 300, 150
# This okko was made later: a clock before it is wrong.
_NOT_BEFORE_S = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
_NOT_AFTER_S = datetime(2070, 1, 1, tzinfo=UTC).timestamp()
_BETTER_SUPPLY = "use the supply made for this Pi and a short cable, and power the servo from another one"
_COOLER = "add a heat sink or a fan, and give the housing air"


def look(root: Path = ROOT, *, board: Board | None = None, unix_s: float | None = None) -> Iterator[Line]:
    """Looks at the machine.

    Args:
        root: the folder below which /proc, /sys, /etc and /run lie.
        board: what `read_board` says, if it is known already.
        unix_s: what the clock says, seconds since 1970.
    """
    board = board or boards.read_board(root)
    yield ok("board", f"{board.model}, {board.processors} processors")
    yield _bits(board)
    yield _system(board)
    yield _python(board)
    yield _memory(board)
    yield _temperature(boards.temperature_c(root))
    yield from _power(boards.throttled(root), raspberry_pi=board.raspberry_pi)
    yield _clock(root, time.time() if unix_s is None else unix_s)


def _bits(board: Board) -> Line:
    said = f"{board.bits}-bit Python on a kernel for {board.machine}"
    if board.bits == 64:
        return ok("64-bit", said)
    return fail("64-bit", said, "there is no onnxruntime for 32 bits: write Raspberry Pi OS (64-bit) to the card")


def _system(board: Board) -> Line:
    said = f"{board.system}, kernel {board.kernel}"
    if board.codename in SYSTEMS:
        return ok("system", said)
    return warn("system", said, f"okko is made for {' and '.join(SYSTEMS)}; it may work here, but nobody tried")


def _python(board: Board) -> Line:
    if board.python.rpartition(".")[0] in PYTHONS:
        return ok("python", board.python)
    return fail("python", board.python, f"okko needs Python {PYTHONS[0]} to {PYTHONS[-1]}")


def _memory(board: Board) -> Line:
    if board.available_mb is None:
        return warn("memory", "the machine does not tell", "look at it with: free -m")
    said = f"{board.available_mb} MB of {board.memory_mb} MB free"
    if board.available_mb < _TOO_TIGHT_MB:
        return fail(
            "memory", said, f"okko needs {_TOO_TIGHT_MB} MB: end other programs, or use a system without a desktop"
        )
    if board.available_mb < _TIGHT_MB:
        return warn("memory", said, "end other programs, or use a system without a desktop")
    return ok("memory", said)


def _temperature(celsius: float | None) -> Line:
    if celsius is None:
        return ok("temperature", "the machine does not tell")
    said = f"{celsius:.0f} °C"
    if celsius >= _HOT_C:
        return fail("temperature", f"{said}: the processor slows down", _COOLER)
    if celsius >= _WARM_C:
        return warn("temperature", f"{said}; at {_HOT_C:.0f} °C the processor slows down", _COOLER)
    return ok("temperature", said)


def _power(bits: Throttled | None, *, raspberry_pi: bool) -> Iterator[Line]:
    if bits is None:
        if raspberry_pi:
            yield warn("power", "the firmware does not tell", "install vcgencmd, and add the user to the group video")
        return
    if bits & Throttled.UNDER_VOLTAGE:
        yield fail("power", "the supply is too weak right now", _BETTER_SUPPLY)
    elif bits & Throttled.UNDER_VOLTAGE_SINCE_START:
        yield warn("power", "the supply was too weak at least once since the start", _BETTER_SUPPLY)
    else:
        yield ok("power", "never too weak since the start")
    slow = Throttled.THROTTLED | Throttled.FREQUENCY_CAPPED | Throttled.SOFT_TEMPERATURE_LIMIT
    slow_before = (
        Throttled.THROTTLED_SINCE_START
        | Throttled.FREQUENCY_CAPPED_SINCE_START
        | Throttled.SOFT_TEMPERATURE_LIMIT_SINCE_START
    )
    if bits & slow:
        yield fail("speed", "the processor is slowed down right now", f"{_COOLER}; or {_BETTER_SUPPLY}")
    elif bits & slow_before:
        yield warn("speed", "the processor was slowed down since the start", f"{_COOLER}; or {_BETTER_SUPPLY}")
    else:
        yield ok("speed", "never slowed down since the start")


def _clock(root: Path, unix_s: float) -> Line:
    said = datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%d %H:%M UTC")
    without_network = "" if boards.has_clock_chip(root) else "; without a network, a clock module keeps the time"
    if not _NOT_BEFORE_S <= unix_s <= _NOT_AFTER_S:
        return warn(
            "clock",
            f"{said}, which cannot be: marbles are sorted, but the journal is dated wrongly and S3 refuses",
            f"sudo timedatectl set-ntp true, or: sudo date --set '2026-12-31 12:00'{without_network}",
        )
    if not boards.clock_is_synchronised(root):
        return warn(
            "clock",
            f"{said}, not confirmed by the network since the start",
            f"if it is wrong: sudo timedatectl set-ntp true{without_network}",
        )
    return ok("clock", f"{said}, confirmed by the network")
