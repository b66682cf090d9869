"""`okko predict`: what a bundle says about single photos."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from okko_models.classifier import Classifier


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("file", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--threads", type=click.IntRange(1, 64), default=1, show_default=True, help="Processor threads to use.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@click.pass_context
def predict(context: click.Context, bundle: Path, file: tuple[Path, ...], threads: int, as_json: bool) -> None:
    """Say what BUNDLE thinks of each photo FILE.

    \b
    okko predict marbles.okko photo.jpg
    okko predict marbles.okko photos/KO/*.jpg --json

    A file that cannot be read is named on standard error, the others are still classified, and the command ends with
    exit code 1. With --json each line holds file, verdict, label, probability, novelty (beyond 1: unlike anything in
    training) and latency_ms (the time to classify, without reading the file), or file and error.
    """  # noqa: D301
    import json

    from okko_models.classifier import Classifier
    from okko_models.photo import PhotoError

    classifier = Classifier.open(bundle, threads=threads)
    names = [click.format_filename(path) for path in file]
    width = max(len(name) for name in names)
    failed = False
    for path, name in zip(file, names, strict=True):
        try:
            answer = _predict(classifier, path, name)
        except PhotoError as error:
            failed = True
            click.echo(f"Error: {error}", err=True)
            if as_json:
                click.echo(json.dumps({"file": name, "error": str(error)}))
            continue
        click.echo(json.dumps(answer) if as_json else _line(answer, width))
    if failed:
        context.exit(1)


def _predict(classifier: Classifier, path: Path, name: str) -> dict[str, object]:
    import time

    from okko_models.photo import PhotoError, read_photo

    if path.is_dir():
        raise PhotoError(f"{name}: a folder. Name the photos in it, for example {name.rstrip('/')}/*.jpg")
    image = read_photo(path, name=name)
    start = time.perf_counter()
    said = classifier.classify(image)
    latency_ms = (time.perf_counter() - start) * 1000
    return {
        "file": name,
        "verdict": said.verdict.value,
        "label": said.label,
        "probability": {label: round(p, 6) for label, p in classifier.by_label(said).items()},
        "novelty": round(said.novelty, 4),
        "latency_ms": round(latency_ms, 3),
    }


def _line(answer: dict[str, object], width: int) -> str:
    probability = answer["probability"]
    assert isinstance(probability, dict)
    shares = "  ".join(f"{label} {p:.3f}" for label, p in probability.items())
    new = f"novelty {answer['novelty']:.2f}"
    return f"{answer['file']!s:<{width}}  {answer['verdict']!s:<9}  {shares}  {new}  {answer['latency_ms']:.1f} ms"
