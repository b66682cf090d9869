"""Reads protocol buffers by a table of the fields one expects, and refuses whatever is not in it.

Made for input that may be hostile: another reader (onnxruntime's) must never see something else in the same bytes. So
what real writers never write is refused: a field twice that may stand once (readers would merge or replace it), unknown
fields, groups, a number beyond its type (readers would cut it). Nothing is copied; the depth is the table's.
https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from okko_models.errors import BundleError

if TYPE_CHECKING:
    from collections.abc import Mapping

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_WIDTH: Final = {_FIXED64: 8, _FIXED32: 4}
_MAX_VARINT_BYTES: Final = 10


class Kind(enum.Enum):
    """What a field holds; `PACKED` numbers stay bytes, everything of `REFUSED` is an error."""

    INT = enum.auto()
    INT64 = enum.auto()
    FLOAT = enum.auto()
    BYTES = enum.auto()
    TEXT = enum.auto()
    INTS = enum.auto()
    FLOATS = enum.auto()
    TEXTS = enum.auto()
    MESSAGES = enum.auto()
    PACKED = enum.auto()
    IGNORED = enum.auto()
    REFUSED = enum.auto()


_MANY: Final = {Kind.INTS, Kind.FLOATS, Kind.TEXTS, Kind.MESSAGES, Kind.IGNORED}


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a message: its name, and what it holds."""

    name: str
    kind: Kind


class Budget:
    """How many fields may still be read, so that a small file cannot keep the reader busy for long."""

    def __init__(self, fields: int) -> None:
        self.left = fields

    def take(self, count: int = 1) -> None:
        """Counts fields.

        Raises:
            BundleError: there were too many.
        """
        self.left -= count
        if self.left < 0:
            raise BundleError("the model has more parts than okko reads; it is not a model that okko made")


class Message:
    """The fields of one message, by name; a field that is not there reads as protobuf's default."""

    __slots__ = ("_values",)

    def __init__(self, values: dict[str, list[int | float | str | memoryview]]) -> None:
        self._values = values

    def has(self, name: str) -> bool:
        """Says whether the field was there."""
        return name in self._values

    def integer(self, name: str) -> int:
        """Returns a number; 0 if it was not there."""
        value = self._values.get(name, [0])[0]
        assert isinstance(value, int)
        return value

    def real(self, name: str) -> float:
        """Returns a number; 0 if it was not there."""
        value = self._values.get(name, [0.0])[0]
        assert isinstance(value, float)
        return value

    def text(self, name: str) -> str:
        """Returns a text; empty if it was not there."""
        value = self._values.get(name, [""])[0]
        assert isinstance(value, str)
        return value

    def data(self, name: str) -> memoryview:
        """Returns bytes, a message or packed numbers; empty if it was not there."""
        value = self._values.get(name, [memoryview(b"")])[0]
        assert isinstance(value, memoryview)
        return value

    def integers(self, name: str) -> tuple[int, ...]:
        """Returns all numbers of a repeated field."""
        return tuple(value for value in self._values.get(name, ()) if isinstance(value, int))

    def texts(self, name: str) -> tuple[str, ...]:
        """Returns all texts of a repeated field."""
        return tuple(value for value in self._values.get(name, ()) if isinstance(value, str))

    def messages(self, name: str) -> tuple[memoryview, ...]:
        """Returns all messages of a repeated field."""
        return tuple(value for value in self._values.get(name, ()) if isinstance(value, memoryview))


def read(data: memoryview, table: Mapping[int, Field], what: str, budget: Budget) -> Message:
    """Reads one message.

    Args:
        data: its bytes.
        table: the fields that may be there, by number.
        what: the message's name, for errors.
        budget: the fields that may still be read.

    Raises:
        BundleError: it is cut short, or holds what the table does not allow.
    """
    values: dict[str, list[int | float | str | memoryview]] = {}
    at = 0
    while at < len(data):
        budget.take()
        tag, at = _varint(data, at, what)
        field, wire = table.get(tag >> 3), tag & 7
        if field is None or field.kind is Kind.REFUSED:
            name = f"field {tag >> 3}" if field is None else field.name
            raise BundleError(f"the model's {what} holds {name}, which no model of okko has; it is not trusted")
        payload: int | memoryview
        if wire == _VARINT:
            payload, at = _varint(data, at, what)
        else:
            if wire == _BYTES:
                size, at = _varint(data, at, what)
            elif (size := _WIDTH.get(wire, -1)) < 0:
                raise _damaged(what)
            if size > len(data) - at:
                raise _damaged(what)
            payload, at = data[at : at + size], at + size
        found = list(_values(field, wire, payload, what, budget))
        if field.kind not in _MANY and field.name in values:
            raise BundleError(f"the model's {what} says {field.name} twice; it is not trusted")
        if field.kind is not Kind.IGNORED:
            values.setdefault(field.name, []).extend(found)
    return Message(values)


def _values(
    field: Field, wire: int, payload: int | memoryview, what: str, budget: Budget
) -> list[int | float | str | memoryview]:
    kind = field.kind
    if kind is Kind.IGNORED:
        return []
    if isinstance(payload, int):
        if kind is Kind.INT and payload < 1 << 31:
            return [payload]
        if kind in {Kind.INT64, Kind.INTS}:
            return [_signed(payload)]
    elif wire == _BYTES:
        if kind in {Kind.TEXT, Kind.TEXTS}:
            try:
                return [str(payload, "utf-8")]
            except UnicodeDecodeError as error:
                raise _damaged(what) from error
        if kind in {Kind.BYTES, Kind.MESSAGES, Kind.PACKED}:
            return [payload]
        if kind is Kind.INTS:
            return list(_packed(payload, what, budget))
        if kind is Kind.FLOATS and len(payload) % 4 == 0:
            budget.take(len(payload) // 4)
            return list(payload.cast("f"))
    elif wire == _FIXED32 and kind in {Kind.FLOAT, Kind.FLOATS}:
        return [payload.cast("f")[0]]
    raise BundleError(f"the model's {what} holds a {field.name} of the wrong type; it is not trusted")


def _packed(payload: memoryview, what: str, budget: Budget) -> list[int]:
    values, at = [], 0
    while at < len(payload):
        budget.take()
        value, at = _varint(payload, at, what)
        values.append(_signed(value))
    return values


def packed_integers(payload: memoryview, what: str, budget: Budget) -> list[int]:
    """Returns the integers that a `PACKED` field holds.

    Raises:
        BundleError: they are cut short.
    """
    return _packed(payload, what, budget)


def _varint(data: memoryview, at: int, what: str) -> tuple[int, int]:
    value = 0
    for place in range(_MAX_VARINT_BYTES):
        if at + place >= len(data):
            raise _damaged(what)
        byte = data[at + place]
        value |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            if value >= 1 << 64:
                raise _damaged(what)
            return value, at + place + 1
    raise _damaged(what)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


def _damaged(what: str) -> BundleError:
    return BundleError(f"model.onnx is not an ONNX model, or is damaged (in its {what}); copy the bundle again")
