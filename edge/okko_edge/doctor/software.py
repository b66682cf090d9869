"""Looks at what okko is made of and told: Python packages, the configuration, the disk it writes to."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from okko_edge.config import contradictions, missing
from okko_edge.doctor.findings import fail, ok, warn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from okko_edge.config import Loaded
    from okko_edge.doctor.findings import Line
    from okko_edge.settings import Settings

NEEDED = ("numpy", "onnxruntime", "pillow", "msgspec", "click")
KNOWN_BAD = {
    ("onnxruntime", "1.21.0"): "it ends with an illegal instruction on the processors of Pi 3, Zero 2 and 4 "
    "(onnxruntime #23957)",
}
_WRITE_BYTES = 1 << 20
_SLOW_WRITE_S = 2.0
_SPARE_MB = 200


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def packages(version: Callable[[str], str | None] = _version) -> Iterator[Line]:
    """Looks at the versions of what okko needs, without importing any of it."""
    found = {name: version(name) for name in NEEDED}
    absent = [name for name, there in found.items() if there is None]
    said = ", ".join(f"{name} {there}" for name, there in found.items() if there)
    if absent:
        yield fail("packages", f"missing: {', '.join(absent)}", 'pip install "okko[edge]"')
    else:
        yield ok("packages", said)
    for (name, bad), why in KNOWN_BAD.items():
        if found.get(name) == bad:
            yield fail("packages", f"{name} {bad}: {why}", f'pip install "{name}!={bad}"')


def configuration(loaded: Loaded) -> Iterator[Line]:
    """Judges a configuration that could be read."""
    name = str(loaded.path) if loaded.path else "no file, so the defaults"
    findings = [*contradictions(loaded.settings), *missing(loaded.settings)]
    for finding in findings:
        where = loaded.origins.get(finding.key, "default")
        make = fail if finding.fatal else warn
        yield make("config", f"{name}: {where}: {finding.key} {finding.said}", "change it there; okko config check")
    if not findings:
        yield ok("config", name)


def places(settings: Settings, *, state: Path) -> Iterator[Line]:
    """Looks at the disk where the journal and the outbox are: can it be written, how fast, and for how long.

    Args:
        settings: say where, and how large they may become.
        state: the folder that is meant when they do not say where.
    """
    journal = Path(settings.journal.path).parent if settings.journal.path else state
    wanted_mb = settings.journal.max_mb + (settings.journal.frames_max_mb if settings.journal.frames == "all" else 0)
    yield _disk("journal", journal, wanted_mb)
    if settings.outbox.enabled:
        yield _disk("outbox", Path(settings.outbox.folder) if settings.outbox.folder else state, settings.outbox.max_mb)


def _disk(name: str, folder: Path, wanted_mb: float) -> Line:
    there = next(place for place in (folder, *folder.parents) if place.exists())
    try:
        took_s = _write_test(there)
        free_mb = shutil.disk_usage(there).free / 1e6
    except OSError as error:
        return fail(
            name,
            f"{there} cannot be written: {error.strerror}. Marbles would be sorted, but nothing remembered",
            f"give {_user()} the right to write there, or name another place in the configuration",
        )
    said = f"{there}: {free_mb / 1000:.1f} GB free, 1 MB written and kept in {took_s * 1000:.0f} ms"
    if free_mb < wanted_mb + _SPARE_MB:
        return warn(name, said, f"it may grow to {wanted_mb:.0f} MB: lower its limit, or make room")
    if took_s > _SLOW_WRITE_S:
        return warn(name, said, "that is slow for a card; it may be worn out or of a poor make")
    return ok(name, said)


def _write_test(folder: Path) -> float:
    """Writes and deletes a file; returns the seconds until the disk had it."""
    start_s = time.perf_counter()
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(bytes(_WRITE_BYTES))
        file.flush()
        os.fsync(file.fileno())
    return time.perf_counter() - start_s


def _user() -> str:
    return os.environ.get("USER") or f"user {os.getuid()}"
