"""`okko tune`: a table in, a tuned network as ONNX out."""

from __future__ import annotations

import time
from pathlib import Path

import click

from okko_train.commands.source import PhotosAt, opened_file


def _positive(_: click.Context, parameter: click.Parameter, value: float | None) -> float | None:
    if value is not None and not 0 < value < float("inf"):
        raise click.BadParameter(f"{value} is not a number above 0", param=parameter)
    return value


@click.command()
@click.argument("table", type=PhotosAt())
@click.option("--target", required=True, metavar="COLUMN", help="The column to predict.")
@click.option("--out", "-o", required=True, type=click.Path(path_type=Path), help="Folder to write.")
@click.option(
    "--task",
    type=click.Choice(["auto", "classification", "regression"]),
    default="auto",
    show_default=True,
    help="Classes or numbers; auto looks at the target.",
)
@click.option("--group-by", metavar="COLUMN", help="Rows with the same value here stay on one side of every split.")
@click.option("--ignore", multiple=True, metavar="COLUMN", help="A column to leave out (repeatable).")
@click.option("--trials", type=click.IntRange(min=1), default=30, show_default=True, help="Sets of hyperparameters.")
@click.option(
    "--budget",
    type=float,
    callback=_positive,
    metavar="SECONDS",
    help="No trial starts later than that after the start.",
)
@click.option(
    "--tuner",
    type=click.Choice(["swarm", "tpe", "cmaes", "random"]),
    default="swarm",
    show_default=True,
    help="Who chooses what to try next.",
)
@click.option("--folds", type=click.IntRange(min=2), default=5, show_default=True, help="Of the cross-validation.")
@click.option(
    "--run-type",
    type=click.Choice(["normal", "two_steps", "overfitting", "regularization"]),
    default="normal",
    show_default=True,
    help="two_steps: first learn by heart, then regularise.",
)
@click.option(
    "--gap-penalty",
    type=click.FloatRange(0, 1),
    default=0.0,
    show_default=True,
    help="Punish a gap between training and held-out cost; 1 as R's automl does.",
)
@click.option("--prune/--no-prune", default=True, help="Give up a trial that is worse than the median after a fold.")
@click.option("--storage", type=click.Path(path_type=Path), help="SQLite file of the trials; the same file continues.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Same seed: same trials.")
@click.option("--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Processes side by side.")
@click.option("--endpoint-url", metavar="URL", help="With s3://: another S3 than Amazon's.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON alone on standard output.")
def tune(
    table: Path | str,
    target: str,
    out: Path,
    task: str,
    group_by: str | None,
    ignore: tuple[str, ...],
    trials: int,
    budget: float | None,
    tuner: str,
    folds: int,
    run_type: str,
    gap_penalty: float,
    prune: bool,
    storage: Path | None,
    seed: int,
    workers: int,
    endpoint_url: str | None,
    as_json: bool,
) -> None:
    """Tune a network that predicts a column of TABLE, a CSV file here or in S3, and export it as ONNX.

    Numbers, categories and missing values are all welcome; what was done about them is said and becomes part of the
    model. Each trial is scored by cross-validation. The folder gets model.onnx, result.json and plots/.

    \b
    okko tune iris.csv --target species --out iris-model
    okko tune titanic.csv --target survived --ignore alive --out titanic-model --budget 60
    okko tune s3://bucket/iris.csv --target species --out iris-model
    okko tune parts.csv --target weight --group-by batch --out weights --storage weights.db --workers 4
    """  # noqa: D301
    started = time.monotonic()
    settings = dict(click.get_current_context().params)

    from okko_train.network_search import NetworkOptions, tune_network
    from okko_train.progress import progress
    from okko_train.search import Options
    from okko_train.search_files import Written, write_model, write_plots, write_result
    from okko_train.summary_of_search import print_notes, print_search
    from okko_train.tabular import as_problem, read_table
    from okko_train.tuned_network import Targets

    with opened_file(table, endpoint_url) as path:
        rows = read_table(path)
    problem = as_problem(rows, target, task=task, group_by=group_by, ignore=ignore)
    print_notes(problem)
    out.mkdir(parents=True, exist_ok=True)
    deadline_s = float("inf") if budget is None else started + budget
    options = NetworkOptions(
        Options(trials, deadline_s, tuner, seed, workers, storage, prune), run_type, folds, gap_penalty
    )
    targets = Targets.of(problem.target, problem.task)
    with progress(f"Tuning on {len(problem.features)} rows", total=trials) as advance:
        found = tune_network(problem.features, targets, options, groups=problem.groups, on_trial=advance)
    written = Written(
        write_model(out, found.model, problem.features), write_plots(out, found.steps[-1].trials, problem.task)
    )
    plain = {name: str(value) if isinstance(value, Path) else value for name, value in settings.items()}
    result = write_result(out, problem, found, written, plain, time.monotonic() - started)
    print_search(result, out, as_json=as_json)
