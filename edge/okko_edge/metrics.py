"""The state as Prometheus reads it: text in the exposition format 0.0.4, base units, `_total` for what only rises.

Only builds a string; the dashboard serves it. Written here because it is one page of code, where prometheus_client
would add 5 MB to the agent's memory; the tests read it back with prometheus_client's own parser.
Format: https://prometheus.io/docs/instrumenting/exposition_formats/.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from okko_edge.events import Event

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from okko_edge.about import About
    from okko_edge.events import Counters
    from okko_edge.statistics import Histogram, Statistics

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_STATUS = Path("/proc/self/status")
_TEMPERATURE = Path("/sys/class/thermal/thermal_zone0/temp")


def exposition(
    about: About,
    statistics: Statistics,
    counters: Counters,
    *,
    paused: bool,
    status: Path = _STATUS,
    temperature: Path = _TEMPERATURE,
) -> str:
    """Returns the text of one scrape.

    Args:
        about: goes into the labels of `okko_info`.
        statistics: the verdicts and latencies.
        counters: the events.
        paused: whether sorting is paused.
        status: the kernel's file about this process; without it there is no memory metric.
        temperature: the kernel's file with thousandths of a degree; without it there is no temperature metric.
    """
    info = {
        "name": about.name,
        "version": about.version,
        "digest": about.digest,
        "camera": about.camera,
        "gate": about.gate,
        "okko": about.okko,
    }
    verdicts = [({"verdict": name}, count) for name, count in statistics.verdicts().items()]
    events = [({"event": event.value}, counters[event]) for event in Event]
    families = [
        _family("okko_info", "gauge", "The model that sorts.", [(info, 1)]),
        _family("okko_marbles_total", "counter", "Marbles sorted, by verdict.", verdicts),
        _family("okko_errors_total", "counter", "Marbles with which something went wrong.", [({}, statistics.errors)]),
        _family("okko_events_total", "counter", "What happened beside the verdicts.", events),
        _histogram("okko_path_seconds", "From the frame in hand to the gate command.", statistics.path_s),
        _histogram("okko_inference_seconds", "In the classifier.", statistics.inference_s),
        _family("okko_paused", "gauge", "1 while sorting is paused.", [({}, int(paused))]),
        _family("okko_uptime_seconds", "gauge", "Since the start of the run.", [({}, statistics.uptime_s)]),
    ]
    memory = resident_bytes(status)
    if memory is not None:
        families.append(_family("process_resident_memory_bytes", "gauge", "Resident memory.", [({}, memory)]))
    celsius = temperature_celsius(temperature)
    if celsius is not None:
        families.append(_family("okko_temperature_celsius", "gauge", "Of the processor.", [({}, celsius)]))
    return "".join(families)


def resident_bytes(status: Path = _STATUS) -> int | None:
    """Returns this process's resident memory; None where the kernel does not say."""
    try:
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(fields["VmRSS"].split()[0]) * 1024
    except (OSError, ValueError, KeyError, IndexError):
        return None


def temperature_celsius(temperature: Path = _TEMPERATURE) -> float | None:
    """Returns the processor's temperature; None where the kernel does not say."""
    try:
        return int(temperature.read_text()) / 1000
    except (OSError, ValueError):
        return None


def _family(name: str, kind: str, meaning: str, samples: Iterable[tuple[Mapping[str, str], float]]) -> str:
    lines = [f"# HELP {name} {meaning}", f"# TYPE {name} {kind}"]
    lines += [f"{name}{_labels(labels)} {_number(value)}" for labels, value in samples]
    return "\n".join(lines) + "\n"


def _histogram(name: str, meaning: str, histogram: Histogram) -> str:
    cumulative = histogram.cumulative()
    lines = [f"# HELP {name} {meaning}", f"# TYPE {name} histogram"]
    for bound, count in zip((*histogram.bounds, math.inf), cumulative, strict=True):
        lines.append(f'{name}_bucket{{le="{_number(bound)}"}} {count}')
    lines += [f"{name}_sum {_number(histogram.sum)}", f"{name}_count {cumulative[-1]}"]
    return "\n".join(lines) + "\n"


def _labels(labels: Mapping[str, str]) -> str:
    return "{" + ",".join(f'{name}="{_escape(value)}"' for name, value in labels.items()) + "}" if labels else ""


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _number(value: float) -> str:
    if isinstance(value, int):
        return str(value)
    return {math.inf: "+Inf", -math.inf: "-Inf"}.get(value, repr(value))
