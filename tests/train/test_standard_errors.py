import numpy as np
import pytest

from okko_train.metrics import clearly_better, standard_errors

RNG = np.random.default_rng(0)


def test_photos_that_err_alone_have_the_usual_standard_error():
    values = RNG.normal(0, 2, (3, 400))
    expected = values.std(axis=1, ddof=1) / np.sqrt(400)
    np.testing.assert_allclose(standard_errors(values, np.arange(400)), expected)


def test_photos_seen_four_times_say_no_more_than_once():
    values, groups = RNG.normal(0, 2, (1, 100)), RNG.permutation(100)
    once = standard_errors(values, groups)
    assert standard_errors(np.repeat(values, 4, axis=1), np.repeat(groups, 4)) == pytest.approx(once)


def test_one_group_says_nothing_of_others():
    losses = RNG.exponential(1, 50)
    assert np.isinf(standard_errors(losses[None], np.zeros(50, np.int64))).all()
    assert not clearly_better(losses, losses + 1, np.zeros(50, np.int64))
    assert clearly_better(losses, losses + 1, np.arange(50) // 10)
    assert not clearly_better(losses, losses, np.arange(50))


def share_of_luck(n_groups, best_of):
    """How often the best of so many choices, all as good as the other one, is clearly better than it."""
    luck = 0
    for _ in range(400):
        rivals = RNG.normal(1, 0.5, (best_of, n_groups))
        best = rivals[rivals.mean(axis=1).argmin()]
        luck += clearly_better(best, RNG.normal(1, 0.5, n_groups), np.arange(n_groups), best_of=best_of)
    return luck / 400


@pytest.mark.parametrize("n_groups", [6, 200])
@pytest.mark.parametrize("best_of", [1, 29])
def test_chance_makes_the_best_of_any_number_clearly_better_one_time_in_six_at_most(n_groups, best_of):
    assert share_of_luck(n_groups, best_of) < 0.22


def test_what_is_better_on_all_photos_is_clearly_better_though_it_is_the_best_of_many():
    other = RNG.exponential(1, 60)
    assert clearly_better(0.8 * other, other, np.arange(60), best_of=29)
