"""Ways to spoil protocol buffers and PNG files with their structure kept: fields at any depth, chunks, checksums."""

from __future__ import annotations

import copy
import functools
import struct
import zlib
from typing import TYPE_CHECKING, Any

from tests.fuzz.mutations import NUMBERS, spoiled

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

# A message is a list of [number, wire type, value]; a value is an integer, bytes, or such a list again.
Wire = list[list[Any]]


def spoiled_protobuf(data: bytes, others: Sequence[bytes], chance: random.Random) -> bytes:
    """Changes fields of a protocol buffer at any depth: values, numbers, types, places, lengths."""
    tree = wire_tree(data) or []
    for _ in range(chance.choice((1, 1, 2, 4))):
        places = _fields(tree)
        if not places:
            break
        message, at = chance.choice(places)
        field = message[at]
        other, place = chance.choice(places)
        match chance.randrange(11):
            case 0:
                del message[at]
            case 1:
                message.insert(at, copy.deepcopy(field))
            case 2:
                field[0] = chance.choice((0, 1, 2, 3, 7, 13, 14, 15, 20, 25, 2**29 - 1, chance.randrange(1, 30)))
            case 3:
                field[1:] = chance.choice(([0, 1], [1, b"\0" * 8], [5, b"\xff" * 4], [2, b""], [3, b""], [4, b""]))
            case 4 | 5 if isinstance(field[2], int):
                field[2] = chance.choice([n for n in NUMBERS if isinstance(n, int) and 0 <= n < 2**64])
            case 4 | 5 if isinstance(field[2], bytes):
                same = [m[i][2] for m, i in places if isinstance(m[i][2], bytes) and len(m[i][2]) < 100]
                field[2] = chance.choice([*same, b"", b"\xff", b"Loop", b"image", b"\x1b[2J", b"x" * 3000])
            case 6 if isinstance(field[2], bytes):
                field[2] = spoiled(field[2], [], [], chance)
            case 7:
                other[place], message[at] = copy.deepcopy(message[at]), copy.deepcopy(other[place])
            case 8 if len(_fields(field[2] if isinstance(field[2], list) else [])) < 200:
                other.insert(place, copy.deepcopy(field))
            case 9 if others:
                donor = _fields(wire_tree(chance.choice(others)) or [])
                taken, index = chance.choice(donor)
                message.insert(at, copy.deepcopy(taken[index]))
            case _:
                if isinstance(field[2], int):
                    field[2] = max(0, field[2] + chance.choice((-1, 1, 8))) % 2**64
    return wire_bytes(tree, lambda: chance.random() < 0.002)


def wire_tree(data: bytes) -> Wire | None:
    """Takes a protocol buffer apart, guessing what is a message; None if it is none."""
    tree: Wire = []
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        value: Any
        if tag >> 3 == 0 or tag & 7 not in (0, 1, 2, 5) or at > len(data):
            return None
        if tag & 7 == 0:
            value, at = _varint(data, at)
        else:
            size, at = _varint(data, at) if tag & 7 == 2 else ({1: 8, 5: 4}[tag & 7], at)
            value, at = data[at : at + size], at + size
        if at > len(data):
            return None
        inner = wire_tree(value) if tag & 7 == 2 and len(value) > 1 else None
        tree.append([tag >> 3, tag & 7, inner or value])
    return tree


def wire_bytes(tree: Wire, wrong: Any = lambda: False) -> bytes:
    """Puts it together again; where `wrong` says so, with a length that is not right, or a number written too long."""
    out = b""
    for number, kind, value in tree:
        out += _encoded(number << 3 | kind)
        if kind == 0:
            out += _encoded(value, 10 if wrong() else 1)
        else:
            content = wire_bytes(value, wrong) if isinstance(value, list) else value
            if kind == 2:
                out += _encoded(len(content) + (3 if wrong() else 0))
            out += content
    return out


