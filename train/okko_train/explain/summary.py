"""What `okko explain` prints: a few lines for people, JSON for programs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np
from rich.console import Console
from rich.table import Table

from okko_models.decision import NOVELTY_LIMIT
from okko_train.explain.wording import MISSING, most_telling, percent

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from okko_train.explain import Explanation

_CELLS: Final = 12


def explanation_json(found: Explanation, picture: Path) -> str:
    """Returns the explanation as one JSON object; places are shares of the photo's width and height."""
    said, rule = found.said, found.manifest.decision
    height, width = found.image.shape[:2]
    left, top, right, bottom = found.area
    evidence = found.heat.map[top:bottom, left:right]
    return json.dumps(
        {
            "file": found.name,
            "picture": str(picture),
            "model": found.manifest.name,
            "version": found.manifest.version,
            "verdict": said.verdict.value,
            "label": said.label,
            "probability": dict(zip(found.manifest.labels, said.probability.tolist(), strict=True)),
            "probability_of_ok": said.probability_of_ok,
            "decision": msgspec.to_builtins(rule),
            "novelty": said.novelty,
            "looks_at": [left / width, top / height, (right - left) / width, (bottom - top) / height],
            "around_counts": found.heat.around,
            "heat": {
                "log_odds_of_ok": found.heat.score,
                "most_for_ok": found.heat.most_for,
                "most_for_ko": found.heat.most_against,
                "cells": np.round(_cells(evidence), 4).tolist(),
            },
            "neighbours": [
                {
                    "name": each.photo.name,
                    "label": found.manifest.labels[each.photo.label],
                    "distance": round(each.distance, 4),
                    "digest": each.photo.digest,
                }
                for each in found.neighbours
            ],
            "learnt_from_this_photo": found.learnt,
            "missing": [] if found.examples else [MISSING],
        }
    )


def print_explanation(found: Explanation, picture: Path) -> None:
    """Prints the explanation as a table."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    labels = sorted(zip(found.manifest.labels, found.said.probability.tolist(), strict=True), key=lambda each: -each[1])
    said: list[tuple[str, str]] = [
        ("verdict", f"{found.said.verdict.value}  ({', '.join(f'{label} {percent(p)}' for label, p in labels)})")
    ]
    if found.said.novelty:
        limit = (
            "beyond the limit of 1: nothing like it was learnt from"
            if found.said.novelty > NOVELTY_LIMIT
            else "the limit is 1"
        )
        said.append(("new to the model", f"{found.said.novelty:.2f}  ({limit})"))
    said.append(("heat map", most_telling(found)))
    for number, each in enumerate(found.neighbours):
        label = found.manifest.labels[each.photo.label]
        said.append(
            ("most like it" if number == 0 else "", f"{label}  {each.photo.name}  distance {each.distance:.2f}")
        )
    if found.learnt:
        said.append(("note", "the model has learnt from this very photo"))
    if found.examples is None:
        said.append(("missing", MISSING))
    for name, text in [*said, ("picture", str(picture))]:
        table.add_row(name, _plain(text))
    Console(highlight=False, markup=False).print(table)


def _plain(text: str) -> Any:
    from rich.text import Text

    return Text(text)


def _cells(heat: NDArray[np.float32]) -> NDArray[np.float32]:
    """Averages (height, width) over at most 12 by 12 cells."""
    rows = np.array_split(heat, min(_CELLS, heat.shape[0]), axis=0)
    columns = min(_CELLS, heat.shape[1])
    return np.array([[cell.mean() for cell in np.array_split(row, columns, axis=1)] for row in rows], np.float32)
