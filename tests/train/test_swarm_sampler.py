"""The swarm as Optuna's sampler: spaces of every kind, several workers, dead workers, and no memory of its own."""

import multiprocessing
import os
import signal
import time

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from okko_train.swarm_history import MOVE, PARTICLE, History, step_of
from okko_train.swarm_sampler import Settings, SwarmSampler
from okko_train.swarm_screening import Screen, place, value_at

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
optuna.logging.set_verbosity(optuna.logging.ERROR)


def mixed(trial):
    """Every kind of parameter, with conditions that nest."""
    rate = trial.suggest_float("rate", 1e-5, 1.0, log=True)
    cost = (np.log10(rate) + 3) ** 2
    layers = trial.suggest_int("layers", 0, 2)
    for layer in range(layers):
        cost += abs(np.log(trial.suggest_int(f"units {layer}", 2, 200, log=True) / 20))
        if trial.suggest_categorical(f"kind {layer}", ["a", "b", "c"]) == "c":
            cost += trial.suggest_float(f"share {layer}", 0, 1, step=0.25)
    return cost + abs(layers - 1) + trial.suggest_int("even", 0, 10, step=2) / 10


def study_of(n, seed=0, objective=mixed, **settings):
    study = optuna.create_study(sampler=SwarmSampler(seed=seed), **settings)
    study.optimize(objective, n_trials=n)
    return study


def particle_of(study, trial):
    return study.trials[trial.number].system_attrs[PARTICLE]


def described(study):
    return [(trial.params, trial.value) for trial in study.trials]


def test_every_kind_of_parameter_stays_in_its_range_and_its_grid():
    for trial in study_of(80).trials:
        assert set(trial.params) >= {"rate", "layers", "even"}
        assert ("units 0" in trial.params) == (trial.params["layers"] > 0)
        for name, value in trial.params.items():
            distribution = trial.distributions[name]
            assert distribution._contains(distribution.to_internal_repr(value))
            assert isinstance(value, int) == isinstance(distribution, IntDistribution)


def test_the_same_seed_flies_the_same_way_and_another_seed_another():
    assert described(study_of(30)) == described(study_of(30))
    assert described(study_of(30)) != described(study_of(30, seed=1))


def test_it_finds_better_than_chance():
    swarm = [study_of(30, seed).best_value for seed in range(10)]
    chance = []
    for seed in range(10):
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
        study.optimize(mixed, n_trials=30)
        chance.append(study.best_value)
    assert np.mean(swarm) < 0.75 * np.mean(chance)


def test_maximising_is_minimising_the_negative():
    lowest = study_of(25)
    highest = study_of(25, objective=lambda trial: -mixed(trial), direction="maximize")
    assert [trial.params for trial in lowest.trials] == [trial.params for trial in highest.trials]


def test_a_monotone_change_of_the_cost_changes_nothing():
    plain, bent = study_of(25), study_of(25, objective=lambda trial: np.exp(mixed(trial)) - 7)
    assert [trial.params for trial in plain.trials] == [trial.params for trial in bent.trials]


def test_the_first_trials_fill_every_stratum_of_every_parameter():
    n = Settings().first
    study = study_of(n, objective=lambda trial: trial.suggest_float("x", 0, n) + trial.suggest_float("y", 0, n))
    for name in "xy":
        assert sorted(int(trial.params[name]) for trial in study.trials) == list(range(n))


def test_a_fresh_sampler_continues_exactly_where_another_was_stopped():
    whole = study_of(30)
    study = optuna.create_study(sampler=SwarmSampler())
    for n in (5, 9, 16):
        study.sampler = SwarmSampler()
        study.optimize(mixed, n_trials=n)
    assert described(study) == described(whole)


def test_a_particle_moves_when_its_own_result_is_known_and_not_before():
    study = optuna.create_study(sampler=SwarmSampler())
    study.optimize(mixed, n_trials=Settings().first)
    running = [study.ask() for _ in range(Settings().size)]
    particles = [particle_of(study, trial) for trial in running]
    assert len(set(particles)) == len(particles)  # each one moves once
    study.tell(running[3], mixed(running[3]))
    assert particle_of(study, study.ask()) == particles[3]  # the only one whose result is known
    assert [trial.system_attrs[MOVE] for trial in study.trials[-7:]] == [1] * 6 + [2]


def test_more_workers_than_particles_never_get_the_same_suggestion():
    study = optuna.create_study(sampler=SwarmSampler())
    study.optimize(mixed, n_trials=Settings().first)
    running = [study.ask() for _ in range(20)]
    rates = [trial.suggest_float("rate", 1e-5, 1.0, log=True) for trial in running]
    assert len(set(rates)) == 20


def test_workers_may_begin_before_any_result_is_known():
    study = optuna.create_study(sampler=SwarmSampler())
    running = [study.ask() for _ in range(30)]
    costs = [mixed(trial) for trial in running]
    assert len({trial.params["rate"] for trial in running}) == 30
    for trial, cost in zip(running, costs, strict=True):
        study.tell(trial, cost)
    assert particle_of(study, study.ask()) in range(30)


