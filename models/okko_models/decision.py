"""The decision rule: from the probability of OK to one of three verdicts.

The thresholds are chosen in training from what mistakes cost the user and travel in the manifest; this module only
applies them. With calibrated probabilities and costs that are linear in the number of mistakes, the cheapest verdict
is a function of one number, the probability of OK, cut at two points (Chow, 1970, "On optimum recognition error and
reject tradeoff").
"""

from __future__ import annotations

import enum
import math
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping


NOVELTY_LIMIT: Final = 1.0
"""Every model scales its novelty so that a frame beyond this is unlike anything that it was trained on."""


class Verdict(enum.StrEnum):
    """What the edge decides about one object."""

    OK = "OK"
    KO = "KO"
    UNCERTAIN = "UNCERTAIN"


class Costs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a decision costs, in any one currency; a right decision costs nothing.

    Attributes:
        false_ok: a bad object let through.
        false_ko: a good object thrown out.
        uncertain: an object set aside for a person.
    """

    false_ok: float = 1.0
    false_ko: float = 1.0
    uncertain: float = 0.25

    def __post_init__(self) -> None:
        for name in ("false_ok", "false_ko", "uncertain"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"cost {name} must be a number of at least 0, not {value}")
        if self.false_ok == self.false_ko == 0:
            raise ValueError("costs false_ok and false_ko are both 0: then no decision matters; raise one of them")

    def of(self, verdict: Verdict, *, truly_ok: bool) -> float:
        """Returns the cost of one `verdict` about an object that is `truly_ok` or not."""
        if verdict is Verdict.UNCERTAIN:
            return self.uncertain
        if verdict is Verdict.OK:
            return 0.0 if truly_ok else self.false_ok
        return self.false_ko if truly_ok else 0.0


class Promise(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the thresholds promise of objects like the training photos, mistakes about good and bad ones each.

    Attributes:
        max_error: at most this share of bad objects gets the verdict OK, and of good ones the verdict KO.
        confidence: probability, over the training photos, that a model made in this way keeps it.
        good: number of good photos that the promise rests on.
        bad: number of bad ones.
    """

    max_error: float
    confidence: float
    good: int
    bad: int


class DecisionRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Verdict OK from `ok_threshold` up, KO below `ko_threshold`, UNCERTAIN between and for frames of a new kind.

    Attributes:
        ok_labels: the labels that count as good; their probabilities are added up.
        ok_threshold: smallest probability of OK that is called OK, in [0, 1].
        ko_threshold: probability of OK below which the verdict is KO, in [0, ok_threshold].
        costs: what the thresholds were chosen for.
        promise: the error rate that the thresholds keep to; None if none was asked for.
    """

    ok_labels: tuple[str, ...]
    ok_threshold: float
    ko_threshold: float
    costs: Costs
    promise: Promise | None = None

    def __post_init__(self) -> None:
        if not self.ok_labels:
            raise ValueError("ok_labels is empty: name at least one label that counts as good")
        if not 0 <= self.ko_threshold <= self.ok_threshold <= 1:
            raise ValueError(
                "thresholds must satisfy 0 <= ko_threshold <= ok_threshold <= 1, "
                f"not ko_threshold={self.ko_threshold}, ok_threshold={self.ok_threshold}"
            )

    def probability_of_ok(self, probability: Mapping[str, float]) -> float:
        """Returns the summed probability of the good labels, in [0, 1]."""
        return sum(probability[label] for label in self.ok_labels)

    def verdict(self, probability_of_ok: float, novelty: float = 0.0) -> Verdict:
        """Returns the verdict for one object.

        Args:
            probability_of_ok: summed probability of the good labels; not a number gives KO, the safe side.
            novelty: how unlike training the frame is; beyond `NOVELTY_LIMIT`, or not a number, the probability means
                nothing and the verdict is UNCERTAIN.
        """
        if math.isnan(probability_of_ok):
            return Verdict.KO
        if not novelty <= NOVELTY_LIMIT:
            return Verdict.UNCERTAIN
        if probability_of_ok >= self.ok_threshold:
            return Verdict.OK
        return Verdict.UNCERTAIN if probability_of_ok >= self.ko_threshold else Verdict.KO
