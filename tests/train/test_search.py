"""The search: budgets, pruning, workers, a storage that survives being killed, and the space it asks for."""

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import optuna
import pytest

from okko_models.errors import OkkoError
from okko_train.scoring import FAILED, Objective, Score, combined_cost, fold_numbers
from okko_train.search import TUNERS, Options, sampler, search, suggest
from okko_train.search_workers import MOST_DEATHS
from okko_train.space import Categorical, Float, Integer, Space
from okko_train.tabular import Table
from okko_train.tuned_network import DEFAULTS, Targets

SPACE = Space(
    {
        "layers": Integer(0, 2),
        "units": Integer(4, 64, scale="log", when=("layers", (1, 2))),
        "rate": Float(1e-4, 1.0, scale="log"),
        "momentum": Float(0.5, 0.99, scale="reverse_log"),
        "kind": Categorical(("a", "b", "c")),
    }
)
FIRST = {"layers": 1, "units": 16, "rate": 0.1, "momentum": 0.9, "kind": "b"}


def score(cost: float, folds: int = 1, given_up: bool = False) -> Score:
    return Score(cost, cost, cost, 0.5, folds, given_up)


def bowl(parameters, report=None) -> Score:
    kind = {"a": 0.0, "b": 0.2, "c": 0.4}[parameters["kind"]]
    return score((math.log10(parameters["rate"]) + 2) ** 2 + (parameters["layers"] - 1) ** 2 + kind)


def slow_bowl(parameters, report=None) -> Score:
    time.sleep(0.03)
    return bowl(parameters)


def deadly_once(parameters, report=None) -> Score:
    """Kills the worker that scores the first trial, once."""
    mark = Path(os.environ["OKKO_TEST_MARK"])
    if parameters["rate"] == FIRST["rate"] and not mark.exists():
        mark.write_text("")
        os.kill(os.getpid(), signal.SIGKILL)
    return bowl(parameters)


def deadly(parameters, report=None) -> Score:
    os.kill(os.getpid(), signal.SIGKILL)
    return FAILED


def described(result):
    return [(t.number, t.parameters, t.state, t.score) for t in result.trials]


@pytest.mark.parametrize("tuner", TUNERS)
def test_every_tuner_stays_in_the_space_and_repeats_itself(tuner):
    result = search(bowl, SPACE, Options(trials=15, tuner=tuner, seed=3), first=FIRST)
    for trial in result.trials:
        SPACE.encode(trial.parameters)
        assert ("units" in trial.parameters) == (trial.parameters["layers"] > 0)
    assert described(result) == described(search(bowl, SPACE, Options(trials=15, tuner=tuner, seed=3), first=FIRST))
    assert result.best.score.cost == min(trial.score.cost for trial in result.trials)


def test_the_first_trial_is_the_one_that_was_asked_for():
    first = search(bowl, SPACE, Options(trials=2), first=FIRST).trials[0].parameters
    assert first.pop("momentum") == pytest.approx(0.9)
    assert first == {name: value for name, value in FIRST.items() if name != "momentum"}


def test_switched_off_parameters_are_not_asked_for():
    trial = optuna.trial.FixedTrial({"layers": 0, "rate": 0.1, "1 - momentum": 0.1, "kind": "a"})
    assert suggest(trial, SPACE) == {"layers": 0, "rate": 0.1, "momentum": 0.9, "kind": "a"}


def test_an_unknown_tuner_is_named_with_the_known_ones():
    with pytest.raises(OkkoError, match=r"'grid'.*swarm, tpe, cmaes, random"):
        sampler("grid", 0)


def test_no_trial_starts_after_the_deadline_and_the_one_under_way_ends():
    deadline_s = time.monotonic() + 0.15
    result = search(slow_bowl, SPACE, Options(trials=1000, deadline_s=deadline_s))
    assert result.stopped_by_budget
    assert 1 <= len(result.trials) <= 6
    assert sum(trial.seconds for trial in result.trials[:-1]) <= 0.15


