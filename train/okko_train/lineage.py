"""What a training on more photos of the same rig takes over from the model before, and when it looks anew instead.

Where the region lies and how int8 is scaled are found from the photos, so every new photo would move both a little, and
all photos would have to be looked at again, though hardly anything changed. So a model says where it looked, in its
bundle; a training that is given the bundle looks there, too, and remembers what it saw of the known photos. The search
begins with the hyperparameters that were best, and so needs fewer trials. Networks, calibration and thresholds are
learnt from all photos, as ever.
"""

from __future__ import annotations

import math
from importlib.metadata import version
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from okko_models.damaged import decode_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from okko_models.bundle import Bundle
    from okko_train.feature_graph import Recipe

LINEAGE: Final = "lineage.json"
"""The file's name in a bundle; a device needs it for nothing."""
MOST_GROWTH: Final = 1.5
"""With so many times the photos, or as many times fewer, all are looked at anew: however often photos come, each is
then looked at three times on average (a geometric series)."""


_SHARE_OF_TRIALS: Final = 1 / 3
_SURELY: Final = 2.0
"""Standard errors: int8 that was as good as float is not given up for what may be chance, as one error often is."""


class Lineage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a model looked, and how well that served when it looked anew.

    Attributes:
        labels: of the photos.
        x: middle of the region that was found, as a share of the photos' width; None: it was drawn by the user.
        y: of their height.
        n_photos: to learn from.
        log_loss: the least of the search, out of fold, in nats for each photo.
        int8: whether the int8 backbone was as good as the float one.
        parameters: hyperparameters of the model.
        ranges: what sets the scales of the int8 backbone, by `ranges_key` of the float one.
        form: of this file; what has another is not taken over.
    """

    labels: tuple[str, ...]
    x: float | None
    y: float | None
    n_photos: int
    log_loss: float
    int8: bool
    parameters: dict[str, bool | int | float | str]
    ranges: dict[str, dict[str, tuple[float, float]]]
    form: Literal[1] = 1

    @property
    def errors(self) -> float:
        """Standard errors by which int8 must be worse than float to be given up; see `okko_train.variants.choose`."""
        return _SURELY if self.int8 else 1.0

    def trials(self, wanted: int) -> int:
        """Returns how many trials of the swarm suffice where `wanted` ones would without this."""
        return math.ceil(wanted * _SHARE_OF_TRIALS)

    def encode(self) -> bytes:
        """Returns the content of the file."""
        return msgspec.json.encode(self, order="deterministic")

    def why_not_for(self, labels: Sequence[str], n_photos: int) -> str:
        """Says why photos have to be looked at anew before they were; empty: they need not be.

        Args:
            labels: of the photos.
            n_photos: number of photos to learn from.
        """
        if tuple(labels) != self.labels:
            return f"the labels are {', '.join(labels)} now, and were {', '.join(self.labels)}"
        if not self.n_photos / MOST_GROWTH < n_photos < self.n_photos * MOST_GROWTH:
            return f"there are {n_photos} photos to learn from now, and were {self.n_photos}"
        return ""

    def why_worse(self, *, log_loss: float, standard_error: float, int8: bool) -> str:
        """Says why what was taken over did not serve; empty: it did.

        Args:
            log_loss: of the new photos and the known ones, in nats for each photo.
            standard_error: of the log loss.
            int8: whether the int8 backbone is as good as the float one, within `errors`.
        """
        if log_loss > self.log_loss + standard_error:
            return f"the log loss is {log_loss:.4f} now, and was {self.log_loss:.4f}"
        if self.int8 and not int8:
            return "int8 is worse than float now, and was not"
        return ""


def ranges_key(recipe: Recipe) -> str:
    """Returns what ranges are kept under: other releases of onnxruntime may want those of other tensors."""
    return f"{recipe.digest} onnxruntime {version('onnxruntime')}"


def lineage_of(bundle: Bundle) -> Lineage | None:
    """Returns where the model of a bundle looked; None if it does not say so, or as another okko says it.

    Raises:
        BundleError: the file was altered.
    """
    if LINEAGE not in bundle.manifest.files:
        return None
    try:
        return decode_json(bundle.read(LINEAGE), Lineage)
    except msgspec.DecodeError:
        return None
