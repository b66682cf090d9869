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
