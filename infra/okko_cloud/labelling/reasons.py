"""Which photos a person should look at first, and why; pure rules over what a model said.

A model learns most from what it does not know (uncertainty sampling: Lewis and Gale, 1994, "A sequential algorithm for
training text classifiers"), and a wrong label teaches it the opposite. A small random sample shows what it is wrongly
sure of.
"""

from __future__ import annotations

import enum
import hashlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from okko_models.decision import NOVELTY_LIMIT, Verdict

if TYPE_CHECKING:
    from collections.abc import Mapping

    from okko_models.decision import DecisionRule

RANDOM_SHARE: Final = 0.05
NEAR_LOG_ODDS: Final = 1.0
"""So close to a threshold, in log-odds of being OK, counts as near: from 0.9 down to 0.77 and up to 0.96."""


class Reason(enum.StrEnum):
    """Why a photo is shown; in the order in which they are."""

    CORRECTED = "corrected at the device"
    UNCERTAIN = "the model is uncertain"
    LIKELY_WRONG = "the label is likely wrong"
    NEAR_THRESHOLD = "near a threshold"
    NOVEL = "unlike training"
    RANDOM = "random sample"
    ORDINARY = "the model is sure"
    NO_GUESS = "no guess"
    UNREADABLE = "unreadable"


_ORDER: Final = {reason: number for number, reason in enumerate(Reason)}


@dataclass(frozen=True, slots=True)
class Guess:
    """What a model said about a photo.

    Attributes:
        probability: of each label.
        probability_of_ok: their sum over the good labels.
        novelty: beyond 1: unlike anything in training.
        verdict: by the thresholds of the model that guessed, whatever the novelty.
        near: 1 on a threshold, 0 where nearness ends, negative beyond.
        by: whose guess, for the reader.
        sampled: whether the photo was kept for the random sample.
    """

    probability: Mapping[str, float]
    probability_of_ok: float
    novelty: float
    verdict: Verdict
    near: float
    by: str
    sampled: bool = False

    @property
    def label(self) -> str:
        """The most probable label."""
        return max(self.probability, key=lambda label: self.probability[label])

    @property
    def confidence(self) -> float:
        """Its probability."""
        return self.probability[self.label]

    @classmethod
    def of(
        cls, probability: Mapping[str, float], probability_of_ok: float, novelty: float, rule: DecisionRule, by: str
    ) -> Guess:
        """Returns a guess, judged by a model's rule."""
        return cls(
            probability, probability_of_ok, novelty, rule.verdict(probability_of_ok), _near(probability_of_ok, rule), by
        )


@dataclass(frozen=True, slots=True)
class Worth:
    """Why a photo is shown, and how much that is worth among those that are shown for the same reason."""

    reason: Reason
    score: float = 0.0

    @property
    def order(self) -> tuple[int, float]:
        """What is smallest is shown first."""
        return _ORDER[self.reason], -self.score


def judge(
    *, label: str | None, guess: Guess | None, corrected: str | None, problem: str | None, lot: float
) -> Worth | None:
    """Says why a person should look at a photo; None when there is no reason to.

    Args:
        label: the one that it has; None if it has none.
        guess: what the model says; None if it was not asked.
        corrected: what a person said at the device's dashboard.
        problem: why the photo cannot be read.
        lot: the photo's number in [0, 1) for the random sample.
    """
    if problem is not None:
        return Worth(Reason.UNREADABLE)
    if label is not None:
        # A label that the model has never heard of is no mistake of the person's.
        if guess is None or label not in guess.probability or guess.label == label:
            return None
        return Worth(Reason.LIKELY_WRONG, guess.confidence - guess.probability[label])
    if corrected is not None:
        return Worth(Reason.CORRECTED)
    if guess is None:
        return Worth(Reason.NO_GUESS, lot)
    if guess.verdict is Verdict.UNCERTAIN:
        return Worth(Reason.UNCERTAIN, 1 - guess.confidence)
    if guess.near >= 0:
        return Worth(Reason.NEAR_THRESHOLD, guess.near)
    if not guess.novelty <= NOVELTY_LIMIT:
        return Worth(Reason.NOVEL, guess.novelty if math.isfinite(guess.novelty) else 0.0)
    return (
        Worth(Reason.RANDOM, lot)
        if guess.sampled or lot < RANDOM_SHARE
        else Worth(Reason.ORDINARY, 1 - guess.confidence)
    )


def lot_of(name: str) -> float:
    """Returns a photo's number in [0, 1): the same for everybody, without order."""
    return int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()[:6]) / 2**48


def _near(ok: float, rule: DecisionRule) -> float:
    """1 on a threshold, 0 at `NEAR_LOG_ODDS` from it; thresholds 0 and 1 are never near, nor is what is no number."""
    if not 0 < ok < 1:
        return -1.0
    distances = [abs(_logit(ok) - _logit(at)) for at in (rule.ko_threshold, rule.ok_threshold) if 0 < at < 1]
    return 1 - min(distances, default=math.inf) / NEAR_LOG_ODDS


def _logit(share: float) -> float:
    return math.log(share / (1 - share))
