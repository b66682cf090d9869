"""What Prometheus makes of the metrics, by its own parser."""

from __future__ import annotations

import dataclasses
import os
from typing import TYPE_CHECKING

import pytest
from prometheus_client.parser import text_string_to_metric_families

from okko_edge.events import Counters, Event
from okko_edge.metrics import exposition
from okko_edge.statistics import Statistics
from tests.edge.dashboard_fakes import ABOUT, decision, unseen

if TYPE_CHECKING:
    from pathlib import Path

    from prometheus_client.metrics_core import Metric

    from okko_edge.about import About


def scraped(
    statistics: Statistics, counters: Counters | None = None, about: About = ABOUT, **files: Path
) -> dict[str, Metric]:
    text = exposition(about, statistics, counters or Counters(), paused=True, **files)
    return {family.name: family for family in text_string_to_metric_families(text)}


def values(family: Metric, label: str) -> dict[str, float]:
    return {sample.labels[label]: sample.value for sample in family.samples if label in sample.labels}


@pytest.fixture
def statistics() -> Statistics:
    heard = Statistics()
    for number, (ok, path_ms) in enumerate(((0.9, 4.0), (0.1, 30.0), (0.5, 3000.0)), start=1):
        heard.hear(decision(number, ok, path_ms=path_ms))
    heard.hear(unseen(4))
    return heard


def test_verdicts_events_and_errors_are_counters(statistics: Statistics) -> None:
    counters = Counters()
    counters.add(Event.STALE_FRAME, 7)
    found = scraped(statistics, counters)
    assert values(found["okko_marbles"], "verdict") == {"OK": 1, "KO": 2, "UNCERTAIN": 1}
    events = values(found["okko_events"], "event")
    assert events["stale_frames"] == 7
    assert set(events) == {event.value for event in Event}
    assert found["okko_errors"].samples[0].value == 1
    assert {found[name].type for name in ("okko_marbles", "okko_events", "okko_errors")} == {"counter"}


def test_latencies_are_histograms_in_seconds_whose_last_bucket_holds_all(statistics: Statistics) -> None:
    family = scraped(statistics)["okko_path_seconds"]
    assert family.type == "histogram"
    buckets = values(family, "le")
    assert (buckets["0.005"], buckets["0.05"], buckets["1.0"], buckets["+Inf"]) == (2, 3, 3, 4)
    rest = {sample.name: sample.value for sample in family.samples if not sample.labels}
    assert rest["okko_path_seconds_count"] == 4
    assert rest["okko_path_seconds_sum"] == pytest.approx(3.0341)


def test_a_marble_that_was_not_classified_is_in_no_histogram_of_inference(statistics: Statistics) -> None:
    assert values(scraped(statistics)["okko_inference_seconds"], "le")["+Inf"] == 3


def test_names_that_need_escaping_come_back_as_they_were(statistics: Statistics) -> None:
    odd = dataclasses.replace(ABOUT, camera='sim:C:\\a "b"\nc')
    sample = scraped(statistics, about=odd)["okko_info"].samples[0]
    assert sample.labels["camera"] == odd.camera
    assert sample.labels["digest"] == "a" * 64


def test_memory_and_temperature_are_the_kernels(statistics: Statistics, tmp_path: Path) -> None:
    (tmp_path / "temp").write_text("48312\n")
    found = scraped(statistics, temperature=tmp_path / "temp")
    assert found["okko_temperature_celsius"].samples[0].value == 48.312
    pages = int((os.popen(f"cat /proc/{os.getpid()}/statm")).read().split()[1])
    assert found["process_resident_memory_bytes"].samples[0].value == pytest.approx(pages * 4096, rel=0.2)


def test_a_machine_that_says_neither_has_neither(statistics: Statistics, tmp_path: Path) -> None:
    found = scraped(statistics, temperature=tmp_path / "none", status=tmp_path / "none")
    assert not {"okko_temperature_celsius", "process_resident_memory_bytes"} & set(found)
    assert found["okko_paused"].samples[0].value == 1
