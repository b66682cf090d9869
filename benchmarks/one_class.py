"""Learning from good photos alone, against the published methods of anomalib on the same photos and the same backbone.

    python -m benchmarks.one_class --anomalib PYTHON marbles=DIR aliens=DIR screws=DIR

PYTHON is the interpreter of an environment that has anomalib (`pip install anomalib torch`); without it okko alone is
measured. Every method learns from the same good photos and is judged on the same test: a fifth of the good ones, and
all others. The table is printed, and put into docs/one-class.md with --write.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score

from benchmarks.tables import replace_section
from okko_models.decision import Costs, Verdict
from okko_train.dataset import Dataset, load_dataset
from okko_train.feature_graph import View, map_model
from okko_train.features import compute
from okko_train.one_class_training import OneClassOptions, good_rows, split_good, train_one_class

DOCUMENT = Path(__file__).parents[1] / "docs" / "one-class.md"
ANOMALIB = Path(__file__).with_name("one_class_anomalib.py")
NORMAL = "OK"
# anomalib's default are the two middle stages of a residual network, of stride 8 and 16; these are the same strides.
TAPS = ("block4", "block10")
VIEWS = {"whole photo": View(None, 224), "its middle": View(0.5, 224)}


def published(dataset: Dataset, python: str, view: View, share: float, folder: Path) -> dict[str, np.ndarray]:
    """Returns the scores of the test photos by method."""
    good = good_rows(dataset, (NORMAL,))
    split = split_good(dataset, good, 0)
    model = map_model(view, TAPS).SerializeToString()
    arrays = {}
    for part, rows in (("learn", split.learn), ("test", split.test)):
        maps = list(compute([dataset.photos[row] for row in rows], model, TAPS, workers=2))
        arrays |= {f"{part}_{tap}": np.stack([each[i] for each in maps]) for i, tap in enumerate(TAPS)}
    np.savez(folder / "maps.npz", **arrays)
    subprocess.run([python, str(ANOMALIB), folder / "maps.npz", folder / "scores.npz", str(share)], check=True)
    return dict(np.load(folder / "scores.npz"))


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data", nargs="+", metavar="NAME=DIR")
    parser.add_argument("--anomalib", metavar="PYTHON")
    parser.add_argument("--coreset", type=float, default=0.01, help="share of the patches that PatchCore keeps")
    parser.add_argument("--write", action="store_true", help="put the table into docs/one-class.md")
    arguments = parser.parse_args()
    columns, cells = [], {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for entry in arguments.data:
            title, _, path = entry.partition("=")
            dataset = load_dataset(path, minimum_labels=1)
            options = OneClassOptions(name="benchmark", normal=(NORMAL,), costs=Costs(), workers=2)
            result = train_one_class(dataset, folder / f"{title}.okko", options)
            test = result.test
            columns.append(
                f"{title} ({result.manifest.dataset.photos[NORMAL] - int(test.truly_ok.sum())} to learn from)"
            )
            cells.setdefault("okko, whole photo and its middle", []).append(
                f"**{roc_auc_score(~test.truly_ok, -test.probability_of_ok):.3f}**"
            )
            good = test.truly_ok
            uncertain = test.verdicts[Verdict.UNCERTAIN]
            cells.setdefault("good ones KO, bad ones OK, UNCERTAIN, of all", []).append(
                f"{test.false_ko}, {test.false_ok}, {uncertain}, of {int(good.sum())} + {int((~good).sum())}"
            )
            for where, view in VIEWS.items() if arguments.anomalib else ():
                for method, scores in published(dataset, arguments.anomalib, view, arguments.coreset, folder).items():
                    called = {"patchcore": f"PatchCore ({arguments.coreset:.0%} coreset)", "padim": "PaDiM"}[method]
                    cells.setdefault(f"{called}, {where}", []).append(f"{roc_auc_score(~good, scores):.3f}")
    lines = [f"| | {' | '.join(columns)} |", "|---" * (1 + len(columns)) + "|"]
    lines += [f"| {method} | {' | '.join(row)} |" for method, row in cells.items()]
    print("\n".join(lines))
    if arguments.write:
        replace_section(DOCUMENT, "one-class", "\n".join(lines))


if __name__ == "__main__":
    main()
