"""How often okko is right, beside what one would write in a notebook, on the same photos.

    python -m benchmarks.accuracy rigs=DIR:rig,test=OTHER day=DIR,test=NEXT --learning-curve day=DIR --seeds 0 1 2

Each dataset is NAME=DIR, with `:COLUMN` to keep groups on one side and `,test=OTHER` for photos of another day or rig
that nobody learns from. A seed puts a fifth of the photos aside; all methods learn from the other four fifths and are
judged on the fifth, and on OTHER. What stands in the table is balanced accuracy at the more probable label, the mean
over the seeds, with the 95 % interval of that mean over photos (bootstrap of photos, each photo's outcomes averaged
over seeds). okko is trained by the same code as `okko train`, and asked through the exported bundle.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.accuracy_peers import PEERS
from benchmarks.tables import replace_section
from okko_models.bundle import Bundle
from okko_models.classifier import Classifier
from okko_models.decision import Costs
from okko_models.photo import read_photo
from okko_train.dataset import Dataset, load_dataset
from okko_train.preparation import choose_ok_labels, split_photos
from okko_train.training import Options, train

DOCUMENT = Path(__file__).parents[1] / "docs" / "benchmarks.md"
OKKO = {"okko": {}, "okko --finetune": {"finetune": True}, "okko --backbone none": {"scratch": True}}
SIZES = (10, 20, 50, 100)
_RESAMPLES = 2000


@dataclass(frozen=True)
class Set:
    """A dataset to judge on, and other photos of the same kind that nobody learns from."""

    name: str
    folder: Path
    column: str | None
    other: Path | None

    @classmethod
    def parse(cls, text: str) -> Set:
        """Reads NAME=DIR[:COLUMN][,test=OTHER]."""
        name, _, place = text.partition("=")
        place, _, other = place.partition(",test=")
        folder, _, column = place.partition(":")
        return cls(name, Path(folder), column or None, Path(other) if other else None)


class Outcomes:
    """Whether photos were judged rightly, by method and test set: each photo's outcomes over the seeds."""

    def __init__(self) -> None:
        self._right: dict[tuple[str, str], dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
        self._truth: dict[str, bool] = {}

    def add(self, method: str, test: str, photos: list, truly_ok: np.ndarray, of_ok: np.ndarray) -> float:
        """Adds one seed's judgements; returns its balanced accuracy."""
        right = (of_ok >= 0.5) == truly_ok
        for photo, is_right, is_ok in zip(photos, right, truly_ok, strict=True):
            self._right[method, test][photo.digest].append(bool(is_right))
            self._truth[photo.digest] = bool(is_ok)
        return float(np.mean([right[truly_ok == side].mean() for side in (False, True)]))

    def cell(self, method: str, test: str) -> str:
        """Returns "0.951 (0.93 to 0.97)", a dash where nothing was measured."""
        outcomes = self._right.get((method, test))
        if not outcomes:
            return "-"
        share = np.array([np.mean(each) for each in outcomes.values()])
        truth = np.array([self._truth[digest] for digest in outcomes])
        sides = [share[truth == side] for side in (False, True)]
        rng = np.random.default_rng(0)
        means = [np.mean([rng.choice(side, len(side)).mean() for side in sides]) for _ in range(_RESAMPLES)]
        low, high = np.percentile(means, (2.5, 97.5))
        return f"{np.mean([side.mean() for side in sides]):.3f} ({low:.2f} to {high:.2f})"


def subset(dataset: Dataset, rows: np.ndarray) -> Dataset:
    """Returns the dataset with only some of its photos."""
    photos, thumbnails = tuple(dataset.photos[row] for row in rows), dataset.thumbnails
    return replace(dataset, photos=photos, thumbnails=None if thumbnails is None else thumbnails[rows])


def okko_judge(dataset: Dataset, ok_labels: tuple[str, ...], seed: int, wanted: dict, workers: int):
    """Trains on `dataset`, which puts its own fifth aside by the same seed; returns a function from photos to P(OK)."""
    scratch = Path(tempfile.mkdtemp())
    options = Options(name="benchmark", costs=Costs(), ok_labels=ok_labels, seed=seed, workers=workers, **wanted)
    train(dataset, scratch / "model.okko", options)
    classifier = Classifier(Bundle.open(scratch / "model.okko"))
    shutil.rmtree(scratch)
    return lambda photos: np.array([classifier.classify(read_photo(photo.path)).probability_of_ok for photo in photos])


def measure(each: Set, seeds: list[int], methods: list[str], outcomes: Outcomes, workers: int) -> None:
    """Judges all methods on one set."""
    dataset = load_dataset(each.folder, group_by=each.column)
    ok_labels = choose_ok_labels(dataset, None)
    truly_ok = np.isin(dataset.targets, [dataset.labels.index(label) for label in ok_labels])
    others = load_dataset(each.other) if each.other else None
    for seed in seeds:
        split = split_photos(dataset, seed=seed)
        learn, test = ([dataset.photos[row] for row in rows] for rows in (split.learn, split.test))
        for method in methods:
            started = time.monotonic()
            if method in OKKO:
                judge = okko_judge(dataset, ok_labels, seed, OKKO[method], workers)
            else:
                judge = PEERS[method](learn, truly_ok[split.learn].astype(np.int64), seed)
            seconds = time.monotonic() - started
            said = f"{each.name}: {outcomes.add(method, each.name, test, truly_ok[split.test], judge(test)):.3f}"
            if others is not None:
                other_ok = np.array([photo.label in ok_labels for photo in others.photos])
                name = each.other.name
                said += (
                    f", {name}: {outcomes.add(method, name, list(others.photos), other_ok, judge(others.photos)):.3f}"
                )
            print(f"{said}  {method}, seed {seed}, {seconds:.0f} s", flush=True)


def learning_curve(each: Set, seeds: list[int], methods: list[str], outcomes: Outcomes, workers: int) -> None:
    """Judges methods that learn from few photos, on all the others."""
    dataset = load_dataset(each.folder, group_by=each.column)
    ok_labels = choose_ok_labels(dataset, None)
    truly_ok = np.isin(dataset.targets, [dataset.labels.index(label) for label in ok_labels])
    for seed in seeds:
        rng = np.random.default_rng(seed)
        order = {side: rng.permutation(np.flatnonzero(truly_ok == side)) for side in (False, True)}
        for size in SIZES:
            if size >= len(truly_ok):
                continue
            n_ok = min(max(round(size * truly_ok.mean()), 4), size - 4)
            rows = np.concatenate([order[True][:n_ok], order[False][: size - n_ok]])
            rest = np.setdiff1d(np.arange(len(truly_ok)), rows)
            photos = [dataset.photos[row] for row in rest]
            for method in methods:
                if method in OKKO:
                    judge = okko_judge(subset(dataset, np.sort(rows)), ok_labels, seed, OKKO[method], workers)
                else:
                    learn = [dataset.photos[row] for row in rows]
                    judge = PEERS[method](learn, truly_ok[rows].astype(np.int64), seed)
                test = f"{each.name}, {size} photos"
                found = outcomes.add(method, test, photos, truly_ok[rest], judge(photos))
                print(f"{test}: {found:.3f}  {method}, seed {seed}", flush=True)


def table(tests: list[str], methods: list[str], outcomes: Outcomes) -> str:
    """Returns a Markdown table, a row for each test set."""
    lines = [f"| photos | {' | '.join(methods)} |", "|---" * (len(methods) + 1) + "|"]
    lines += [f"| {test} | {' | '.join(outcomes.cell(method, test) for method in methods)} |" for test in tests]
    return "\n".join(lines)


def main() -> None:
    """Measures and writes the tables into docs/benchmarks.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", nargs="*", metavar="NAME=DIR[:COLUMN][,test=OTHER]")
    parser.add_argument("--learning-curve", action="append", default=[], metavar="NAME=DIR")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    everything = [*OKKO, *PEERS]
    parser.add_argument("--methods", nargs="+", choices=everything, default=everything)
    parser.add_argument("--workers", type=int, default=2, help="threads of okko's trainings")
    parser.add_argument("--section", default="accuracy", help="which section of docs/benchmarks.md to write")
    given = parser.parse_args()
    outcomes, tests, curves = Outcomes(), [], []
    for text in given.datasets:
        each = Set.parse(text)
        measure(each, given.seeds, given.methods, outcomes, given.workers)
        tests += [each.name, *([each.other.name] if each.other else [])]
    few = [method for method in given.methods if method in ("okko", "linear probe", "colour forest")]
    for text in given.learning_curve:
        each = Set.parse(text)
        learning_curve(each, given.seeds, few, outcomes, given.workers)
        curves += [f"{each.name}, {size} photos" for size in SIZES]
    seeds = ", ".join(map(str, given.seeds))
    parts = [
        "## Accuracy\n",
        f"`python -m benchmarks.accuracy`, seeds {seeds}. Balanced accuracy, mean over the seeds, with the 95 %",
        "interval over photos. Each seed puts a fifth of the photos aside, which no method learns from.\n",
    ]
    if tests:
        parts.append(table(tests, given.methods, outcomes))
    if curves:
        parts += [
            "\nLearning from few photos; judged on all the others. okko puts a fifth of the few aside for its own",
            "test, the others learn from all of them.\n",
        ]
        parts.append(table(curves, few, outcomes))
    replace_section(DOCUMENT, given.section, "\n".join(parts))


if __name__ == "__main__":
    main()
