"""A page on which a person draws the region of interest on a photo and copies the flag for `okko train`.

One self-contained file, opened from disk; nothing is sent anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from okko_models.errors import OkkoError
from okko_models.photo import read_photo
from okko_train.report.pages import data_uri, frame, template, writable

if TYPE_CHECKING:
    from okko_train.dataset import Dataset, Photo

MOST_PHOTOS: Final = 8
_LONGEST_SIDE: Final = 900


@dataclass(frozen=True)
class _Shown:
    name: str
    image: str


def region_page(dataset: Dataset) -> str:
    """Returns the page as HTML, with a few photos of each label.

    Raises:
        OkkoError: there is no photo.
    """
    photos = examples(dataset, MOST_PHOTOS)
    if not photos:
        raise OkkoError(f"{dataset.root}: there is no photo to draw on; see `okko data check`")
    shown = [_Shown(photo.name, data_uri(read_photo(photo.path), _LONGEST_SIDE)) for photo in photos]
    return writable(
        template("region.html.j2").render(**frame("report.css", "region.css", script="region.js"), photos=shown)
    )


def examples(dataset: Dataset, most: int) -> list[Photo]:
    """Returns at most so many photos, in turn of each label, spread over its photos."""
    each = -(-most // max(1, len(dataset.labels)))
    by_label = []
    for label in dataset.labels:
        photos = [photo for photo in dataset.photos if photo.label == label]
        by_label.append(photos[:: -(-len(photos) // each)] if photos else [])
    turns = [photos[turn] for turn in range(each) for photos in by_label if turn < len(photos)]
    return turns[:most]
