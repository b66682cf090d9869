"""The pictures of how good a model is: thresholds, costs, probabilities and learning curves.

Every function returns a `Picture`, or None where there is nothing to draw. Good and bad differ by more than colour
(dashes, markers, up and down), so the pictures survive a grey printer and any eye.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, MultipleLocator, PercentFormatter

from okko_train.calibration import choose_rule
from okko_train.conformal import keep_promise, least_error
from okko_train.metrics import share_interval
from okko_train.report.svg import Paint, Picture, canvas, inline_svg, legend_on_top
from okko_train.report.wording import calibration_in_words, counted, number, percent, photos, scores_in_words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from okko_models.decision import DecisionRule
    from okko_train.calibration import Calibration
    from okko_train.metrics import Evaluation
    from okko_train.result import LearningCurve

_STEPS = 10
_MOST_ERROR = 0.2
_COSTS_AT_A_TIME = 4_000_000


def precision_recall(test: Evaluation, rule: DecisionRule) -> Picture | None:
    """Precision against recall for finding the good and for finding the bad, with the chosen thresholds marked."""
    axes = canvas()
    sides = (
        ("good ones", test.probability_of_ok, test.truly_ok, rule.ok_threshold, Paint.OK, "-", "o"),
        ("bad ones", 1 - test.probability_of_ok, ~test.truly_ok, 1 - rule.ko_threshold, Paint.KO, (0, (4, 1.6)), "D"),
    )
    drawn: list[str] = []
    reached: list[float] = []
    for name, score, wanted, threshold, colour, dashes, marker in sides:
        if not wanted.any():
            continue
        recall, precision = precision_recall_points(score, wanted)
        axes.plot(recall, precision, color=colour, linestyle=dashes, label=f"finding {name}")
        # A bad photo is called KO strictly below its threshold, a good one OK from its threshold up.
        called = score > threshold if name == "bad ones" else score >= threshold
        if called.any():
            at = float((called & wanted).sum() / wanted.sum()), float((called & wanted).sum() / called.sum())
            reached += at
            axes.plot(*at, marker, color=colour, markersize=10, clip_on=False, zorder=4)
        drawn.append(counted(int(wanted.sum()), name.removesuffix(" ones")).removesuffix("s"))
    if not drawn:
        return None
    # Good models live in the corner, so the axes begin a little below what the chosen thresholds reach.
    start = max(0.0, math.floor(10 * min([0.9, *reached]) - 0.5) / 10)
    for axis in ("x", "y"):
        _unit(axes, axis, 0.05 if start > 0.7 else 0.1 if start > 0.4 else 0.2, start)
    axes.set(xlabel="recall: share of them found", ylabel="precision: share right")
    legend_on_top(axes)
    return Picture(
        "Precision and recall",
        inline_svg(axes, "recall", "Precision against recall on the test photos"),
        f"{_on_test(test)} ({', '.join(drawn)}). The large marks are where the chosen thresholds stand. The "
        f"closer a line comes to the upper right corner, the better. Both axes begin at {percent(start)}.",
    )


def precision_recall_points(
    score: NDArray[np.floating], wanted: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns recall and precision (m,) for each threshold that tells photos apart, from strict to lenient.

    Args:
        score: (n,) higher for what is wanted.
        wanted: (n,) bool, at least one True.
    """
    order = np.argsort(-score, kind="stable")
    hits = np.cumsum(wanted[order])
    last = np.append(np.diff(score[order]) != 0, True)
    recall, precision = hits[last] / wanted.sum(), (hits / np.arange(1, len(hits) + 1))[last]
    return np.concatenate([[0.0], recall]), np.concatenate([precision[:1], precision])


