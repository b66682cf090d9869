import contextlib
import threading

import pytest

from okko_cloud.lease import LOCK, BusyError, LeaseLostError, holder, take
from okko_models.errors import OkkoError
from okko_models.registry.errors import OfflineError
from tests.models.registry.simulator import MemoryStore


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_one_worker_at_a_time_and_the_next_one_after_it(clock):
    store = MemoryStore()
    first = take(store, "a", clock=clock)
    with pytest.raises(BusyError, match="another worker"):
        take(store, "b", clock=clock)
    first.release()
    assert holder(store) is None
    second = take(store, "b", clock=clock)
    assert second.token == first.token + 1
    assert not second.took_over


def test_a_worker_that_does_not_renew_is_taken_for_dead_and_finds_out(clock):
    store = MemoryStore()
    slow = take(store, "a", clock=clock, lease_s=60)
    clock.now += 59
    slow.confirm()
    clock.now += 59
    with pytest.raises(BusyError):
        take(store, "b", clock=clock)
    clock.now += 2
    other = take(store, "b", clock=clock)
    assert other.took_over
    for _ in range(2):
        with pytest.raises(LeaseLostError):
            slow.confirm()
    slow.release()
    assert holder(store).what == "b"
    other.confirm()


def test_of_many_who_take_the_lock_at_once_one_gets_it(clock):
    store, got, turn = MemoryStore(), [], threading.Barrier(8)
    put_new, exclusive = store.put_new, threading.Lock()

    def one_at_a_time(key, data):
        with exclusive:
            return put_new(key, data)

    store.put_new = one_at_a_time

    def race():
        turn.wait(5)
        with contextlib.suppress(BusyError):
            got.append(take(store, "a", clock=clock))

    threads = [threading.Thread(target=race) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(got) == 1


class LostAnswers(MemoryStore):
    """Writes, and then says that the network is away."""

    losing = False

    def put_if(self, key, data, tag):
        done = super().put_if(key, data, tag)
        if self.losing:
            raise OfflineError("connection lost")
        return done


def test_a_lost_answer_is_not_a_lost_lock(clock):
    store = LostAnswers()
    lease = take(store, "a", clock=clock)
    store.losing = True
    clock.now += 5
    with pytest.raises(OfflineError):
        lease.confirm()
    store.losing = False
    clock.now += 5
    lease.confirm()
    lease.release()
    assert holder(store) is None


def test_the_lock_is_renewed_while_work_goes_on_and_not_afterwards():
    store = MemoryStore()
    lease = take(store, "a", lease_s=0.4)
    with lease.kept():
        threading.Event().wait(1)
        with pytest.raises(BusyError):
            take(store, "b", lease_s=0.4)
    threading.Event().wait(0.6)
    take(store, "b", lease_s=0.4)


def test_a_file_that_is_no_lock_is_named(clock):
    store = MemoryStore({LOCK: b"{}"})
    with pytest.raises(OkkoError, match="remove it"):
        take(store, "a", clock=clock)
