"""What the training commands print at the end: a table for people, JSON for programs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from rich.console import Console
from rich.table import Table

from okko_models.bundle import REPORT

if TYPE_CHECKING:
    from pathlib import Path

    from okko_models.manifest import Interval
    from okko_train.evaluation import BundleEvaluation
    from okko_train.metrics import Evaluation
    from okko_train.result import TrainingResult


def evaluation_json(measured: BundleEvaluation) -> str:
    """Returns the figures of an evaluation as one JSON object."""
    figures = _figures(measured.evaluation)
    return _json({**figures, "latency_ms": measured.latency_ms, "skipped": len(measured.skipped)})


def result_json(result: TrainingResult, out: Path) -> str:
    """Returns what training found out as one JSON object."""
    manifest = result.manifest
    return _json(
        {
            "bundle": str(out),
            "report": str(out / REPORT),
            "name": manifest.name,
            "version": manifest.version,
            "dataset_digest": result.dataset.digest,
            "photos": len(result.dataset),
            "skipped": len(result.dataset.skipped),
            "test": _figures(result.test),
            "validation": _figures(result.validation),
            "decision": msgspec.to_builtins(manifest.decision),
            "hyperparameters": manifest.provenance.hyperparameters,
            "trials": len(result.trials),
            "precision": manifest.model.precision,
            "variants": [msgspec.to_builtins(variant) for variant in result.variants],
            "duration_s": result.duration_s,
        }
    )


def print_result(result: TrainingResult, out: Path) -> None:
    """Prints the closing table of `okko train`."""
    hyperparameters = result.manifest.provenance.hyperparameters
    shipped = next(variant for variant in result.variants if variant.shipped)
    table = _table(f"{result.manifest.name}: tested on {result.test.n} photos that it has never seen")
    _add_figures(table, result.test)
    if promise := result.manifest.decision.promise:
        table.add_row(
            "promise",
            f"at most {promise.max_error:.1%} of bad ones called OK, and of good ones KO; "
            f"{promise.confidence:.0%} confidence",
        )
    chosen = ", ".join(f"{name} {_short(value)}" for name, value in hyperparameters.items())
    if result.chosen > 0:
        table.add_row("the swarm chose", f"{chosen} (the best of {len(result.trials)} trials)")
    elif result.chosen == 0:
        table.add_row("settings kept", f"{chosen} (the first of {len(result.trials)} trials)")
    else:
        table.add_row("trained", chosen)
    best = {
        each.backbone: each
        for each in sorted(result.variants, key=lambda each: (-each.cost_per_photo, not each.shipped))
    }
    if len(best) > 1:
        costs = ", ".join(f"{name} {each.cost_per_photo:.3f}" for name, each in best.items())
        table.add_row("cost a photo by backbone", f"{costs} (out of fold)")
    table.add_row("ships as", f"{shipped.precision}, {shipped.megabytes:.1f} MB, {shipped.latency_ms:.1f} ms a photo")
    table.add_row("photos", _photos(result))
    table.add_row("time", f"{result.duration_s:.1f} s")
    table.add_row("bundle", str(out))
    table.add_row("report", str(out / REPORT))
    Console().print(table)


def print_evaluation(measured: BundleEvaluation) -> None:
    """Prints the table of `okko evaluate`."""
    table = _table(f"{measured.evaluation.n} photos")
    _add_figures(table, measured.evaluation)
    table.add_row("time a photo", ", ".join(f"{name} {value:.1f} ms" for name, value in measured.latency_ms.items()))
    if measured.skipped:
        table.add_row("skipped", f"{len(measured.skipped)} (see `okko data check`)")
    Console().print(table)


def _table(title: str) -> Table:
    table = Table(title=title, title_justify="left", show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    return table


def _add_figures(table: Table, evaluation: Evaluation) -> None:
    table.add_row("accuracy", _percent(evaluation.accuracy))
    table.add_row("balanced accuracy", _percent(evaluation.balanced_accuracy))
    table.add_row("verdicts", ", ".join(f"{count} {verdict}" for verdict, count in evaluation.verdicts.items()))
    table.add_row("unlike training", _percent(evaluation.novel))
    table.add_row("false OK / false KO", f"{evaluation.false_ok} / {evaluation.false_ko}")
    cost = evaluation.cost_per_photo
    table.add_row("cost per photo", f"{cost.value:.3f}  (95 %: {cost.low:.3f} to {cost.high:.3f})")
    error = evaluation.calibration_error
    table.add_row("calibration error", f"{_percent(error.corrected)}; {error.if_perfect:.1%} is chance")


def _figures(evaluation: Evaluation) -> dict[str, Any]:
    return {
        "n": evaluation.n,
        "accuracy": evaluation.accuracy.value,
        "balanced_accuracy": evaluation.balanced_accuracy.value,
        "confusion": {
            truth: dict(zip(evaluation.labels, row, strict=True))
            for truth, row in zip(evaluation.labels, evaluation.confusion.tolist(), strict=True)
        },
        "verdicts": evaluation.verdicts,
        "novel": evaluation.novel.value,
        "false_ok": evaluation.false_ok,
        "false_ko": evaluation.false_ko,
        "cost_per_photo": evaluation.cost_per_photo.value,
        "expected_calibration_error": evaluation.calibration_error.corrected.value,
        "calibration": {
            "plain": evaluation.calibration_error.plain,
            "if_perfect": evaluation.calibration_error.if_perfect,
            "bins": evaluation.calibration_error.bins,
        },
        "interval_95": {
            name: [interval.low, interval.high]
            for name, interval in (
                ("accuracy", evaluation.accuracy),
                ("balanced_accuracy", evaluation.balanced_accuracy),
                ("cost_per_photo", evaluation.cost_per_photo),
                ("expected_calibration_error", evaluation.calibration_error.corrected),
            )
        },
    }


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _photos(result: TrainingResult) -> str:
    counts = ", ".join(f"{count} {label}" for label, count in result.dataset.counts().items())
    skipped = len(result.dataset.skipped)
    return counts + (f"; {skipped} skipped (see the report)" if skipped else "")


def _percent(interval: Interval) -> str:
    return f"{interval.value:.1%}  (95 %: {interval.low:.1%} to {interval.high:.1%})"


def _short(value: bool | int | float | str) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
