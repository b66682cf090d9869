"""Float or int8: both are measured on the same photos, and the better one ships.

int8 ships when it is faster here and, on photos that its networks have not seen, neither its log loss nor the user's
cost is worse by more than one standard error of the difference. Processor time is compared, not the clock's: what else
a busy machine does meanwhile must not decide which model ships.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from okko_models.classifier import make_session
from okko_models.photo import read_photo
from okko_train.calibration import choose_rule, fit_calibration, losses
from okko_train.conformal import keep_promise
from okko_train.feature_graph import IMAGE
from okko_train.metrics import costs_of
from okko_train.result import Variant

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from onnx import ModelProto

    from okko_models.decision import Costs, DecisionRule
    from okko_train.calibration import Calibration
    from okko_train.dataset import Photo
    from okko_train.looks import Embedded

_TIMED_PHOTOS = 24
_WARM_UPS = 4
_CLEARLY = 1.1


@dataclass(frozen=True)
class Measured:
    """One way to compute the features, and what cross-validation says of it.

    Attributes:
        precision: "float32" or "int8".
        model: graph from `image` to `features`.
        features: of all photos, the test split too.
        calibration: fitted out of fold.
        probability: (n_learn, n_labels) out of fold, calibrated.
        rule: chosen out of fold.
        losses: (n_learn,) log loss of each photo, in nats.
        costs: (n_learn,) cost of each photo's verdict.
        latency_ms: for one photo on one thread, see `latency_ms`.
    """

    precision: str
    model: ModelProto
    features: Embedded
    calibration: Calibration
    probability: NDArray[np.float64]
    rule: DecisionRule
    losses: NDArray[np.float64]
    costs: NDArray[np.float64]
    latency_ms: float

    def describe(self, backbone: str, *, shipped: bool) -> Variant:
        """Returns the figures for the report; `backbone` says what the model stands on."""
        return Variant(
            backbone=backbone,
            precision=self.precision,
            megabytes=self.model.ByteSize() / 1e6,
            latency_ms=self.latency_ms,
            log_loss=float(self.losses.mean()),
            cost_per_photo=float(self.costs.mean()),
            shipped=shipped,
        )


def measure(
    precision: str,
    model: ModelProto,
    features: Embedded,
    *,
    logits: NDArray[np.float64],
    truth: NDArray[np.int64],
    folds: NDArray[np.int64],
    labels: Sequence[str],
    ok_labels: Sequence[str],
    costs: Costs,
    max_error: float | None,
    photos: Sequence[Photo],
) -> Measured:
    """Calibrates and times one variant.

    Args:
        precision: its name.
        model: graph from `image` to `features`.
        features: of all photos.
        logits: (n_learn, n_labels) out of fold.
        truth: (n_learn,) index of the label.
        folds: (n_learn,) number of the fold that each photo belongs to.
        labels: names of the labels.
        ok_labels: those that count as good.
        costs: what mistakes cost.
        max_error: the error rate to promise; None promises nothing.
        photos: to be timed with.

    Raises:
        OkkoError: too few photos for the promise.
    """
    calibration = fit_calibration(logits, truth, folds)
    probability = calibration(logits)
    ok_columns = [labels.index(label) for label in ok_labels]
    of_ok, truly_ok = probability[:, ok_columns].sum(axis=1), np.isin(truth, ok_columns)
    rule = choose_rule(of_ok, truly_ok, ok_labels, costs)
    if max_error is not None:
        rule = keep_promise(rule, of_ok, truly_ok, max_error)
    return Measured(
        precision=precision,
        model=model,
        features=features,
        calibration=calibration,
        probability=probability,
        rule=rule,
        losses=losses(probability, truth),
        costs=costs_of(of_ok, truly_ok, rule),
        latency_ms=latency_ms(model, photos),
    )


def choose(float32: Measured, int8: Measured, *, errors: float = 1.0) -> Measured:
    """Returns the variant that ships: int8, unless it is worse (see `is_worse`) or clearly slower.

    It takes a quarter of the disk and less memory; where both are equally fast, as on many PCs, a difference of chance
    must not decide.
    """
    worse = is_worse(int8, float32, errors=errors)
    return float32 if worse or int8.latency_ms > _CLEARLY * float32.latency_ms else int8


def is_worse(int8: Measured, float32: Measured, *, errors: float = 1.0) -> bool:
    """Says whether int8's log loss or cost is worse by more than so many standard errors of the difference."""
    differences = (int8.losses - float32.losses, int8.costs - float32.costs)
    return any(bool(each.mean() > errors * each.std() / np.sqrt(len(each))) for each in differences)


def latency_ms(model: ModelProto, photos: Sequence[Photo]) -> float:
    """Returns the processor time for one photo on one thread of this machine, in milliseconds.

    The least of all photos: what others do on the machine can only add to it, and must not decide what ships.
    """
    session = make_session(model.SerializeToString(), threads=1)
    images = [read_photo(photo.path)[None] for photo in photos[:_TIMED_PHOTOS]]
    for image in images[:_WARM_UPS]:
        session.run(None, {IMAGE: image})
    times = []
    for image in images:
        begin = time.thread_time()
        session.run(None, {IMAGE: image})
        times.append(time.thread_time() - begin)
    return 1e3 * min(times)
