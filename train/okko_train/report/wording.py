"""Numbers and verdicts as people say them: the sentences and formats of the report.

Every rate comes with the number of photos behind it; no judgement ("good", "excellent") is made for the reader.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from okko_models.decision import Verdict
from okko_train.metrics import share_interval

if TYPE_CHECKING:
    from collections.abc import Iterable

    from okko_models.decision import DecisionRule
    from okko_models.manifest import Interval
    from okko_train.calibration import Calibration
    from okko_train.metrics import Evaluation

_SPACE = "\N{NO-BREAK SPACE}"


def number(value: float, digits: int = 3) -> str:
    """Returns a number with a few significant digits: 0.0123, 12.3, 1,230; "failed" for what is not finite."""
    if not math.isfinite(value):
        return "failed"
    if value == 0:
        return "0"
    places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    if places > digits + 3:
        return f"{value:.{digits - 1}e}"
    text = f"{value:,.{places}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def percent(share: float) -> str:
    """Returns a share in percent; what is not quite all is never rounded to 100 %, what is not nothing never to 0 %."""
    for places in (1, 2, 3):
        text = f"{100 * share:.{places}f}".rstrip("0").rstrip(".")
        if share in (0.0, 1.0) or text not in ("0", "100"):
            return f"{text}{_SPACE}%"
    return f"{'above 99.99' if share > 0.5 else 'below 0.01'}{_SPACE}%"


def percent_range(interval: Interval) -> str:
    """Returns the bounds of an interval of shares, in percent."""
    low, high = (percent(bound).removesuffix(f"{_SPACE}%") for bound in (interval.low, interval.high))
    return f"{low} to {high}{_SPACE}%"


def share(hits: int, n: int) -> str:
    """Returns "3 % of 200 (95 % interval 1 to 6.4 %)", or says that there were none."""
    if n == 0:
        return "none in the test"
    interval = share_interval(hits, n)
    return f"{percent(interval.value)} of {n:,} (95{_SPACE}% interval {percent_range(interval)})"


def photos(count: int) -> str:
    """Returns "1 photo", "12 photos"."""
    return counted(count, "photo")


def counted(count: int, noun: str) -> str:
    """Returns a count with its noun in the singular or the plural."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def duration(seconds: float) -> str:
    """Returns a length of time in the unit that suits it."""
    if seconds < 60:
        return f"{number(seconds, 2)} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def listed(names: Iterable[str]) -> str:
    """Returns "a, b and c"."""
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


def headline(test: Evaluation) -> str:
    """Returns the whole outcome in a sentence or two that need no statistics to read."""
    unsure = test.verdicts[Verdict.UNCERTAIN.value]
    right = test.n - test.false_ok - test.false_ko - unsure
    interval = share_interval(right, test.n)
    outcome = [
        f"sorted {right:,} right ({percent(interval.value)}, 95{_SPACE}% interval {percent_range(interval)})",
        f"sent {unsure:,} to a person" if unsure else "sent none to a person",
        f"let {test.false_ok:,} bad through" if test.false_ok else "let no bad one through",
        f"threw {test.false_ko:,} good out" if test.false_ko else "threw no good one out",
    ]
    return f"Of {photos(test.n)} it had never seen, it {listed(outcome)}."


def caution(test: Evaluation) -> str:
    """Returns what the test is too small to promise about bad photos let through, the mistake that matters most."""
    bad = int((~test.truly_ok).sum())
    if bad == 0:
        return "The test held no bad photo, so it says nothing about how many bad ones would get through."
    through = f"{test.false_ok:,}" if test.false_ok else "none"
    return (
        f"The test held {counted(bad, 'bad photo')}, of which {through} got through: from so many, one can say "
        f"that in the long run {percent_range(share_interval(test.false_ok, bad))} of bad ones will (95{_SPACE}% "
        "interval). More test photos narrow this down. All of it holds for photos like these: the same camera, light "
        "and objects."
    )


def rule_in_words(rule: DecisionRule) -> list[str]:
    """Returns the decision rule, one sentence a verdict."""
    good = listed(rule.ok_labels)
    sentences = [f"OK, when the probability of {good} is at least {percent(rule.ok_threshold)}."]
    if rule.ko_threshold < rule.ok_threshold:
        sentences.append(f"UNCERTAIN, a person looks, when it is from {percent(rule.ko_threshold)} up to there.")
    below = f"KO, when it is below {percent(rule.ko_threshold)}."
    return [*sentences, below if rule.ko_threshold > 0 else "KO, never."]


def promise(rule: DecisionRule, test: Evaluation) -> str:
    """Returns which error rate the thresholds keep to, and what the test found of it; empty without a promise."""
    if rule.promise is None:
        return ""
    most, confidence = percent(rule.promise.max_error), percent(rule.promise.confidence)
    good, bad = int(test.truly_ok.sum()), int((~test.truly_ok).sum())
    return (
        f"Promised: of bad objects like these at most {most} are called OK, and of good ones at most {most} KO; what "
        f"cannot be told so surely is UNCERTAIN. A model made in this way keeps that with {confidence} confidence; it "
        f"rests on {counted(rule.promise.bad, 'bad photo')} and {rule.promise.good:,} good. Found on the test, which "
        f"had no say in it: {test.false_ok:,} of {bad:,} bad ({_bounds(test.false_ok, bad)}) and {test.false_ko:,} of "
        f"{good:,} good ({_bounds(test.false_ko, good)})."
    )


def familiarity(test: Evaluation) -> str:
    """Returns how many test photos were UNCERTAIN because nothing like them was learnt; empty if nothing can tell."""
    if not test.novelty.any():
        return ""
    novel = test.novel
    return (
        f"A photo unlike anything in training is UNCERTAIN whatever its probability. On the test, which held photos of "
        f"the usual kind only, that happened to {percent(novel.value)} of {photos(test.n)} (95{_SPACE}% interval "
        f"{percent_range(novel)})."
    )


def _bounds(hits: int, n: int) -> str:
    return f"95{_SPACE}% interval {percent_range(share_interval(hits, n))}" if n else "so it says nothing"


def calibration_in_words(test: Evaluation, validation: Evaluation) -> str:
    """Returns how far stated probabilities are from what was found, and how much of it few photos explain."""
    error = test.calibration_error
    return (
        f"On the {photos(test.n)} of the test the stated probability is {percent(error.corrected.value)} off on "
        f"average (expected calibration error, corrected for few photos, 95{_SPACE}% interval "
        f"{percent_range(error.corrected)}). Uncorrected it is {percent(error.plain)} in "
        f"{counted(error.bins, 'equally filled bin')}, where probabilities that are exactly right would show "
        f"{percent(error.if_perfect)}. On {photos(validation.n)} of the training part it is "
        f"{percent(validation.calibration_error.corrected.value)}."
    )


def scores_in_words(calibration: Calibration) -> str:
    """Returns what was done to the scores to make them probabilities."""
    said = f"Scores were divided by the temperature {number(calibration.temperature)}"
    if any(calibration.shift):
        said += f" and shifted by {listed([number(shift) for shift in calibration.shift])}"
    return f"{said}."


def what_happened(rule: DecisionRule, truth: str, verdict: Verdict) -> str:
    """Returns what a verdict meant for one photo."""
    if verdict is Verdict.UNCERTAIN:
        return "not sure"
    if (verdict is Verdict.OK) == (truth in rule.ok_labels):
        return "right verdict"
    return "bad let through" if verdict is Verdict.OK else "good thrown out"


def setting(value: bool | int | float | str) -> str:
    """Returns a hyperparameter's value as a person would type it."""
    return number(value) if isinstance(value, float) else str(value)
