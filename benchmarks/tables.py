"""Puts measured tables into a document: each benchmark owns one marked section and replaces only that.

A section stands between `<!-- NAME:begin -->` and `<!-- NAME:end -->`; one that does not exist yet is added at the end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def replace_section(path: Path, name: str, text: str) -> None:
    """Writes `text` into the section `name` of the document, which is made if it does not exist.

    Raises:
        ValueError: the document has only one of the section's two marks.
    """
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    document = path.read_text(encoding="utf-8") if path.exists() else "# Benchmarks\n"
    section = f"{begin}\n{text.strip()}\n{end}"
    if begin not in document and end not in document:
        document = f"{document.rstrip()}\n\n{section}\n"
    else:
        before, found_begin, rest = document.partition(begin)
        _, found_end, after = rest.partition(end)
        if not (found_begin and found_end):
            raise ValueError(f"{path}: the section {name} needs both marks, {begin} and then {end}")
        document = before + section + after
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(document, encoding="utf-8")
