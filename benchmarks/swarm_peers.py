"""The test functions of `benchmarks.swarm`, and the other libraries on them; runs in a venv that has only those.

    PYTHON swarm_peers.py '[["pyswarms tuned", "sphere", 10, 0, 20000], ...]'

prints one JSON line per run: name, function, dimension, seed, and best cost, evaluations and own seconds. All libraries
get the same shifted function, budget, box and number of particles (40).
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import sys
import time
import warnings
from typing import TYPE_CHECKING

if __name__ == "__main__":
    for threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"):
        os.environ[threads] = "1"

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

#: Half the width of each function's box, as usual in the literature.
FUNCTIONS = {"sphere": 100.0, "rosenbrock": 30.0, "rastrigin": 5.12, "ackley": 32.0, "griewank": 600.0}
REQUIREMENTS = (
    "numpy", "scipy==1.17.1", "pyswarms==1.3.0", "turboswarm==0.8.0", "mealpy==3.0.2", "pymoo==0.6.2", "cmaes==0.13.1"
)  # fmt: skip


class Problem:
    """A function whose optimum lies anywhere in the inner 60 % of the box; counts evaluations and its own time."""

    def __init__(self, function: str, dimension: int, seed: int) -> None:
        half = FUNCTIONS[function]
        self.function, self.dimension = function, dimension
        self.lower, self.upper = np.full(dimension, -half), np.full(dimension, half)
        random = np.random.default_rng([seed, dimension, len(function)])
        self.optimum = random.uniform(-0.6 * half, 0.6 * half, dimension)
        self.evaluations, self.seconds, self.best = 0, 0.0, np.inf

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Costs (n,) of positions (n, dimension); positions outside the box never count as best."""
        started = time.process_time()
        x = np.asarray(x, float)
        cost = self._cost(x - self.optimum)
        inside = ((x >= self.lower - 1e-9) & (x <= self.upper + 1e-9)).all(axis=1)
        self.best = min(self.best, float(cost[inside].min(initial=np.inf)))
        self.evaluations += len(x)
        self.seconds += time.process_time() - started
        return cost

    def one(self, x: np.ndarray) -> float:
        """Cost of one position (dimension,)."""
        return float(self(np.asarray(x)[np.newaxis])[0])

    def _cost(self, z: np.ndarray) -> np.ndarray:
        d = z.shape[1]
        if self.function == "sphere":
            return (z * z).sum(axis=1)
        if self.function == "rosenbrock":
            z = z + 1
            return (100 * (z[:, 1:] - z[:, :-1] ** 2) ** 2 + (1 - z[:, :-1]) ** 2).sum(axis=1)
        if self.function == "rastrigin":
            return 10 * d + (z * z - 10 * np.cos(2 * np.pi * z)).sum(axis=1)
        if self.function == "ackley":
            waves = np.exp(np.cos(2 * np.pi * z).sum(axis=1) / d)
            return 20 + np.e - 20 * np.exp(-0.2 * np.sqrt((z * z).sum(axis=1) / d)) - waves
        return 1 + (z * z).sum(axis=1) / 4000 - np.cos(z / np.sqrt(np.arange(1, d + 1))).prod(axis=1)


def measure(method: Callable[[Problem, int, int], None], function: str, dimension: int, seed: int, budget: int) -> dict:
    """One run: best cost, evaluations, and CPU seconds that were not spent in the function."""
    problem = Problem(function, dimension, seed)
    started = time.process_time()
    method(problem, seed + 1, budget)
    own = time.process_time() - started - problem.seconds
    # Rounding can leave a found optimum a little below zero.
    return {"best": max(problem.best, 0.0), "evaluations": problem.evaluations, "own_s": own}


