"""How fast the network trains, how fast a swarm of networks is evaluated, and where the swarm wins or loses.

    python -m benchmarks.network [--torch PYTHON] [--seeds 10]

All times are CPU seconds on one thread; every figure is a median over the seeds with its range, or a mean with its
standard error. PyTorch is compared only if a Python that has it is named.
"""

from __future__ import annotations

import argparse
import platform
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import sklearn
import threadpoolctl
from sklearn.datasets import load_breast_cancer, load_digits, load_iris, make_classification
from sklearn.model_selection import KFold, StratifiedKFold, train_test_split
from sklearn.neural_network import MLPClassifier

from benchmarks.tables import replace_section
from okko_train import costs
from okko_train.network import Network, fit
from okko_train.population import Population
from okko_train.swarm_training import fit_by_swarm, refine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DOCUMENT = Path(__file__).parents[1] / "docs" / "benchmarks.md"
EPOCHS, RATE, BATCH = 30, 5e-3, 32


def main(arguments: list[str]) -> None:
    """Measures, prints the tables and writes them into the document."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.network", description=__doc__.splitlines()[0])
    parser.add_argument("--torch", metavar="PYTHON", help="a Python that has PyTorch")
    parser.add_argument("--seeds", type=int, default=10)
    asked = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    with threadpoolctl.threadpool_limits(1):
        parts = [
            "## The network",
            f"`python -m benchmarks.network`, CPU time on one thread, {asked.seeds} seeds; Python "
            f"{platform.python_version()}, numpy {np.__version__}, scikit-learn {sklearn.__version__}, {processor()}.",
            training_table(asked.seeds, asked.torch),
            batch_table(asked.seeds),
            iris_table(asked.seeds),
            many_weights_table(asked.seeds),
            decisions_table(),
        ]
    text = "\n\n".join(parts)
    print(text)
    replace_section(DOCUMENT, "network", text)


def processor() -> str:
    """Name of this machine's processor."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def cpu_s(work: Callable[..., object], *arguments: object, **settings: object) -> float:
    """CPU seconds of one call."""
    started = time.process_time()
    work(*arguments, **settings)
    return time.process_time() - started


def spread(values: object, digits: int = 3) -> str:
    """Median and range."""
    values = np.asarray(values, float)
    return f"{np.median(values):.{digits}f} ({values.min():.{digits}f} to {values.max():.{digits}f})"


def mean_se(values: object) -> str:
    """Mean and standard error."""
    values = np.asarray(values, float)
    return f"{values.mean():.4f} ± {values.std(ddof=1) / np.sqrt(len(values)):.4f}"


