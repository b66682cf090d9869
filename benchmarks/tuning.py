"""How well the swarm tunes beside TPE, CMA-ES and chance, and how well a search uses and survives its workers.

    python -m benchmarks.tuning [--seeds 20] [--quick]

Three small tasks, 30 trials each, every tuner on the same conditional space and the same seeds; the objective is the
validation cross-entropy of a network. All on one thread; the searches with workers sleep instead of computing, so that
the number of processors does not matter.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import threadpoolctl
from scipy.stats import rankdata, wilcoxon
from sklearn.datasets import load_breast_cancer, load_digits, make_classification
from sklearn.model_selection import train_test_split

from benchmarks.network import processor
from benchmarks.tables import replace_section
from okko_train.network import Network, TrainingDivergedError, fit
from okko_train.optimizers import Adam
from okko_train.scoring import Score, combined_cost
from okko_train.search import TUNERS, Options, sampler, search
from okko_train.space import Float, Space

DOCUMENT = Path(__file__).parents[1] / "docs" / "benchmarks.md"
TASKS = ("digits", "synthetic", "breast cancer")
ACTIVATIONS = ("sigmoid", "relu", "leaky_relu", "tanh")
TRIALS, EPOCHS, WORST = 30, 20, 20.0
GAP_CONFIGURATIONS = 30
WORKERS, KILLS = 8, 6


def main(arguments: list[str]) -> None:
    """Measures, prints the tables and writes them into the document."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tuning", description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--quick", action="store_true", help="two seeds, and nothing is written")
    parser.add_argument("--survivor", metavar="FILE", help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    if asked.survivor:
        survivor(Path(asked.survivor))
        return
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    seeds = 2 if asked.quick else asked.seeds
    with threadpoolctl.threadpool_limits(1):
        started = time.process_time()
        parts = [
            "## Tuning",
            f"`python -m benchmarks.tuning --seeds {seeds}`, one thread; Python {platform.python_version()}, numpy "
            f"{np.__version__}, Optuna {optuna.__version__}, {processor()}.",
            tuners_table(seeds),
            gap_table(seeds),
            workers_table(),
            killed_table(),
        ]
    text = "\n\n".join(parts)
    print(text)
    print(f"\n{time.process_time() - started:.0f} s of CPU", file=sys.stderr)
    if not asked.quick:
        replace_section(DOCUMENT, "tuning", text)


@cache
def dataset(task: str) -> tuple[np.ndarray, np.ndarray, int]:
    """Features, classes, and how many rows to train on (500 or 230 more are for validation, the rest for the test)."""
    if task == "digits":
        X, y = load_digits(return_X_y=True)
        return (X / 16).astype(np.float32), y, 400
    if task == "synthetic":
        X, y = make_classification(
            1800,
            20,
            n_informative=10,
            n_redundant=4,
            n_classes=4,
            n_clusters_per_class=3,
            class_sep=1.2,
            flip_y=0.02,
            random_state=5,
        )
    else:
        X, y = load_breast_cancer(return_X_y=True)
    return ((X - X.mean(axis=0)) / X.std(axis=0)).astype(np.float32), y, 150 if task == "breast cancer" else 400


@cache
def parts(task: str, seed: int) -> tuple[np.ndarray, ...]:
    """Training, validation and test part: features and classes of each."""
    X, y, n = dataset(task)
    held = 230 if task == "breast cancer" else 500
    A, T, a, t = train_test_split(X, y, train_size=n + held, stratify=y, random_state=seed)
    L, V, b, v = train_test_split(A, a, train_size=n, stratify=a, random_state=seed)
    return L, b, V, v, T, t


@dataclass(frozen=True)
class Measured:
    """Cross-entropies on the part learnt from and on the validation part, and the accuracy on the test part."""

    train: float
    validation: float
    test_accuracy: float


def suggest(trial: optuna.Trial) -> dict[str, Any]:
    """The space of R's automl and a little more: up to 13 parameters, 6 of them conditional."""
    h = {
        "rate": trial.suggest_float("rate", 1e-5, 1e-1, log=True),
        "batch": 2 ** trial.suggest_int("batch", 2, 9),
        "beta1": 1 - trial.suggest_float("1 - beta1", 1e-2, 1e-1, log=True),
        "beta2": 1 - trial.suggest_float("1 - beta2", 1e-4, 1e-2, log=True),
        "l2": trial.suggest_float("l2", 1e-3, 1e1, log=True),
        "decay": trial.suggest_float("decay", 0, 0.2),
        "layers": [],
    }
    for layer in range(trial.suggest_int("layers", 0, 2)):
        h["layers"].append(
            (
                trial.suggest_int(f"units {layer}", 3, 64),
                trial.suggest_categorical(f"activation {layer}", ACTIVATIONS),
                trial.suggest_float(f"dropout {layer}", 0, 0.5),
            )
        )
    return h


def measure(task: str, seed: int, h: dict[str, Any]) -> Measured:
    """Trains the network of these hyperparameters."""
    X, y, V, v, T, t = parts(task, seed)
    units, activations, dropout = zip(*h["layers"], strict=True) if h["layers"] else ((), (), ())
    shape = (X.shape[1], *units, int(y.max()) + 1)
    network = Network(shape, (*activations, "softmax"), seed=seed, dropout=(0.0, *dropout))
    try:
        fit(
            network,
            X,
            y,
            optimizer=Adam(h["beta1"], h["beta2"]),
            learning_rate=h["rate"],
            learning_rate_decay=h["decay"] or None,
            l2=h["l2"] / len(X),
            epochs=EPOCHS,
            batch_size=h["batch"],
            seed=seed,
        )
    except TrainingDivergedError:
        return Measured(WORST, WORST, 0.0)
    costs = [float(-np.log(network.predict(a)[np.arange(len(b)), b] + 1e-12).mean()) for a, b in ((X, y), (V, v))]
    accuracy = float((network.predict(T).argmax(axis=1) == t).mean())
    return Measured(*(cost if np.isfinite(cost) else WORST for cost in costs), accuracy)


def tuners_table(seeds: int) -> str:
    """The swarm against the other tuners; ranks are among these tuners."""
    best = {task: {tuner: np.empty(seeds) for tuner in TUNERS} for task in TASKS}
    half = {task: {tuner: np.empty(seeds) for tuner in TUNERS} for task in TASKS}
    own = dict.fromkeys(TUNERS, 0.0)
    for task in TASKS:
        for seed in range(seeds):
            for tuner in TUNERS:
                study = optuna.create_study(sampler=sampler(tuner, seed))
                for _ in range(TRIALS):
                    started = time.process_time()
                    trial = study.ask()
                    h = suggest(trial)
                    own[tuner] += time.process_time() - started
                    study.tell(trial, measure(task, seed, h).validation)
                costs = np.minimum.accumulate([trial.value for trial in study.trials])
                best[task][tuner][seed], half[task][tuner][seed] = costs[-1], costs[TRIALS // 2 - 1]
    ranks = {
        task: dict(zip(TUNERS, rankdata([best[task][tuner] for tuner in TUNERS], axis=0), strict=True))
        for task in TASKS
    }
    lines = [
        f"**Tuners**: {TRIALS} trials one after the other, {seeds} seeds; up to 13 parameters, 6 of them conditional; "
        "median of the best validation cross-entropy after 15 and after 30 trials. p: Wilcoxon signed-rank over tasks "
        "and seeds on log costs, two-sided. ms: own time of the tuner for each trial.",
        "",
        "| tuner | " + " | ".join(TASKS) + " | mean rank of 4 | better than chance | p to chance | p to TPE | ms |",
        "|---" * (len(TASKS) + 6) + "|",
    ]
    logs = {tuner: np.log(np.concatenate([best[task][tuner] for task in TASKS])) for tuner in TUNERS}
    for tuner in sorted(TUNERS, key=lambda one: mean_rank(ranks, one)):
        cells = [f"{np.median(half[task][tuner]):.4f}, {np.median(best[task][tuner]):.4f}" for task in TASKS]
        wins = float((logs[tuner] < logs["random"]).mean())
        milliseconds = 1e3 * own[tuner] / (TRIALS * seeds * len(TASKS))
        p = [p_value(logs[tuner], logs[other]) for other in ("random", "tpe")]
        cells += [f"{mean_rank(ranks, tuner):.2f}", f"{100 * wins:.0f} %", *p, f"{milliseconds:.1f}"]
        lines.append(f"| {tuner} | " + " | ".join(cells) + " |")
    per_task = "; ".join(
        f"{task} {', '.join(f'{tuner} {ranks[task][tuner].mean():.2f}' for tuner in TUNERS)}" for task in TASKS
    )
    return "\n".join([*lines, "", f"Mean ranks task by task: {per_task}."])


def mean_rank(ranks: dict[str, dict[str, np.ndarray]], tuner: str) -> float:
    """Over tasks and seeds."""
    return float(np.mean([ranks[task][tuner] for task in TASKS]))


def p_value(one: np.ndarray, other: np.ndarray) -> str:
    """Of the hypothesis that neither is better."""
    if not (one != other).any():
        return ""
    p = wilcoxon(one, other).pvalue
    return f"{p:.3f}" if p >= 0.001 else "< 0.001"


def gap_table(seeds: int) -> str:
    """What choosing by the score of R's automl costs on the test part."""
    lines = [
        f"**The gap penalty**: of {GAP_CONFIGURATIONS} random sets of hyperparameters the best by each score, "
        f"{seeds} seeds; mean test accuracy, and the difference with its standard error.",
        "",
        "| task | no penalty (0) | half (0.5) | as R's automl (1) | 1 minus 0 |",
        "|---|---|---|---|---|",
    ]
    for task in TASKS:
        chosen = np.empty((seeds, 3))
        for seed in range(seeds):
            study = optuna.create_study(sampler=sampler("random", 1000 + seed))
            found = [measure(task, seed, suggest(study.ask())) for _ in range(GAP_CONFIGURATIONS)]
            for column, penalty in enumerate((0.0, 0.5, 1.0)):
                best = min(found, key=lambda m: combined_cost(m.train, m.validation, penalty))
                chosen[seed, column] = best.test_accuracy
        difference = chosen[:, 2] - chosen[:, 0]
        error = difference.std(ddof=1) / np.sqrt(seeds)
        cells = [f"{value:.4f}" for value in chosen.mean(axis=0)]
        lines.append(f"| {task} | " + " | ".join(cells) + f" | {difference.mean():+.4f} ± {error:.4f} |")
    return "\n".join(lines)


SLEEPS = Space({"x": Float(-1, 1), "y": Float(-1, 1)})
LOG = "OKKO_BENCHMARK_LOG"


def sleeper(h: dict[str, float], report: object = None) -> Score:  # noqa: ARG001
    """A trial of .05 to 1 s, by its parameters; notes in a file when it began and when it ended."""
    began = time.monotonic()
    time.sleep(0.05 * 20 ** abs(np.sin(1e4 * (h["x"] + 2 * h["y"]))))
    cost = h["x"] ** 2 + h["y"] ** 2
    with Path(os.environ[LOG]).open("a") as log:
        log.write(f"{os.getpid()} {began} {time.monotonic()}\n")
    return Score(cost, cost, cost, 0.0, 1)


def workers_table() -> str:
    """How busy workers are when trial times vary."""
    lines = [
        "**Workers** on trials that sleep .05 to 1 s (a factor of 20): share of their time that they work, from the "
        "moment when the last worker is ready until the last trial begins, and until it ends. Beside it: if whole "
        "generations waited for their slowest trial.",
        "",
        "| workers | trials | busy until the last trial begins | until it ends | in generations |",
        "|---|---|---|---|---|",
    ]
    for workers, trials in ((4, 60), (8, 60), (8, 120)):
        with tempfile.TemporaryDirectory() as folder:
            log = Path(folder) / "log"
            os.environ[LOG] = str(log)
            search(sleeper, SLEEPS, Options(trials=trials, workers=workers))
            spans = np.array([[float(word) for word in line.split()] for line in log.read_text().splitlines()])
        process, began, ended = spans.T
        ready = max(began[process == one].min() for one in np.unique(process))
        shares = [
            np.maximum(0, np.minimum(ended, until) - np.maximum(began, ready)).sum() / (workers * (until - ready))
            for until in (began.max(), ended.max())
        ]
        lengths = (ended - began)[np.argsort(began)]
        rounds = [lengths[i : i + workers].max() for i in range(0, trials, workers)]
        cells = [f"{100 * share:.0f} %" for share in (*shares, lengths.sum() / (workers * sum(rounds)))]
        lines.append(f"| {workers} | {trials} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def survivor(storage: Path) -> None:
    """A search that is going to be killed; the workers are named in the environment."""
    workers = int(os.environ["OKKO_BENCHMARK_WORKERS"])
    search(sleeper, SLEEPS, Options(trials=40, seed=5, workers=workers, storage=storage))


def killed_table() -> str:
    """Searches whose processes are killed at random moments, and resumed until they are done."""
    lines = [
        "**Killed and resumed**: 40 trials; at random moments a worker or the whole search is killed (SIGKILL), and "
        "the search is started again with the same file.",
        "",
        "| workers | kills of a worker | kills of the search | trials in the end | lost | counted twice | against an "
        "uninterrupted run |",
        "|---|---|---|---|---|---|---|",
    ]
    for workers in (1, WORKERS):
        with tempfile.TemporaryDirectory() as folder:
            os.environ[LOG] = str(Path(folder) / "log")
            storage = Path(folder) / "study.db"
            kills = killing_spree(storage, workers)
            trials = search(sleeper, SLEEPS, Options(trials=40, seed=5, storage=storage)).trials
            numbers = [trial.number for trial in trials if trial.state == "complete"]
            whole = search(sleeper, SLEEPS, Options(trials=40, seed=5)).trials if workers == 1 else ()
            same = [(trial.parameters, trial.score) for trial in trials] == [(t.parameters, t.score) for t in whole]
            verdict = ("bit-identical" if same else "different") if workers == 1 else "order differs"
            cells = [*kills, len(numbers), 40 - len(set(numbers)), len(numbers) - len(set(numbers)), verdict]
        lines.append(f"| {workers} | " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def killing_spree(storage: Path, workers: int) -> tuple[int, int]:
    """Runs a search to its end, over and over killed; returns the kills of workers and of the search."""
    chance = random.Random(workers)
    environment = {**os.environ, "OKKO_BENCHMARK_WORKERS": str(workers)}
    command = [sys.executable, "-m", "benchmarks.tuning", "--survivor", str(storage)]
    kills = {"worker": 0, "search": 0}
    while True:
        victim = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
        for _ in range(1 + chance.randrange(3)):
            try:
                victim.wait(3 + 2 * chance.random())
                return kills["worker"], kills["search"]
            except subprocess.TimeoutExpired:
                children = children_of(victim.pid)
                if workers > 1 and children and sum(kills.values()) < KILLS:
                    os.kill(chance.choice(children), signal.SIGKILL)
                    kills["worker"] += 1
        if sum(kills.values()) < 2 * KILLS:
            victim.kill()
            kills["search"] += 1
        victim.wait()


def children_of(pid: int) -> list[int]:
    """Worker processes of a process (not multiprocessing's own helper)."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    children = [child for task in tasks for child in (task / "children").read_text().split()]
    return [int(child) for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


if __name__ == "__main__":
    main(sys.argv[1:])
