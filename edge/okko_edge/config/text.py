"""The keys and values as text: an example file, the effective configuration, and the table of the handbook."""

from __future__ import annotations

from typing import TYPE_CHECKING

from okko_edge.config.keys import all_keys, sections

if TYPE_CHECKING:
    from collections.abc import Iterable

    from okko_edge.config.keys import Key
    from okko_edge.config.reading import Loaded

_HEAD = """\
# okko's configuration. Every line that sets something is commented out and shows the default; remove the "#" of what
# you change, and of nothing else. Flags of the command line win over this file. `okko config check` reads it.
"""
# A hash is no password, but it is what an attacker would try passwords against.
_HIDDEN = frozenset({"dashboard.password_hash"})


def example() -> str:
    """Returns a complete file in which every key stands, explained and commented out at its default."""
    parts = [_HEAD, "".join(_explained(key) for key in _of(""))]
    for section, about in sections().items():
        parts.append(f"# {about}\n[{section}]\n" + "".join(_explained(key) for key in _of(section)))
    return "\n".join(parts)


def as_markdown() -> str:
    """Returns one table a section, every key with what is allowed, its default and its meaning."""
    parts = [_table("The whole file", "These stand above the first section.", _of(""))]
    parts += [_table(f"[{section}]", about, _of(section)) for section, about in sections().items()]
    return "\n".join(parts)


def effective(loaded: Loaded) -> str:
    """Returns the values in force as TOML, each with a remark where it was set; a password's hash is not shown."""
    parts = [f"# {loaded.path or 'no file: defaults'}\n" + "".join(_in_force(key, loaded) for key in _of(""))]
    parts += [f"[{section}]\n" + "".join(_in_force(key, loaded) for key in _of(section)) for section in sections()]
    return "\n".join(parts)


def shown(key: Key, value: object) -> object:
    """Returns a value as it may be shown."""
    return "(hidden)" if key.dotted in _HIDDEN and value else value


def toml(value: object) -> str:
    """Returns a key's value as TOML."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return '"' + "".join(_escaped(letter) for letter in value) + '"'
    if isinstance(value, tuple):
        return "[" + ", ".join(toml(item) for item in value) + "]"
    return str(value)


def _escaped(letter: str) -> str:
    if letter in '"\\':
        return f"\\{letter}"
    return letter if letter.isprintable() else f"\\U{ord(letter):08x}"


def _of(section: str) -> list[Key]:
    return [key for key in all_keys().values() if key.section == section]


def _explained(key: Key) -> str:
    allowed = "" if key.allowed in {key.description, "a text"} else f" ({key.allowed})"
    return f"# {key.description}{allowed}\n#{key.name} = {toml(key.default)}\n"


def _in_force(key: Key, loaded: Loaded) -> str:
    value = shown(key, key.of(loaded.settings))
    return f"{key.name} = {toml(value)}  # {loaded.origins.get(key.dotted, 'default')}\n"


def _table(title: str, about: str, keys: Iterable[Key]) -> str:
    rows = "".join(
        f"| `{key.name}` | {'as described' if key.allowed == key.description else key.allowed} "
        f"| `{toml(key.default)}` | {key.description} |\n"
        for key in keys
    )
    return f"### {title}\n\n{about}\n\n| key | allowed | default | what |\n|---|---|---|---|\n{rows}"
