"""Ways to spoil data: any bytes, and JSON and TOML with their structure kept; `binary` and `requests` have more.

Pure functions of data and a random generator, so that a seed names an input. What a parser never gets to see because
the framing around it is broken is reached only by keeping the framing right; so both kinds are needed.
"""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

NUMBERS = [
    0, 1, -1, 2, 7, 127, 128, 255, 256, 65535, 65536, 2**31 - 1, 2**31, 2**32, 2**53, 2**63 - 1, 2**63, 2**64,
    -(2**31), -(2**63), 10**30, 10**400, 0.0, -0.0, 0.5, 1e308, -1e308, 5e-324, float("nan"), float("inf"),
]  # fmt: skip
TEXTS = [
    "", " ", "a", "..", "../x", "/etc/passwd", "C:\\x", "a/b/c", "golden/../x", "%2e%2e/", "\x00", "\n", "\x1b[2J",
    "\ud800", "é" * 50, "\u202e", "x" * 5000, "{}", "%s%n", "null", "1e9", "2026-01-01T00:00:00Z", "0" * 64,
]  # fmt: skip


def spoiled(data: bytes, others: Sequence[bytes], words: Sequence[bytes], chance: random.Random) -> bytes:
    """Changes a few bytes somewhere: flips, cuts, repeats, inserts `words`, or goes on with another sample."""
    out = bytearray(data)
    for _ in range(1 << chance.randrange(4)):
        at = chance.randrange(len(out) + 1)
        match chance.randrange(9):
            case 0 if at < len(out):
                out[at] ^= 1 << chance.randrange(8)
            case 1 if at < len(out):
                out[at] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))
            case 2:
                del out[at : at + (1 << chance.randrange(8))]
            case 3:
                out[at:at] = chance.randbytes(1 << chance.randrange(6))
            case 4:
                start = chance.randrange(len(out) + 1)
                out[at:at] = out[start : start + (1 << chance.randrange(8))]
            case 5 if words:
                out[at:at] = chance.choice(words)
            case 6 if words:
                word = chance.choice(words)
                out[at : at + len(word)] = word
            case 7:
                other = chance.choice(others) if others else bytes(out)
                out[at:] = other[chance.randrange(len(other) + 1) :]
            case _:
                number = chance.choice([n for n in NUMBERS if isinstance(n, int) and 0 <= n < 2**64])
                width = chance.choice((1, 2, 4, 8))
                out[at : at + width] = (number % (1 << 8 * width)).to_bytes(width, chance.choice(("little", "big")))
    return bytes(out)


def spoiled_json(data: bytes, others: Sequence[bytes], chance: random.Random) -> bytes:
    """Changes values, names and places in a JSON document; it stays JSON, nearly always."""
    try:
        tree = json.loads(data)
    except ValueError:  # it was spoiled before
        return spoiled(data, others, [], chance)
    for _ in range(chance.randint(1, 3)):
        tree = spoiled_tree(tree, [json.loads(other) for other in others], chance)
    try:
        text = json.dumps(tree, ensure_ascii=chance.random() < 0.7)
        if len(text) < 4000 and chance.random() < 0.3:
            text = json.dumps(tree, indent=1)
    except (MemoryError, RecursionError):  # things were put into each other until nobody can write them down
        return spoiled(data, others, [], chance)
    if chance.random() < 0.1:
        # The same name twice in one object: no writer does it, readers differ in what they take.
        text = text.replace('{"', '{"' + chance.choice(("name", "signed", "schema_version")) + '": 1, "', 1)
    return text.encode("utf-8", "surrogatepass")


def spoiled_tree(tree: Any, others: Sequence[Any], chance: random.Random) -> Any:
    """Changes one thing in a tree of dicts and lists; returns the new one."""
    tree = _copied(tree)
    places = _places(tree)
    if not places:
        return _odd_value(others, chance)
    parent, key = chance.choice(places)
    match chance.randrange(8):
        case 0:
            del parent[key]
        case 1 if isinstance(parent, dict):
            parent[chance.choice([*TEXTS, "signed", "x-okko", "surprise"])] = _odd_value(others, chance)
        case 1 | 2 if isinstance(parent, list):
            parent[key:key] = [_copied(parent[key])] * chance.choice((1, 2, 50))
        case 3 if isinstance(parent, dict):
            parent[chance.choice(TEXTS)] = parent.pop(key)
        case 4:
            other, place = chance.choice(places)
            if not isinstance(other, list) or place < len(other):
                parent[key] = _copied(other[place])
        case 5 if isinstance(parent[key], int | float) and abs(parent[key]) < 2**70:
            parent[key] += chance.choice((-1, 1, 0.5, 2**31))
        case 6 if isinstance(parent[key], str) and parent[key]:
            letters = list(parent[key])
            letters[chance.randrange(len(letters))] = chance.choice("0aZ./\\\x00é")
            parent[key] = "".join(letters)
        case _:
            parent[key] = _odd_value(others, chance)
    return tree


