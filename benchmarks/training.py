"""What `okko train` costs and what comes out: cold and warm, same seed twice, and against the plainest classifier.

    python -m benchmarks.training marbles=DIR:rig screws=DIR:photo shifted=DIR

Each argument names a dataset, its folder, and optionally the column to group by. The peer is what one would write in a
notebook: the same backbone on the whole frame, L2-normalised embeddings, logistic regression; both are tested on the
same photos. Time and peak memory are those of the whole process, as the operating system counts them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.tables import replace_section

DOCUMENT = Path(__file__).parents[1] / "docs" / "benchmarks.md"


@dataclass(frozen=True)
class Run:
    """One `okko train`: wall seconds, peak memory of its largest process in MB, its JSON, digest of the model."""

    seconds: float
    megabytes: float
    result: dict
    model_sha256: str


def train(data: Path, group_by: str | None, out: Path, cache: Path) -> Run:
    """Runs `okko train` in a process of its own."""
    command = [sys.executable, "-m", "okko.cli", "train", str(data), "--out", str(out), "--json", "--seed", "1"]
    command += ["--group-by", group_by] if group_by else []
    started = time.perf_counter()
    # A child of this child: RUSAGE_CHILDREN then holds the largest process of this run alone.
    program = (
        "import json, resource, subprocess, sys\n"
        "done = subprocess.run(sys.argv[1:], stdout=subprocess.PIPE, check=True)\n"
        "peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss\n"
        "print(json.dumps([peak, json.loads(done.stdout)]))"
    )
    environment = {**os.environ, "OKKO_CACHE": str(cache)}
    done = subprocess.run(
        [sys.executable, "-c", program, *command], env=environment, stdout=subprocess.PIPE, check=True
    )
    seconds = time.perf_counter() - started
    peak_kib, result = json.loads(done.stdout)
    manifest = json.loads((out / "manifest.json").read_text())
    return Run(seconds, peak_kib * 1024 / 1e6, result, manifest["files"]["model.onnx"]["sha256"])


def probe(data: Path, group_by: str | None, cache: Path) -> float:
    """Returns the balanced accuracy of the plain linear probe on the test split that `okko train` uses."""
    import numpy as np
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.preprocessing import normalize

    os.environ["OKKO_CACHE"] = str(cache)
    from okko_train.dataset import load_dataset
    from okko_train.feature_graph import Recipe, View, feature_model
    from okko_train.features import embed
    from okko_train.preparation import split_photos

    dataset = load_dataset(data, group_by=group_by)
    recipe = Recipe(View(None, 224))
    model = feature_model(recipe).SerializeToString()
    features = normalize(embed(dataset.photos, model, recipe.digest, workers=2))
    split = split_photos(dataset, seed=1)
    classifier = LogisticRegression(C=10.0, max_iter=2000).fit(features[split.learn], dataset.targets[split.learn])
    predicted = classifier.predict(features[split.test])
    return float(balanced_accuracy_score(dataset.targets[split.test], np.asarray(predicted)))


def main() -> None:
    """Measures and writes the table into docs/benchmarks.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", nargs="+", metavar="NAME=DIR[:COLUMN]")
    lines = [
        "## `okko train`\n",
        "`python -m benchmarks.training NAME=DIR:COLUMN ...`, seed 1, default settings. Cold: nothing remembered;",
        "warm: a second run. Balanced accuracy is that of the test split, which has met neither model; the linear",
        "probe is the same backbone on the whole frame with logistic regression, on the same photos.\n",
        "| photos | n | cold | warm | peak memory | same weights twice | balanced accuracy (95 %) | linear probe |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for argument in parser.parse_args().datasets:
        name, _, place = argument.partition("=")
        folder, _, column = place.partition(":")
        with tempfile.TemporaryDirectory() as scratch:
            cache = Path(scratch) / "cache"
            cold = train(Path(folder), column or None, Path(scratch) / "cold.okko", cache)
            warm = train(Path(folder), column or None, Path(scratch) / "warm.okko", cache)
            plain = probe(Path(folder), column or None, cache)
        test = cold.result["test"]
        low, high = test["interval_95"]["balanced_accuracy"]
        grouped = f", grouped by {column}" if column else ""
        lines.append(
            f"| {name}{grouped} | {cold.result['photos']} | {cold.seconds:.1f} s | {warm.seconds:.1f} s "
            f"| {cold.megabytes:.0f} MB | {'yes' if cold.model_sha256 == warm.model_sha256 else 'NO'} "
            f"| {test['balanced_accuracy']:.3f} ({low:.3f} to {high:.3f}) | {plain:.3f} |"
        )
        print(lines[-1], flush=True)
    processors = len(os.sched_getaffinity(0))
    lines.append(f"\n{processors} processors.")
    replace_section(DOCUMENT, "training", "\n".join(lines))


if __name__ == "__main__":
    main()
