"""Listens to the kernel's drivers at the place where they write to a chip, with the kernel's own clock (kprobes).

A tap on the GPIO driver hears of every edge that is put on a pin. A tap on the store instructions of the PWM driver
hears of every value that is written to a register: the driver's code is read to find them.
"""

from __future__ import annotations

import os
import re
import struct
from dataclasses import dataclass
from pathlib import Path

TRACING = Path("/sys/kernel/tracing")
_SYMBOLS, _FUNCTION = 2, 2


@dataclass(frozen=True)
class Heard:
    """One event: which tap, when (seconds, monotonic clock), and its values."""

    tap: str
    at_s: float
    values: dict[str, int]


class Taps:
    """Listens while it is open; a context manager.

    Args:
        definitions: kprobe events, name to "place name=%register ...".
    """

    def __init__(self, definitions: dict[str, str]) -> None:
        self._definitions = definitions

    def __enter__(self) -> Taps:
        _write("trace_clock", "mono")
        _write("trace", "")
        for name, definition in self._definitions.items():
            _write("kprobe_events", f"p:okko/{name} {definition}\n", append=True)
            _write(f"events/okko/{name}/enable", "1")
        _write("tracing_on", "1")
        return self

    def __exit__(self, *_: object) -> None:
        for name in self._definitions:
            _write(f"events/okko/{name}/enable", "0")
            _write("kprobe_events", f"-:okko/{name}\n", append=True)

    def heard(self) -> list[Heard]:
        """Returns all events so far, oldest first, and forgets them."""
        lines = (TRACING / "trace").read_text().splitlines()
        _write("trace", "")
        found = []
        for line in lines:
            # "  python3-123  [002] ..... 12.345678: gpio: (bcm2835_gpio_set+0x0/0x38) offset=17 value=1"
            match = re.match(r".*?\s(\d+\.\d+): (\w+): \([^)]*\)(.*)$", line)
            if match:
                values = {key: int(value, 0) for key, value in re.findall(r"(\w+)=(-?\w+)", match[3])}
                found.append(Heard(match[2], float(match[1]), values))
        return sorted(found, key=lambda each: each.at_s)


def gpio_edges() -> dict[str, str]:
    """Returns a tap on what the Pi's GPIO driver puts on pins: `offset` and `value`."""
    return {"edge": "bcm2835_gpio_set offset=%x1:u32 value=%x2:s32"}


def register_writes(module: Path, function: str) -> dict[str, str]:
    """Returns a tap on each store of 32 bits in a function of a module: `address` and `value`.

    Args:
        module: the module's file.
        function: its function.
    """
    return {
        f"store{number}": f"{module.stem}:{function}+{place} address=%x{base}:x64 value=%x{source}:x32"
        for number, (place, base, source) in enumerate(_stores(module.read_bytes(), function))
    }


def _stores(elf: bytes, function: str) -> list[tuple[int, int, int]]:
    """Finds each STR Wt, [Xn] in a function: (place in the function, n, t)."""
    (table,) = struct.unpack_from("<Q", elf, 40)
    (count,) = struct.unpack_from("<H", elf, 60)
    sections = [struct.unpack_from("<IIQQQQIIQQ", elf, table + 64 * i) for i in range(count)]
    symbols = next(section for section in sections if section[1] == _SYMBOLS)
    names = sections[symbols[6]][4]
    for place in range(symbols[4], symbols[4] + symbols[5], 24):
        name, kind, _, section, value, size = struct.unpack_from("<IBBHQQ", elf, place)
        if kind & 15 == _FUNCTION and elf[names + name :].split(b"\0", 1)[0].decode() == function:
            start = sections[section][4] + value
            words = struct.unpack_from(f"<{size // 4}I", elf, start)
            return [
                (4 * i, word >> 5 & 31, word & 31) for i, word in enumerate(words) if word & 0xFFFFFC00 == 0xB9000000
            ]
    raise LookupError(f"no function {function}")


def _write(name: str, text: str, *, append: bool = False) -> None:
    # Python's own append mode seeks to the end first, which these files refuse.
    file = os.open(TRACING / name, os.O_WRONLY | (os.O_APPEND if append else os.O_TRUNC))
    try:
        os.write(file, text.encode())
    finally:
        os.close(file)
