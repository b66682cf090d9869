"""Reads the configuration file and the flags above it into `Settings`, and says exactly what cannot be read.

Every problem of a file is named at once, with its line, or the first twenty. Python's TOML reader keeps no line
numbers, so they are found afterwards, by reading each statement once more by itself.
"""

from __future__ import annotations

import difflib
import math
import os
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from okko_edge.config.keys import all_keys, sections
from okko_edge.config.rules import contradictions
from okko_edge.settings import Settings
from okko_models.errors import OkkoError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from okko_edge.config.keys import Key

SYSTEM_FILE = Path("/etc/okko/okko.toml")
VARIABLE = "OKKO_CONFIG"
# A configuration is a page or two; what is larger is another file.
MAX_BYTES = 1 << 17
_MOST_PROBLEMS = 20
FROM_FLAG = "command line"


class ConfigError(OkkoError):
    """The configuration cannot be read, or says what cannot be."""


@dataclass(frozen=True)
class Loaded:
    """Settings, and where they come from.

    Attributes:
        settings: the effective values.
        path: the file, None when there is none.
        origins: for each key that is not at its default where it was set ("line 7", "command line"), by dotted name.
    """

    settings: Settings
    path: Path | None
    origins: Mapping[str, str]


def find(
    path: Path | None = None, *, environ: Mapping[str, str] = os.environ, system: Path = SYSTEM_FILE
) -> Path | None:
    """Returns the file to read: `path`, else $OKKO_CONFIG, else the system's file if it is there, else None.

    An empty $OKKO_CONFIG means that no file is read.
    """
    if path is not None:
        return path
    if VARIABLE in environ:
        return Path(environ[VARIABLE]).expanduser() if environ[VARIABLE] else None
    return system if system.exists() else None


def load(path: Path | None = None, overrides: Mapping[str, object] | None = None) -> Settings:
    """Returns the effective settings: defaults, then the file, then the flags.

    Args:
        path: the file; None for the one in the default places, if any.
        overrides: values by dotted key ("camera.source") that win over the file; None means not given.

    Raises:
        ConfigError: no such file, not TOML, an unknown key, a wrong type, a value beyond its limits, or values that
            contradict each other. The message names all of them.
    """
    loaded = read(find(path), overrides or {})
    problems = [finding for finding in contradictions(loaded.settings) if finding.fatal]
    if problems:
        where = loaded.path or "the configuration"
        raise ConfigError(_listed(where, [f"{_where(loaded.origins, f.key)}{f.key} {f.said}" for f in problems]))
    return loaded.settings


def read(path: Path | None, overrides: Mapping[str, object] | None = None) -> Loaded:
    """Reads `path` (None: no file) and puts `overrides` above it, without asking whether the values fit together.

    Raises:
        ConfigError: as `load`, but for contradictions.
    """
    text = _text(path) if path is not None else ""
    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: also for numbers of thousands of digits
        raise ConfigError(f'{path}: not TOML: {error}. A text needs quotes: source = "pi"') from error
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    problems: list[str] = []
    lines = _lines(text)
    for dotted, value in _leaves(table):
        if len(problems) == _MOST_PROBLEMS:
            problems.append("and perhaps more")
            break
        origins[dotted] = f"line {lines[dotted]}"
        try:
            key = _known(dotted, value)
            values[dotted] = _from_file(key, value, path.parent.absolute() if path else Path())
        except ValueError as error:
            problems.append(f"{origins[dotted]}: {error}")
    for dotted, given in (overrides or {}).items():
        if given is None:
            continue
        origins[dotted] = FROM_FLAG
        value = str(given) if isinstance(given, Path) else given
        try:
            values[dotted] = _checked(_known(dotted, value), value)
        except ValueError as error:
            problems.append(f"{FROM_FLAG}: {error}")
    if problems:
        raise ConfigError(_listed(path or "the configuration", problems))
    return Loaded(msgspec.convert(_nested(values), Settings), path, origins)


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise ConfigError(f"{path} does not exist; `okko config example > {path}` writes one to begin with") from error
    except OSError as error:
        hint = "; use sudo, or join the group that owns it" if isinstance(error, PermissionError) else ""
        raise ConfigError(f"{path} cannot be read: {error.strerror}{hint}") from error
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{path} has more than {MAX_BYTES} bytes, so it is not a configuration of okko")
    try:
        return data.decode("utf-8-sig")  # an editor on another system may have put a byte order mark in front
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ConfigError(f"{path}: line {line} is not UTF-8; save the file as UTF-8 text") from error


