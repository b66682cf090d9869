"""The looks at a photo among which training chooses: the whole of it, or the region that matters.

Where objects fill the view the whole is better; where neighbours are in view, the region is. Which it is differs from
rig to rig and is measured. Where the user has drawn the region nothing else is looked at, and what is chosen is whether
its middle counts most.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from okko_train.backbone import EMBEDDING
from okko_train.feature_graph import Pool, Pooling, Recipe, Rectangle, View

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from okko_train.region import Place

SIZE: Final = 224
REGION_CROP: Final = 0.5
_OVERALL: Final = (Pool("block7"), Pool("block10"), Pool("block14"), Pool("block15"), Pool(EMBEDDING))
_CENTRED: Final = tuple(Pool(tap, Pooling.CENTRE) for tap in ("block7", "block10", "block14", "block15", "head"))


def looks_at(where: Place | Rectangle) -> dict[str, Recipe]:
    """Returns the looks by name; the first is the one to take where nothing speaks clearly for another.

    Args:
        where: the middle of the region that was found, or the very region that the user has drawn.
    """
    if isinstance(where, Rectangle):
        drawn = View(crop=where, size=SIZE)
        return {"region_evenly": Recipe(drawn, _OVERALL), "region": Recipe(drawn, _CENTRED)}
    whole = View(crop=None, size=SIZE)
    region = View(crop=REGION_CROP, size=SIZE, x=where.x, y=where.y)
    return {
        "whole": Recipe(whole, _OVERALL),
        "region": Recipe(region, _CENTRED),
    }


@dataclass(frozen=True)
class Embedded:
    """Features of photos, all of one kind.

    Attributes:
        photos: (n_photos, n_features) of the photos as they are.
        copies: (n_copies, n_learn, n_features) of altered copies of the photos to learn from.
    """

    photos: NDArray[np.float32]
    copies: NDArray[np.float32]
