"""What `okko tune` leaves behind: the model, checked against the trained network, the result as JSON, and the pictures.

Writes files; what is in them was found elsewhere.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import onnxruntime

from okko_models.errors import OkkoError
from okko_train.report.svg import house_style
from okko_train.report.swarm_plots import LOG_LOSS, swarm_pictures
from okko_train.result import Trial
from okko_train.table_encoder import input_name

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from okko_train.network_search import Found
    from okko_train.search import TrialResult
    from okko_train.tabular import Problem, Table
    from okko_train.tuned_network import TunedNetwork

LARGEST_DEVIATION: Final = 1e-5
"""Between the ONNX model and the trained network: in probabilities, or in standard deviations of a predicted number."""

MODEL, RESULT, PLOTS = "model.onnx", "result.json", "plots"

_FILE_OF = {
    "Convergence": "convergence",
    "The swarm's path": "path",
    "What mattered": "importance",
    "All trials side by side": "parallel-coordinates",
}
_COST_NAME = {"classification": LOG_LOSS, "regression": "squared error / variance"}


@dataclass(frozen=True)
class Written:
    """Files in the folder.

    Attributes:
        deviation: largest one between model and network over the whole table; see `LARGEST_DEVIATION`.
        plots: names relative to the folder.
    """

    deviation: float
    plots: tuple[str, ...]


def write_model(folder: Path, model: TunedNetwork, table: Table) -> float:
    """Writes ``model.onnx`` after onnxruntime has repeated the network's predictions with it.

    Returns:
        The largest deviation over the rows of the table.

    Raises:
        OkkoError: the model deviates by more than `LARGEST_DEVIATION`.
    """
    plain = model.to_onnx().SerializeToString()
    deviation = largest_deviation(plain, model, table)
    if not deviation <= LARGEST_DEVIATION:
        raise OkkoError(f"the exported model deviates by {deviation:.2g} from the trained one; it was not written")
    (folder / MODEL).write_bytes(plain)
    return deviation


def largest_deviation(plain: bytes, model: TunedNetwork, table: Table) -> float:
    """Between a serialised ONNX model and the network that it came from, over a table; see `LARGEST_DEVIATION`."""
    session = onnxruntime.InferenceSession(plain, providers=["CPUExecutionProvider"])
    outputs = session.run(None, {input_name(name): table.column(name)[:, None] for name in table.names})
    return float(np.abs(outputs[0] - model.outputs(table)).max() / model.target_scale)


def write_plots(folder: Path, trials: Sequence[TrialResult], task: str) -> tuple[str, ...]:
    """Writes the pictures of a search as SVG files, and returns their names."""
    (folder / PLOTS).mkdir(exist_ok=True)
    with house_style():
        pictures = swarm_pictures(_drawn(trials), _COST_NAME[task])
    names = []
    for picture in pictures:
        name = f"{PLOTS}/{_FILE_OF.get(picture.title, 'slice')}.svg"
        (folder / name).write_text(standing_alone(str(picture.svg)), encoding="utf-8")
        names.append(name)
    return tuple(names)


def standing_alone(svg: str) -> str:
    """Turns a picture of the report into a file: plain colours, a size and a ground."""
    style = resources.files("okko_train.report").joinpath("report.css").read_text(encoding="utf-8")
    colours: dict[str, str] = {}
    for name, value in re.findall(r"--([\w-]+):\s*(#[0-9a-f]{3,8})", style):
        colours.setdefault(name, value)  # the light scheme stands first
    coloured = re.sub(r"var\(--([\w-]+)\)", lambda match: colours[match[1]], svg)
    opening, _, rest = coloured.partition(">")
    _, _, width, height = opening.partition('viewBox="')[2].partition('"')[0].split()
    ground = f'<rect width="100%" height="100%" fill="{colours["card"]}"/>'
    more = f'xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="system-ui, sans-serif"'
    return f"{opening} {more}>{ground}{rest}\n"


def _drawn(trials: Sequence[TrialResult]) -> list[Trial]:
    """Trials as the pictures want them; a pruned one is never drawn below the best that was measured in full."""
    drawn, best = [], math.inf
    for trial in trials:
        cost = trial.score.cost
        if trial.state == "complete":
            best = min(best, cost)
        elif math.isfinite(best):
            cost = max(cost, best)
        drawn.append(Trial(trial.number, trial.move, trial.parameters, cost, trial.score.skill, trial.seconds))
    return drawn


def write_result(
    folder: Path, problem: Problem, found: Found, written: Written, settings: dict[str, Any], duration_s: float
) -> dict[str, Any]:
    """Writes ``result.json`` and returns what is in it."""
    score, classes = found.best.score, found.model.classes
    result = {
        "target": problem.target_name,
        "task": problem.task,
        "rows": len(problem.features),
        "classes": None if classes is None else classes.tolist(),
        "notes": list(problem.features.notes),
        "best": {
            "trial": found.best.number,
            "hyperparameters": found.hyperparameters,
            "cost": score.cost,
            "cost_on_held_out_rows": score.validation,
            "cost_on_rows_learnt_from": score.train,
            "accuracy" if classes is not None else "r2": score.skill,
        },
        "cost_is": _COST_NAME[problem.task],
        # The first of two steps has another cost, so there is nothing to compare with.
        "cost_of_the_default": _cost(found.trials[0]) if len(found.steps) == 1 else None,
        "model": {
            "file": MODEL,
            "sha256": hashlib.sha256((folder / MODEL).read_bytes()).hexdigest(),
            "inputs": _inputs(problem.features, found.model),
            "outputs": _outputs(found.model),
            "largest_deviation_from_training": written.deviation,
        },
        "plots": list(written.plots),
        "settings": settings,
        "trials": [_trial(trial, step) for step, result in enumerate(found.steps, 1) for trial in result.trials],
        "stopped_by_budget": found.stopped_by_budget,
        "duration_s": round(duration_s, 3),
    }
    text = json.dumps(result, indent=2, ensure_ascii=False, allow_nan=False)
    (folder / RESULT).write_text(text + "\n", encoding="utf-8")
    return result


def _inputs(table: Table, model: TunedNetwork) -> list[dict[str, Any]]:
    numbers = [{"name": input_name(name), "type": "float64 [N, 1]", "missing": "NaN"} for name in table.number_names]
    pairs = zip(table.word_names, model.encoder.choices, strict=True)
    return numbers + [
        {"name": input_name(name), "type": "string [N, 1]", "missing": "", "categories": list(choices)}
        for name, choices in pairs
    ]


def _outputs(model: TunedNetwork) -> list[dict[str, str]]:
    if model.classes is None:
        return [{"name": "prediction", "type": "float32 [N, 1]"}]
    return [
        {"name": "probability", "type": f"float32 [N, {len(model.classes)}]"},
        {"name": "label", "type": "string [N]"},
    ]


def _trial(trial: TrialResult, step: int) -> dict[str, Any]:
    return {
        "step": step,
        "number": trial.number,
        "state": trial.state,
        "cost": _cost(trial),
        "seconds": round(trial.seconds, 3),
        "hyperparameters": trial.parameters,
    }


def _cost(trial: TrialResult) -> float | None:
    return trial.score.cost if math.isfinite(trial.score.cost) else None