def _pyswarms(problem: Problem, seed: int, budget: int, options: dict, **handling: object) -> None:
    import pyswarms

    np.random.seed(seed)  # noqa: NPY002  (pyswarms has no other way)
    bounds = (problem.lower, problem.upper)
    swarm = pyswarms.single.GlobalBestPSO(40, problem.dimension, options, bounds=bounds, **handling)
    swarm.optimize(problem, iters=budget // 40, verbose=False)


def pyswarms_documented(problem: Problem, seed: int, budget: int) -> None:
    """The options of its documentation."""
    _pyswarms(problem, seed, budget, {"c1": 0.5, "c2": 0.3, "w": 0.9})


def pyswarms_tuned(problem: Problem, seed: int, budget: int) -> None:
    """Constriction coefficients, nearest bound, inverted and clamped velocity: the best of its many options."""
    limit = 0.2 * (problem.upper[0] - problem.lower[0])
    handling = {"bh_strategy": "nearest", "vh_strategy": "invert", "velocity_clamp": (-limit, limit)}
    _pyswarms(problem, seed, budget, {"c1": 1.49618, "c2": 1.49618, "w": 0.7298}, **handling)


def turboswarm(problem: Problem, seed: int, budget: int, **choices: object) -> None:
    """Its default, all particles in one call."""
    import turboswarm

    bounds = list(zip(problem.lower, problem.upper, strict=True))
    common = {"vectorized": True, "record_history": False, "n_particles": 40, "max_iter": budget // 40 - 1}
    turboswarm.minimize(problem, bounds, max_evals=budget, seed=seed, **common, **choices)


def turboswarm_informed(problem: Problem, seed: int, budget: int) -> None:
    """Fully informed on a ring."""
    turboswarm(problem, seed, budget, velocity="fips", topology="ring", c1=2.05, c2=2.05)


def mealpy(problem: Problem, seed: int, budget: int) -> None:
    """Its best particle swarm in a survey of six."""
    from mealpy import PSO, FloatVar

    task = {"bounds": FloatVar(lb=problem.lower, ub=problem.upper), "obj_func": problem.one, "minmax": "min"}
    PSO.HPSO_TVAC(epoch=budget // 40 - 1, pop_size=40).solve(
        task | {"log_to": None, "save_population": False}, seed=seed
    )


def pymoo(problem: Problem, seed: int, budget: int) -> None:
    """Its adaptive swarm."""
    from pymoo.algorithms.soo.nonconvex.pso import PSO
    from pymoo.core.problem import Problem as PymooProblem
    from pymoo.optimize import minimize

    class Wrapped(PymooProblem):
        def __init__(self) -> None:
            super().__init__(n_var=problem.dimension, n_obj=1, xl=problem.lower, xu=problem.upper)

        def _evaluate(self, x: np.ndarray, out: dict, *_: object, **__: object) -> None:
            out["F"] = problem(x)[:, np.newaxis]

    minimize(Wrapped(), PSO(pop_size=40), ("n_eval", budget), seed=seed, verbose=False)


def cmaes(problem: Problem, seed: int, budget: int) -> None:
    """CMA-ES, restarted with twice the population when it has converged; separable beyond 100 dimensions."""
    import cmaes

    random, width = np.random.default_rng(seed), problem.upper[0] - problem.lower[0]
    box, size = np.stack([problem.lower, problem.upper], axis=1), None
    while problem.evaluations < budget:
        start = random.uniform(0.6 * problem.lower, 0.6 * problem.upper)
        if problem.dimension > 100:
            strategy = cmaes.SepCMA(start, 0.1 * width, seed=seed)
        else:
            strategy = cmaes.CMA(
                start, 0.3 * width, bounds=box, seed=int(random.integers(1 << 30)), population_size=size
            )
        size = 2 * strategy.population_size
        while problem.evaluations < budget and not strategy.should_stop():
            x = np.array([strategy.ask() for _ in range(strategy.population_size)]).clip(problem.lower, problem.upper)
            strategy.tell(list(zip(x, problem(x), strict=True)))


def scipy_de(problem: Problem, seed: int, budget: int) -> None:
    """Differential evolution with 40 members, all in one call."""
    from scipy.optimize import differential_evolution

    first = np.random.default_rng(seed).uniform(problem.lower, problem.upper, (40, problem.dimension))
    differential_evolution(
        lambda x: problem(x.T), list(zip(problem.lower, problem.upper, strict=True)), init=first, polish=False, tol=0,
        maxiter=budget // 40 - 1, vectorized=True, updating="deferred", rng=seed,
    )  # fmt: skip


PEERS = {
    "pyswarms, documented options": pyswarms_documented,
    "pyswarms, tuned": pyswarms_tuned,
    "turboswarm": turboswarm,
    "turboswarm, informed": turboswarm_informed,
    "mealpy HPSO-TVAC": mealpy,
    "pymoo PSO": pymoo,
    "scipy DE": scipy_de,
    "cmaes": cmaes,
}


def main() -> None:
    """Runs what the first argument lists."""
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    known: set[str] = set()
    for name, function, dimension, seed, budget in json.loads(sys.argv[1]):
        with contextlib.redirect_stdout(io.StringIO()):
            if name not in known:  # the import is not part of the measurement
                measure(PEERS[name], "sphere", 3, 0, 400)
                known.add(name)
            result = measure(PEERS[name], function, dimension, seed, budget)
        print(json.dumps([name, function, dimension, seed, result]), flush=True)


if __name__ == "__main__":
    main()
