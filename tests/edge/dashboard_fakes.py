"""Decisions as a sorter would make them, for the tests of everything that hears of decisions."""

from __future__ import annotations

import numpy as np

from okko_edge.about import About, FoundRegion
from okko_edge.frame import Frame
from okko_edge.sorter import Decision
from okko_models.classifier import Classification
from okko_models.decision import Verdict

ABOUT = About(
    name="marbles",
    version="3",
    digest="a" * 64,
    labels=("KO", "OK"),
    ok_labels=("OK",),
    ok_threshold=0.8,
    ko_threshold=0.2,
    region=FoundRegion(0.5, 0.5),
    camera="sim:photos",
    gate="sim",
    device="bench",
    okko="0.1.0",
)


def verdict_of(ok: float) -> Verdict:
    return Verdict.OK if ok >= 0.8 else Verdict.KO if ok < 0.2 else Verdict.UNCERTAIN


def frame(number: int = 1, size: tuple[int, int] = (64, 48)) -> Frame:
    """A frame with noise of its own, so that no two have the same digest."""
    image = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Frame(image, captured_at_s=float(number), sequence=number)


def decision(
    number: int = 1,
    ok: float = 0.95,
    *,
    novelty: float = 0.0,
    path_ms: float = 12.0,
    shown: Frame | None = None,
    error: str | None = None,
) -> Decision:
    said = Classification(
        verdict_of(ok),
        "OK" if ok >= 0.5 else "KO",
        np.array([1 - ok, ok], np.float32),
        ok,
        np.zeros(3, np.float32),
        novelty,
    )
    return Decision(number, said.verdict, shown or frame(number), said, error, float(number), path_ms - 2, path_ms)


def unseen(number: int = 1) -> Decision:
    """A marble of which no frame came."""
    return Decision(number, Verdict.KO, None, None, "no frame was taken after the marble arrived", 1.0, 0.0, 0.1)
