"""Finds which photos a folder names, and which label each has, without opening a photo.

Three layouts are read: a `photos.csv` (RFC 4180), SageMaker's image lists (`.lst`: index, label and path with tabs
between), and one sub-folder per label. Where several are there, the first of these counts. Whether the photos are
any good is `okko_train.dataset`'s question.
"""

from __future__ import annotations

import csv
import io
import os
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final, Literal

from okko_models.errors import OkkoError
from okko_models.layout import UNLABELLED
from okko_models.photo import PHOTO_SUFFIXES, is_photo_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

CSV_NAME: Final = "photos.csv"
_NEEDED_COLUMNS: Final = ("file", "label")
_LITTER: Final = frozenset({"thumbs.db", "desktop.ini", "__macosx"})
_LAYOUT: Final = (
    "Expected a folder with a sub-folder of photos for each label (OK/, KO/), or with a photos.csv (file,label)."
)
_SHOWN: Final = 5


class DatasetError(OkkoError):
    """A dataset that cannot be used as a whole."""


SkipKind = Literal["not a photo", "unreadable", "duplicate", "conflicting labels", "no label", "not listed"]


@dataclass(frozen=True, order=True)
class SkippedPhoto:
    """A file that is not used, and why: in words, and as one of a few kinds to count."""

    name: str
    reason: str
    kind: SkipKind


@dataclass(frozen=True)
class ListedPhoto:
    """A photo that a dataset names. `name` is relative to the dataset's folder, with forward slashes."""

    path: Path
    name: str
    label: str
    attributes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Listing:
    """What a dataset names: `columns` are those beside file and label, `source` is where the labels stand."""

    root: Path
    source: str
    photos: tuple[ListedPhoto, ...]
    skipped: tuple[SkippedPhoto, ...]
    columns: tuple[str, ...] = ()


def list_photos(path: Path | str) -> Listing:
    """Finds the photos and labels of a dataset; opens no photo.

    Args:
        path: the dataset's folder, a `.lst` file or a `.csv` file.

    Raises:
        DatasetError: there is nothing at the path, it holds no photos, or its list cannot be used.
    """
    path = Path(path)
    try:
        if path.is_dir():
            return _list_directory(path.resolve())
        if path.is_file() and path.suffix.lower() == ".csv":
            return _list_csv(path.parent.resolve(), path)
        if path.is_file() and path.suffix.lower() == ".lst":
            return _list_lst(path.parent.resolve(), [path])
    except OSError as error:
        raise DatasetError(
            f"{path}: cannot be read ({error.strerror or error}). Check the path and its permissions."
        ) from error
    if path.exists():
        raise DatasetError(f"{path}: not a dataset. {_LAYOUT}")
    raise DatasetError(f"{path}: no such folder. {_LAYOUT}")


def _list_directory(root: Path) -> Listing:
    if (root / CSV_NAME).is_file():
        return _list_csv(root, root / CSV_NAME)
    lists = sorted([*root.glob("*.lst"), *root.glob("*_lst/*.lst")])
    if lists:
        return _list_lst(root, lists)
    return _list_folders(root)


# --- one sub-folder per label ---


def _list_folders(root: Path) -> Listing:
    return list_files(root, _walk(root))


def list_files(root: Path, files: Iterable[tuple[Path, str]]) -> Listing:
    """Says which photos files are, and what label the folder that each is in gives it.

    Args:
        root: the dataset's folder; it need not be there.
        files: paths below it in order of name, each with what is wrong with it ("" when nothing is).

    Raises:
        DatasetError: none of them is a photo with a label.
    """
    photos: list[ListedPhoto] = []
    skipped: list[SkippedPhoto] = []
    for path, problem in files:
        parts = [readable(part) for part in path.relative_to(root).parts]
        name = "/".join(parts)
        if any(part.lower() in _LITTER for part in parts):
            continue
        if problem:
            skipped.append(SkippedPhoto(name, problem, "unreadable"))
        elif not is_photo_name(path):
            # Notes and scripts beside the label folders are nobody's photos; inside one they may be.
            if len(parts) > 1:
                skipped.append(SkippedPhoto(name, _not_a_photo(path), "not a photo"))
        elif len(parts) == 1:
            skipped.append(SkippedPhoto(name, "has no label: it is in no sub-folder", "no label"))
        elif parts[0] == UNLABELLED:
            skipped.append(SkippedPhoto(name, "has no label yet; `okko label` gives it one", "no label"))
        else:
            photos.append(ListedPhoto(path, name, _label(parts[0])))
    if not photos:
        entries = root.iterdir() if root.is_dir() else ()
        folders = sorted(readable(entry.name) for entry in entries if entry.is_dir())
        found = f"sub-folders {', '.join(folders[:_SHOWN])}, but no photo in them" if folders else "no sub-folder"
        raise DatasetError(f"{root}: no photos with a label; found {found}{_first_of(skipped)}. {_LAYOUT}")
    return Listing(root, "sub-folders", tuple(photos), tuple(skipped))


