"""Finds the photos that a simulated or a folder camera shows, and what each is known to be; opens none of them.

The layouts are those that training reads (`photos.csv`, or a sub-folder per label) and a plain folder of photos,
whose labels nobody knows.
"""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from okko_models.errors import OkkoError
from okko_models.photo import PHOTO_SUFFIXES, is_photo_name

if TYPE_CHECKING:
    from pathlib import Path

PHOTOS_CSV = "photos.csv"


class PhotoFolderError(OkkoError):
    """A folder that holds no photos to show."""


@dataclass(frozen=True)
class StoredPhoto:
    """A photo on disk.

    Attributes:
        path: the file.
        name: the same, relative to the folder that was asked for, with forward slashes.
        label: what it is known to show; None when unknown.
    """

    path: Path
    name: str
    label: str | None


def find_photos(folder: Path) -> list[StoredPhoto]:
    """Lists the photos of a folder in order of name.

    Args:
        folder: holds `photos.csv` with the columns file and label, or a sub-folder per label, or just photos.

    Raises:
        PhotoFolderError: no such folder, no photo in it, or a `photos.csv` that cannot be used.
    """
    if not folder.is_dir():
        what = "is a file" if folder.is_file() else "does not exist"
        raise PhotoFolderError(f"{folder} {what}; expected a folder of photos, best with a sub-folder per label")
    try:
        listed = _from_csv(folder) if (folder / PHOTOS_CSV).is_file() else _from_folders(folder)
    except OSError as error:
        raise PhotoFolderError(
            f"{folder} cannot be read ({error.strerror or error}); check the path and its permissions"
        ) from error
    if not listed:
        raise PhotoFolderError(f"{folder} holds no photos; expected files with {' '.join(sorted(PHOTO_SUFFIXES))}")
    return listed


def _from_csv(folder: Path) -> list[StoredPhoto]:
    path = folder / PHOTOS_CSV
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            if missing := {"file", "label"} - set(rows.fieldnames or ()):
                raise PhotoFolderError(
                    f"{path} has no column {' and no column '.join(sorted(missing))}; its first line must name both"
                )
            listed = [row for row in rows if row["file"]]
            if outside := [row["file"] for row in listed if _leads_outside(row["file"])]:
                raise PhotoFolderError(f"{path} names {outside[0]}, which is outside the folder; use paths inside it")
            return [
                StoredPhoto(folder / row["file"], _readable(row["file"]), (row["label"] or "").strip() or None)
                for row in listed
            ]
    except (csv.Error, UnicodeDecodeError) as error:
        raise PhotoFolderError(f"{path} is not a table in UTF-8 ({error}); save it as CSV again") from error


def _from_folders(folder: Path) -> list[StoredPhoto]:
    found = []
    for path in sorted(folder.rglob("*")):
        parts = [_readable(part) for part in path.relative_to(folder).parts]
        if is_photo_name(path) and path.is_file() and not any(part.startswith(".") for part in parts):
            found.append(StoredPhoto(path, "/".join(parts), parts[0] if len(parts) > 1 else None))
    return found


def _leads_outside(name: str) -> bool:
    path = PurePosixPath(name)
    return path.is_absolute() or ".." in path.parts


def _readable(name: str) -> str:
    """A name as text that can be printed and stored, even if the disk's bytes are not UTF-8."""
    return os.fsencode(name).decode("utf-8", "replace")