def standardised(X: np.ndarray, U: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both parts in the units of the first."""
    mean, scale = X.mean(axis=0), X.std(axis=0) + 1e-9
    return ((X - mean) / scale).astype(np.float32), ((U - mean) / scale).astype(np.float32)


def splits(shape: tuple[int, ...], seeds: int) -> list[tuple[np.ndarray, ...]]:
    """Train and test part for each seed: digits, or as many synthetic features as the network has inputs."""
    if shape[0] == 64:
        X, y = load_digits(return_X_y=True)
    else:
        X, y = make_classification(800, shape[0], n_informative=30, class_sep=2.0, random_state=0)
    result = []
    for seed in range(seeds):
        a, b, c, d = train_test_split(X, y, test_size=0.25, stratify=y, random_state=seed)
        result.append((*standardised(a, b), c.astype(np.int64), d.astype(np.int64)))
    return result


def training_table(seeds: int, torch: str | None) -> str:
    """Adam against scikit-learn and PyTorch."""
    lines = [
        f"**Training**: Adam, {EPOCHS} epochs, batches of {BATCH}, learning rate {RATE}, float32, 75 % of the samples.",
        "",
        "| network | with | CPU s, median (range) | against okko | test accuracy, median (range) |",
        "|---|---|---|---|---|",
    ]
    for shape in ((64, 32, 10), (1280, 32, 2)):
        data = splits(shape, seeds)
        runs = {"okko": [okko_run(shape, *part, seed=seed) for seed, part in enumerate(data)]}
        runs["scikit-learn MLPClassifier"] = [sklearn_run(shape, *part, seed=seed) for seed, part in enumerate(data)]
        if torch:
            runs["PyTorch"] = torch_runs(torch, shape, data)
        name = "-".join(map(str, shape))
        base = np.median([seconds for seconds, _ in runs["okko"]])
        for tool, measured in runs.items():
            seconds, accuracy = np.array(measured).T
            lines.append(
                f"| {name} | {tool} | {spread(seconds)} | {np.median(seconds) / base:.1f} x | {spread(accuracy)} |"
            )
    return "\n".join(lines)


def okko_run(shape: tuple[int, ...], X: np.ndarray, U: np.ndarray, y: np.ndarray, v: np.ndarray, seed: int) -> tuple:
    """CPU seconds and test accuracy."""
    network = Network(shape, ("relu",) * (len(shape) - 2) + ("softmax",), seed=seed)
    seconds = cpu_s(fit, network, X, y, learning_rate=RATE, epochs=EPOCHS, batch_size=BATCH, seed=seed)
    return seconds, (network.predict(U).argmax(axis=1) == v).mean()


def sklearn_run(shape: tuple[int, ...], X: np.ndarray, U: np.ndarray, y: np.ndarray, v: np.ndarray, seed: int) -> tuple:
    """The same; no penalty, and no stopping before the last epoch."""
    model = MLPClassifier(
        shape[1:-1],
        alpha=0.0,
        learning_rate_init=RATE,
        max_iter=EPOCHS,
        batch_size=BATCH,
        tol=0.0,
        n_iter_no_change=EPOCHS + 1,
        random_state=seed,
    )
    return cpu_s(model.fit, X, y), model.score(U, v)


def torch_runs(python: str, shape: tuple[int, ...], data: list[tuple[np.ndarray, ...]]) -> list[tuple[float, float]]:
    """The same, in another process with another Python."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data.npz"
        names = ("X", "U", "y", "v")
        np.savez(path, **{f"{n}{seed}": a for seed, part in enumerate(data) for n, a in zip(names, part, strict=True)})
        script = Path(__file__).with_name("network_torch.py")
        settings = ["-".join(map(str, shape)), str(EPOCHS), str(RATE), str(BATCH), str(len(data))]
        done = subprocess.run([python, script, path, *settings], capture_output=True, text=True, check=True)
    return [tuple(map(float, line.split())) for line in done.stdout.splitlines()]


def batch_table(seeds: int) -> str:
    """All particles at once against one after the other."""
    lines = [
        "**A swarm of networks, evaluated**: softmax cross-entropy of each particle, float32, µs per particle.",
        "",
        "| network, samples | particles | loop over particles | batched | ratio |",
        "|---|---|---|---|---|",
    ]
    for shape, load in (((4, 10, 3), load_iris), ((64, 32, 10), load_digits)):
        X, y = load(return_X_y=True)
        X, _ = standardised(X, X)
        network = Network(shape, ("relu", "softmax"))
        targets = np.eye(shape[-1], dtype=np.float32)[y].T.copy()
        cost = costs.resolve("cross_entropy", "softmax")
        population = Population(network, X)
        for particles in (50, 200):
            positions = np.random.default_rng(0).normal(0, 0.3, (particles, network.weights.size)).astype(np.float32)
            loop, batched = [], []
            for _ in range(max(seeds, 10)):
                loop.append(cpu_s(one_after_the_other, positions, shape, X, y) / particles * 1e6)
                batched.append(cpu_s(population.costs, positions, cost, targets) / particles * 1e6)
            ratio = np.median(np.array(loop) / batched)
            name = "-".join(map(str, shape))
            lines.append(
                f"| {name}, {len(X)} | {particles} | {spread(loop, 1)} | {spread(batched, 1)} | {ratio:.1f} x |"
            )
    return "\n".join(lines)


def one_after_the_other(positions: np.ndarray, shape: tuple[int, ...], X: np.ndarray, y: np.ndarray) -> list[float]:
    """The plain way: one network per turn of a loop, in numpy."""
    found, rows = [], np.arange(len(X))
    d, h, k = shape
    for w in positions:
        first, second = w[: h * (d + 1)].reshape(h, d + 1), w[h * (d + 1) :].reshape(k, h + 1)
        hidden = np.maximum(X @ first[:, :-1].T + first[:, -1], 0)
        z = hidden @ second[:, :-1].T + second[:, -1]
        z -= z.max(axis=1, keepdims=True)
        found.append(float((np.log(np.exp(z).sum(axis=1)) - z[rows, y]).mean()))
    return found


def iris_table(seeds: int) -> str:
    """The swarm finds all weights of a small network."""
    X, y = load_iris(return_X_y=True)
    lines = [
        "**Iris, 4-10-3 (83 weights)**, 10-fold cross-validation; costs on the training parts.",
        "",
        "| trained by | training cross-entropy, median (range) | accuracy, median (range) | CPU s of all folds |",
        "|---|---|---|---|",
    ]
    ways: dict[str, Callable[[Network, np.ndarray, np.ndarray, int], object]] = {
        "swarm, 50 particles, 50 generations": lambda n, a, b, s: fit_by_swarm(n, a, b, seed=s),
        "swarm, 50 particles, 200 generations": lambda n, a, b, s: fit_by_swarm(n, a, b, generations=200, seed=s),
        "Adam, 100 epochs": lambda n, a, b, s: fit(n, a, b, epochs=100, learning_rate=0.01, batch_size=16, seed=s),
    }
    for name, train in ways.items():
        entropy, accuracy, seconds = [], [], []
        for seed in range(seeds):
            right, cost, cpu = 0, [], 0.0
            for rows, held_out in StratifiedKFold(10, shuffle=True, random_state=seed).split(X, y):
                a, b = standardised(X[rows], X[held_out])
                network = Network((4, 10, 3), ("relu", "softmax"), seed=seed)
                cpu += cpu_s(train, network, a, y[rows], seed)
                right += (network.predict(b).argmax(axis=1) == y[held_out]).sum()
                cost.append(-np.log(network.predict(a)[np.arange(len(a)), y[rows]] + 1e-30).mean())
            entropy.append(np.median(cost))
            accuracy.append(right / len(X))
            seconds.append(cpu)
        lines.append(f"| {name} | {spread(entropy, 4)} | {spread(accuracy)} | {spread(seconds)} |")
    return "\n".join(lines)


def many_weights_table(seeds: int) -> str:
    """Where the swarm cannot win."""
    lines = [
        "**Many weights**: digits, 20,000 evaluations of a swarm or an evolution strategy against 30 epochs of Adam.",
        "",
        "| network | weights | trained by | test accuracy, median (range) | CPU s |",
        "|---|---|---|---|---|",
    ]
    for shape in ((64, 10), (64, 32, 10)):
        found: dict[str, list[tuple[float, float]]] = {"swarm": [], "evolution": [], "Adam": []}
        for seed, (X, U, y, v) in enumerate(splits(shape, seeds)):
            for way, generations in (("swarm", 400), ("evolution", 392)):  # of 50, and of 51 networks
                network = Network(shape, ("relu",) * (len(shape) - 2) + ("softmax",), seed=seed)
                seconds = cpu_s(fit_by_swarm, network, X, y, generations=generations, seed=seed, optimizer=way)
                found[way].append(((network.predict(U).argmax(axis=1) == v).mean(), seconds))
            adam = okko_run(shape, X, U, y, v, seed)
            found["Adam"].append((adam[1], adam[0]))
        for name, measured in found.items():
            accuracy, seconds = np.array(measured).T
            shown = "-".join(map(str, shape))
            lines.append(f"| {shown} | {network.weights.size} | {name} | {spread(accuracy)} | {spread(seconds, 2)} |")
    return "\n".join(lines)


def revenue_lost(y: np.ndarray, p: np.ndarray) -> np.ndarray:
    """What a price list loses: a buyer pays the asked price p if it is at most what it is worth to him, y."""
    return np.mean(y - np.where(p <= y, p, 0.0), axis=(-2, -1))


def tasks() -> Iterator[tuple[str, np.ndarray, np.ndarray, np.ndarray | None]]:
    """Name, features, targets, and what decisions cost ([true, decided]); None for the price list."""
    yield "breast cancer, 5 FP + FN", *load_breast_cancer(return_X_y=True), np.array([[0, 5], [1, 0]])
    common = {"n_informative": 6, "flip_y": 0.08}
    X, y = make_classification(1500, 12, n_clusters_per_class=3, class_sep=0.8, weights=[0.8], random_state=3, **common)
    yield "synthetic, FP + 8 FN", X, y, np.array([[0, 1], [8, 0]])
    X, y = make_classification(300, 8, n_informative=4, class_sep=0.8, flip_y=0.1, weights=[0.7], random_state=7)
    yield "small synthetic, FP + 4 FN", X, y, np.array([[0, 1], [4, 0]])
    X, y = make_classification(900, 10, n_classes=3, n_clusters_per_class=2, random_state=5, **common)
    yield "three classes, 1 to 10", X, y, np.array([[0, 1, 4], [2, 0, 1], [10, 3, 0]])
    rng = np.random.default_rng(11)
    X = rng.normal(size=(1200, 6))
    noise = 0.3 + 2.2 / (1 + np.exp(-2 * X[:, 3]))
    yield "price list", X, 10 + 2 * X[:, 0] + 1.5 * np.tanh(X[:, 1]) * X[:, 2] + noise * rng.normal(size=1200), None


def decisions_table() -> str:
    """Costs without a gradient, 5 folds x 3 seeds."""
    ways = (
        "Adam",
        "Adam + best threshold",
        "Adam + least expected cost",
        "Adam, then expected cost",
        "swarm, all weights",
        "hybrid",
    )
    lines = [
        "**Costs without a gradient**: test cost, mean ± standard error of 3 x 5 folds, one hidden layer of 8 tanh "
        "units. The threshold (for prices: the factor) is chosen on the training part; least expected cost decides by "
        "the network's probabilities and the cost matrix, and tunes nothing; `DecisionCost.expected` is followed by "
        "Adam for as many epochs again; hybrid is Adam, then `refine`. "
        "Last column: hybrid minus Adam + threshold, fold by fold.",
        "",
        "| task | " + " | ".join(ways) + " | hybrid - threshold |",
        "|---|" + "---|" * (len(ways) + 1),
    ]
    for name, X, y, matrix in tasks():
        found: dict[str, list[float]] = {way: [] for way in ways}
        for seed in range(3):
            folds = KFold(5, shuffle=True, random_state=seed)
            if matrix is not None:
                folds = StratifiedKFold(5, shuffle=True, random_state=seed)
            for rows, held_out in folds.split(X, y):
                a, b = standardised(X[rows], X[held_out])
                measure = prices if matrix is None else decisions
                for way, cost in measure(a, b, y[rows], y[held_out], matrix, seed).items():
                    found[way].append(cost)
        shown = [mean_se(found[way]) if found[way] else "" for way in ways]
        difference = (
            mean_se(np.subtract(found["hybrid"], found["Adam + best threshold"]))
            if found["Adam + best threshold"]
            else ""
        )
        lines.append(f"| {name} | " + " | ".join(shown) + f" | {difference} |")
    return "\n".join(lines)


def decisions(a: np.ndarray, b: np.ndarray, y: np.ndarray, v: np.ndarray, matrix: np.ndarray, seed: int) -> dict:
    """Test cost of each way for one fold of a classification."""
    shape, activations = (a.shape[1], 8, len(matrix)), ("tanh", "softmax")
    cost, found = costs.DecisionCost(matrix), {}

    def paid(decided: np.ndarray) -> float:
        return float(matrix[v, decided].mean())

    adam = Network(shape, activations, seed=seed)
    fit(adam, a, y, epochs=60, learning_rate=RATE, l2=1e-3, seed=seed)
    found["Adam"] = paid(adam.predict(b).argmax(axis=1))
    found["Adam + least expected cost"] = paid((adam.predict(b) @ matrix).argmin(axis=1))
    if len(matrix) == 2:
        score = adam.logits(a) @ [-1, 1]
        thresholds = np.quantile(score, np.linspace(0, 1, 201))
        costs_there = [matrix[y, (score > threshold).astype(int)].mean() for threshold in thresholds]
        best = thresholds[int(np.argmin(costs_there))]
        found["Adam + best threshold"] = paid((adam.logits(b) @ [-1, 1] > best).astype(int))
    hybrid = adam.copy()
    refine(hybrid, a, y, cost=cost, seed=seed)
    found["hybrid"] = paid(hybrid.predict(b).argmax(axis=1))
    fit(adam, a, y, cost=cost.expected(), epochs=60, learning_rate=RATE, l2=1e-3, seed=seed)
    found["Adam, then expected cost"] = paid(adam.predict(b).argmax(axis=1))
    swarm = Network(shape, activations, seed=seed)
    fit_by_swarm(swarm, a, y, cost=cost, generations=300, seed=seed)
    found["swarm, all weights"] = paid(swarm.predict(b).argmax(axis=1))
    return found


def prices(a: np.ndarray, b: np.ndarray, y: np.ndarray, v: np.ndarray, matrix: None, seed: int) -> dict:  # noqa: ARG001
    """Test cost of each way for one fold of the price list."""
    unit = y.mean()
    y, v, found = y[:, None] / unit, v[:, None] / unit, {}
    adam = Network((a.shape[1], 8, 1), ("tanh", "linear"), seed=seed)
    fit(adam, a, y, cost="mse", epochs=60, learning_rate=RATE, l2=1e-4, seed=seed)
    found["Adam"] = float(revenue_lost(v, adam.predict(b)))
    factors = np.linspace(0.5, 1.2, 141)
    best = factors[int(np.argmin([revenue_lost(y, factor * adam.predict(a)) for factor in factors]))]
    found["Adam + best threshold"] = float(revenue_lost(v, best * adam.predict(b)))
    refine(adam, a, y, cost=revenue_lost, seed=seed)
    found["hybrid"] = float(revenue_lost(v, adam.predict(b)))
    swarm = Network((a.shape[1], 8, 1), ("tanh", "linear"), seed=seed)
    fit_by_swarm(swarm, a, y, cost=revenue_lost, generations=300, seed=seed)
    found["swarm, all weights"] = float(revenue_lost(v, swarm.predict(b)))
    return found


if __name__ == "__main__":
    main(sys.argv[1:])
