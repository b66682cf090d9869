"""How well and how fast the swarm searches, beside other libraries; writes the section of docs/benchmarks.md.

    python -m benchmarks.swarm [--quick] [--seeds 10]

The other libraries get a venv of their own under the user's cache folder. All times are CPU seconds on one thread, of
the same machine in the same run; every figure is a median over the seeds, with the quartiles where a spread is told.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
import tracemalloc
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import threadpoolctl
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from benchmarks import swarm_peers
from benchmarks.tables import replace_section
from okko_train.evolution import EvolutionStrategy, SeparableCMA
from okko_train.network import Network, fit
from okko_train.swarm import Swarm, learning
from okko_train.swarm_training import fit_by_swarm, initial_positions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.swarm_peers import Problem

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs" / "benchmarks.md"
BUDGET = 20_000
#: All of okko's rules; the first line is the default.
RULES: dict[str, dict[str, Any]] = {
    "**okko, default (learning)**": {},
    "okko, competitive": {"rule": "competitive"},
    "okko, SPSO-2011": {"rule": "spso2011"},
    "okko, inertia, global best": {"rule": "inertia"},
    "okko, constriction, ring": {"rule": "constriction", "topology": "ring"},
    "okko, constriction, von Neumann": {"rule": "constriction", "topology": "von_neumann"},
    "okko, inertia, random informants": {"rule": "inertia", "topology": "random"},
    "okko, fully informed, ring": {"rule": "informed"},
}
#: What the default would be with one choice changed; "gathered" is not a setting, it takes the rule apart.
CHOICES: dict[str, dict[str, Any]] = {
    "**default**": {},
    "the worse half learns, nobody searches": {"gathered": -1.0},
    "the better half searches from the start": {"gathered": np.inf},
    "20 particles": {"size": 20},
    "30 particles": {"size": 30},
    "60 particles": {"size": 60},
    "100 particles": {"size": 100},
    "walls absorb": {"walls": "absorb"},
    "walls wrap": {"walls": "wrap"},
    "walls: random coordinate": {"walls": "random"},
    "Sobol start": {"start": "sobol"},
    "Latin hypercube start": {"start": "latin"},
    "restart after 100 generations": {"restart_after": 100},
    "float32": {"dtype": "float32"},
}
LARGE: dict[str, dict[str, Any]] = {
    "**okko, default (learning)**": {},
    "okko, default, float32": {"dtype": "float32"},
    "okko, competitive, 100 particles": {"rule": "competitive", "size": 100, "mean_attraction": 0.1},
    "okko, inertia, global best": {"rule": "inertia"},
}
Results = dict[tuple[str, str, int], list[dict[str, float]]]


def main(arguments: list[str]) -> None:
    """Measures, prints the tables and writes them into the document."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.swarm", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two seeds, prints the tables and writes nothing")
    parser.add_argument("--seeds", type=int, default=10)
    asked = parser.parse_args(arguments)
    seeds = 2 if asked.quick else asked.seeds
    started = time.process_time()
    peers = peers_python()
    with threadpoolctl.threadpool_limits(1):
        results = measure_all(peers, seeds)
        parts = [
            "## The swarm",
            f"`python -m benchmarks.swarm`: {BUDGET:,} evaluations, {seeds} seeds, each with another shift of the "
            "optimum, 40 particles. Median error (quartiles); own time is CPU time on one thread that is not spent in "
            f"the function. Python {platform.python_version()}, numpy {np.__version__}, "
            f"{', '.join(swarm_peers.REQUIREMENTS[1:]).replace('==', ' ')}, {processor()}.",
            *(function_table(f"{d} dimensions", results, d, [*RULES, *swarm_peers.PEERS]) for d in (10, 30)),
            function_table("The default with one choice changed, 30 dimensions", results, 30, list(CHOICES)),
            large_table(results),
            memory_table(),
            weights_table(seeds),
        ]
    text = "\n\n".join(parts)
    print(text)
    print(f"\n{time.process_time() - started:.0f} s CPU here, without the other libraries", file=sys.stderr)
    if not asked.quick:
        replace_section(DOCUMENT, "swarm", text)


