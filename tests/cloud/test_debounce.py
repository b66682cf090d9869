import pytest
from hypothesis import given
from hypothesis import strategies as st

from okko_cloud.debounce import Debounce, Waiting

RULE = Debounce(quiet_s=60, at_most_s=600)


def jobs(times, rule):
    """When jobs begin if changes are heard of at `times`, ascending, and a job takes no time."""
    waiting, began = Waiting(), []
    for at in times:
        due = waiting.due_s(rule)
        if due is not None and due < at:
            began.append(due)
            waiting = Waiting()
        waiting = waiting.heard(at)
    return [*began, waiting.due_s(rule)]


def test_a_burst_is_one_job_after_a_minute_of_quiet():
    assert jobs([0, 10, 20, 55, 100], RULE) == [160]


def test_photos_that_never_stop_coming_are_trained_on_all_the_same():
    assert jobs(range(0, 1230, 30), RULE)[:2] == [600, 1230]


def test_nothing_heard_is_no_job():
    assert Waiting().due_s(RULE) is None
    assert Waiting().heard(5, changes=0).due_s(RULE) is None


def test_a_rule_that_cannot_be_kept_is_refused():
    for quiet_s, at_most_s in ((-1, 5), (6, 5)):
        with pytest.raises(ValueError, match="quiet_s"):
            Debounce(quiet_s, at_most_s)


@given(
    st.lists(st.floats(0, 1e5), min_size=1, max_size=60).map(sorted),
    st.floats(0, 1000),
    st.floats(0, 1000),
)
def test_every_change_is_followed_by_a_job_in_time_and_no_job_comes_without_one(times, quiet_s, more_s):
    rule = Debounce(quiet_s, quiet_s + more_s)
    began = jobs(times, rule)
    for at in times:
        following = min(each for each in began if each >= at)
        assert following <= at + rule.at_most_s
    for before, job in zip([-1.0, *began], began, strict=False):
        assert any(before <= at <= job for at in times)
    assert len(began) <= len(times)


@given(st.lists(st.floats(0, 1e5), min_size=1, max_size=20), st.permutations(range(20)))
def test_changes_heard_of_in_any_order_are_due_at_the_same_time(times, order):
    straight = crooked = Waiting()
    for at in times:
        straight = straight.heard(at)
    for place in order:
        if place < len(times):
            crooked = crooked.heard(times[place])
    assert crooked == straight
