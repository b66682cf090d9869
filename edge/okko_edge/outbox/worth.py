"""Which frames are worth a person's label, and which of them are worth more than others; pure rules, no files.

A model learns most from what it does not know: frames it is UNCERTAIN about (uncertainty sampling: Lewis and Gale,
1994, "A sequential algorithm for training text classifiers"), frames unlike anything in training, and frames that a
small change would have moved over a threshold. A few random ones keep the sample honest about the ordinary.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from okko_models.decision import Verdict

if TYPE_CHECKING:
    from okko_models.classifier import Classification
    from okko_models.decision import DecisionRule


class Reason(enum.StrEnum):
    """Why a frame is kept."""

    UNCERTAIN = "uncertain"
    CORRECTED = "corrected"
    UNLIKE_TRAINING = "unlike training"
    NEAR_THRESHOLD = "near a threshold"
    RANDOM = "random"


_RANK = {Reason.RANDOM: 0, Reason.NEAR_THRESHOLD: 1, Reason.UNLIKE_TRAINING: 2}
_PRECIOUS = 3
_SENT = -1


@dataclass(frozen=True, slots=True)
class Worth:
    """Why a frame is kept, and how much that is worth among frames that are kept for the same reason.

    Attributes:
        reason: why.
        score: near a threshold: 1 on it, 0 where nearness ends; unlike training: the novelty; else 0.
    """

    reason: Reason
    score: float = 0.0


def judge(
    verdict: Verdict, said: Classification, rule: DecisionRule, *, near: float, random_share: float, lot: float
) -> Worth | None:
    """Says whether a frame is worth a label, and why; None when it is not.

    Args:
        verdict: what was decided.
        said: what the model said.
        rule: the model's thresholds.
        near: how far from a threshold, in probability of OK, is near; at most half of the way to certainty counts, so
            that with a threshold of 0.02 not every clear KO is near it.
        random_share: share of the other frames that are kept all the same.
        lot: a random number in [0, 1).
    """
    if Verdict.UNCERTAIN in {verdict, said.verdict}:
        return Worth(Reason.UNCERTAIN)
    if math.isfinite(said.novelty) and said.novelty > 1:
        return Worth(Reason.UNLIKE_TRAINING, said.novelty)
    closeness = max(_closeness(said.probability_of_ok, at, near) for at in (rule.ko_threshold, rule.ok_threshold))
    if closeness >= 0:
        return Worth(Reason.NEAR_THRESHOLD, closeness)
    return Worth(Reason.RANDOM) if lot < random_share else None


def _closeness(ok: float, threshold: float, near: float) -> float:
    """1 on the threshold, 0 where nearness ends, negative beyond it and for what is not a number."""
    reach = min(near, (1 - threshold if ok >= threshold else threshold) / 2)
    distance = abs(ok - threshold)
    return 1 - distance / reach if reach > 0 and distance <= reach else -1.0


def value(worth: Worth, *, labelled: bool, sent: bool) -> tuple[int, float]:
    """Returns how little a kept frame may be missed: what is smallest goes first, equals by age.

    What is in S3 already goes first; then random frames, frames near a threshold (the furthest from it first), frames
    unlike training (the least unlike first). UNCERTAIN and labelled frames are `is_precious`.
    """
    if sent:
        return _SENT, 0.0
    if labelled:
        return _PRECIOUS, 0.0
    return _RANK.get(worth.reason, _PRECIOUS), worth.score


def is_precious(value: tuple[int, float]) -> bool:
    """Whether a frame of this value never goes to make room for another."""
    return value[0] >= _PRECIOUS
