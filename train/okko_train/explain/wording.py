"""What an explanation says in words, in the picture and on the terminal."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from okko_train.explain import Explanation

MISSING: Final = (
    "This bundle holds no training photos, because an earlier okko made it. Train the model again with `okko train`, "
    "and the training photos most like this one are shown, too."
)
_NOTHING: Final = 1e-6
"""Nats; a smaller change of the log-odds is rounding."""


def percent(share: float) -> str:
    """Returns a probability in percent; what is not quite 0 or 1 is not rounded to it."""
    text = f"{100 * share:.1f}"
    if text in ("0.0", "100.0") and share not in (0.0, 1.0):
        text = "below 0.1" if share < 0.5 else "above 99.9"
    return f"{text.removesuffix('.0')} %"


def most_telling(found: Explanation) -> str:
    """Returns what covering the one place that spoke most for the likelier side does to the probability of OK."""
    heat = found.heat
    side, after = ("OK", heat.score - heat.most_for) if heat.score > 0 else ("KO", heat.score + heat.most_against)
    if abs(after - heat.score) <= _NOTHING:
        return f"No single place spoke for {side}."
    was, becomes = (percent(1 / (1 + math.exp(-each))) for each in (heat.score, after))
    if was == becomes:
        return f"No single place decides: covering the one that spoke most for {side} leaves the probability as it is."
    return f"Covering the place that spoke most for {side} moves the probability of OK from {was} to {becomes}."
