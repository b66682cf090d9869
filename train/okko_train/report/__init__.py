"""The training report: one page that a person reads before trusting a model (Mitchell et al., 2019, "Model cards").

`render` turns a `TrainingResult` into a self-contained HTML page: no script, no outside address, a security policy that
forbids both. It computes nothing that training has not measured, apart from what the pictures need.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from okko_models.decision import Verdict
from okko_models.photo import decode_photo
from okko_train.metrics import share_interval
from okko_train.report import plots, wording
from okko_train.report.pages import data_uri, frame, template, writable
from okko_train.report.svg import house_style
from okko_train.report.swarm_plots import FEWEST_FOR_IMPORTANCE, swarm_pictures

if TYPE_CHECKING:
    from collections.abc import Sequence

    from okko_models.decision import DecisionRule
    from okko_train.explain.examples import Neighbour
    from okko_train.metrics import Evaluation
    from okko_train.result import Example, Sight, TrainingResult, Trial, Variant

MOST_MISTAKES: Final = 24
MOST_SKIPPED: Final = 200
_MOST_LABELS = 4
_LONGEST_SIDE: Final = 240
_NEIGHBOUR_SIDE: Final = 96


@dataclass(frozen=True)
class _Card:
    title: str
    value: str
    detail: str
    tone: str = ""


@dataclass(frozen=True)
class _Mistake:
    """An example made ready to be shown; `bars`: label, percent as text, width in percent, most probable first."""

    name: str
    image: str
    truth: str
    verdict: str
    happened: str
    bars: tuple[tuple[str, str, float], ...]
    heat: str
    neighbours: tuple[_Neighbour, ...]


@dataclass(frozen=True)
class _Neighbour:
    image: str
    label: str
    name: str
    distance: str


def render(result: TrainingResult) -> str:
    """Returns the report as one HTML page.

    The same result gives the same page, byte for byte. Names of photos and labels may hold anything.
    """
    with house_style():
        test, rule = result.test, result.manifest.decision
        judging = (
            plots.precision_recall(test, rule),
            plots.cost_by_threshold(result.validation, test, rule),
            plots.price_of_promises(result.validation, rule),
            plots.probabilities(test, rule),
            plots.calibration(test, result.validation, result.calibration),
        )
        swarm = swarm_pictures(result.trials)
        learning = plots.learning_curves(result.curves)
    page = template("report.html.j2").render(
        **frame("report.css"),
        result=result,
        manifest=result.manifest,
        test=test,
        rule=rule,
        say=wording,
        cards=_cards(result),
        outcome=_outcome(test),
        sights=[_seen(sight) for sight in result.sights],
        mistakes=[_mistake(example, rule, result.manifest.labels) for example in result.mistakes[:MOST_MISTAKES]],
        confusion=_confusion(test),
        judging=[picture for picture in judging if picture],
        swarm=swarm,
        fewest_for_importance=FEWEST_FOR_IMPORTANCE,
        best_trials=_listed(result.trials, result.chosen),
        hyperparameters=list(dict.fromkeys(name for trial in result.trials for name in trial.parameters)),
        learning=learning,
        variants=result.variants,
        why_shipped=_why_shipped(result.variants),
        groups=len({photo.group for photo in result.dataset.photos if photo.group is not None}),
        most_skipped=MOST_SKIPPED,
        skipped_kinds=Counter(file.kind for file in result.dataset.skipped).most_common(),
    )
    return writable(page)


def _cards(result: TrainingResult) -> list[_Card]:
    test = result.test
    good, bad = int(test.truly_ok.sum()), int((~test.truly_ok).sum())
    unsure = test.verdicts[Verdict.UNCERTAIN.value]
    cost = test.cost_per_photo
    cards = [
        _Card("Accuracy", wording.percent(test.accuracy.value), _bounds(wording.percent_range(test.accuracy), test.n)),
        _Card(
            "Balanced accuracy",
            wording.percent(test.balanced_accuracy.value),
            _bounds(wording.percent_range(test.balanced_accuracy), test.n),
        ),
        _Card("False OK", f"{test.false_ok:,}", f"bad let through: {wording.share(test.false_ok, bad)}", "false-ok"),
        _Card("False KO", f"{test.false_ko:,}", f"good thrown out: {wording.share(test.false_ko, good)}", "false-ko"),
        _Card("UNCERTAIN", f"{unsure:,}", f"sent to a person: {wording.share(unsure, test.n)}", "uncertain"),
        _Card(
            "Cost per photo",
            wording.number(cost.value),
            _bounds(f"{wording.number(cost.low)} to {wording.number(cost.high)}", test.n),
        ),
    ]
    for variant in result.variants:
        if variant.shipped:
            cards.append(_Card("Model size", f"{wording.number(variant.megabytes)} MB", variant.precision))
            latency = f"{wording.number(variant.latency_ms)} ms"
            cards.append(_Card("Time per photo", latency, "median, one thread, on the machine that trained"))
    return cards


def _bounds(bounds: str, n: int) -> str:
    return f"95\N{NO-BREAK SPACE}% interval {bounds}, n\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{n:,}"


def _outcome(test: Evaluation) -> list[tuple[str, str, float, float]]:
    """The parts of the bar under the headline: class, what, start and width in percent."""
    unsure = test.verdicts[Verdict.UNCERTAIN.value]
    parts = (
        ("right", "sorted right", test.n - test.false_ok - test.false_ko - unsure),
        ("uncertain", "sent to a person", unsure),
        ("false-ko", "good thrown out", test.false_ko),
        ("false-ok", "bad let through", test.false_ok),
    )
    bar, start = [], 0.0
    for kind, what, count in parts:
        width = 100 * count / test.n
        bar.append((kind, f"{count:,} {what}", round(start, 3), round(width, 3)))
        start += width
    return bar


def _mistake(example: Example, rule: DecisionRule, labels: Sequence[str]) -> _Mistake:
    likely = sorted(example.probability.items(), key=lambda pair: -pair[1])[:_MOST_LABELS]
    reasons = example.reasons
    return _Mistake(
        name=example.name,
        image=data_uri(example.image, _LONGEST_SIDE),
        truth=example.truth,
        verdict=example.verdict.value,
        happened=wording.what_happened(rule, example.truth, example.verdict),
        bars=tuple((label, wording.percent(float(p)), round(100 * float(p), 1)) for label, p in likely),
        heat=data_uri(reasons.heat, _LONGEST_SIDE) if reasons else "",
        neighbours=tuple(_neighbour(each, labels) for each in reasons.neighbours) if reasons else (),
    )


def _neighbour(neighbour: Neighbour, labels: Sequence[str]) -> _Neighbour:
    photo = neighbour.photo
    image = decode_photo(photo.jpeg, name=photo.name).pixels
    distance = wording.number(neighbour.distance, 2)
    return _Neighbour(data_uri(image, _NEIGHBOUR_SIDE), labels[photo.label], photo.name, distance)


def _seen(sight: Sight) -> tuple[str, str, str, tuple[float, ...]]:
    """A photo made ready to be shown with the part that is looked at: name, label, image, shares of it."""
    return sight.name, sight.label, data_uri(sight.image, _LONGEST_SIDE), tuple(round(share, 4) for share in sight.part)


def _confusion(test: Evaluation) -> list[tuple[str, list[tuple[int, str, str]], int, str]]:
    """Rows of the heat map: label, cells (count, share of the row, shade), photos in the row, share recognised."""
    rows = []
    for index, label in enumerate(test.labels):
        counts = [int(count) for count in test.confusion[index]]
        total = sum(counts)
        cells = []
        for column, count in enumerate(counts):
            level = int(np.ceil(10 * count / total)) if total else 0
            shade = f"{'hit' if column == index else 'miss'}-{level}"
            cells.append((count, wording.percent(count / total) if total else "", shade))
        found = share_interval(counts[index], total) if total else None
        recognised = f"{wording.percent(found.value)} ({wording.percent_range(found)})" if found else "no photos"
        rows.append((label, cells, total, recognised))
    return rows


def _listed(trials: Sequence[Trial], chosen: int) -> list[Trial]:
    """The best five trials, and the chosen one where it is not among them, best first."""
    best = sorted((trial for trial in trials if np.isfinite(trial.cost)), key=lambda trial: trial.cost)
    return best[:5] + [trial for trial in best[5:] if trial.number == chosen]


def _why_shipped(variants: Sequence[Variant]) -> str:
    shipped = [variant for variant in variants if variant.shipped]
    others = [each for each in variants if not each.shipped and each.backbone == shipped[0].backbone] if shipped else []
    if not shipped or not others:
        return ""
    chosen, other = shipped[0], others[0]
    dearer = chosen.cost_per_photo - other.cost_per_photo
    money = (
        f"its decisions cost {wording.number(abs(dearer))} {'more' if dearer > 0 else 'less'} a photo"
        if dearer
        else "its decisions cost the same"
    )
    faster = other.latency_ms / chosen.latency_ms
    speed = f"{wording.number(faster, 2)} times as fast" if faster >= 1 else f"{wording.percent(faster)} as fast"
    size = f"{wording.percent(chosen.megabytes / other.megabytes)} of the size"
    return (
        f"{chosen.precision} ships. Beside {other.precision}, {money}, its log loss is "
        f"{wording.number(chosen.log_loss)} instead of {wording.number(other.log_loss)}, and it is {speed} at {size}."
    )
