"""How a run of the agent begins, goes on and ends with updates: which model sorts, and the updater beside it.

The shelf's model goes first, and the one that the configuration names sorts as long as the shelf has none, or none that
works. Nothing here keeps the agent from starting or from ending.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from okko_edge.updater import models_folder
from okko_edge.updater.in_service import ModelInService
from okko_edge.updater.reporting import Reports
from okko_edge.updater.shelf import Shelf
from okko_edge.updater.updater import Updater
from okko_models.classifier import Classifier
from okko_models.errors import BundleError, OkkoError

if TYPE_CHECKING:
    from collections.abc import Callable

    from okko_edge.about import About
    from okko_edge.events import Counters, Event
    from okko_edge.journal import Journal, RunRecord
    from okko_edge.settings import Settings
    from okko_edge.updater.in_service import Running
    from okko_models.bundle import Bundle

SWITCH_S: Final = 0.0005
"""A thread that computes in Python gives way to the sorting thread after so long; Python's usual 5 ms would show."""
_LOADS: Final = 3


class Updates:
    """What a run needs of the updater: a context manager around the run.

    Args:
        settings: of all parts.
        counters: the counted events.
        okko: this program's version.
        warn: takes one sentence for the user.
    """

    def __init__(self, settings: Settings, *, counters: Counters, okko: str, warn: Callable[[str], None]) -> None:
        self._settings = settings
        self._okko = okko
        self._warn = warn
        self._configured = Path(settings.bundle) if settings.bundle else None
        self._journal: Journal | None = None
        self._model: ModelInService | None = None
        self._updater: Updater | None = None
        folder = models_folder(settings.updates)
        reports = Reports(folder / "outcomes.jsonl", counters=counters, tell=self._tell)
        self._shelf = Shelf(folder, okko=okko, reports=reports, warn=warn)

    @property
    def bundle(self) -> Bundle | None:
        """The bundle that sorts; None before `start`."""
        return self._model.bundle if self._model else None

    def __enter__(self) -> Updates:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Ends it. A run that ends with a message to the user was not brought down by its model."""
        self.close()
        if kind is None or issubclass(kind, OkkoError | click.ClickException):
            self._shelf.ended_well()
        self._shelf.give_up_charge()

    def load(self) -> Classifier:
        """Loads the model to start with; one of the shelf that does not work here makes place for the one before.

        Raises:
            OkkoError: no model works, or there is none.
        """
        if not self._shelf.started(self._settings.updates.probation_starts):
            self._warn(f"the models in {self._shelf.folder} are led by another process, or cannot be changed now")
        bundle = self._shelf.bundle_in_service()
        for _ in range(_LOADS):
            if bundle is None:
                break
            try:
                return self._open(bundle.path)
            except Exception as error:  # whatever it is, there is another model
                self._warn(f"model {bundle.digest[:12]} does not work here: {error}")
                at_fault = self._shelf.in_charge and isinstance(error, BundleError)
                bundle = self._shelf.roll_back(f"it does not work at the start: {error}") if at_fault else None
        if self._configured is None:
            raise OkkoError(
                f"there is no model to sort with: {self._shelf.folder} has none that works, and no bundle is configured"
            )
        return self._open(self._configured)

    def start(self, running: Running, *, bundle: Bundle, run: RunRecord, about: About) -> None:
        """Begins to look for models; see `ModelInService` for the arguments."""
        self._journal = running.beside.journal
        self._model = ModelInService(running, bundle=bundle, configured=self._configured, run=run, about=about)
        running.agent.listeners.append(self._model.hear)
        sys.setswitchinterval(SWITCH_S)
        self._updater = Updater(
            self._settings.updates,
            self._shelf,
            self._model.make_trial,
            self._model,
            okko=self._okko,
            clock=running.clock,
            warn=self._warn,
        )
        self._updater.start()

    def close(self) -> None:
        """Ends the updater and its child processes, within seconds; never raises, and may be called twice."""
        try:
            if self._model is not None:
                self._model.close()
            if self._updater is not None:
                self._updater.close()
        except Exception as error:  # the journal must be closed all the same
            self._warn(f"the updater did not end as it should: {type(error).__name__}: {error}")

    def _open(self, path: Path) -> Classifier:
        return Classifier.open(path, threads=self._settings.sorting.threads)

    def _tell(self, event: Event, message: str) -> None:
        if self._journal is not None:
            self._journal.note(event, message)
