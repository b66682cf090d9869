"""What one training run found out, as plain values: the report draws them and the command prints them.

Nothing here computes; `okko_train.training` fills it in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from okko_models.decision import Verdict
    from okko_models.manifest import Manifest
    from okko_train.calibration import Calibration
    from okko_train.dataset import Dataset
    from okko_train.explain.examples import Neighbour
    from okko_train.metrics import Evaluation


@dataclass(frozen=True)
class Trial:
    """One particle's evaluation: a set of hyperparameters and what cross-validation says of it.

    Attributes:
        number: 0, 1, 2, ... in the order in which the swarm asked.
        generation: the swarm's generation that the particle belonged to.
        parameters: hyperparameters by name.
        cost: mean out-of-fold log loss after calibration, in nats; infinite when training failed.
        accuracy: out-of-fold accuracy.
        seconds: processor time that the trial took.
        standard_error: of the cost, over groups of photos.
    """

    number: int
    generation: int
    parameters: dict[str, bool | int | float | str]
    cost: float
    accuracy: float
    seconds: float
    standard_error: float = 0.0


@dataclass(frozen=True)
class LearningCurve:
    """How one network's costs fell, epoch by epoch: arrays (n_epochs,), log loss in nats."""

    train: NDArray[np.floating]
    validation: NDArray[np.floating]


@dataclass(frozen=True)
class Variant:
    """One way to ship the model, measured.

    Attributes:
        backbone: what the model stands on.
        precision: "float32" or "int8".
        megabytes: size of `model.onnx`.
        latency_ms: least processor time for one photo on one thread of the training machine.
        log_loss: out-of-fold, on training photos, in nats.
        cost_per_photo: out-of-fold, in the user's currency.
        shipped: whether this one is in the bundle.
    """

    backbone: str
    precision: str
    megabytes: float
    latency_ms: float
    log_loss: float
    cost_per_photo: float
    shipped: bool


@dataclass(frozen=True)
class Reasons:
    """Why a model said what it said of a photo.

    Attributes:
        heat: (height, width, 3) uint8, what the model looks at, with what spoke for OK and for KO laid over it.
        neighbours: the training photos most like it, nearest first.
    """

    heat: NDArray[np.uint8]
    neighbours: tuple[Neighbour, ...]


@dataclass(frozen=True)
class Example:
    """A test photo and what the model said of it.

    Attributes:
        name: the photo's name in the dataset.
        image: (height, width, 3) uint8 RGB, reduced for display.
        truth: its label.
        probability: by label.
        verdict: by the bundle's decision rule.
        reasons: for the verdict; None where nobody asked.
    """

    name: str
    image: NDArray[np.uint8]
    truth: str
    probability: dict[str, float]
    verdict: Verdict
    reasons: Reasons | None = None


@dataclass(frozen=True)
class Sight:
    """A photo and the part of it that the model looks at.

    Attributes:
        name: the photo's name in the dataset.
        label: its label.
        image: (height, width, 3) uint8 RGB, reduced for display.
        part: left edge, upper edge, width and height, as shares of the photo.
    """

    name: str
    label: str
    image: NDArray[np.uint8]
    part: tuple[float, float, float, float]


@dataclass(frozen=True)
class TrainingResult:
    """Everything that a person may want to know about a training run.

    Attributes:
        manifest: of the bundle (its `files` still empty).
        dataset: the photos, with those that were skipped and why.
        test: on photos held out from everything.
        validation: out-of-fold on the training photos, calibrated; the thresholds were chosen on these.
        trials: the swarm's trials in order.
        chosen: number of the trial whose hyperparameters the model has; -1 if a trained backbone ships.
        curves: one a fold, with the chosen hyperparameters.
        calibration: from scores to probabilities.
        variants: float and int8, of each backbone that was tried.
        sights: some photos that were learnt from, with the part that is looked at.
        mistakes: the worst test photos, worst first: wrong verdicts by cost, then UNCERTAIN ones.
        duration_s: wall time of the whole run.
    """

    manifest: Manifest
    dataset: Dataset
    test: Evaluation
    validation: Evaluation
    trials: tuple[Trial, ...]
    chosen: int
    curves: tuple[LearningCurve, ...]
    calibration: Calibration
    variants: tuple[Variant, ...]
    sights: tuple[Sight, ...]
    mistakes: tuple[Example, ...]
    duration_s: float