def test_failed_and_pruned_trials_move_a_particle_but_teach_it_nothing():
    def treacherous(trial):
        cost = mixed(trial)
        if trial.number % 3 == 1:
            raise ValueError
        trial.report(cost, 0)
        if trial.number % 3 == 2:
            raise optuna.TrialPruned
        return cost

    study = optuna.create_study(sampler=SwarmSampler())
    study.optimize(treacherous, n_trials=40, catch=ValueError)
    history = History.of(study.get_trials(), study.direction)
    assert {trial.state for trial in history.ranking} == {TrialState.COMPLETE}
    assert sum(len(path) for path in history.paths.values()) == 40
    assert all(trial.value == history.costs[trial.number] for trial in history.ranking)


def test_trials_of_others_are_learnt_from():
    study = optuna.create_study(sampler=SwarmSampler())
    study.enqueue_trial({"x": 2.0})
    for x in np.linspace(-10, 10, 15):
        params, distributions = {"x": x}, {"x": FloatDistribution(-10, 10)}
        study.add_trial(optuna.create_trial(params=params, distributions=distributions, value=(x - 1) ** 2))
    study.optimize(lambda trial: (trial.suggest_float("x", -10, 10) - 1) ** 2, n_trials=15)
    assert study.trials[0].params == {"x": 2.0}
    assert study.best_value < 0.05


def file_storage(path):
    """SQLite in which workers show that they are alive, and trials of dead ones are repeated."""
    return optuna.storages.RDBStorage(
        f"sqlite:///{path}",
        heartbeat_interval=1,
        grace_period=2,
        heartbeat_stale_trial_callback=optuna.storages.RetryHeartbeatStaleTrialCallback(),
    )


def work(path, n, die_in=None):
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)

    def objective(trial):
        cost = mixed(trial)
        if trial.number == die_in:
            time.sleep(0.5)  # the first heartbeat must reach the storage, or Optuna never misses the second
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.005)
        return cost

    study = optuna.load_study(study_name="s", storage=file_storage(path), sampler=SwarmSampler())
    study.optimize(objective, n_trials=n)


def test_a_trial_of_a_killed_worker_is_repeated_with_its_suggestions_and_the_rest_is_as_if_nothing_happened(tmp_path):
    path = tmp_path / "study.db"
    study = optuna.create_study(study_name="s", storage=file_storage(path), sampler=SwarmSampler())
    context = multiprocessing.get_context("spawn")
    for die_in in (13, None):
        worker = context.Process(target=work, args=(path, 4 if die_in is None else 20, die_in))
        worker.start()
        worker.join()
        time.sleep(2.5 if die_in else 0)  # until the heart has not beaten for the grace period
    trials = study.get_trials()
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 13 + [TrialState.FAIL] + [
        TrialState.COMPLETE
    ] * 4
    assert trials[14].params == trials[13].params
    assert [step_of(trial, trials) for trial in trials] == [*range(14), 13, 14, 15, 16]
    done = [(trial.params, trial.value) for trial in trials if trial.state == TrialState.COMPLETE]
    assert done == described(study_of(17))


def test_several_processes_share_a_study_without_repeating_each_other(tmp_path):
    path = tmp_path / "study.db"
    study = optuna.create_study(study_name="s", storage=file_storage(path))
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=work, args=(path, 8)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 24
    assert len({trial.params["rate"] for trial in study.trials}) == 24


@pytest.mark.parametrize(
    ("distribution", "values"),
    [
        (FloatDistribution(-3, 5), [-3.0, 0.5, 5.0]),
        (FloatDistribution(1e-4, 10, log=True), [1e-4, 0.3, 10.0]),
        (FloatDistribution(0, 1, step=0.1), [0.0, 0.3, 1.0]),
        (IntDistribution(1, 64, log=True), [1, 2, 17, 64]),
        (IntDistribution(-4, 8, step=3), [-4, -1, 8]),
    ],
)
def test_a_place_in_a_range_leads_back_to_the_value(distribution, values):
    random = np.random.default_rng(0)
    for value in values:
        assert value_at(place(value, distribution), distribution) == pytest.approx(value, rel=1e-9)
        if getattr(distribution, "step", None):
            assert value_at(place(value, distribution, random), distribution) == pytest.approx(value)
    units = np.linspace(0, 1, 50)
    assert all(distribution._contains(value_at(unit, distribution)) for unit in units)
    assert (np.diff([value_at(unit, distribution) for unit in units]) >= 0).all()


def test_the_screen_expects_most_where_good_trials_are():
    distributions = {"x": FloatDistribution(0, 1), "kind": CategoricalDistribution(("a", "b"))}
    trials = [
        optuna.create_trial(params={"x": x, "kind": kind}, distributions=distributions, value=x + (kind == "a"))
        for kind in "ab"
        for x in np.linspace(0, 1, 6)
    ]
    screen = Screen(sorted(trials, key=lambda trial: trial.value))
    expected = screen.expected_ranks([{"x": x, "kind": kind} for x, kind in [(0.05, "b"), (0.95, "b"), (0.95, "a")]])
    assert (np.diff(expected) > 0).all()
    assert np.isfinite(screen.expected_ranks([{"kind": "a"}])).all()