def cost_by_threshold(validation: Evaluation, test: Evaluation, rule: DecisionRule) -> Picture:
    """Mean cost of a photo as each of the two thresholds moves while the other one stays."""
    axes = canvas()
    thresholds = np.linspace(0, 1, 201)
    ko, ok = rule.ko_threshold, rule.ok_threshold
    single = costs_at(validation, rule, thresholds, thresholds)
    where, explained = percent(ok), ""
    if ko < ok:
        kos, oks = thresholds[thresholds <= ok], thresholds[thresholds >= ko]
        moved_ko = costs_at(validation, rule, kos, np.full(len(kos), ok))
        moved_ok = costs_at(validation, rule, np.full(len(oks), ko), oks)
        axes.plot(kos, moved_ko, color=Paint.KO, linestyle=(0, (4, 1.6)), label="move KO")
        axes.plot(oks, moved_ok, color=Paint.OK, label="move OK")
        axes.plot(thresholds, single, color=Paint.SOFT, linewidth=1.4, linestyle=(0, (1, 2)), label="one for both")
        where = f"{percent(ko)} and {percent(ok)}"
        explained = "A line shows what moving one threshold would do while the other one stays. "
    else:
        axes.plot(thresholds, single, color=Paint.OK, label="the one threshold")
    chosen = costs_at(validation, rule, np.array([ko]), np.array([ok]))[0]
    for threshold, colour, marker in ((ko, Paint.KO, "D"), (ok, Paint.OK, "o")):
        axes.axvline(threshold, color=colour, linewidth=1)
        axes.plot(threshold, chosen, marker, color=colour, markersize=9, zorder=4)
    # Silly thresholds may cost a hundred times more; they would press everything else flat.
    top = max(1.3 * rule.costs.uncertain, 6 * chosen, 1.3 * float(single.min()))
    axes.set_ylim(0, min(top, 1.1 * float(single.max())) or 1)
    _unit(axes, "x", 0.2)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value, 2)))
    axes.set(xlabel="threshold on the probability of OK", ylabel="cost per photo")
    legend_on_top(axes)
    return Picture(
        "What each threshold would cost",
        inline_svg(axes, "cost", "Cost per photo against the decision thresholds"),
        f"On {photos(validation.n)} of the training part, each judged by a network that had not seen it. "
        f"{explained}Chosen: {where}, at {number(chosen)} a photo there and {number(test.cost_per_photo.value)} on the "
        f"{photos(test.n)} of the test. With these thresholds {percent(uncertain_share(validation, rule))} of the "
        f"training part and {percent(uncertain_share(test, rule))} of the test go to a person.",
    )


