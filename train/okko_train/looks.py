"""The looks at a photo among which the swarm chooses: the whole of it, or the region that matters.

Where objects fill the view the whole is better; where neighbours are in view, the region is. Which it is differs from
rig to rig, so it is a hyperparameter. Each view is embedded once, as it is and in altered copies, and every look is put
together from the same features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from okko_train.backbone import EMBEDDING
from okko_train.feature_graph import Pool, Pooling, Recipe, View

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from okko_train.region import Place

SIZE: Final = 224
REGION_CROP: Final = 0.5
_OVERALL: Final = (Pool("block10"), Pool("block15"), Pool(EMBEDDING))
_CENTRED: Final = tuple(Pool(tap, Pooling.CENTRE) for tap in ("block7", "block10", "block14", "block15", "head"))


def looks_at(place: Place) -> dict[str, Recipe]:
    """Returns the looks by name; `place` is the middle of the region."""
    whole = View(crop=None, size=SIZE)
    region = View(crop=REGION_CROP, size=SIZE, x=place.x, y=place.y)
    return {
        "whole": Recipe((whole,), _OVERALL),
        "region": Recipe((region,), _CENTRED),
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

    def columns(self, columns: NDArray[np.int64]) -> Embedded:
        """Returns some of the features."""
        return Embedded(self.photos[:, columns], self.copies[..., columns])


@dataclass(frozen=True)
class Album:
    """Photos, embedded once for every view that some recipes need.

    Attributes:
        recipes: one a view, with the pools of all recipes.
        features: one for each of these.
    """

    recipes: tuple[Recipe, ...]
    features: tuple[Embedded, ...]

    def look(self, recipe: Recipe) -> Embedded:
        """Returns the features of one look, equal to those that the recipe's own graph computes."""
        parts = []
        for view in recipe.views:
            index = next(i for i, single in enumerate(self.recipes) if single.views == (view,))
            parts.append(self.features[index].columns(_columns(recipe.pools, of=self.recipes[index])))
        return Embedded(
            np.concatenate([part.photos for part in parts], axis=-1),
            np.concatenate([part.copies for part in parts], axis=-1),
        )


def single_views(recipes: Mapping[str, Recipe]) -> tuple[Recipe, ...]:
    """Returns one recipe for each view that occurs in `recipes`, each with all pools that occur."""
    views = dict.fromkeys(view for recipe in recipes.values() for view in recipe.views)
    pools = tuple(dict.fromkeys(pool for recipe in recipes.values() for pool in recipe.pools))
    return tuple(Recipe((view,), pools) for view in views)


def _columns(pools: Iterable[Pool], *, of: Recipe) -> NDArray[np.int64]:
    ends = np.cumsum(of.widths)
    starts = {pool: (end - width, end) for pool, width, end in zip(of.pools, of.widths, ends, strict=True)}
    return np.concatenate([np.arange(*starts[pool]) for pool in pools])