def peers_python() -> str:
    """Python of a venv that has the other libraries; made at the first call."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "okko" / "swarm-peers"
    python = cache / "bin" / "python"
    marker = cache / "installed"
    wanted = "\n".join(swarm_peers.REQUIREMENTS)
    if not marker.exists() or marker.read_text() != wanted:
        uv = str(Path(sys.executable).with_name("uv"))
        subprocess.run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(cache)], check=True)
        install = [uv, "pip", "install", "--quiet", "--python", str(python), *swarm_peers.REQUIREMENTS]
        subprocess.run(install, check=True)
        marker.write_text(wanted)
    return str(python)


def measure_all(peers: str, seeds: int) -> Results:
    """Every run of every method: (name, function, dimension) -> one result per seed."""
    results: Results = defaultdict(list)
    functions = list(swarm_peers.FUNCTIONS)
    small = [(function, dimension) for dimension in (10, 30) for function in functions]
    runs = [(name, *where, seed, BUDGET) for where in small for seed in range(seeds) for name in swarm_peers.PEERS]
    large = ("pyswarms, tuned", "turboswarm, informed", "cmaes")
    runs += [(name, "sphere", 1000, seed, BUDGET) for seed in range(seeds) for name in large]
    others = subprocess.Popen(
        [peers, str(Path(swarm_peers.__file__)), json.dumps(runs)], stdout=subprocess.PIPE, text=True
    )
    for name, choices in (RULES | CHOICES).items():
        for function, dimension in small:
            for seed in range(seeds):
                if name in RULES or dimension == 30:
                    results[name, function, dimension].append(run(choices, function, dimension, seed))
    for name, choices in LARGE.items():
        for seed in range(seeds):
            results[name, "sphere", 1000].append(run(choices, "sphere", 1000, seed))
    for seed in range(seeds):
        results["okko, SeparableCMA", "sphere", 1000].append(
            swarm_peers.measure(separable, "sphere", 1000, seed, BUDGET)
        )
    output, _ = others.communicate()
    if others.returncode:
        raise SystemExit("the other libraries' runs ended with an error, see above")
    for line in output.splitlines():
        name, function, dimension, _, result = json.loads(line)
        results[name, function, dimension].append(result)
    return results


def run(choices: dict[str, Any], function: str, dimension: int, seed: int) -> dict[str, float]:
    """One run of okko's swarm."""
    choices, usual = dict(choices), learning._GATHERED
    learning._GATHERED = choices.pop("gathered", usual)
    try:
        return swarm_peers.measure(lambda *how: okko(*how, **choices), function, dimension, seed, BUDGET)
    finally:
        learning._GATHERED = usual


def okko(problem: Problem, seed: int, budget: int, **choices: Any) -> None:
    """Okko's swarm until the budget is spent."""
    swarm = Swarm(problem.lower, problem.upper, seed=seed, **choices)
    while swarm.evaluations < budget:
        swarm.tell(problem(swarm.ask()))


def separable(problem: Problem, seed: int, budget: int) -> None:
    """Okko's separable CMA-ES, from a random point."""
    start = np.random.default_rng(seed).uniform(0.6 * problem.lower, 0.6 * problem.upper)
    width = problem.upper[0] - problem.lower[0]
    search = SeparableCMA(start, spread=0.1 * width, lower=problem.lower, upper=problem.upper, seed=seed)
    while search.evaluations < budget:
        search.tell(problem(search.ask()))


def function_table(title: str, results: Results, dimension: int, names: list[str]) -> str:
    """Error on each function, and own time per evaluation."""
    functions = list(swarm_peers.FUNCTIONS)
    lines = [
        f"**{title}**",
        "",
        f"| method | {' | '.join(functions)} | own time, µs per evaluation |",
        "|---|" + "---|" * (len(functions) + 1),
    ]
    for name in names:
        runs = [results[name, function, dimension] for function in functions]
        cells = [errors(r["best"] for r in group) for group in runs]
        own = [1e6 * r["own_s"] / r["evaluations"] for group in runs for r in group]
        lines.append(f"| {name} | {' | '.join(cells)} | {np.median(own):.2f} |")
    return "\n".join(lines)


def large_table(results: Results) -> str:
    """A thousand dimensions."""
    lines = [
        "**1000 dimensions, sphere**",
        "",
        "| method | error | against pyswarms, tuned | own time, µs per evaluation |",
        "|---|---|---|---|",
    ]
    tuned = np.median([r["best"] for r in results["pyswarms, tuned", "sphere", 1000]])
    for (name, _, dimension), runs in results.items():
        if dimension == 1000:
            best = [r["best"] for r in runs]
            own = np.median([1e6 * r["own_s"] / r["evaluations"] for r in runs])
            lines.append(f"| {name} | {errors(best)} | {np.median(best) / tuned:.2f} x | {own:.1f} |")
    return "\n".join(lines)