def _leaves(table: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    for name, value in table.items():
        if isinstance(value, dict) and name in sections():
            for inner, leaf in value.items():
                yield f"{name}.{inner}", leaf
        else:
            yield name, value


def _known(dotted: str, value: object) -> Key:
    if (key := all_keys().get(dotted)) is not None:
        return key
    if dotted in sections():
        raise ValueError(f"{dotted} is {_show(value)}; expected a table: [{dotted}] and its keys below")
    if isinstance(value, dict):
        raise ValueError(f"there is no section [{dotted}]{_nearest(dotted, list(sections()))}")
    raise ValueError(f"there is no key {dotted}{_nearest(dotted, list(all_keys()))}")


def _nearest(dotted: str, names: list[str]) -> str:
    """The key that was most likely meant: the same name in another section, or a near spelling."""
    last = {other: other.rpartition(".")[2] for other in names}
    name = dotted.rpartition(".")[2]
    near = [other for other in names if last[other] == name]
    near = near or difflib.get_close_matches(dotted, names, n=1, cutoff=0.75)
    near = near or [other for other in names if difflib.get_close_matches(name, [last[other]], cutoff=0.75)]
    near = near or difflib.get_close_matches(dotted, names, n=1)
    return f"; did you mean {' or '.join(near[:3])}?" if near else "; `okko config example` shows all there are"


def _from_file(key: Key, value: object, folder: Path) -> object:
    checked = _checked(key, value)
    return _anchored(checked, folder) if key.place and isinstance(checked, str) else checked


def _checked(key: Key, value: object) -> object:
    found = f"{key.dotted} is {_show(value)}; expected {key.allowed}"
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(found)
    nested = {key.section: {key.name: value}} if key.section else {key.name: value}
    try:
        return key.of(msgspec.convert(nested, Settings))
    except msgspec.ValidationError as error:
        raise ValueError(found) from error


def _anchored(value: str, folder: Path) -> str:
    """A place that starts nowhere starts at the file's folder, whoever runs okko from wherever; ~ is a home."""
    kind, colon, place = value.partition(":")
    if colon and kind in {"folder", "sim"}:
        return f"{kind}:{_anchored(place, folder)}"
    if (colon and kind in {"pi", "v4l2"}) or value in {"", "pi", "v4l2"}:
        return value
    return str(folder / Path(value).expanduser())


def _nested(values: Mapping[str, object]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for dotted, value in values.items():
        section, _, name = dotted.rpartition(".")
        (nested.setdefault(section, {}) if section else nested)[name] = value
    return nested


def _lines(text: str) -> dict[str, int]:
    """The line on which the statement begins that sets each key."""
    lines: dict[str, int] = {}
    header = ""
    for number, statement in _statements(text):
        if not statement or statement.startswith("#"):
            continue
        if statement.startswith("["):
            header = statement
        for dotted, _ in _leaves(tomllib.loads(statement if statement == header else f"{header}\n{statement}")):
            lines.setdefault(dotted, number)
    return lines


# Texts and comments as a whole, so that a bracket or a line's end in one of them is none.
_TOKEN = re.compile(
    r'''"""(?:\\.|[^\\])*?"{3,5}|\'{3}.*?\'{3,5}|"(?:\\.|[^"\\\n])*"|'[^'\n]*'|#[^\n]*|[\[\]{}\n]''', re.DOTALL
)


def _statements(text: str) -> Iterator[tuple[int, str]]:
    """The statements of a text that is TOML, each with the number of its first line."""
    start, number, depth, newlines = 0, 1, 0, 0
    for token in _TOKEN.finditer(text):
        found = token[0]
        newlines += found.count("\n")
        depth += (found in "[{") - (found in "]}")
        if found == "\n" and depth == 0:
            yield number, text[start : token.start()].strip()
            start, number = token.end(), newlines + 1
    yield number, text[start:].strip()


def _show(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "a table"
    return f'"{value}"' if isinstance(value, str) else str(value)


def _where(origins: Mapping[str, str], dotted: str) -> str:
    return f"{origins[dotted]}: " if dotted in origins else ""


def _listed(where: object, problems: list[str]) -> str:
    if len(problems) == 1:
        return f"{where}: {problems[0]}"
    return f"{where}: {len(problems)} problems\n" + "\n".join(f"  {problem}" for problem in problems)
