"""The pictures of the search: what the swarm tried, where it went, and what mattered.

A particle is a set of hyperparameters, so a picture of the swarm is a picture of trials. Failed trials have an infinite
cost: they are counted, and drawn nowhere.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np
from matplotlib.ticker import FuncFormatter

from okko_train.report.plots import log_scale, whole_numbers
from okko_train.report.svg import Paint, Picture, canvas, inline_svg, legend_on_top
from okko_train.report.wording import counted, number

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from okko_train.result import Trial

FEWEST_FOR_IMPORTANCE: Final = 8
"""With fewer trials, chance alone makes a hyperparameter look important."""

# Positive values that span more than this ratio are drawn on a logarithmic scale.
_LOG_FROM_RATIO = 15
_LOG_COSTS_FROM_RATIO = 4
LOG_LOSS = "log loss, nats"

_LONGEST_NAME = 22
_SWITCHED_OFF = -0.14  # height below an axis that runs from 0 to 1


def swarm_pictures(trials: Sequence[Trial], cost_name: str = LOG_LOSS) -> list[Picture]:
    """Returns the pictures that these trials allow: none for fewer than two that succeeded.

    Args:
        trials: in order.
        cost_name: what their cost is, and after a comma its unit.
    """
    good = [trial for trial in trials if math.isfinite(trial.cost)]
    if len(good) < 2:
        return []
    pictures = [_convergence(good, failed=len(trials) - len(good), cost_name=cost_name)]
    weight = importance(trials)
    varied = [name for name in weight if any(name in trial.parameters for trial in good)]
    varied.sort(key=lambda name: -weight[name])
    if len(trials) >= FEWEST_FOR_IMPORTANCE and varied:
        pictures.append(_slice(good, varied[0], cost_name))
        pictures += [_path(good, varied[0], varied[1])] if len(varied) >= 2 else []
        pictures.append(_importance(weight, len(trials)))
    if len(varied) >= 2:
        pictures.append(_parallel(good, varied, cost_name))
    return pictures


def importance(trials: Sequence[Trial]) -> dict[str, float]:
    """Returns, for each hyperparameter that was varied, the share of the ranks of the cost that it explains alone.

    The trials are put into a few groups of similar values; the measure is the analysis of variance's adjusted eta
    squared of the ranks (Kruskal and Wallis, 1952; Kelley, 1935), so a valley in the middle counts as much as a slope.
    Trials that have no value, because another hyperparameter switched this one off, are a group of their own.
    """
    costs = np.array([trial.cost for trial in trials])
    ranks = np.unique(costs, return_inverse=True)[1].astype(float)
    names = dict.fromkeys(name for trial in trials for name in trial.parameters)
    found = {}
    for name in names:
        values = [trial.parameters.get(name) for trial in trials]
        if len({repr(value) for value in values}) > 1:
            found[name] = _explained(ranks, _grouped(values))
    return found


def _grouped(values: Sequence[bool | int | float | str | None]) -> NDArray[np.int64]:
    different = list(dict.fromkeys(values))
    if len(different) <= 5 or any(isinstance(value, str) for value in different):
        return np.array([different.index(value) for value in values])
    groups = 3 if len(values) < 40 else 5
    plain = np.array([math.nan if value is None else float(value) for value in values])
    inner = np.nanquantile(plain, np.linspace(0, 1, groups + 1)[1:-1])
    return np.where(np.isnan(plain), groups, np.searchsorted(inner, plain, side="left"))


def _explained(ranks: NDArray[np.float64], group: NDArray[np.int64]) -> float:
    n, groups = len(ranks), np.unique(group)
    total = ((ranks - ranks.mean()) ** 2).sum()
    if total == 0 or n <= len(groups):
        return 0.0
    within = sum(((ranks[group == one] - ranks[group == one].mean()) ** 2).sum() for one in groups)
    return max(0.0, float(1 - (within / total) * (n - 1) / (n - len(groups))))


def _convergence(trials: Sequence[Trial], failed: int, cost_name: str) -> Picture:
    axes = canvas()
    x, costs = np.array([trial.number + 1 for trial in trials]), np.array([trial.cost for trial in trials])
    best = np.minimum.accumulate(costs)
    generations = np.array([trial.generation for trial in trials])
    starts = [x[0], *x[1:][np.diff(generations) != 0]]
    for index, (start, end) in enumerate(zip(starts, [*starts[1:], x[-1] + 1], strict=True)):
        if index % 2 == 0:
            axes.axvspan(start - 0.5, end - 0.5, color=Paint.LINE, alpha=0.45, zorder=0)
    axes.scatter(x, costs, s=34, color=_shades(generations), edgecolors=Paint.SOFT, linewidths=0.6, label="one trial")
    axes.step([*x, x[-1] + 0.5], [*best, best[-1]], where="post", color=Paint.ACCENT, label="best so far")
    _cost_axis(axes, costs, cost_name)
    axes.grid(visible=False, axis="x")
    axes.set_xlim(x[0] - 0.5, x[-1] + 0.5)
    axes.xaxis.set_major_locator(whole_numbers())
    axes.set_xlabel("trial")
    legend_on_top(axes)
    also = f" {counted(failed, 'trial')} failed and cannot be drawn." if failed else ""
    return Picture(
        "Convergence",
        inline_svg(axes, "convergence", "Cost of each trial and the best so far"),
        f"{counted(len(trials), 'trial')} in {counted(len(starts), 'generation')} (stripes); later generations "
        f"are drawn stronger. The best went from {number(best[0])} to {number(best[-1])}; lower is better.{also}",
    )


def _cost_axis(axes: Axes, costs: NDArray[np.float64], cost_name: str) -> None:
    axes.set_ylabel(cost_name)
    if costs.min() > 0 and costs.max() > _LOG_COSTS_FROM_RATIO * costs.min():
        log_scale(axes, "y")


def _slice(trials: Sequence[Trial], name: str, cost_name: str) -> Picture:
    axes = canvas()
    shown = [trial for trial in trials if name in trial.parameters]
    x, costs = _place(axes, "x", name, shown), np.array([trial.cost for trial in shown])
    shades = _shades(np.array([trial.generation for trial in shown], dtype=int))
    axes.scatter(x, costs, s=52, color=shades, edgecolors=Paint.SOFT, linewidths=0.6, label="one trial")
    best = int(costs.argmin())
    axes.plot(x[best], costs[best], "*", color=Paint.ACCENT, markersize=17, label="best", zorder=4)
    _cost_axis(axes, costs, cost_name)
    axes.margins(0.07)
    legend_on_top(axes)
    return Picture(
        f"Cost along {_spoken(name)}",
        inline_svg(axes, "slice", f"Cost of the trials by {_spoken(name)}"),
        f"{counted(len(shown), 'trial')} along the hyperparameter that the cost followed most closely; pale is early, "
        "strong is late. The others varied too, which is why points at the same place differ in height.",
    )


def _path(trials: Sequence[Trial], first: str, second: str) -> Picture:
    axes = canvas()
    shown = [trial for trial in trials if first in trial.parameters and second in trial.parameters]
    left_out = len(trials) - len(shown)
    x, y = _place(axes, "x", first, shown), _place(axes, "y", second, shown)
    generations = np.array([trial.generation for trial in shown], dtype=int)
    shades = _shades(generations)
    axes.scatter(x, y, s=52, color=shades, edgecolors=Paint.SOFT, linewidths=0.6, zorder=3)
    costs = np.array([trial.cost for trial in shown])
    if len(shown):
        leaders = [int(np.argmin(np.where(generations <= g, costs, np.inf))) for g in np.unique(generations)]
        axes.plot(x[leaders], y[leaders], color=Paint.ACCENT, linewidth=1.6, label="path of the best", zorder=2)
        best = leaders[-1]
        axes.plot(x[best], y[best], "*", color=Paint.ACCENT, markersize=17, label="best", zorder=4)
    axes.margins(0.07)
    legend_on_top(axes)
    also = f" {counted(left_out, 'trial')} did without one of the two." if left_out else ""
    return Picture(
        "The swarm's path",
        inline_svg(axes, "path", f"The trials by {_spoken(first)} and {_spoken(second)}"),
        f"{counted(len(shown), 'trial')} in the two hyperparameters that the cost followed most closely; pale is "
        f"early, strong is late. The line joins the best so far of each generation.{also}",
    )


def _importance(weight: dict[str, float], n: int) -> Picture:
    names = sorted(weight, key=lambda name: weight[name])[-10:]
    axes = canvas(left=132, height=max(180, 90 + 27 * len(names)))
    axes.barh(range(len(names)), [weight[name] for name in names], height=0.56, color=Paint.ACCENT)
    for row, name in enumerate(names):
        axes.annotate(
            f"{100 * weight[name]:.0f}\N{NO-BREAK SPACE}%",
            (weight[name], row),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            color=Paint.SOFT,
        )
    axes.set_yticks(range(len(names)), [_spoken(name) for name in names])
    axes.tick_params(axis="y", labelcolor=Paint.INK)
    axes.grid(visible=False)
    axes.spines["bottom"].set_visible(False)
    axes.set_xticks([])
    axes.set_xlim(0, max(1e-9, *weight.values()) * 1.18 if len(weight) > 1 else 1.0)
    axes.set(xlabel="share of the differences explained alone")
    return Picture(
        "What mattered",
        inline_svg(axes, "importance", "Importance of the hyperparameters"),
        f"From {counted(n, 'trial')}, by the ranks of their costs. A hint rather than a proof: the swarm looks longest "
        "where it is good, and hyperparameters act together.",
    )


def _parallel(trials: Sequence[Trial], names: Sequence[str], cost_name: str) -> Picture:
    names = list(names)[:8]
    axes = canvas(920, 340, left=56, right=56, bottom=52)
    columns = [_unit_column([trial.parameters.get(name) for trial in trials]) for name in names]
    columns.append(_unit_column([trial.cost for trial in trials]))
    table = np.array([heights for heights, _ in columns]).T
    order = np.argsort([-trial.cost for trial in trials], kind="stable")
    last = len(order) - 1
    for rank, row in enumerate(order):
        step = min(5, 6 * rank // len(order))
        style = {"color": Paint.ACCENT, "linewidth": 3.4} if rank == last else {"color": Paint.STEPS[step]}
        axes.plot(table[row], **({"linewidth": 1.3, "alpha": 0.9} | style), clip_on=False)
    for column, (_, (low, high)) in enumerate(columns):
        axes.axvline(column, color=Paint.SOFT, linewidth=1)
        for end, height, offset in ((high, 1, 8), (low, 0, -17)):
            axes.annotate(
                end,
                (column, height),
                xytext=(0, offset),
                textcoords="offset points",
                ha="center",
                color=Paint.SOFT,
                bbox={"facecolor": Paint.CARD, "alpha": 0.85, "pad": 1.5},
                zorder=5,
            )
    axes.set_xlim(0, len(names))
    axes.set_ylim(-0.18 if any((heights < 0).any() for heights, _ in columns) else -0.04, 1.02)
    axes.set_xticks(range(len(columns)), [*map(_spoken, names), cost_name.partition(",")[0]])
    axes.tick_params(axis="x", labelcolor=Paint.INK, pad=14)
    axes.set_yticks([])
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    off = " A line that dips below an axis did without that one." if (table < 0).any() else ""
    return Picture(
        "All trials side by side",
        inline_svg(axes, "parallel", "Parallel coordinates of all trials"),
        f"One line for each of {counted(len(trials), 'trial')}, most important hyperparameter first; the stronger the "
        f"line, the lower its {cost_name.partition(',')[0]}, and the thick one is the best.{off}",
        wide=True,
    )


def _unit_column(values: Sequence[bool | int | float | str | None]) -> tuple[NDArray[np.float64], tuple[str, str]]:
    """Heights in [0, 1], negative where there is no value, and what the ends of the axis are called."""
    present = [value for value in values if value is not None]
    if any(isinstance(value, bool | str) for value in present):
        choices = sorted({str(value) for value in present})
        places = {choice: index / max(1, len(choices) - 1) for index, choice in enumerate(choices)}
        heights = np.array([_SWITCHED_OFF if value is None else places[str(value)] for value in values])
        return heights, (_spoken(choices[0]), _spoken(choices[-1]))
    plain = np.array([float(value) for value in present])
    low, high = plain.min(), plain.max()
    scale = np.log if _is_wide(plain) else np.asarray
    spread = float(scale(high) - scale(low)) or 1.0
    heights = np.array(
        [_SWITCHED_OFF if value is None else float(scale(float(value)) - scale(low)) / spread for value in values]
    )
    return heights, (number(low), number(high))


def _place(axes: Axes, axis: str, name: str, trials: Sequence[Trial]) -> NDArray[np.float64]:
    """Labels one axis for a hyperparameter and returns its values (n,) as numbers; choices become 0, 1, 2, ..."""
    values = [trial.parameters[name] for trial in trials]
    chosen = axes.xaxis if axis == "x" else axes.yaxis
    chosen.set_label_text(_spoken(name))
    if any(isinstance(value, bool | str) for value in values):
        choices = sorted({str(value) for value in values})
        chosen.set_ticks(range(len(choices)), labels=[_spoken(choice) for choice in choices])
        return np.array([choices.index(str(value)) for value in values], dtype=float)
    plain = np.array(values, dtype=float)
    if len(plain) and _is_wide(plain):
        (axes.set_xlim if axis == "x" else axes.set_ylim)(plain.min(), plain.max())
        log_scale(axes, axis)
        (axes.set_autoscalex_on if axis == "x" else axes.set_autoscaley_on)(True)
    elif all(isinstance(value, int) for value in values):
        chosen.set_major_locator(whole_numbers())
    else:
        chosen.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    return plain


def _is_wide(values: NDArray[np.float64]) -> bool:
    return bool(values.min() > 0 and values.max() > _LOG_FROM_RATIO * values.min())


def _shades(generations: NDArray[np.int64]) -> list[str]:
    first, span = generations.min(initial=0), max(1, int(np.ptp(generations)) if len(generations) else 1)
    return [Paint.STEPS[int(5 * (generation - first) / span)] for generation in generations]


def _spoken(name: str) -> str:
    """A name short and clean enough for a plot; an SVG cannot hold control characters."""
    plain = "".join(letter if letter.isprintable() else "?" for letter in name.replace("_", " "))
    return plain if len(plain) <= _LONGEST_NAME else plain[: _LONGEST_NAME - 1] + "\N{HORIZONTAL ELLIPSIS}"
