"""`okko evaluate`: how good a model is on photos whose labels are known."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Threads for one photo.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON alone on standard output.")
def evaluate(bundle: Path, data: Path, threads: int, as_json: bool) -> None:
    """Measure the model BUNDLE on the labelled photos in DATA.

    DATA is what `okko train` takes. The photos should be ones that the model has not learnt from: of another day, say.

    \b
    okko evaluate marbles.okko photos-of-today/
    okko evaluate marbles.okko photos-of-today/ --json | jq .balanced_accuracy
    """  # noqa: D301
    from okko_models.bundle import Bundle
    from okko_train.dataset import load_dataset
    from okko_train.evaluation import evaluate_bundle
    from okko_train.summary import evaluation_json, print_evaluation

    measured = evaluate_bundle(Bundle.open(bundle), load_dataset(data, minimum_labels=1), threads=threads)
    if as_json:
        click.echo(evaluation_json(measured))
    else:
        print_evaluation(measured)
