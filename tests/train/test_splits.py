"""Divisions of photos: whole groups, every label everywhere, the same again from the same seed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from okko_train.splits import joint_groups, most_folds, stratified_folds, stratified_split

LABELS = np.array(["OK"] * 60 + ["KO"] * 40)


@st.composite
def problems(draw: st.DrawFn) -> tuple[list[int], list[int]]:
    """Labels and groups of up to 60 photos: any mixture."""
    n = draw(st.integers(4, 60))
    labels = draw(st.lists(st.integers(0, 2), min_size=n, max_size=n))
    groups = draw(st.lists(st.integers(0, 9), min_size=n, max_size=n))
    return labels, groups


def shares(labels: np.ndarray, indices: np.ndarray) -> list[float]:
    return [(labels[indices] == label).sum() / (labels == label).sum() for label in np.unique(labels)]


def test_without_groups_every_label_is_held_out_in_the_same_share() -> None:
    rest, held_out = stratified_split(LABELS, fraction=0.2, seed=3)
    assert shares(LABELS, held_out) == [0.2, 0.2]
    assert sorted([*rest, *held_out]) == list(range(100))
    assert (np.diff(rest) > 0).all()
    assert (np.diff(held_out) > 0).all()


def test_without_groups_every_fold_has_the_same_share_of_every_label() -> None:
    folds = stratified_folds(LABELS, k=5, seed=3)
    assert np.bincount(folds).tolist() == [20] * 5
    assert all(shares(LABELS, np.flatnonzero(folds == fold)) == [0.2, 0.2] for fold in range(5))


@settings(deadline=None)
@given(problem=problems(), fraction=st.floats(0.05, 0.95), seed=st.integers(0, 99))
def test_a_split_never_divides_a_group_nor_loses_a_label(
    problem: tuple[list[int], list[int]], fraction: float, seed: int
) -> None:
    labels, groups = np.array(problem[0]), np.array(problem[1])
    try:
        rest, held_out = stratified_split(labels, groups, fraction=fraction, seed=seed)
    except ValueError:
        # With one or two labels in two groups each, a split always exists.
        assert most_folds(labels, groups) < 2 or len(np.unique(labels)) > 2
        return
    assert sorted([*rest, *held_out]) == list(range(len(labels)))
    assert not set(groups[rest]) & set(groups[held_out])
    assert set(labels[rest]) == set(labels[held_out]) == set(labels)


@settings(deadline=None)
@given(problem=problems(), k=st.integers(2, 5), seed=st.integers(0, 99))
def test_folds_never_divide_a_group_nor_lack_a_label(problem: tuple[list[int], list[int]], k: int, seed: int) -> None:
    labels, groups = np.array(problem[0]), np.array(problem[1])
    try:
        folds = stratified_folds(labels, groups, k=k, seed=seed)
    except ValueError:
        return
    assert all(len(set(folds[groups == group])) == 1 for group in set(groups))
    assert all(set(folds[labels == label]) == set(range(k)) for label in set(labels))


def test_the_same_seed_gives_the_same_division_and_others_give_others() -> None:
    groups = np.arange(100) // 8
    splits = [stratified_split(LABELS, groups, fraction=0.25, seed=seed)[1].tolist() for seed in (1, 1, 2, 3, 4)]
    assert splits[0] == splits[1]
    assert len({tuple(split) for split in splits}) >= 3
    folds = [stratified_folds(LABELS, k=4, seed=seed).tolist() for seed in (1, 1, 2)]
    assert folds[0] == folds[1] != folds[2]


def test_what_groups_and_labels_are_called_changes_nothing() -> None:
    groups = np.arange(100) // 7
    named = np.array([f"rig {90 - group}" for group in groups])
    numbers = np.where(LABELS == "OK", 1, 0)
    split = stratified_split(LABELS, groups, fraction=0.3, seed=5)
    renamed = stratified_split(numbers, named, fraction=0.3, seed=5)
    np.testing.assert_array_equal(split[1], renamed[1])
    folds = stratified_folds(LABELS, groups, k=3, seed=5)
    np.testing.assert_array_equal(folds, stratified_folds(numbers, named, k=3, seed=5))


def test_five_photos_of_each_label_can_be_divided() -> None:
    labels = ["OK", "KO"] * 5
    rest, held_out = stratified_split(labels, fraction=0.2, seed=0)
    assert sorted(np.array(labels)[held_out]) == ["KO", "OK"]
    folds = stratified_folds(np.array(labels)[rest], k=4, seed=0)
    assert np.bincount(folds).tolist() == [2, 2, 2, 2]


@pytest.mark.parametrize("n_groups", [2, 3])
def test_two_or_three_groups_can_be_divided(n_groups: int) -> None:
    labels = np.array(["OK", "KO"] * 6)
    groups = np.arange(12) * n_groups // 12
    _, held_out = stratified_split(labels, groups, fraction=0.1, seed=0)
    assert set(groups[held_out]) < set(groups)
    assert len(set(groups[held_out])) == 1
    assert set(stratified_folds(labels, groups, k=n_groups, seed=0)) == set(range(n_groups))


def test_a_rare_label_is_on_both_sides() -> None:
    labels = np.array(["OK"] * 996 + ["KO"] * 4)
    for seed in range(5):
        rest, held_out = stratified_split(labels, fraction=0.1, seed=seed)
        assert (labels[held_out] == "KO").sum() == 1
        assert (labels[rest] == "KO").sum() == 3


def test_the_rest_can_be_divided_once_more_where_there_are_three_groups() -> None:
    # One large and two small groups of each label: the small ones alone would make the best fifth.
    labels = np.repeat([0, 1], 100)
    groups = np.r_[np.repeat([0, 1, 2], [80, 10, 10]), np.repeat([3, 4, 5], [80, 10, 10])]
    for seed in range(10):
        rest, _ = stratified_split(labels, groups, fraction=0.2, seed=seed)
        assert most_folds(labels[rest], groups[rest]) == 2


def test_groups_of_unequal_size_still_give_about_the_share_asked_for() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(30), rng.integers(2, 40, 30))
    labels = rng.integers(0, 2, len(groups))
    for seed in range(5):
        _, held_out = stratified_split(labels, groups, fraction=0.25, seed=seed)
        np.testing.assert_allclose(shares(labels, held_out), 0.25, atol=0.06)
        folds = stratified_folds(labels, groups, k=4, seed=seed)
        for fold in range(4):
            np.testing.assert_allclose(shares(labels, np.flatnonzero(folds == fold)), 0.25, atol=0.06)


def test_what_is_impossible_says_why() -> None:
    with pytest.raises(ValueError, match="label KO has 1 groups of photos; 2 parts that all have it need 2"):
        stratified_split(["OK", "OK", "KO", "KO"], [0, 1, 2, 2], fraction=0.5, seed=0)
    with pytest.raises(ValueError, match="label b has 2 groups of photos; 3 parts"):
        stratified_folds(["a", "a", "a", "b", "b"], k=3, seed=0)
    # Three labels, each in two of three groups: whichever way, one side lacks a label.
    with pytest.raises(ValueError, match="no division into 2 parts"):
        stratified_folds([0, 0, 1, 1, 2, 2], [0, 1, 1, 2, 2, 0], k=2, seed=0)


def test_arguments_out_of_range_are_named() -> None:
    for fraction in (0, 1, -0.5, float("nan")):
        with pytest.raises(ValueError, match="fraction must be between 0 and 1"):
            stratified_split(LABELS, fraction=fraction, seed=0)
    with pytest.raises(ValueError, match="k must be at least 2, not 1"):
        stratified_folds(LABELS, k=1, seed=0)
    with pytest.raises(ValueError, match="labels must be a non-empty list"):
        stratified_folds([], k=2, seed=0)
    with pytest.raises(ValueError, match="groups must have 100 entries like labels, not 3"):
        stratified_folds(LABELS, [1, 2, 3], k=2, seed=0)


def test_the_most_folds_are_the_groups_of_the_scarcest_label() -> None:
    assert most_folds(["OK", "OK", "KO", "KO", "KO"]) == 2
    assert most_folds(["OK", "OK", "KO", "KO", "KO"], [0, 1, 2, 2, 2]) == 1


def test_joint_groups_keep_together_what_either_keeps_together() -> None:
    user = ["a", "a", None, None, "b", None]
    clusters = [0, 1, 1, 2, 3, 3]
    # 0, 1 by group a; 1, 2 by cluster 1; 4, 5 by cluster 3; photo 3 is in no group and alone in its cluster.
    assert joint_groups(user, clusters).tolist() == [0, 0, 0, 1, 2, 2]


def test_photos_in_no_group_are_not_one_group() -> None:
    assert joint_groups([None] * 4, [0, 1, 2, 3]).tolist() == [0, 1, 2, 3]


def test_joint_groups_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="clusters must have 2 entries"):
        joint_groups(["a", "b"], [0])
