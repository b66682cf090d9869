"""Every key of the configuration as a value: its name, type, limits, default and meaning, read off `Settings`.

Messages, the example file and the handbook's table are all made from these, so they cannot disagree with the code.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import inspect

from okko_edge.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Key:
    """One key.

    Attributes:
        section: its table in the file, "" for a key of the whole file.
        name: its name in that table.
        allowed: type and limits in words, for example "an integer from 16 to 4096".
        default: its value when nothing is said.
        description: what it means, with its unit.
        place: whether its value names a place on the disk.
    """

    section: str
    name: str
    allowed: str
    default: object
    description: str
    place: bool

    @property
    def dotted(self) -> str:
        """The key's full name, for example "camera.width"."""
        return f"{self.section}.{self.name}" if self.section else self.name

    def of(self, settings: Settings) -> object:
        """Returns this key's value in `settings`."""
        return getattr(getattr(settings, self.section) if self.section else settings, self.name)


@functools.cache
def all_keys() -> Mapping[str, Key]:
    """Returns every key by its dotted name, in the order of the file."""
    return {key.dotted: key for field in _fields(Settings) for key in _keys(field)}


@functools.cache
def sections() -> Mapping[str, str]:
    """Returns what each section is about, by its name, in the order of the file."""
    return {
        field.name: (field.type.cls.__doc__ or "").strip()
        for field in _fields(Settings)
        if isinstance(field.type, inspect.StructType)
    }


def _fields(cls: type) -> tuple[inspect.Field, ...]:
    described = inspect.type_info(cls)
    assert isinstance(described, inspect.StructType)
    return described.fields


def _keys(field: inspect.Field) -> list[Key]:
    if isinstance(field.type, inspect.StructType):
        return [_key(field.name, inner) for inner in field.type.fields]
    return [_key("", field)]


def _key(section: str, field: inspect.Field) -> Key:
    kind, description, place = field.type, "", False
    while isinstance(kind, inspect.Metadata):
        description = (kind.extra_json_schema or {}).get("description", description)
        place = place or bool((kind.extra or {}).get("place"))
        kind = kind.type
    default = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
    return Key(section, field.name, _in_words(kind, description), default, description, place)


def _in_words(kind: Any, description: str) -> str:
    match kind:
        case inspect.BoolType():
            return "true or false"
        case inspect.LiteralType(values):
            return "one of " + ", ".join(f'"{value}"' for value in values)
        case inspect.IntType() | inspect.FloatType():
            what = "an integer" if isinstance(kind, inspect.IntType) else "a number"
            return f"{what}{_limits(kind)}"
        case inspect.StrType(pattern=pattern) if pattern:
            return description
        case inspect.StrType(min_length=least):
            return "a text that is not empty" if least else "a text"
        case inspect.VarTupleType():
            return "a list of texts"
    raise TypeError(f"no words for {kind}")


def _limits(kind: inspect.IntType | inspect.FloatType) -> str:
    if kind.ge is not None and kind.le is not None:
        return f" from {kind.ge} to {kind.le}"
    if kind.ge is not None:
        return f" of at least {kind.ge}"
    low = f" above {kind.gt}" if kind.gt is not None else ""
    return low + (f", at most {kind.le}" if kind.le is not None else "")
