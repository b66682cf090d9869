"""What the terminal shows of a run: a line for each marble, and the sums at the end; as text or as JSON.

Only builds strings, from values; nothing is printed here.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import click

from okko_models.decision import Verdict

if TYPE_CHECKING:
    from okko_edge.sorter import Decision
    from okko_edge.summary import Percentiles, Summary

_COLOURS = {Verdict.OK: "green", Verdict.KO: "red", Verdict.UNCERTAIN: "yellow"}


@dataclass(frozen=True, kw_only=True)
class RunReport:
    """A run's summary, and what stood beside the sorting path.

    Attributes:
        bundle: name, version and digest of the model.
        camera: which camera, as on the command line.
        gate: which gate.
        summary: the counts and timings.
        skipped_photos: photos that could not be read and so never lay on the belt.
        journal: path of the journal, entries written, entries lost.
        stopped: whether a person or the system ended the run.
        failure: why the run failed, None if it did not.
    """

    bundle: dict[str, str]
    camera: str
    gate: str
    summary: Summary
    skipped_photos: int
    journal: dict[str, str | int]
    stopped: bool
    failure: str | None

    def as_json(self) -> str:
        """Returns one JSON object; the summary's fields stand beside the others."""
        fields = asdict(self)
        return json.dumps({**fields.pop("summary"), **fields})

    def as_text(self) -> str:
        """Returns the closing table."""
        total = self.summary
        rows = [
            ("sorted", f"{total.marbles} marbles in {total.duration_s:.1f} s, {total.marbles_per_s:g} per second"),
            ("verdicts", "   ".join(f"{name} {number}" for name, number in total.verdicts.items())),
            ("mistakes", _mistakes(total)),
            ("latency", f"{_times(total.latency_ms)}   from frame to gate command"),
            ("inference", _times(total.inference_ms)),
            ("frames", f"{total.frames}, {total.stale_frames} stale and refused"),
            ("errors", f"{total.errors}" + (", on the safe side: KO" if total.errors else "")),
            ("journal", f"{self.journal['path']} ({self.journal['written']} written, {self.journal['lost']} lost)"),
        ]
        if self.skipped_photos:
            rows.insert(-1, ("skipped", f"{self.skipped_photos} photos that cannot be read"))
        return "\n".join(f"{name:<10} {value}" for name, value in rows)


def live_line(decision: Decision, *, truly_ok: bool | None) -> str:
    """Returns one coloured line about one marble."""
    frame, said = decision.frame, decision.classification
    verdict = click.style(f"{decision.verdict.value:<9}", fg=_COLOURS[decision.verdict], bold=True)
    ok = f"p(OK) {said.probability_of_ok:.3f}" if said else "p(OK)   -  "
    line = f"{decision.number:>6}  {verdict}  {ok}  {decision.path_ms:6.1f} ms  {(frame and frame.photo) or ''}"
    if truly_ok is not None and decision.verdict is (Verdict.KO if truly_ok else Verdict.OK):
        line += "  " + click.style(f"mistake: it is {'good' if truly_ok else 'bad'}", fg="magenta")
    return line + (f"  {decision.error}" if decision.error else "")


def _mistakes(total: Summary) -> str:
    if not total.with_truth:
        return "unknown: no photo has a label that the model knows"
    return f"{total.false_ok} false OK, {total.false_ko} false KO, of {total.with_truth} marbles with known truth"


def _times(percentiles: Percentiles | None) -> str:
    if percentiles is None:
        return "none measured"
    return f"p50 {percentiles.p50:.2f} ms   p95 {percentiles.p95:.2f} ms   p99 {percentiles.p99:.2f} ms"
