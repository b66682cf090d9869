"""What lies where: label folders, photos without a label, and what devices said about them. Names only, no I/O.

A dataset is a folder (or a prefix in S3) with a sub-folder for each label. Without a label are photos in `unlabelled`,
photos in no sub-folder, and photos in the folder of a device: what an outbox uploads is `DEVICE/DIGEST.png` with
`DIGEST.json` beside it, and `DIGEST.label-N.json` for what a person said at the dashboard. A photo keeps the rest of
its name wherever it goes, so what a device said about it is found again.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from okko_models.errors import OkkoError
from okko_models.layout import UNLABELLED
from okko_models.photo import is_photo_name

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

OWN: Final = ".okko"
"""Decisions and leases lie in this folder; names that begin with a dot are nobody's photos."""

USUAL: Final = ("OK", "KO")
_CSV: Final = "photos.csv"
_LIST: Final = ".lst"
_LONGEST_LABEL: Final = 64
_FRAME: Final = re.compile(r"(?P<stem>(?:.*/)?[0-9a-f]{64})\.png")
_CORRECTION: Final = re.compile(r"(?P<stem>.+)\.label(?:-(?P<revision>[0-9]{1,9}))?\.json")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a photo is: its label (None: it has none), and the rest of its name."""

    label: str | None
    rest: str


@dataclass(frozen=True, slots=True)
class Beside:
    """Keys of what a device wrote about a photo: its own guess, and what a person said at its dashboard."""

    sidecar: str | None
    correction: str | None


class Layout:
    """What the names of a dataset say.

    Args:
        keys: all names below the dataset's folder, with forward slashes.
        labels: labels that are known whatever the folders are called.

    Raises:
        OkkoError: the labels stand in a list, not in folders.
    """

    def __init__(self, keys: Collection[str], labels: Iterable[str] = ()) -> None:
        for key in keys:
            if "/" not in key and (key.lower() == _CSV or key.lower().endswith(_LIST)):
                raise OkkoError(
                    f"the labels of these photos stand in {key}; photos are labelled by moving them between folders, "
                    "one for each label. Change the list, or name a folder without one"
                )
        self._keys = frozenset(keys)
        self._known = frozenset(labels)
        photos: defaultdict[str, list[str]] = defaultdict(list)
        for key in self._keys:
            folder, slash, _ = key.partition("/")
            if slash and is_photo_name(key):
                photos[folder].append(key)
        others = photos.keys() - self._known - {UNLABELLED, *USUAL}
        self._devices = frozenset(folder for folder in others if all(map(self._is_uploaded, photos[folder])))
        self.folders = tuple(sorted(photos.keys() - self._devices - {UNLABELLED}))
        self._corrections: dict[str, tuple[int, str]] = {}
        for key in self._keys:
            if found := _CORRECTION.fullmatch(key):
                revision = int(found["revision"] or 0)
                if revision >= self._corrections.get(found["stem"], (-1, ""))[0]:
                    self._corrections[found["stem"]] = (revision, key)

    def place(self, key: str) -> Place | None:
        """Returns where a photo is; None if the name is no photo's."""
        if not is_photo_name(key):
            return None
        folder, slash, rest = key.partition("/")
        if not slash or folder in self._devices:
            return Place(None, key)
        return Place(None if folder == UNLABELLED else folder, rest)

    def beside(self, key: str, rest: str) -> Beside:
        """Returns what devices wrote about a photo, wherever it has been moved to."""
        stems = [name.rpartition(".")[0] for name in (key, f"{UNLABELLED}/{rest}", rest)]
        sidecar = next((f"{stem}.json" for stem in stems if f"{stem}.json" in self._keys), None)
        correction = next((self._corrections[stem][1] for stem in stems if stem in self._corrections), None)
        return Beside(sidecar, correction)

    def _is_uploaded(self, key: str) -> bool:
        frame = _FRAME.fullmatch(key)
        return key.count("/") == 1 and frame is not None and f"{frame['stem']}.json" in self._keys


def choose_labels(asked: Sequence[str], of_model: Sequence[str], folders: Sequence[str]) -> tuple[str, ...]:
    """Returns the labels to choose from: those asked for, else the model's, else the folders', OK and KO first.

    One folder alone is not enough to choose from; then OK and KO are added. Folders that are there are always among
    them, because their photos have that label already.

    Raises:
        OkkoError: a label cannot be a folder's name.
    """
    usual = sorted(folders) if len(folders) > 1 else USUAL
    chosen = [check_label(label) for label in asked or of_model] or usual
    first = [label for label in USUAL if label in chosen or label in folders]
    return tuple(dict.fromkeys([*first, *chosen, *sorted(folders)]))


def check_label(label: str) -> str:
    """Returns a label as it is stored.

    Raises:
        OkkoError: it cannot be a folder's name.
    """
    name = unicodedata.normalize("NFC", label.strip())
    if (
        not 0 < len(name) <= _LONGEST_LABEL
        or name.startswith(".")
        or any(letter in "/\\" or not letter.isprintable() for letter in name)
        or name == UNLABELLED
    ):
        raise OkkoError(
            f"{label!r} cannot be a label; expected a name of at most {_LONGEST_LABEL} letters without / and \\, "
            f"not beginning with a dot, and not {UNLABELLED}"
        )
    return name


def with_digest(key: str, digest: str) -> str:
    """Returns the name for a photo when `key` is taken by another one."""
    stem, _, suffix = key.rpartition(".")
    return f"{stem}-{digest[:12]}.{suffix}"
