"""What is counted, over which stretch of time, and that counting costs the same after a year."""

from __future__ import annotations

import math
import threading
from dataclasses import replace

import msgspec
import pytest

from okko_edge.about import About, DrawnRegion, FoundRegion, region_of
from okko_edge.sorter import Outcome
from okko_edge.statistics import WINDOW, Histogram, Statistics
from okko_train.feature_graph import Rectangle, View
from tests.edge.dashboard_fakes import decision, frame, unseen

FRAME = frame()


class HandClock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def statistics(clock: HandClock) -> Statistics:
    return Statistics(clock)


def test_before_the_first_marble_nothing_is_claimed(statistics: Statistics) -> None:
    now = statistics.snapshot()
    assert (now.marbles, now.marbles_per_min, sum(now.probability_of_ok)) == (0, 0, 0)
    assert now.since_last_s is now.latency_ms is now.share_uncertain is now.novelty is now.share_unlike is None


def test_every_marble_is_counted_once_also_one_that_nobody_saw(statistics: Statistics) -> None:
    for number, ok in enumerate((0.9, 0.95, 0.1, 0.5), start=1):
        statistics.hear(decision(number, ok, shown=FRAME))
    statistics.hear(unseen(5))
    now = statistics.snapshot()
    assert now.verdicts == {"OK": 2, "KO": 2, "UNCERTAIN": 1}
    assert (now.marbles, now.errors, now.share_uncertain) == (5, 1, 0.2)
    assert sum(now.probability_of_ok) == 4


def test_an_empty_slot_is_no_marble(statistics: Statistics) -> None:
    statistics.hear(replace(decision(1, 0.01, shown=FRAME), outcome=Outcome.EMPTY))
    statistics.hear(replace(decision(2, 0.5, shown=FRAME), outcome=Outcome.TWO))
    now = statistics.snapshot()
    assert now.verdicts == {"OK": 0, "KO": 0, "UNCERTAIN": 1}
    assert sum(now.probability_of_ok) == 1


def test_throughput_is_that_of_the_last_minute(statistics: Statistics, clock: HandClock) -> None:
    for number in range(120):
        clock.now_s += 1
        statistics.hear(decision(number, shown=FRAME))
    assert statistics.snapshot().marbles_per_min == pytest.approx(60, abs=1.01)
    clock.now_s += 30
    assert statistics.snapshot().marbles_per_min == pytest.approx(30, abs=1.01)
    clock.now_s += 100
    assert statistics.snapshot().marbles_per_min == 0


def test_throughput_beyond_what_is_remembered_is_still_right(statistics: Statistics, clock: HandClock) -> None:
    for number in range(20_000):
        clock.now_s += 0.005
        statistics.hear(decision(number, shown=FRAME))
    assert statistics.snapshot().marbles_per_min == pytest.approx(12_000, rel=0.01)


def test_a_young_run_is_not_measured_over_a_minute_that_it_has_not_lived(
    statistics: Statistics, clock: HandClock
) -> None:
    for number in range(10):
        clock.now_s += 1
        statistics.hear(decision(number, shown=FRAME))
    assert statistics.snapshot().marbles_per_min == pytest.approx(60)


def test_drift_shows_in_the_minute_in_which_it_happens(statistics: Statistics, clock: HandClock) -> None:
    for minute, ok in enumerate((0.99, 0.99, 0.5)):
        clock.now_s = 100 + 60 * minute
        for number in range(10):
            statistics.hear(decision(number, ok, novelty=1.5 if ok == 0.5 else 0.4, shown=FRAME))
    now = statistics.snapshot()
    assert [period.uncertain for period in now.hour.periods] == [0, 0, 10]
    assert [period.unlike for period in now.hour.periods] == [0, 0, 10]
    assert [period.start_s for period in now.hour.periods] == [0, 60, 120]
    assert now.share_unlike == pytest.approx(1 / 3)
    assert len(now.week.periods) == 1
    assert now.week.periods[0].marbles == 30


