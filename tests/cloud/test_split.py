import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from okko_cloud.split import SPLIT, Frozen, deal, extend, freeze, load
from okko_models.errors import OkkoError
from tests.models.registry.simulator import MemoryStore


class Photos:
    """As much of a dataset as a split looks at."""

    def __init__(self, labels, digests, groups=None):
        self.targets = np.array(labels, np.int64)
        self.photos = [type("Photo", (), {"digest": digest})() for digest in digests]
        self._groups = np.arange(len(digests)) if groups is None else np.array(groups)

    def split_groups(self):
        return self._groups


def digest(number):
    return f"{number:064x}"


def dataset(n, first=0):
    return Photos([number % 2 for number in range(first, first + n)], [digest(i) for i in range(first, first + n)])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=8), st.integers(0, 1000))
def test_photos_never_change_sides_and_a_fifth_of_each_label_is_for_the_test(batches, seed):
    frozen, n = Frozen(seed), 20
    for batch in [0, *batches]:
        n += batch
        before = frozen
        frozen = extend(frozen, dataset(n))
        assert before.test <= frozen.test
        assert before.learn <= frozen.learn
        assert not frozen.test & frozen.learn
        assert len(frozen.test | frozen.learn) == n
        for label in (0, 1):
            ours = {digest(i) for i in range(n) if i % 2 == label}
            assert abs(len(frozen.test & ours) - 0.2 * len(ours)) <= 1.5


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_neither_the_order_of_photos_nor_their_groups_numbers_matter(data):
    n = 30
    groups = data.draw(st.lists(st.integers(0, 20), min_size=n, max_size=n))
    labels = [group % 2 for group in groups]
    known = [{0: 1, 1: -1}.get(group, 0) for group in groups]
    order = np.array(data.draw(st.permutations(range(n))))
    digests = [digest(i) for i in range(n)]
    straight = deal(np.array(labels), np.array(groups), digests, known=known, seed=3)
    crooked = deal(
        np.array(labels)[order],
        (np.array(groups) * 7 % 23)[order],
        [digests[i] for i in order],
        known=[known[i] for i in order],
        seed=3,
    )
    if any(known):
        assert (straight[order] == crooked).all()


def test_what_looks_like_a_known_photo_goes_to_its_side():
    frozen = extend(Frozen(0), dataset(20))
    held, learnt = min(frozen.test), min(frozen.learn)
    photos = dataset(22)
    groups = photos.split_groups()
    groups[20], groups[21] = groups[int(held, 16)], groups[int(learnt, 16)]
    after = extend(frozen, photos)
    assert digest(20) in after.test
    assert digest(21) in after.learn


def test_a_burst_is_never_divided():
    labels, groups = [i // 3 % 2 for i in range(90)], [i // 3 for i in range(90)]
    frozen = extend(Frozen(0), Photos(labels[:45], [digest(i) for i in range(45)], groups[:45]))
    frozen = extend(frozen, Photos(labels, [digest(i) for i in range(90)], groups))
    for burst in range(30):
        assert len({digest(i) in frozen.test for i in range(3 * burst, 3 * burst + 3)}) == 1


def test_photos_that_were_deleted_are_remembered_for_when_they_come_back():
    store = MemoryStore()
    first = freeze(store, dataset(30), 0)
    freeze(store, dataset(10), 0)
    freeze(store, dataset(5, first=100), 0)
    assert first.test <= load(store, 0).test
    assert extend(load(store, 0), dataset(30)).test & {digest(i) for i in range(30)} == first.test


def test_two_who_freeze_at_once_agree():
    store = MemoryStore()
    freeze(store, dataset(20), 0)
    stale, interfered = store.put_if, []

    def slow(key, data, tag):
        if not interfered:
            interfered.append(True)
            freeze(store, dataset(30), 0)
        return stale(key, data, tag)

    store.put_if = slow
    mine = freeze(store, dataset(26), 0)
    assert mine == load(store, 0)
    assert len(mine.test | mine.learn) == 30


def test_a_split_that_cannot_be_read_is_not_made_again():
    store = MemoryStore({SPLIT: b'{"seed": 0, "test": ["x"]}'})
    with pytest.raises(OkkoError, match="no model may learn from"):
        freeze(store, dataset(20), 0)