def _walk(folder: Path, above: tuple[tuple[int, int], ...] = ()) -> Iterator[tuple[Path, str]]:
    """Files below a folder in order of name, each with what is wrong with it ("" when nothing is).

    Links are followed; a link back to a folder above itself is reported instead of followed for ever.
    """
    try:
        status = folder.stat()
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        yield folder, f"cannot be read ({error.strerror or error})"
        return
    here = (status.st_dev, status.st_ino)
    if here in above:
        yield folder, "a link back to a folder above it"
        return
    for entry in entries:
        if entry.name.startswith(".") or entry.name.lower() in _LITTER:
            continue
        path = Path(entry.path)
        if path.is_dir():
            yield from _walk(path, (*above, here))
        elif path.is_file():
            yield path, ""
        else:
            yield path, "a broken link" if entry.is_symlink() else "not a regular file"


def _not_a_photo(path: Path) -> str:
    known = " ".join(sorted(PHOTO_SUFFIXES))
    return f"not a photo by its name ({path.suffix or 'no extension'}; okko reads {known})"


# --- photos.csv ---


def _list_csv(root: Path, path: Path) -> Listing:
    text = _read_text(path)
    header, _, _ = text.partition("\n")
    delimiter = max(",;\t", key=header.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    photos: list[ListedPhoto] = []
    try:
        columns = tuple(column.strip() for column in next(reader, []))
        _check_columns(path, columns)
        extra = tuple(column for column in columns if column not in _NEEDED_COLUMNS)
        for row in reader:
            if not any(cell.strip() for cell in row):
                continue
            where = f"{path.name}, line {reader.line_num}"
            if len(row) > len(columns):
                raise DatasetError(
                    f"{where}: {len(row)} values for {len(columns)} columns. Put values that contain "
                    f"{delimiter!r} in double quotes."
                )
            cells = dict(zip(columns, (cell.strip() for cell in row), strict=False))
            file, label = cells.get("file", ""), _label(cells.get("label", ""))
            if not label or not file:
                raise DatasetError(f"{where}: no {'label' if file else 'file'}. Each line needs both.")
            attributes = {column: cells.get(column, "") for column in extra}
            photos.append(_listed([root], file, label, attributes, where))
    except csv.Error as error:
        raise DatasetError(f"{path.name}, line {reader.line_num}: {error}. Mend that line.") from error
    _check_present(path, photos)
    listed = {photo.path for photo in photos}
    skipped = [
        SkippedPhoto(_relative(found, root), f"not listed in {path.name}", "not listed")
        for found, problem in _walk(root)
        if not problem and is_photo_name(found) and found not in listed
    ]
    return Listing(root, path.name, *_once_each(photos, skipped, path.name), extra)


def _check_columns(path: Path, columns: tuple[str, ...]) -> None:
    missing = [column for column in _NEEDED_COLUMNS if column not in columns]
    found = ", ".join(columns) or "none"
    if missing:
        raise DatasetError(
            f"{path}: no column {' and '.join(missing)}; the columns are {found}. "
            "The first line must name at least file and label."
        )
    if len(set(columns)) < len(columns):
        raise DatasetError(f"{path}: two columns have the same name; the columns are {found}. Rename one.")


# --- SageMaker .lst ---


def _list_lst(root: Path, paths: list[Path]) -> Listing:
    photos: list[ListedPhoto] = []
    for path in paths:
        # SageMaker's channels: the photos of train_lst/train.lst are in train/.
        channel = path.parent.with_name(path.parent.name.removesuffix("_lst"))
        for number, line in enumerate(_read_text(path).splitlines(), start=1):
            if not line.strip():
                continue
            where = f"{path.name}, line {number}"
            cells = line.split("\t")
            if len(cells) != 3:
                raise DatasetError(
                    f"{where}: {len(cells)} values with tabs between, expected 3: index, label and path. "
                    "Lists with several labels a photo are not read."
                )
            label = _label(cells[1])
            if not label or not cells[2].strip():
                raise DatasetError(f"{where}: no {'path' if label else 'label'}. Each line needs both.")
            photos.append(_listed([path.parent, channel], cells[2].strip(), label, {"list": path.stem}, where))
        _check_present(path, photos)
    named = _name_numbers(photos)
    if not named:
        raise DatasetError(f"{paths[0]}: the list is empty. {_LAYOUT}")
    source = ", ".join(path.name for path in paths)
    return Listing(root, source, *_once_each(named, [], source), ("list",))


def _name_numbers(photos: list[ListedPhoto]) -> list[ListedPhoto]:
    """Numeric labels take the name of the folder that holds their photos, where each label has its own folder."""
    try:
        numbers = [f"{float(photo.label):g}" for photo in photos]
    except ValueError:
        return photos
    names = numbers
    for folder in (-2, 0):
        parts = [PurePosixPath(photo.name).parts for photo in photos]
        folders = [part[folder] if len(part) > 1 else "" for part in parts]
        pairs = set(zip(numbers, folders, strict=True))
        if len(pairs) == len({pair[0] for pair in pairs}) == len({pair[1] for pair in pairs} - {""}):
            names = folders
            break
    return [
        ListedPhoto(photo.path, photo.name, _label(label), photo.attributes)
        for photo, label in zip(photos, names, strict=True)
    ]


# --- shared by the lists ---


def _listed(folders: list[Path], file: str, label: str, attributes: Mapping[str, str], where: str) -> ListedPhoto:
    """A photo that a list names, in the first of the folders that has it (in the first one when none has)."""
    name = file if "\\" not in file else file.replace("\\", "/")
    parts = PurePosixPath(name).parts
    if name.startswith("/") or ".." in parts or name[1:3] == ":/":
        raise DatasetError(
            f"{where}: {file} leads out of the dataset's folder. Use paths relative to that folder, without '..'."
        )
    try:
        candidates = [folder.resolve() / PurePosixPath(name) for folder in folders]
        path = next((candidate for candidate in candidates if candidate.is_file()), candidates[0])
    except ValueError as error:
        raise DatasetError(f"{where}: {file!r} is not a path. Mend that line.") from error
    return ListedPhoto(path, "/".join(parts), label, attributes)


def _check_present(path: Path, photos: list[ListedPhoto]) -> None:
    if not photos:
        raise DatasetError(f"{path}: the list is empty. {_LAYOUT}")
    missing = [photo.name for photo in photos if not photo.path.is_file()]
    if missing:
        shown = ", ".join(missing[:_SHOWN]) + (", ..." if len(missing) > _SHOWN else "")
        raise DatasetError(
            f"{path}: {len(missing)} of {len(photos)} photos that it names are not there: {shown}. "
            "Copy them there, or delete their lines."
        )


def _once_each(
    photos: list[ListedPhoto], skipped: list[SkippedPhoto], source: str
) -> tuple[tuple[ListedPhoto, ...], tuple[SkippedPhoto, ...]]:
    """Photos that a list names twice are used once, or not at all where the labels differ."""
    labels: dict[Path, set[str]] = {}
    for photo in photos:
        labels.setdefault(photo.path, set()).add(photo.label)
    once: dict[Path, ListedPhoto] = {}
    for photo in photos:
        both = labels[photo.path]
        if len(both) > 1:
            reason = f"{source} gives it the labels {' and '.join(sorted(both))}"
            skipped.append(SkippedPhoto(photo.name, reason, "conflicting labels"))
        elif photo.path in once:
            skipped.append(SkippedPhoto(photo.name, f"named twice in {source}", "duplicate"))
        else:
            once[photo.path] = photo
    return tuple(once.values()), tuple(dict.fromkeys(skipped))


def _read_text(path: Path) -> str:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}: not UTF-8 text (byte {error.start}). Save it as UTF-8.") from error
    return text


def readable(name: str) -> str:
    """A file name that can be printed and stored: bytes that are not UTF-8 appear as hexadecimal escapes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _relative(path: Path, root: Path) -> str:
    return "/".join(readable(part) for part in path.relative_to(root).parts)


def _label(text: str) -> str:
    # The same letters can be stored in two ways (macOS decomposes them); a label is one word all the same.
    return unicodedata.normalize("NFC", text.strip())


def _first_of(skipped: list[SkippedPhoto]) -> str:
    return f" ({len(skipped)} files skipped, the first: {skipped[0].name}, {skipped[0].reason})" if skipped else ""