def test_a_model_that_cannot_tell_novelty_is_not_said_to_have_seen_none(statistics: Statistics) -> None:
    statistics.hear(decision(shown=FRAME))
    assert statistics.snapshot().novelty is None
    assert statistics.snapshot().share_unlike is None


def test_percentiles_are_of_the_latest_marbles_only(statistics: Statistics) -> None:
    for _ in range(WINDOW):
        statistics.hear(decision(path_ms=500, shown=FRAME))
    for _ in range(WINDOW):
        statistics.hear(decision(path_ms=10, shown=FRAME))
    latency = statistics.snapshot().latency_ms
    assert latency is not None
    assert (latency.p50, latency.p99) == (10, 10)


def test_numbers_that_are_none_do_no_harm(statistics: Statistics) -> None:
    statistics.hear(decision(1, math.nan, novelty=math.nan, shown=FRAME))
    statistics.hear(decision(2, 1.0, novelty=math.inf, shown=FRAME))
    now = statistics.snapshot()
    assert (now.marbles, now.novelty, sum(now.probability_of_ok)) == (2, None, 1)


def test_a_histogram_counts_what_is_at_most_each_bound() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 7.0):
        histogram.add(value)
    assert histogram.cumulative() == [2, 3, 4]
    assert histogram.sum == 10


def test_readers_on_other_threads_never_disturb_the_one_who_counts(statistics: Statistics) -> None:
    failures: list[Exception] = []
    done = threading.Event()

    def read() -> None:
        try:
            while not done.is_set():
                statistics.snapshot()
        except Exception as error:
            failures.append(error)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for number in range(3000):
        statistics.hear(decision(number, shown=FRAME))
    done.set()
    for reader in readers:
        reader.join()
    assert not failures
    assert statistics.snapshot().marbles == 3000


@pytest.mark.parametrize(
    ("region", "size", "box"),
    [
        (FoundRegion(0.5, 0.5), (320, 240), (100, 60, 120, 120)),
        (FoundRegion(0.4, 0.5), (320, 240), (68, 60, 120, 120)),
        (FoundRegion(0.0, 1.0), (320, 240), (0, 120, 120, 120)),
        (FoundRegion(0.5, 0.5, 1.0), (3, 3), (0, 0, 3, 3)),
        (FoundRegion(0.9, 0.9), (1, 1), (0, 0, 1, 1)),
        (DrawnRegion(0.25, 0.1, 0.5, 0.8), (320, 240), (80, 24, 160, 192)),
        (DrawnRegion(0.9, 0.9, 0.1, 0.1), (1, 1), (0, 0, 1, 1)),
    ],
)
def test_the_region_is_the_part_that_the_model_cuts_out(
    region: FoundRegion | DrawnRegion, size: tuple[int, int], box: tuple[int, int, int, int]
) -> None:
    assert region.box(*size) == box
    edges = [box[0], box[1], box[0] + box[2], box[1] + box[3]]
    if isinstance(region, FoundRegion):
        view = View(region.crop, 224, region.x, region.y)
    else:
        view = View(Rectangle(region.x, region.y, region.width, region.height), 224)
    assert list(view.box(*size)) == edges


@pytest.mark.parametrize(
    ("said", "region"),
    [
        ({"region_x": 0.4, "region_y": 0.5}, FoundRegion(0.4, 0.5)),
        ({"roi": "0.25,0.1,0.5,0.8"}, DrawnRegion(0.25, 0.1, 0.5, 0.8)),
        ({"roi": "nonsense,,nan,1"}, None),
        ({}, None),
    ],
)
def test_the_manifest_says_where_the_model_looks(bundle, said: dict[str, float | str], region: object) -> None:
    provenance = msgspec.structs.replace(bundle.manifest.provenance, hyperparameters=said)
    assert region_of(msgspec.structs.replace(bundle.manifest, provenance=provenance)) == region


def test_a_bundle_that_looks_at_the_whole_photo_has_no_region(bundle) -> None:
    about = About.of(bundle.manifest, bundle.digest, camera="sim:x", gate="sim", device="d", okko="0")
    assert about.region is None
    assert (about.labels, about.ok_threshold) == (("KO", "OK"), 0.8)
