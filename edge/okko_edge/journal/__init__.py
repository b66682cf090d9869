"""The journal: every decision, in one SQLite file that is bounded in age and size and can be read at any time.

`Journal` writes it, `JournalReader` reads it, also while it is being written; `rows` says what it holds.
"""

from __future__ import annotations

import os
from pathlib import Path

from okko_edge.journal.rows import SCHEMA_VERSION, Entry, Note, RunRecord
from okko_edge.journal.writer import Journal

__all__ = ["SCHEMA_VERSION", "Entry", "Journal", "Note", "RunRecord", "default_path", "state_folder"]


def state_folder() -> Path:
    """Where okko keeps what it remembers unless told otherwise: `okko` in the XDG state directory."""
    state = os.environ.get("XDG_STATE_HOME", "")
    base = Path(state) if state.startswith("/") else Path.home() / ".local" / "state"
    return base / "okko"


def default_path() -> Path:
    """Where the journal is unless told otherwise: `okko/journal.sqlite` in the XDG state directory."""
    return state_folder() / "journal.sqlite"
