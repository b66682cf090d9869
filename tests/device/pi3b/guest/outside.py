"""What a program on an emulated machine can say to, and ask of, the machine that emulates it: one line of JSON each."""

from __future__ import annotations

import json
import sys


def report(part: str, asked: object, found: object, *, ok: bool) -> None:
    """Reports one line of the table."""
    print("\n@" + json.dumps({"part": part, "asked": str(asked), "found": str(found), "ok": ok}), flush=True)


def register(address: int) -> int:
    """Returns what a chip holds at an address of the machine's bus, 4 bytes, read by the emulator."""
    print("\n@" + json.dumps({"ask": "register", "address": address}), flush=True)
    return int(sys.stdin.readline())


def drive(line: int, level: int) -> None:
    """Drives an input line of the GPIO chip."""
    print("\n@" + json.dumps({"ask": "input", "line": line, "level": level}), flush=True)
    sys.stdin.readline()
