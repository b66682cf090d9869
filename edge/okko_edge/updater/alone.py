"""Putting a fetched model in service where no agent runs: self-test, switch, and the probation is left to the agent.

Without an agent there are no marbles, so there is no shadow run; the next starts of the agent are what the model has to
prove itself in.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from okko_edge.updater import state as rules
from okko_edge.updater.protocols import RejectedError, TrialError
from okko_models.bundle import Bundle
from okko_models.errors import BundleError

if TYPE_CHECKING:
    from okko_edge.settings import Settings
    from okko_edge.updater.protocols import SelfTest, TrialFactory
    from okko_edge.updater.shelf import Shelf


def sorting_model(shelf: Shelf, settings: Settings) -> Bundle | None:
    """Returns the model that an agent would sort with; None: there is none yet."""
    bundle = shelf.bundle_in_service()
    if bundle is None and settings.bundle:
        try:
            bundle = Bundle.open(Path(settings.bundle))
        except (BundleError, OSError):
            return None
    return bundle


def trials(settings: Settings, old: Bundle | None) -> TrialFactory:
    """Returns what tries a model here, beside the one that sorts, if there is one."""
    from okko_edge.updater.in_service import check_labels
    from okko_edge.updater.trial import ChildTrial

    def make(folder: Path) -> ChildTrial:
        return ChildTrial(
            folder,
            old=folder if old is None else old.path,
            shape=(settings.camera.height, settings.camera.width),
            check=lambda manifest: None if old is None else check_labels(manifest, old.manifest, settings),
        )

    return make


def try_and_switch(shelf: Shelf, settings: Settings, trial_factory: TrialFactory) -> SelfTest | None:
    """Tests the candidate and puts it in service, on probation; this process is in charge of the shelf.

    Returns:
        what the self-test measured; None: there is no candidate.

    Raises:
        RejectedError: the candidate is no good; it is remembered.
        OkkoError: it could not be tried, or the disk does not take the change.
    """
    candidate = shelf.candidate()
    if candidate is None:
        return None
    shelf.testing(candidate.digest)
    trial = trial_factory(candidate.folder)
    try:
        test = trial.self_test()
        if reason := rules.judge_self_test(test, settings.updates):
            raise RejectedError(reason)
    except RejectedError as error:
        shelf.reject(candidate.digest, str(error))
        raise
    except TrialError:
        shelf.untested()
        raise
    finally:
        trial.close()
    shelf.tested(candidate.digest, asdict(test))
    shelf.switch(candidate.digest)
    shelf.prune()
    return test
