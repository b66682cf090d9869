"""The looks at a photo among which the swarm chooses: the whole of it, its centre, or both.

A fixed camera shows the object in the middle and its neighbours round it; where objects fill the view, the whole is
better. Which it is differs from rig to rig, so it is a hyperparameter. Each view is embedded once, and every look is
put together from the same features.
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

_WHOLE: Final = View(crop=None, size=224)
_CENTRE: Final = View(crop=0.67, size=224)
_CENTRED: Final = tuple(Pool(tap, Pooling.CENTRE) for tap in ("block7", "block10", "block14", "block15", "head"))

LOOKS: Final = {
    "whole": Recipe((_WHOLE,), (Pool(EMBEDDING),)),
    "whole_centre_weighted": Recipe((_WHOLE,), _CENTRED),
    "centre": Recipe((_CENTRE,), _CENTRED),
    "whole_and_centre": Recipe((_WHOLE, _CENTRE), _CENTRED),
}
"""By name; what each is worth stands in `docs/benchmarks.md`."""


@dataclass(frozen=True)
class Album:
    """Photos, embedded once for every view that some recipes need.

    Attributes:
        recipes: one a view, with the pools of all recipes.
        features: for each of these, (n_photos, recipe.length).
    """

    recipes: tuple[Recipe, ...]
    features: tuple[NDArray[np.float32], ...]

    def look(self, recipe: Recipe) -> NDArray[np.float32]:
        """Returns (n_photos, recipe.length) features, equal to those that the recipe's own graph computes."""
        parts = []
        for view in recipe.views:
            index = next(i for i, single in enumerate(self.recipes) if single.views == (view,))
            parts.append(self.features[index][:, _columns(recipe.pools, of=self.recipes[index])])
        return np.concatenate(parts, axis=1)


def single_views(recipes: Mapping[str, Recipe]) -> tuple[Recipe, ...]:
    """Returns one recipe for each view that occurs in `recipes`, each with all pools that occur."""
    views = dict.fromkeys(view for recipe in recipes.values() for view in recipe.views)
    pools = tuple(dict.fromkeys(pool for recipe in recipes.values() for pool in recipe.pools))
    return tuple(Recipe((view,), pools) for view in views)


def _columns(pools: Iterable[Pool], *, of: Recipe) -> NDArray[np.int64]:
    ends = np.cumsum(of.widths)
    starts = {pool: (end - width, end) for pool, width, end in zip(of.pools, of.widths, ends, strict=True)}
    return np.concatenate([np.arange(*starts[pool]) for pool in pools])
