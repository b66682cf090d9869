"""Looks at a photo before people do: reads what devices said of it, asks a model, finds out whether it can be read."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import msgspec

from okko_cloud.labelling.reasons import Guess
from okko_models.damaged import decode_json
from okko_models.decision import Verdict
from okko_models.photo import DecodedPhoto, PhotoError, decode_photo

if TYPE_CHECKING:
    from okko_cloud.labelling.layout import Beside
    from okko_cloud.labelling.photos import Photos
    from okko_models.classifier import Classifier

_T = TypeVar("_T")
_BY = "the model"
_UNCERTAIN, _NEAR, _RANDOM = "uncertain", "near a threshold", "random"


class Sidecar(msgspec.Struct, frozen=True):
    """Of what a device's outbox wrote beside a photo, what is needed here."""

    device: str
    bundle_digest: str
    verdict: Verdict
    reason: str
    score: float
    probability: dict[str, float] | None
    probability_of_ok: float | None
    novelty: float | None


class Correction(msgspec.Struct, frozen=True):
    """What a person said of a photo at a device's dashboard."""

    label: str


@dataclass(frozen=True, slots=True)
class Look:
    """What there is to know about a photo before a person sees it; `problem` says why it cannot be read."""

    guess: Guess | None = None
    corrected: str | None = None
    problem: str | None = None


def decode(data: bytes, name: str) -> DecodedPhoto:
    """Returns a photo's pixels.

    Raises:
        PhotoError: it cannot be read, or is too large for this machine.
    """
    try:
        return decode_photo(data, name=name)
    except MemoryError as error:
        raise PhotoError(f"{name}: too large for this machine's memory. Save a smaller copy of it.") from error


class Eye:
    """Looks at one photo.

    Args:
        photos: where it lies.
        classifier: the model to ask; None: only what devices said is known.
    """

    def __init__(self, photos: Photos, classifier: Classifier | None) -> None:
        self._photos = photos
        self._classifier = classifier

    def look(self, key: str, beside: Beside) -> Look:
        """Returns what there is to know about a photo.

        Raises:
            OkkoError: the place where photos lie fails.
        """
        sidecar = self._json(beside.sidecar, Sidecar)
        corrected = self._json(beside.correction, Correction)
        label = corrected.label if corrected else None
        model = self._classifier
        if model is None:
            return Look(_said(sidecar) if sidecar else None, label)
        guess = self._said_by(model, sidecar) if sidecar else None
        if guess is not None:
            return Look(guess, label)
        data = self._photos.load(key)
        if data is None:
            return Look(None, label)
        try:
            said = model.classify(decode(data, key).pixels)
        except PhotoError as error:
            return Look(None, label, str(error).removeprefix(f"{key}: "))
        rule = model.bundle.manifest.decision
        guess = Guess.of(model.by_label(said), said.probability_of_ok, said.novelty, rule, _BY)
        return Look(guess, label)

    def _said_by(self, model: Classifier, said: Sidecar) -> Guess | None:
        """What the very same model said on the device, which saves asking it again."""
        if said.bundle_digest != model.bundle.digest or said.probability is None or said.probability_of_ok is None:
            return None
        if said.probability.keys() != set(model.bundle.manifest.labels):
            return None
        rule = model.bundle.manifest.decision
        return Guess.of(said.probability, said.probability_of_ok, said.novelty or 0.0, rule, _BY)

    def _json(self, key: str | None, kind: type[_T]) -> _T | None:
        data = self._photos.load(key) if key else None
        # What a device wrote is a help; without it the photo is shown all the same.
        with contextlib.suppress(msgspec.MsgspecError):
            return decode_json(data, kind) if data else None
        return None


def _said(said: Sidecar) -> Guess | None:
    """What a device's model said, whose thresholds are not known here: its verdict and its reason are."""
    if not said.probability or said.probability_of_ok is None:
        return None
    return Guess(
        probability=said.probability,
        probability_of_ok=said.probability_of_ok,
        novelty=said.novelty or 0.0,
        verdict=Verdict.UNCERTAIN if said.reason == _UNCERTAIN else said.verdict,
        near=said.score if said.reason == _NEAR else -1.0,
        by=f"the model on {said.device}",
        sampled=said.reason == _RANDOM,
    )