def costs_at(
    evaluation: Evaluation, rule: DecisionRule, ko: NDArray[np.floating], ok: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Returns the mean cost (m,) of a photo for m pairs of thresholds, at the rule's costs."""
    of_ok, good, costs = evaluation.probability_of_ok, evaluation.truly_ok, rule.costs
    if len(ok) > 1 and len(ok) * len(of_ok) > _COSTS_AT_A_TIME:
        pairs = zip(np.array_split(ko, len(ko)), np.array_split(ok, len(ok)), strict=True)
        return np.concatenate([costs_at(evaluation, rule, *pair) for pair in pairs])
    says_ok = of_ok >= ok[:, None]
    says_ko = ~says_ok & (of_ok < ko[:, None])
    unsure = ~says_ok & ~says_ko
    paid = says_ok * (~good * costs.false_ok) + says_ko * (good * costs.false_ko) + unsure * costs.uncertain
    return np.asarray(paid.mean(axis=1))


def probabilities(test: Evaluation, rule: DecisionRule) -> Picture:
    """Histogram of the probability of OK, good photos upwards and bad ones downwards, with the UNCERTAIN zone."""
    axes = canvas()
    edges = np.linspace(0, 1, 26)
    tallest = 1
    for photos_of, sign, colour, name in ((test.truly_ok, 1, Paint.OK, "good"), (~test.truly_ok, -1, Paint.KO, "bad")):
        counts = np.histogram(test.probability_of_ok[photos_of], edges)[0]
        tallest = max(tallest, int(counts.max()))
        label = f"{name} ({counts.sum():,})"
        axes.bar(edges[:-1] + 0.02, sign * np.sqrt(counts), width=0.034, color=colour, label=label)
    if rule.ko_threshold < rule.ok_threshold:
        zone = (rule.ko_threshold, rule.ok_threshold)
        axes.axvspan(*zone, color=Paint.UNCERTAIN, alpha=0.22, label="UNCERTAIN zone", zorder=0.5)
    else:
        axes.axvline(rule.ok_threshold, color=Paint.UNCERTAIN, label="threshold")
    axes.axhline(0, color=Paint.SOFT, linewidth=0.8)
    ticks = [tick for tick in (1, 5, 20, 100, 500, 2000, 10_000, 50_000) if tallest / 25 <= tick <= tallest]
    heights = [-np.sqrt(tick) for tick in reversed(ticks)] + [0.0] + [np.sqrt(tick) for tick in ticks]
    axes.set_yticks(heights, [str(tick) for tick in [*reversed(ticks), 0, *ticks]])
    axes.set_ylim(-1.12 * np.sqrt(tallest), 1.12 * np.sqrt(tallest))
    axes.grid(visible=False, axis="x")
    _unit(axes, "x", 0.2)
    axes.set(xlabel="probability of OK", ylabel="photos")
    legend_on_top(axes)
    return Picture(
        "How sure it is",
        inline_svg(axes, "histogram", "Histogram of the probability of OK by truth"),
        f"{_on_test(test)}. Good ones point up and belong to the right, bad ones point down and belong to the left. "
        "Heights grow with the square root, so that a single photo can be seen.",
    )


def calibration(test: Evaluation, validation: Evaluation, chosen: Calibration) -> Picture:
    """Share of truly good photos against the probability of OK that the model stated."""
    axes = canvas()
    axes.plot([0, 1], [0, 1], color=Paint.SOFT, linewidth=1.2, linestyle=(0, (1, 2)), label="ideal")
    for evaluation, name, colour, filling, marker in (
        (validation, "training part", Paint.SOFT, Paint.CARD, "s"),
        (test, "test", Paint.ACCENT, Paint.ACCENT, "o"),
    ):
        stated, found, low, high = reliability(evaluation)
        axes.errorbar(
            stated,
            found,
            # Wilson's bounds may miss 0 and 1 by a rounding error.
            yerr=np.maximum((found - low, high - found), 0),
            fmt=marker,
            color=colour,
            markerfacecolor=filling,
            markeredgecolor=colour,
            elinewidth=1.3,
            label=name,
            clip_on=False,
        )
    _unit(axes, "x", 0.2)
    _unit(axes, "y", 0.2)
    axes.set(xlabel="probability of OK that was stated", ylabel="share that was good")
    legend_on_top(axes)
    return Picture(
        "Do the probabilities mean what they say?",
        inline_svg(axes, "calibration", "Reliability of the stated probabilities"),
        f"{calibration_in_words(test, validation)} {scores_in_words(chosen)} Drawn in steps of 10\N{NO-BREAK SPACE}%; "
        "whiskers are 95\N{NO-BREAK SPACE}% intervals.",
    )


def reliability(evaluation: Evaluation) -> tuple[NDArray[np.float64], ...]:
    """Returns mean stated probability, share found good and the share's 95 % bounds, (m,) each, of the filled steps."""
    number_of_step = np.minimum((evaluation.probability_of_ok * _STEPS).astype(int), _STEPS - 1)
    rows = []
    for step in np.unique(number_of_step):
        inside = number_of_step == step
        interval = share_interval(int(evaluation.truly_ok[inside].sum()), int(inside.sum()))
        rows.append((evaluation.probability_of_ok[inside].mean(), interval.value, interval.low, interval.high))
    return tuple(np.array(rows).T)


def price_of_promises(validation: Evaluation, rule: DecisionRule) -> Picture | None:
    """Share of UNCERTAIN verdicts against the error rate that could be promised, with the chosen one marked."""
    good, bad = int(validation.truly_ok.sum()), int((~validation.truly_ok).sum())
    if not min(good, bad) or (least := least_error(min(good, bad))) >= _MOST_ERROR:
        return None
    axes = canvas()
    errors = np.geomspace(least, _MOST_ERROR, 60)
    errors[0] = least * (1 + 1e-9)
    by_costs = rule_by_costs(validation, rule)
    unsure = [uncertain_share(validation, promised(validation, by_costs, error)) for error in errors]
    axes.plot(errors, unsure, color=Paint.UNCERTAIN, drawstyle="steps-post", label="with that promise")
    if rule.promise is not None:
        now = uncertain_share(validation, rule)
        axes.plot(rule.promise.max_error, now, "o", color=Paint.INK, markersize=9, zorder=4, label="promised")
    log_scale(axes, "x")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: percent(float(value))))
    axes.set_ylim(bottom=0)
    axes.set(xlabel="mistakes that may be made", ylabel="share UNCERTAIN")
    legend_on_top(axes)
    return Picture(
        "What a promise takes",
        inline_svg(axes, "promise", "Share of UNCERTAIN verdicts against the error rate that is promised"),
        f"On {photos(validation.n)} of the training part, each judged by a network that had not seen it: the rarer "
        "mistakes must be (--max-error), the more often a person is asked. "
        f"{counted(min(good, bad), 'photo')} of the rarer side cannot promise less than {percent(least)}.",
    )


