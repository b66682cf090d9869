"""The trigger's code as a zip file, the same bytes each time, so that nothing is deployed that has not changed."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Final

import okko_cloud

MODULES: Final = ("__init__.py", "events.py", "debounce.py", "aws/__init__.py", "aws/pending.py", "aws/trigger.py")
"""All that the trigger imports of okko."""

_EPOCH: Final = (1980, 1, 1, 0, 0, 0)  # the earliest that the format knows
_READABLE: Final = 0o644 << 16


def write_trigger(path: Path) -> None:
    """Writes the zip file."""
    root = Path(okko_cloud.__file__).parent
    with zipfile.ZipFile(path, "w") as archive:
        for name in MODULES:
            entry = zipfile.ZipInfo(f"okko_cloud/{name}", _EPOCH)
            entry.external_attr = _READABLE
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, (root / name).read_bytes())