def test_a_budget_that_is_over_before_the_first_trial_is_an_error():
    with pytest.raises(OkkoError, match="--budget"):
        search(bowl, SPACE, Options(deadline_s=time.monotonic()))


def test_failed_trials_are_survived_and_counted():
    def sometimes(parameters, report):
        return FAILED if parameters["kind"] == "a" else bowl(parameters)

    result = search(sometimes, SPACE, Options(trials=12))
    assert {trial.state for trial in result.trials} == {"complete", "failed"}
    with pytest.raises(OkkoError, match="none of 3 trials"):
        search(lambda parameters, report: FAILED, SPACE, Options(trials=3))


def test_a_hopeless_trial_is_given_up_after_a_fold_and_never_wins():
    asked = []

    def three_folds(parameters, report):
        cost = bowl(parameters).cost
        for fold in (1, 2):
            asked.append(fold)
            if report(fold, cost):
                return score(cost, fold, given_up=True)
        return score(cost, 3)

    result = search(three_folds, SPACE, Options(trials=40, tuner="random"))
    pruned = [trial for trial in result.trials if trial.state == "pruned"]
    assert pruned
    assert all(trial.score.folds < 3 and trial.score.cost > result.best.score.cost for trial in pruned)
    n = len(asked)
    everything = search(three_folds, SPACE, Options(trials=40, tuner="random", prune=False))
    assert all(trial.state == "complete" for trial in everything.trials)
    assert len(asked) - n == 80 > n


def test_a_search_in_a_file_goes_on_and_equals_one_that_was_never_interrupted(tmp_path):
    whole = search(bowl, SPACE, Options(trials=20, seed=1), first=FIRST)
    file = tmp_path / "study.db"
    for trials in (3, 14, 20):
        parts = search(bowl, SPACE, Options(trials=trials, seed=1, storage=file), first=FIRST)
    assert described(parts) == described(whole)


