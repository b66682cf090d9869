"""okko's own training, as a job calls it: with the test photos of the place kept away from it.

What it remembers of photos (features by content) stays in okko's cache, so that a job looks only at what is new.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from okko_models.host import processors

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from okko_cloud.place import Settings
    from okko_models.bundle import Bundle
    from okko_train.dataset import Dataset


class Trainer(Protocol):
    """Makes a bundle of photos."""

    def __call__(
        self,
        dataset: Dataset,
        test: Collection[str],
        out: Path,
        settings: Settings,
        *,
        command: str,
        earlier: Bundle | None,
    ) -> None:
        """Writes the bundle `out`.

        Args:
            dataset: all photos; its digest stands in the manifest.
            test: SHA-256 of the photos that must not be learnt from.
            out: a folder that is not there yet.
            settings: what the user has decided.
            command: what the manifest names as having made it.
            earlier: the last model of this place made by these settings; None: there is none.

        Raises:
            OkkoError: these photos cannot be trained on.
        """


def train_with_okko(
    dataset: Dataset,
    test: Collection[str],
    out: Path,
    settings: Settings,
    *,
    command: str,
    earlier: Bundle | None,
) -> None:
    """Trains as `okko train` does; see `Trainer`."""
    from okko_train.training import Options, train

    options = Options(
        name=settings.name,
        costs=settings.costs,
        ok_labels=settings.ok_labels or None,
        seed=settings.seed,
        trials=settings.trials,
        workers=processors(),
        command=command,
        test=frozenset(test),
        earlier=earlier,
    )
    train(dataset, out, options)
