"""A journal as okko 0.1 wrote it first."""

from __future__ import annotations

import contextlib
import sqlite3
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

FIRST_FORMAT = """
CREATE TABLE runs (
    run TEXT PRIMARY KEY, started_unix_s REAL NOT NULL, okko TEXT NOT NULL,
    bundle_name TEXT NOT NULL, bundle_version TEXT NOT NULL, bundle_digest TEXT NOT NULL,
    camera TEXT NOT NULL, gate TEXT NOT NULL, seed INTEGER NOT NULL
) STRICT;
CREATE TABLE marbles (
    run TEXT NOT NULL REFERENCES runs, bundle_digest TEXT NOT NULL,
    number INTEGER NOT NULL, unix_s REAL NOT NULL, monotonic_s REAL NOT NULL,
    verdict TEXT NOT NULL, label TEXT, probability TEXT, truth TEXT, photo TEXT, error TEXT,
    frame_sequence INTEGER, frame_digest TEXT, frame_captured_at_s REAL,
    inference_ms REAL NOT NULL, path_ms REAL NOT NULL,
    PRIMARY KEY (run, number)
) STRICT;
CREATE TRIGGER marbles_are_never_changed BEFORE UPDATE ON marbles
BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END;
PRAGMA user_version = 1;
INSERT INTO runs VALUES ('r1', 1.7e9, '0', 'marbles', '3', 'd', 'sim:x', 'sim', 0);
INSERT INTO marbles VALUES (
    'r1', 'd', 1, 1700000001.0, 1.0, 'OK', 'OK', '{"KO": 0.25, "OK": 0.75}', 'OK', 'OK/a.png', NULL,
    7, 'e', 0.5, 1.5, 2.5
);
"""


def make_first_format(path: Path) -> None:
    """Writes a journal of format 1 with one run, r1, and one marble."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.executescript(FIRST_FORMAT)