def rule_by_costs(evaluation: Evaluation, rule: DecisionRule) -> DecisionRule:
    """Returns the rule that would have come of asking for no promise."""
    return choose_rule(evaluation.probability_of_ok, evaluation.truly_ok, rule.ok_labels, rule.costs)


def promised(evaluation: Evaluation, by_costs: DecisionRule, max_error: float) -> DecisionRule:
    """Returns `by_costs` with its thresholds moved apart until they keep to `max_error`."""
    return keep_promise(by_costs, evaluation.probability_of_ok, evaluation.truly_ok, max_error)


def uncertain_share(evaluation: Evaluation, rule: DecisionRule) -> float:
    """Returns the share of photos whose probability of OK lies between the thresholds of `rule`."""
    of_ok = evaluation.probability_of_ok
    return float(((of_ok >= rule.ko_threshold) & (of_ok < rule.ok_threshold)).mean())


def learning_curves(curves: Sequence[LearningCurve]) -> Picture | None:
    """Cost per epoch, mean and spread over the folds."""
    curves = [curve for curve in curves if len(curve.train) and len(curve.validation)]
    if not curves:
        return None
    axes = canvas()
    lows = []
    for part, name, colour, dashes in (
        ("train", "learnt from", Paint.SOFT, (0, (4, 1.6))),
        ("validation", "not seen", Paint.ACCENT, "-"),
    ):
        rows = [np.asarray(getattr(curve, part), dtype=float) for curve in curves]
        epochs = np.arange(1, min(map(len, rows)) + 1)
        table = np.array([row[: len(epochs)] for row in rows])
        table[~np.isfinite(table)] = np.nan
        seen = ~np.isnan(table).all(axis=0)
        epochs, table = epochs[seen], table[:, seen]
        if not len(epochs):
            continue
        lows.append(np.nanmin(table))
        axes.fill_between(epochs, np.nanmin(table, axis=0), np.nanmax(table, axis=0), color=colour, alpha=0.18)
        # A single epoch is a point, not a line.
        marker = "o" if len(epochs) == 1 else None
        axes.plot(epochs, np.nanmean(table, axis=0), color=colour, linestyle=dashes, marker=marker, label=name)
    if not lows:
        return None
    bottom, top = min(lows), axes.get_ylim()[1]
    if bottom > 0 and top > 30 * bottom:
        log_scale(axes, "y")
    axes.xaxis.set_major_locator(whole_numbers())
    axes.set(xlabel="epoch (once through the photos)", ylabel="log loss, nats")
    legend_on_top(axes)
    return Picture(
        "Learning curves",
        inline_svg(axes, "learning", "Log loss by epoch on photos learnt from and on photos not seen"),
        f"The chosen network in {counted(len(curves), 'fold')} of the cross-validation: lines are means, bands reach "
        "from the best to the worst fold. Lower is better.",
    )


def log_scale(axes: Axes, axis: str) -> None:
    """Makes one axis logarithmic, with plain numbers at 1, 2 and 5."""
    (axes.set_xscale if axis == "x" else axes.set_yscale)("log")
    chosen = axes.xaxis if axis == "x" else axes.yaxis
    low, high = chosen.get_view_interval()
    chosen.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 1000 * low else (1,)))
    chosen.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    chosen.set_minor_formatter(FuncFormatter(lambda _, __: ""))


def whole_numbers() -> MaxNLocator:
    """Ticks at whole numbers only."""
    return MaxNLocator(7, integer=True, steps=[1, 2, 5, 10])


def _unit(axes: Axes, axis: str, step: float, start: float = 0.0) -> None:
    margin = 0.02 * (1 - start)
    (axes.set_xlim if axis == "x" else axes.set_ylim)(start - margin, 1 + margin)
    chosen = axes.xaxis if axis == "x" else axes.yaxis
    chosen.set_major_locator(MultipleLocator(step))
    chosen.set_major_formatter(PercentFormatter(1, decimals=0, symbol="\N{NO-BREAK SPACE}%"))


def _on_test(test: Evaluation) -> str:
    return f"On the {photos(test.n)} of the test"
