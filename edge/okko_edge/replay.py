"""Shows kept frames to another model and says what it would have decided differently.

The journal says what was decided about each frame, the frame's file what was seen; the digest ties the two together,
and every file is compared with it. Reads, and changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from okko_edge.frame_file import FrameFileError, decode
from okko_edge.kept_frames import find_frames
from okko_edge.sorter import Outcome, verdict_of_two
from okko_models.decision import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from okko_edge.journal.reading import Row
    from okko_edge.settings import SortingSettings
    from okko_models.classifier import Classification
    from okko_models.decision import DecisionRule


class Classifies(Protocol):
    """What replaying asks of a classifier; `okko_models.classifier.Classifier` is one."""

    def classify(self, image: NDArray[np.uint8], /) -> Classification:
        """Classifies an image (height, width, 3) uint8 RGB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A decision that would have been another.

    Attributes:
        run: in which run it was made.
        number: the marble's number there.
        unix_s: when, seconds since 1970, as the device believed.
        digest: the frame's.
        was: the verdict at the time.
        would_be: the verdict now.
        label_was: the most probable label at the time; None when there was no classification.
        label_would_be: now.
        probability_was: of each label of the model at the time; None likewise.
        probability_would_be: of each label of the model now.
        truth: the label that the marble is known to have; None when unknown.
        error: what went wrong at the time.
    """

    run: str
    number: int
    unix_s: float
    digest: str
    was: str
    would_be: str
    label_was: str | None
    label_would_be: str
    probability_was: dict[str, float] | None
    probability_would_be: dict[str, float]
    truth: str | None
    error: str | None


@dataclass(slots=True, kw_only=True)
class Replayed:
    """What came of it.

    Attributes:
        decisions: how many were looked at.
        replayed: of those, how many have a frame that was shown to the model.
        without_frame: of those, how many have none, or none that was kept.
        verdicts: how many of each pair: verdict at the time, verdict now.
        changes: the decisions with two different verdicts.
        damaged: what is wrong with files that could not be used; their decisions count as without frame.
    """

    decisions: int = 0
    replayed: int = 0
    without_frame: int = 0
    verdicts: dict[str, dict[str, int]] = field(
        default_factory=lambda: {was.value: {now.value: 0 for now in Verdict} for was in Verdict}
    )
    changes: list[Change] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)


def index_frames(folders: Iterable[Path]) -> dict[str, Path]:
    """Returns the file of every frame in the folders, by digest.

    Raises:
        OSError: a folder cannot be read.
    """
    return {digest: path for folder in folders for digest, path in find_frames(folder)}


def replay(
    rows: Iterable[Row],
    frames: Mapping[str, Path],
    classifier: Classifies,
    *,
    labels: Sequence[str],
    rule: DecisionRule,
    sorting: SortingSettings,
) -> Replayed:
    """Shows the frames of journaled decisions to a model.

    A frame that was taken for two marbles because two had arrived stays one of two marbles: the model cannot know.

    Args:
        rows: the decisions.
        frames: the file of each frame, by digest.
        classifier: the model.
        labels: its labels, in the order of its probabilities.
        rule: its decision rule.
        sorting: which labels mean an empty slot or two marbles.
    """
    result = Replayed()
    said: dict[str, Classification | None] = {}
    for row in rows:
        result.decisions += 1
        digest = row.frame_digest
        if digest is None or digest not in frames:
            result.without_frame += 1
            continue
        if digest not in said:
            said[digest] = _classify(digest, frames[digest], classifier, result.damaged)
        now = said[digest]
        if now is None:
            result.without_frame += 1
            continue
        result.replayed += 1
        verdict = _verdict(row, now, rule, sorting)
        result.verdicts[row.verdict][verdict.value] += 1
        if verdict.value != row.verdict:
            result.changes.append(_change(row, digest, verdict, now, labels))
    return result


def _classify(digest: str, path: Path, classifier: Classifies, damaged: list[str]) -> Classification | None:
    try:
        image = decode(path.read_bytes(), digest=digest, name=str(path))
    except FrameFileError as error:
        damaged.append(str(error))
        return None
    except OSError as error:
        damaged.append(f"{path} cannot be read ({error.strerror or error})")
        return None
    return classifier.classify(image)


def _verdict(row: Row, now: Classification, rule: DecisionRule, sorting: SortingSettings) -> Verdict:
    arrived_as_two = row.outcome == Outcome.TWO and row.label not in sorting.two_labels
    if arrived_as_two or now.label in sorting.two_labels:
        return verdict_of_two(rule)
    return Verdict.KO if now.label in sorting.empty_labels else now.verdict


def _change(row: Row, digest: str, verdict: Verdict, now: Classification, labels: Sequence[str]) -> Change:
    return Change(
        run=row.run,
        number=row.number,
        unix_s=row.unix_s,
        digest=digest,
        was=row.verdict,
        would_be=verdict.value,
        label_was=row.label,
        label_would_be=now.label,
        probability_was=row.probability,
        probability_would_be=dict(zip(labels, now.probability.tolist(), strict=True)),
        truth=row.truth,
        error=row.error,
    )
