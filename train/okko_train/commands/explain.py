"""`okko explain`: why a model says what it says of a photo, as one picture."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("photo", type=click.Path(path_type=Path))
@click.option(
    "--out",
    "-o",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.png",
    help="Picture to write; PHOTO's name with -explained.png, in the current folder, unless given.",
)
@click.option("--threads", type=click.IntRange(1, 64), default=1, show_default=True, help="Processor threads to use.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON alone on standard output.")
def explain(bundle: Path, photo: Path, out: Path | None, threads: int, as_json: bool) -> None:
    """Show why BUNDLE says what it says of PHOTO.

    The picture holds the photo, a heat map of what spoke for OK and for KO, the probability and the thresholds, and the
    five training photos that are most like it, with their labels. For the heat map a part of the photo after another is
    blurred, and the model asked again. It takes a few seconds, and needs no network and no training photos but
    those that the bundle holds.

    \b
    okko explain marbles.okko photo.jpg
    okko explain marbles.okko photo.jpg -o why.png
    okko explain marbles.okko photo.jpg --json | jq .neighbours
    """  # noqa: D301
    from okko_models.bundle import Bundle
    from okko_models.classifier import Classifier
    from okko_models.errors import OkkoError
    from okko_train.explain import explain as find_out
    from okko_train.explain.heat import FINE, steps
    from okko_train.explain.summary import explanation_json, print_explanation
    from okko_train.progress import progress

    picture = out or Path(f"{photo.stem}-explained.png")
    if picture.suffix.lower() != ".png":
        raise click.UsageError(f"--out {picture} does not end in .png; the picture is a PNG file")
    if not picture.parent.is_dir():
        raise OkkoError(f"{picture.parent} is not a folder that exists; make it, or name another place with --out")
    if photo.is_dir():
        raise OkkoError(f"{photo} is a folder; name one photo in it")
    if picture.exists() and photo.exists() and picture.samefile(photo):
        raise OkkoError(f"{picture} is the photo itself; name another file with --out")
    classifier = Classifier(Bundle.open(bundle), threads=threads)
    classifier.self_test()
    with progress("Covering one part after another", steps(FINE)) as done:
        found = find_out(classifier, photo, on_step=done)

    from okko_train.explain.picture import draw

    try:
        picture.write_bytes(draw(found))
    except OSError as error:
        raise OkkoError(f"{picture}: cannot be written ({error.strerror}); name another file with --out") from error
    if as_json:
        click.echo(explanation_json(found, picture))
    else:
        print_explanation(found, picture)
