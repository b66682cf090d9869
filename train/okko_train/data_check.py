"""What a person should know about a dataset before training on it: `okko data check`.

It judges what `okko_train.dataset` found; it opens no photo itself, and changes nothing.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from statistics import median_low
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.table import Table

from okko_train.dataset import DatasetError
from okko_train.listing import readable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from okko_train.dataset import Dataset, Photo, SkippedPhoto

_FEW_PHOTOS: Final = 50
"""Below this many photos of a label, a measured accuracy says little: its confidence interval is wide."""
_IMBALANCED: Final = 10
_SMALL_SIDE: Final = 64
_SHOWN: Final = 8


@dataclass(frozen=True)
class Sizes:
    """Width and height in pixels, of the smallest, the middle and the largest photo by area, and how they lie."""

    smallest: tuple[int, int]
    median: tuple[int, int]
    largest: tuple[int, int]
    landscape: int
    portrait: int
    square: int


@dataclass(frozen=True)
class Groups:
    """Groups of photos that a split keeps together.

    Attributes:
        column: the column that groups come from.
        count: how many groups it names.
        smallest: photos of the smallest.
        largest: photos of the largest.
        photos_without: photos for which it names none.
    """

    column: str
    count: int
    smallest: int
    largest: int
    photos_without: int


@dataclass(frozen=True)
class DataReport:
    """The findings on a dataset.

    Attributes:
        usable: whether it can be trained on; when not, `errors` says why.
        root: the dataset's folder.
        source: where the labels stand.
        digest: names these photos with these labels.
        photos: number of usable photos.
        labels: number of usable photos of each label.
        skipped: files that are not used: name, reason, kind.
        skipped_kinds: how many of each kind.
        near_duplicates: names of the photos of each cluster that shows nearly the same picture.
        sizes: sizes of the usable photos; None when there are none.
        groups: None without a column to group by.
        errors: what makes training impossible.
        warnings: what makes its result doubtful.
    """

    usable: bool
    root: str
    source: str
    digest: str
    photos: int
    labels: dict[str, int]
    skipped: tuple[SkippedPhoto, ...]
    skipped_kinds: dict[str, int]
    near_duplicates: tuple[tuple[str, ...], ...]
    sizes: Sizes | None
    groups: Groups | None
    errors: tuple[str, ...]
    warnings: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """The report as plain lists and dictionaries."""
        return asdict(self)


def check_dataset(dataset: Dataset) -> DataReport:
    """Judges a dataset that was loaded with its photos decoded (and with `minimum_labels=0`, to see all findings)."""
    errors = []
    try:
        dataset.check_trainable()
    except DatasetError as error:
        errors.append(str(error))
    clusters = dataset.near_duplicates.groups()
    sizes, groups = _sizes(dataset.photos), _groups(dataset)
    return DataReport(
        usable=not errors,
        root=str(dataset.root),
        source=dataset.source,
        digest=dataset.digest,
        photos=len(dataset),
        labels=dataset.counts(),
        skipped=dataset.skipped,
        skipped_kinds=dict(sorted(Counter(skipped.kind for skipped in dataset.skipped).items())),
        near_duplicates=tuple(tuple(dataset.photos[index].name for index in cluster) for cluster in clusters),
        sizes=sizes,
        groups=groups,
        errors=tuple(errors),
        warnings=tuple(_warnings(dataset, sizes, groups)),
    )


def _sizes(photos: Sequence[Photo]) -> Sizes | None:
    if not photos:
        return None
    by_area = sorted((photo.width * photo.height, photo.width, photo.height) for photo in photos)
    return Sizes(
        smallest=by_area[0][1:],
        median=median_low(by_area)[1:],
        largest=by_area[-1][1:],
        landscape=sum(photo.width > photo.height for photo in photos),
        portrait=sum(photo.width < photo.height for photo in photos),
        square=sum(photo.width == photo.height for photo in photos),
    )


def _groups(dataset: Dataset) -> Groups | None:
    if dataset.group_by is None:
        return None
    counted = Counter(photo.group for photo in dataset.photos)
    without = counted.pop(None, 0)
    members = counted.values() or [0]
    return Groups(dataset.group_by, len(counted), min(members), max(members), without)


def _warnings(dataset: Dataset, sizes: Sizes | None, groups: Groups | None) -> list[str]:
    counts = dataset.counts()
    found = []
    few = [f"{count} of {label}" for label, count in counts.items() if count < _FEW_PHOTOS]
    if few:
        found.append(f"few photos ({', '.join(few)}): with fewer than {_FEW_PHOTOS} of a label, figures are rough")
    if counts and max(counts.values()) > _IMBALANCED * min(counts.values()):
        found.append(f"imbalanced: one label has more than {_IMBALANCED} times as many photos as another")
    found += _likeness_warnings(dataset)
    if sizes and sizes.landscape and sizes.portrait:
        found.append(
            f"{sizes.landscape} photos are wider than high and {sizes.portrait} higher than wide: a fixed camera gives "
            "one kind"
        )
    if sizes and min(sizes.smallest) < _SMALL_SIDE:
        found.append(f"some photos are tiny (the smallest {_pixels(sizes.smallest)} pixels)")
    if groups and groups.photos_without:
        found.append(f"{groups.photos_without} photos have no {groups.column}: each counts as a group of its own")
    elsewhere = [
        photo.name
        for photo in dataset.photos
        if (folder := photo.name.split("/")[0]) in dataset.labels and folder != photo.label
    ]
    if elsewhere:
        found.append(
            f"{len(elsewhere)} photos lie in another label's folder ({_some(elsewhere)}): {dataset.source} is believed"
        )
    return found


def _likeness_warnings(dataset: Dataset) -> list[str]:
    alike = dataset.near_duplicates
    found = []
    mixed = [
        f"{dataset.photos[one].name} and {dataset.photos[other].name}"
        for one, other in alike.pairs.tolist()
        if dataset.photos[one].label != dataset.photos[other].label
    ]
    if mixed:
        found.append(f"{len(mixed)} pairs look nearly the same and have different labels: {_some(mixed)}")
    crowded = Counter(dataset.photos[index].label for index in alike.crowded.nonzero()[0])
    found += [
        f"{count} of {dataset.counts()[label]} photos of {label} are hard to tell apart: if several show one object, "
        "say so by a column of photos.csv and --group-by"
        for label, count in sorted(crowded.items())
    ]
    return found


def print_report(report: DataReport, console: Console | None = None) -> None:
    """Prints the report for people, on standard output."""
    # File names may contain square brackets, which are no markup.
    console = console or Console(markup=False, highlight=False)
    table = Table(title=f"{readable(report.root)} ({report.source})", show_header=False, title_justify="left")
    table.add_row("photos", str(report.photos))
    for label, count in report.labels.items():
        table.add_row(f"  {label}", f"{count}  ({count / report.photos:.0%})")
    if report.sizes:
        sizes = report.sizes
        table.add_row(
            "size in pixels",
            f"{_pixels(sizes.smallest)} to {_pixels(sizes.largest)}, median {_pixels(sizes.median)}",
        )
        lying = {"landscape": sizes.landscape, "portrait": sizes.portrait, "square": sizes.square}
        table.add_row("orientation", ", ".join(f"{count} {name}" for name, count in lying.items() if count))
    if report.groups:
        groups = report.groups
        table.add_row(f"groups by {groups.column}", f"{groups.count}, of {groups.smallest} to {groups.largest} photos")
    together = sum(len(cluster) for cluster in report.near_duplicates)
    table.add_row("near-duplicates", f"{together} photos in {len(report.near_duplicates)} clusters (kept together)")
    table.add_row("skipped", str(len(report.skipped)))
    for kind, count in report.skipped_kinds.items():
        table.add_row(f"  {kind}", str(count))
    table.add_row("digest", report.digest[:16])
    console.print(table)
    _print_some(console, "Skipped:", [f"{skipped.name}: {skipped.reason}" for skipped in report.skipped])
    _print_some(console, "Near-duplicates:", [", ".join(cluster) for cluster in report.near_duplicates])
    for warning in report.warnings:
        console.print(f"Warning: {warning}", soft_wrap=True)
    for error in report.errors:
        console.print(f"Error: {error}", soft_wrap=True)
    if report.usable:
        console.print("This dataset can be trained on.")


def _print_some(console: Console, title: str, lines: Sequence[str]) -> None:
    if not lines:
        return
    console.print(title)
    for line in lines[:_SHOWN]:
        console.print(f"  {line}", soft_wrap=True)
    if len(lines) > _SHOWN:
        console.print(f"  and {len(lines) - _SHOWN} more (--json lists all)")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")


def _pixels(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
