"""`okko train`: photos in, a bundle out."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from okko_train.commands.source import PhotosAt, opened, source_options

if TYPE_CHECKING:
    from okko_train.feature_graph import Rectangle
    from okko_train.result import TrainingResult


def _positive(_: click.Context, parameter: click.Parameter, value: float | None) -> float | None:
    if value is not None and not 0 < value < float("inf"):
        raise click.BadParameter(f"{value} is not a number above 0", param=parameter)
    return value


def _rectangle(_: click.Context, parameter: click.Parameter, value: str | None) -> Rectangle | None:
    if value is None:
        return None
    from okko_train.feature_graph import Rectangle

    try:
        x, y, width, height = (float(share) for share in value.split(","))
        return Rectangle(x, y, width, height)
    except ValueError as error:
        raise click.BadParameter(
            f"{value!r} is not X,Y,W,H: left edge, upper edge, width and height as shares of the photo, "
            "0.25,0.1,0.5,0.8 say (`okko data roi` lets you draw it)",
            param=parameter,
        ) from error


_COST = click.FloatRange(min=0, max=1e9)


@click.command()
@click.argument("data", type=PhotosAt())
@click.option("--out", "-o", required=True, type=click.Path(path_type=Path), help="Folder of the bundle to write.")
@click.option("--name", help="Name of the model; the bundle's folder name unless given.")
@click.option("--ok", "ok_labels", multiple=True, metavar="LABEL", help="A label that counts as good (repeatable).")
@click.option(
    "--normal",
    multiple=True,
    metavar="LABEL",
    help="Learn from the photos of this good label alone (repeatable); other photos, if any, only test the model.",
)
@click.option(
    "--false-alarms",
    type=click.FloatRange(0, 0.5, min_open=True, max_open=True),
    metavar="SHARE",
    help="With --normal: share of good ones that may fail to be called OK; 0.05 unless given.",
)
@click.option("--group-by", metavar="COLUMN", help="Column of photos.csv; a group stays on one side of every split.")
@click.option("--cost-false-ok", type=_COST, default=1.0, show_default=True, help="Cost of a bad one let through.")
@click.option("--cost-false-ko", type=_COST, default=1.0, show_default=True, help="Cost of a good one thrown out.")
@click.option(
    "--cost-uncertain", type=_COST, default=0.25, show_default=True, help="Cost of one set aside for a person."
)
@click.option(
    "--max-error",
    type=click.FloatRange(0, 0.5, min_open=True, max_open=True),
    metavar="SHARE",
    help="Promise that mistakes are no oftener than this, 0.02 say; what cannot be told becomes UNCERTAIN.",
)
@click.option(
    "--roi",
    callback=_rectangle,
    metavar="X,Y,W,H",
    help="The part of the photos to look at, as shares of them; found unless given. `okko data roi` lets you draw it.",
)
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Same seed, same photos: same model."
)
@click.option("--finetune", is_flag=True, help="Train the backbone itself, too, and ship the better model; minutes.")
@click.option(
    "--backbone",
    type=click.Choice(["efficientnet-lite0", "none"]),
    default="efficientnet-lite0",
    show_default=True,
    help="What to start from; none trains a small network from scratch, too, and ships the better model.",
)
@click.option(
    "--upright", is_flag=True, help="Objects always lie the same way round; training the backbone needs to know."
)
@click.option(
    "--epochs", type=click.IntRange(1, 1000), help="How often training the backbone sees each photo, at most."
)
@click.option("--trials", type=click.IntRange(min=1), default=30, show_default=True, help="Trials of the swarm.")
@click.option(
    "--budget", type=float, callback=_positive, metavar="SECONDS", help="Cut the search short to end about then."
)
@click.option("--workers", type=click.IntRange(min=1), help="Processes side by side; one a processor unless given.")
@source_options
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON alone on standard output.")
def train(
    data: Path | str,
    out: Path,
    name: str | None,
    ok_labels: tuple[str, ...],
    normal: tuple[str, ...],
    false_alarms: float | None,
    group_by: str | None,
    cost_false_ok: float,
    cost_false_ko: float,
    cost_uncertain: float,
    max_error: float | None,
    roi: Rectangle | None,
    seed: int,
    finetune: bool,
    backbone: str,
    upright: bool,
    epochs: int | None,
    trials: int,
    budget: float | None,
    workers: int | None,
    endpoint_url: str | None,
    dask: str | None,
    shards: str | None,
    as_json: bool,
) -> None:
    """Make a model from the photos in DATA.

    DATA is a folder with one sub-folder for each label (OK and KO, say), a folder with a photos.csv (columns file and
    label), a SageMaker .lst file, or a place in S3 that is laid out as such a folder. What a bad object let through and
    a good one thrown out cost decides where the model draws the line. A fifth of the photos is put
    aside, and the model is tested on them at the very end.

    \b
    okko train photos/ --out marbles.okko
    okko train photos/ --out marbles.okko --group-by rig
    okko train photos/ --out marbles.okko --finetune
    okko train parts/ --out parts.okko --cost-false-ok 20 --cost-false-ko 1 --cost-uncertain 0.5
    okko train parts/ --out parts.okko --normal OK
    okko train parts/ --out parts.okko --max-error 0.02 --roi 0.25,0.1,0.5,0.8
    okko train s3://bucket/parts --out parts.okko
    okko train s3://bucket/parts --out parts.okko --dask tcp://10.0.0.1:8786
    """  # noqa: D301
    if (upright or epochs) and not (finetune or backbone == "none"):
        raise click.UsageError(
            "--upright and --epochs are for training the backbone; add --finetune or --backbone none"
        )
    if normal and (ok_labels or max_error or finetune or backbone == "none" or budget):
        raise click.UsageError(
            "--normal learns from good photos alone, so it takes no --ok, --max-error, --finetune, --backbone none or "
            "--budget"
        )
    if dask and (normal or finetune or backbone == "none"):
        raise click.UsageError(
            "--dask shares out the work on the pretrained backbone; --normal, --finetune and --backbone none are for "
            "one machine"
        )
    if false_alarms and not normal:
        raise click.UsageError("--false-alarms is for learning from good photos alone; add --normal OK")
    if cost_false_ok == cost_false_ko == 0:
        raise click.UsageError("--cost-false-ok and --cost-false-ko are both 0: then no decision matters; raise one")

    from okko_models.decision import Costs
    from okko_models.host import processors
    from okko_train import training

    workers = workers or processors()
    command = shlex.join(["okko", *sys.argv[1:]])
    if normal:
        from okko_train.one_class_training import OneClassOptions, train_one_class

        one_class = OneClassOptions(
            name=training.model_name(name, out),
            normal=normal,
            costs=Costs(cost_false_ok, cost_false_ko, cost_uncertain),
            false_alarms=false_alarms or 0.05,
            roi=roi,
            seed=seed,
            workers=workers,
            command=command,
        )
        with opened(
            data, group_by=group_by, workers=workers, minimum_labels=1, endpoint_url=endpoint_url, shards=shards
        ) as photos:
            result = train_one_class(photos, out, one_class)
        _show(result, out, as_json=as_json)
        return
    options = training.Options(
        name=training.model_name(name, out),
        costs=Costs(cost_false_ok, cost_false_ko, cost_uncertain),
        max_error=max_error,
        roi=roi,
        ok_labels=ok_labels or None,
        seed=seed,
        finetune=finetune,
        scratch=backbone == "none",
        any_way_up=not upright,
        epochs=epochs,
        trials=trials,
        budget_s=budget,
        workers=workers,
        command=command,
    )
    with opened(
        data, group_by=group_by, workers=workers, endpoint_url=endpoint_url, dask=dask, shards=shards
    ) as dataset:
        result = training.train(dataset, out, options)
    _show(result, out, as_json=as_json)


def _show(result: TrainingResult, out: Path, *, as_json: bool) -> None:
    from okko_train.summary import print_result, result_json

    if as_json:
        click.echo(result_json(result, out))
    else:
        print_result(result, out)