def _fields(tree: Wire) -> list[tuple[Wire, int]]:
    found: list[tuple[Wire, int]] = []
    waiting = [tree]
    while waiting:
        message = waiting.pop()
        found += [(message, at) for at in range(len(message))]
        waiting += [field[2] for field in message if isinstance(field[2], list)]
    return found


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 70:
        value |= (data[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 0x80:
            return value % 2**64, at
    return 0, len(data) + 1


def _encoded(value: int, width: int = 1) -> bytes:
    out = bytearray()
    while value >= 0x80 or len(out) + 1 < width:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(out) + bytes([value])


_CHUNKS = [
    b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"eXIf", b"acTL", b"fcTL", b"fdAT", b"tRNS", b"PLTE", b"gAMA", b"sRGB",
    b"pHYs", b"cHRM", b"IHDR", b"IDAT", b"IEND", b"ABCD", b"bKGD",
]  # fmt: skip


def spoiled_png(data: bytes, chance: random.Random) -> bytes:
    """Changes the chunks of a PNG: header, order, contents, sizes; checksums are made right again, nearly always."""
    chunks = png_chunks(data)
    for _ in range(chance.choice((1, 1, 2, 3))):
        at = chance.randrange(len(chunks))
        name, content = chunks[at]
        match chance.randrange(9):
            case 8:
                # All pixels are there, so that a reader goes on to the end.
                size, kind = chance.choice(_SIZES), chance.choice((0, 2, 6))
                header = struct.pack(">IIBBBBB", *size, 8, kind, 0, 0, 0)
                chunks = [(b"IHDR", header), (b"IDAT", _blank_pixels(*size, kind)), (b"IEND", b"")]
            case 0 | 1:
                width, height, depth, kind, *rest = struct.unpack(">IIBBBBB", chunks[0][1].ljust(13, b"\0")[:13])
                sizes = (0, 1, 2, 100, 3000, 5000, 20000, 100000, 2**31 - 1, 2**32 - 1, width, height)
                header = [chance.choice((width, *sizes)), chance.choice((height, *sizes)), depth, kind, *rest]
                if chance.random() < 0.5:
                    header[2:] = [
                        chance.choice((1, 2, 4, 8, 16, 3)),
                        chance.choice((0, 2, 3, 4, 6, 1)),
                        0,
                        0,
                        chance.choice((0, 1)),
                    ]
                chunks[0] = (b"IHDR", struct.pack(">IIBBBBB", *header))
            case 2:
                del chunks[at]
            case 3:
                chunks.insert(chance.randrange(len(chunks) + 1), (name, content))
            case 4:
                chunks[at] = (name, spoiled(content, [], [], chance))
            case 5:
                large = _zeros(chance.choice((100, 1 << 20, 30 << 20)))
                inside = chance.choice(
                    (b"", b"a\0\0" + large, b"a\0\1\0\0\0" + large, chance.randbytes(30), b"\0" * 13)
                )
                chunks.insert(chance.randrange(len(chunks) + 1), (chance.choice(_CHUNKS), inside))
            case 6:
                chunks[at] = (chance.choice(_CHUNKS), content)
            case _:
                pixels = _zeros(chance.choice((0, 10, 10000, 4 << 20)))
                chunks[at] = (b"IDAT", pixels)
        if not chunks:
            return data[:8]
    out = data[:8]
    for name, content in chunks:
        size = len(content) + (chance.choice((-1, 1, 2**31)) if chance.random() < 0.02 else 0)
        check = zlib.crc32(name + content) ^ (1 if chance.random() < 0.02 else 0)
        out += struct.pack(">I", size % 2**32) + name + content + struct.pack(">I", check)
    return out


@functools.cache
def _zeros(count: int) -> bytes:
    return zlib.compress(bytes(count), 1)


_SIZES = ((2000, 2000), (2048, 2048), (3000, 4000), (5000, 5000), (70000, 1), (1, 70000))


@functools.cache
def _blank_pixels(width: int, height: int, kind: int) -> bytes:
    packer, row = zlib.compressobj(1), bytes(1 + width * {0: 1, 2: 3, 6: 4}[kind])
    return b"".join(packer.compress(row) for _ in range(height)) + packer.flush()


def png_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """Takes a PNG apart."""
    chunks, at = [], 8
    while at + 12 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += 12 + size
    return chunks