@pytest.mark.parametrize("tuner", TUNERS)
def test_no_tuner_repeats_itself_after_a_resume_and_progress_counts_what_was_done(tuner, tmp_path):
    notes = []
    for trials in (3, 6):
        options = Options(trials=trials, tuner=tuner, storage=tmp_path / "study.db")
        result = search(bowl, SPACE, options, on_trial=lambda note="": notes.append(note))
    assert len({trial.parameters["rate"] for trial in result.trials}) == 6
    assert len(notes) == 3 + 6


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {folder!r})
from test_search import FIRST, SPACE, bowl
from okko_train.search import Options, search
left = int(sys.argv[2])
def dying(parameters, report):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return bowl(parameters)
search(dying, SPACE, Options(trials=20, seed=1, storage=Path(sys.argv[1])), first=FIRST)
"""


def test_killed_in_the_middle_of_a_trial_and_resumed_it_is_bit_identical_and_runs_nothing_twice(tmp_path):
    whole = search(bowl, SPACE, Options(trials=20, seed=1), first=FIRST)
    file = tmp_path / "study.db"
    program = KILLED.format(folder=str(Path(__file__).parent))
    for left in (0, 5, 9):
        done = subprocess.run([sys.executable, "-c", program, file, str(left)], capture_output=True, check=False)
        assert done.returncode == -signal.SIGKILL, done.stderr
    counted = []
    resumed = search(
        lambda p, report: counted.append(p) or bowl(p), SPACE, Options(trials=20, seed=1, storage=file), first=FIRST
    )
    assert described(resumed) == described(whole)
    assert len(counted) == 20 - 14


def test_workers_find_what_one_process_finds_and_lose_no_trial():
    result = search(bowl, SPACE, Options(trials=14, tuner="random", seed=2, workers=3), first=FIRST)
    alone = search(bowl, SPACE, Options(trials=14, tuner="random", seed=2), first=FIRST)
    assert [t.number for t in result.trials] == list(range(14))
    assert result.trials[0].parameters == alone.trials[0].parameters
    assert len({repr(t.parameters) for t in result.trials}) == 14


def test_a_killed_worker_is_replaced_and_its_trial_done_again(tmp_path, monkeypatch):
    monkeypatch.setenv("OKKO_TEST_MARK", str(tmp_path / "mark"))
    result = search(deadly_once, SPACE, Options(trials=4, workers=2), first=FIRST)
    assert (tmp_path / "mark").exists()
    assert [(t.number, t.state) for t in result.trials] == [(n, "complete") for n in range(4)]
    assert result.trials[0].score == bowl(FIRST)


def test_a_trial_that_kills_every_worker_ends_the_search_with_a_reason():
    with pytest.raises(OkkoError, match=f"{MOST_DEATHS} worker processes died"):
        search(deadly, SPACE, Options(trials=2, workers=2), first=FIRST)


def test_one_file_serves_one_search_at_a_time(tmp_path):
    file = tmp_path / "study.db"

    def nested(parameters, report):
        with pytest.raises(OkkoError, match="another search"):
            search(bowl, SPACE, Options(trials=1, storage=file))
        return bowl(parameters)

    assert len(search(nested, SPACE, Options(trials=1, storage=file)).trials) == 1


def test_a_file_of_another_search_or_no_study_at_all_is_refused(tmp_path):
    file = tmp_path / "study.db"
    search(bowl, SPACE, Options(trials=1, storage=file, identity="iris"))
    with pytest.raises(OkkoError, match="another table"):
        search(bowl, SPACE, Options(trials=2, storage=file, identity="titanic"))
    (tmp_path / "notes.txt").write_text("no database" * 100)
    with pytest.raises(OkkoError, match=r"notes\.txt"):
        search(bowl, SPACE, Options(trials=1, storage=tmp_path / "notes.txt"))


def test_the_gap_penalty_is_off_at_0_and_that_of_r_at_1():
    assert combined_cost(0.2, 0.5, 0.0) == 0.5
    assert combined_cost(0.2, 0.5, 1.0) == pytest.approx(abs(0.2 - 0.5) + (1.5 * 0.5 + 0.2) / 2.5)
    assert combined_cost(0.2, 0.5, 0.5) == pytest.approx((0.5 + 0.68) / 2)


def blobs(n=60, seed=0):
    random = np.random.default_rng(seed)
    y = np.arange(n) % 3
    X = random.normal(0, 1, (n, 2)) + np.array([[0, 0], [4, 0], [0, 4]])[y]
    return Table(("a", "b"), X, (), np.empty((n, 0), object)), Targets.of(y, "classification")


def test_a_score_is_of_held_out_rows_and_repeats_itself():
    table, targets = blobs()
    objective = Objective.of(table, targets, n_folds=3)
    first, again = objective(DEFAULTS), objective(DEFAULTS)
    assert first == again
    assert first.folds == 3
    assert first.skill > 0.9
    assert first.cost == first.validation != first.train
    assert objective.given({}, overfit=True)(DEFAULTS).cost == first.train
    assert objective.given(DEFAULTS)({}) == first
    assert objective.given({**DEFAULTS, "hidden_layers": 0})({}) != first
    hopeless = objective({**DEFAULTS, "epochs": 10}, lambda folds, cost: True)
    assert hopeless.given_up
    assert hopeless.folds == 1


def test_a_score_is_infinite_where_training_diverges():
    table, targets = blobs()
    assert Objective.of(table, targets)({**DEFAULTS, "learning_rate": 1e38}) == FAILED


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_a_group_is_never_on_both_sides_of_a_fold(task):
    groups = np.repeat(np.arange(12), 5)
    targets = Targets.of(np.arange(60) % 2 if task == "classification" else np.arange(60.0), task)
    folds = fold_numbers(targets, groups, 5, seed=0)
    assert set(folds) == set(range(5))
    assert all(len(set(folds[groups == group])) == 1 for group in range(12))


def test_folds_have_like_shares_of_each_class():
    targets = Targets.of(np.repeat(["a", "b"], [40, 10]), "classification")
    folds = fold_numbers(targets, None, 5, seed=0)
    assert all((folds[:40] == number).sum() == 8 and (folds[40:] == number).sum() == 2 for number in range(5))
