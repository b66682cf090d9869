"""What `okko tune` prints: what was done about the table, and at the end what was found."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from okko_train.progress import console

if TYPE_CHECKING:
    from pathlib import Path

    from okko_train.tabular import Problem


def print_notes(problem: Problem) -> None:
    """Prints on standard error what was found in a table."""
    for note in problem.features.notes:
        console.print(f"Note: {note}.", markup=False, soft_wrap=True)


def print_search(result: dict[str, Any], out: Path, *, as_json: bool) -> None:
    """Prints the result: a table for people, or JSON for programs."""
    if as_json:
        print(json.dumps({"folder": str(out), **result}, indent=2, ensure_ascii=False))
        return
    best = result["best"]
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    table.add_column()
    skill = "accuracy" if "accuracy" in best else "r2"
    state = "stopped by the budget, " if result["stopped_by_budget"] else ""
    default = result["cost_of_the_default"]
    untuned = "" if default is None else f" (untuned: {_short(default)})"
    chosen = ", ".join(f"{name} {_short(value)}" for name, value in best["hyperparameters"].items())
    for name, value in (
        ("predicts", f"{result['target']} ({result['task']}, {result['rows']} rows)"),
        (skill, f"{best[skill]:.4f} on held-out rows"),
        (result["cost_is"], f"{_short(best['cost'])}{untuned}"),
        ("chosen", chosen),
        ("trials", f"{len(result['trials'])} ({state}best: number {best['trial']}), {result['duration_s']:.1f} s"),
        (
            "model",
            f"{out / result['model']['file']}, deviates by {result['model']['largest_deviation_from_training']:.1e}",
        ),
        ("plots", str(out / "plots")),
    ):
        table.add_row(name, value)
    Console(markup=False, highlight=False).print(table)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
