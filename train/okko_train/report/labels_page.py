"""A page with the photos whose label is doubted, so that a person can look and decide.

One self-contained file without any script, like the training report.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from okko_models.photo import read_photo
from okko_train.report import wording
from okko_train.report.pages import data_uri, frame, template, writable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from okko_train.dataset import Dataset
    from okko_train.label_check import Doubt

MOST_SHOWN: Final = 200
_LONGEST_SIDE: Final = 320


def labels_page(dataset: Dataset, doubts: Sequence[Doubt]) -> str:
    """Returns the page as HTML; `doubts` are photos of `dataset`, surest first."""
    paths = {photo.name: photo.path for photo in dataset.photos}
    shown = [(doubt, data_uri(read_photo(paths[doubt.file]), _LONGEST_SIDE)) for doubt in doubts[:MOST_SHOWN]]
    return writable(
        template("labels.html.j2").render(
            **frame("report.css"),
            say=wording,
            root=str(dataset.root),
            count=len(dataset),
            total=len(doubts),
            shown=shown,
        )
    )
