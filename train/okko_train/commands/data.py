"""`okko data`: what there is to know about a dataset before training on it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from okko_models.errors import OkkoError


@click.group()
def data() -> None:
    """Look at photos before a model learns from them.

    \b
    okko data check photos/
    okko data check photos/ --model marbles.okko
    okko data roi photos/
    """  # noqa: D301


@data.command()
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--out",
    "-o",
    default="region.html",
    show_default=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="Page to write.",
)
def roi(directory: Path, out: Path) -> None:
    """Write a page on which you draw where the model should look.

    Open it in a browser, draw a rectangle on a photo from DIR, and copy the --roi flag for `okko train`. The page is
    one file that holds a few of the photos and sends nothing anywhere.

    \b
    okko data roi photos/
    okko data roi photos/ --out where.html
    """  # noqa: D301
    from okko_train.dataset import load_dataset
    from okko_train.report.region_page import region_page

    _write(out, region_page(load_dataset(directory, minimum_labels=1)), "--out")
    click.echo(f"{out}: open it in a browser, draw the rectangle, and copy the flag")


@data.command()
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--group-by", metavar="COLUMN", help="Column of photos.csv; a group stays on one side of every split.")
@click.option(
    "--model", type=click.Path(path_type=Path), metavar="BUNDLE", help="Look for wrong labels, too, with its embedding."
)
@click.option(
    "--report",
    "page",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write a page with the photos whose label is doubted (with --model).",
)
@click.option("--workers", type=click.IntRange(min=1), help="Photos read at a time; one a processor unless given.")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON alone on standard output.")
def check(
    directory: Path, group_by: str | None, model: Path | None, page: Path | None, workers: int | None, as_json: bool
) -> None:
    """Say what is in DIR and what is wrong with it.

    DIR is what `okko train` takes: a folder with one sub-folder for each label (OK and KO, say), a folder with a
    photos.csv (columns file and label), or a SageMaker .lst file. Reported are unreadable and cut-off files, photos
    that are there twice or nearly so, photos with two labels, how many photos each label and group has, and their
    sizes. With --model, also photos whose label is probably wrong: what the model sees in them is divided into folds,
    and each photo is judged by what the others teach. Nothing is changed. The exit code is 1 when no model can be
    trained from DIR, otherwise 0, whether or not labels are doubted.

    \b
    okko data check photos/
    okko data check photos/ --group-by rig
    okko data check photos/ --model marbles.okko --report doubts.html
    okko data check photos/ --json | jq .labels
    """  # noqa: D301
    if page is not None and model is None:
        raise click.UsageError("--report shows photos whose label is doubted; name a bundle with --model to find them")

    from okko_train.data_check import check_dataset, print_report
    from okko_train.dataset import DatasetError, load_dataset

    try:
        dataset = load_dataset(directory, group_by=group_by, workers=workers, minimum_labels=0)
    except DatasetError as error:
        if not as_json:
            raise
        click.echo(json.dumps({"usable": False, "errors": [str(error)]}, indent=2))
        sys.exit(1)
    report = check_dataset(dataset)
    findings = report.as_json()
    if not as_json:
        print_report(report)
    if model is not None and report.usable:
        from okko_models.bundle import Bundle
        from okko_models.host import processors
        from okko_train.label_check import doubted_labels, print_doubts

        doubts = doubted_labels(dataset, Bundle.open(model), workers or processors())
        findings["doubted_labels"] = [doubt.as_json() for doubt in doubts]
        if not as_json:
            print_doubts(doubts, len(dataset))
        if page is not None:
            from okko_train.report.labels_page import labels_page

            _write(page, labels_page(dataset, doubts), "--report")
    if as_json:
        click.echo(json.dumps(findings, indent=2))
    sys.exit(0 if report.usable else 1)


def _write(path: Path, page: str, option: str) -> None:
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise OkkoError(f"{path}: cannot be written ({error.strerror}); name another file with {option}") from error