def _copied(value: Any) -> Any:
    try:
        return copy.deepcopy(value)
    except RecursionError:  # things were put into each other too often
        return "deep"


def _places(tree: Any) -> list[tuple[Any, Any]]:
    found: list[tuple[Any, Any]] = []
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        inner = (
            list(node.items()) if isinstance(node, dict) else list(enumerate(node)) if isinstance(node, list) else []
        )
        found += [(node, key) for key, _ in inner]
        waiting += [value for _, value in inner]
    return found


def _odd_value(others: Sequence[Any], chance: random.Random) -> Any:
    match chance.randrange(7):
        case 0:
            return chance.choice(NUMBERS)
        case 1:
            return chance.choice(TEXTS)
        case 2:
            return chance.choice((None, True, False, [], {}, [[]], {"": {}}))
        case 3 if others:
            places = _places(chance.choice(others))
            if places:
                parent, key = chance.choice(places)
                return _copied(parent[key])
        case 4:
            deep: Any = 0
            for _ in range(chance.choice((5, 60, 400))):
                deep = [deep] if chance.random() < 0.5 else {"a": deep}
            return deep
        case 5:
            return [chance.choice(NUMBERS) for _ in range(chance.choice((1, 10, 2000)))]
    return chance.choice(TEXTS)


TOML_VALUES = [
    "1", "-1", "0", "1e400", "nan", "inf", "-inf", "true", '""', '"x"', "''", "[]", "[1, [2]]", "{}", "{a = 1}",
    "1979-05-27", "07:32:00", "0x7fffffffffffffffffff", "9" * 5000, '"""\na\n"""', "'''\n\n'''", '"\\u0000"',
    '"' + "x" * 3000 + '"', "[" * 200 + "]" * 200, '"\\x1b[2J"', '"servo:18"', '"gpio:99"', '"sim:/etc"',
    "[\n" + "1,\n" * 300 + "]", '"é"', '"""' + "\n" * 300 + '"""', "1_000", "0.1", "65536", '["a", 1]',
]  # fmt: skip


def spoiled_toml(text: str, others: Sequence[str], names: Sequence[str], chance: random.Random) -> str:
    """Changes lines, keys, values and sections of a TOML document."""
    lines = text.splitlines()
    for _ in range(chance.choice((1, 1, 2, 3, 8))):
        at = chance.randrange(len(lines) + 1)
        line = lines[at] if at < len(lines) else ""
        key, equals, _ = line.partition("=")
        match chance.randrange(9):
            case 0 | 1 | 2 if equals and at < len(lines):
                lines[at] = f"{key}= {chance.choice(TOML_VALUES)}"
            case 3 if lines:
                lines.insert(at, chance.choice(lines))
            case 4:
                del lines[at : at + chance.choice((1, 1, 4))]
            case 5:
                lines.insert(at, f"{chance.choice(names)} = {chance.choice(TOML_VALUES)}")
            case 6:
                inner = chance.choice(names).replace(".", chance.choice(('."', ".", "", "]["))) + chance.choice(
                    ("", '"')
                )
                lines.insert(at, chance.choice(("[{}]", "[[{}]]", "[{}", "{} = {{", "# {}")).format(inner))
            case 7:
                other = chance.choice(others).splitlines()
                lines[at:] = other[chance.randrange(len(other) + 1) :]
            case _:
                lines.insert(at, chance.choice((*TEXTS, '"', "'''", "[", "=", "a.b.c = 1")))
    return chance.choice(("\n", "\n", "\n", "\r\n", "\r")).join(lines) + chance.choice(("\n", ""))