def memory_table() -> str:
    """What a swarm holds after a tenth of the evaluations and after all."""
    problem = swarm_peers.Problem("sphere", 1000, 0)
    tracemalloc.start()
    swarm, held = Swarm(problem.lower, problem.upper), []
    for budget in (BUDGET // 10, BUDGET):
        while swarm.evaluations < budget:
            swarm.tell(problem(swarm.ask()))
        held.append(tracemalloc.get_traced_memory()[0] / 1e6)
    tracemalloc.stop()
    return (
        f"Memory held by a swarm of 40 particles in 1000 dimensions: {held[0]:.1f} MB after {BUDGET // 10:,} "
        f"evaluations, {held[1]:.1f} MB after {BUDGET:,}."
    )


def weights_table(seeds: int) -> str:
    """Thousands of weights: where a swarm cannot win."""
    lines = [
        f"**Thousands of weights**: digits, network 64-32-10 (2,410 weights), {BUDGET:,} evaluations of all training "
        "samples without any gradient; Adam, 30 epochs, beside them.",
        "",
        "| trained by | training cross-entropy | test accuracy | CPU s |",
        "|---|---|---|---|",
    ]
    found: dict[str, list[tuple[float, float, float]]] = defaultdict(list)
    for seed, (X, U, y, v) in enumerate(digits(seeds)):
        for name, train in trainers(X, y, seed).items():
            network = Network((64, 32, 10), ("relu", "softmax"), seed=seed)
            started = time.process_time()
            train(network)
            seconds = time.process_time() - started
            p = network.predict(X)
            entropy = -np.log(p[np.arange(len(y)), y] + 1e-12).mean()
            found[name].append((float(entropy), float((network.predict(U).argmax(axis=1) == v).mean()), seconds))
    for name, measured in found.items():
        entropy, accuracy, seconds = np.array(measured).T
        low, high = np.quantile(accuracy, (0.25, 0.75))
        shown = f"{np.median(accuracy):.3f} ({low:.3f} to {high:.3f})"
        lines.append(f"| {name} | {errors(entropy)} | {shown} | {np.median(seconds):.2f} |")
    return "\n".join(lines)


def digits(seeds: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """Digits, another split for each seed."""
    X, y = load_digits(return_X_y=True)
    for seed in range(seeds):
        yield train_test_split((X / 16).astype(np.float32), y, test_size=0.25, stratify=y, random_state=seed)


def trainers(X: np.ndarray, y: np.ndarray, seed: int) -> dict[str, Callable[[Network], object]]:
    """Name and training of a network."""

    def without_gradient(network: Network, optimizer: Any) -> None:
        spent = lambda *_: optimizer.evaluations >= BUDGET  # noqa: E731
        fit_by_swarm(network, X, y, generations=BUDGET, optimizer=optimizer, on_generation=spent)

    def swarm(rule: str) -> Callable[[Network], None]:
        def train(network: Network) -> None:
            edge = np.full(network.weights.size, 4.0)
            start = initial_positions(network, 40, seed).clip(-4, 4)
            optimizer = Swarm(-edge, edge, rule=rule, size=40, start=start, seed=seed, dtype=network.dtype)
            without_gradient(network, optimizer)

        return train

    def strategy(network: Network) -> None:
        optimizer = EvolutionStrategy(network.weights, spread=0.05, seed=seed, dtype=network.dtype)
        without_gradient(network, optimizer)

    def separable_cma(network: Network) -> None:
        optimizer = SeparableCMA(network.weights, spread=0.05, seed=seed, dtype=network.dtype)
        without_gradient(network, optimizer)

    return {
        "swarm, global best": swarm("inertia"),
        "swarm, default": swarm("learning"),
        "`SeparableCMA`": separable_cma,
        "`EvolutionStrategy`": strategy,
        "backpropagation (Adam)": lambda network: fit(
            network, X, y, epochs=30, batch_size=32, learning_rate=5e-3, seed=seed
        ),
    }


def errors(values: Any) -> str:
    """Median and quartiles of errors that span many powers of ten."""
    values = np.array(list(values))
    return f"{short(np.median(values))} ({' to '.join(short(q) for q in np.quantile(values, (0.25, 0.75)))})"


def short(value: float) -> str:
    """Two digits."""
    if value == 0:
        return "0"
    if 0.001 <= abs(value) < 1000:
        return f"{value:.2g}"
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def processor() -> str:
    """Name of this machine's processor."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


if __name__ == "__main__":
    main(sys.argv[1:])
