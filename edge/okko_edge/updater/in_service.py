"""The model that sorts, and how another takes its place without a marble missed.

The new model is loaded beside the old one, on the caller's thread, and has judged its golden frames and a frame of the
camera's size before it sorts. That goes in steps, and each begins right after a marble was sorted, while the next one
is on its way, so that most of it meets no marble. The change itself is a few assignments that the sorting thread makes
between two frames: sorter, journal, outbox, dashboard and MQTT know the new model from the same marble on, so every
decision is journaled with the digest of the model that made it. The old model's memory is given back in such a moment,
too.
"""

from __future__ import annotations

import dataclasses
import math
import threading
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from okko_edge.events import Event
from okko_edge.sorter import Judge
from okko_edge.updater.protocols import Health, RejectedError
from okko_edge.updater.trial import ChildTrial
from okko_models.bundle import Bundle
from okko_models.classifier import Classifier, give_back_memory
from okko_models.errors import OkkoError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from okko_edge.about import About
    from okko_edge.agent import Agent
    from okko_edge.beside import Beside
    from okko_edge.clock import Clock
    from okko_edge.journal import RunRecord
    from okko_edge.settings import Settings
    from okko_edge.sorter import Classifies, Decision, Sorter
    from okko_edge.summary import Tally
    from okko_edge.updater.protocols import Trial
    from okko_models.manifest import Manifest

MODEL_CHANGED: Final = "model_changed"
"""The journal's event of a change; it begins the new model's run."""
_PATIENCE_S = 10.0
_LOOK_S = 0.1
# A belt without a marble for so long rests: then any moment is a good one.
_IDLE_S = 1.0


def check_labels(new: Manifest, old: Manifest, settings: Settings) -> None:
    """Refuses a model whose labels mean something else than those of the model in service.

    The order may be another. What the settings know how to sort may come as a new label: an empty slot, two marbles.

    Raises:
        RejectedError: good labels are others, one is gone, or one is new that the settings do not name.
    """
    sorting = settings.sorting
    good, before = set(new.decision.ok_labels), set(old.decision.ok_labels)
    if good != before:
        raise RejectedError(
            f"its good labels are {_list(good)}, those of the model in service {_list(before)}; a model that sorts "
            "for something else is put in service by hand: name it as bundle in the configuration"
        )
    if gone := set(old.labels) - set(new.labels):
        raise RejectedError(f"it does not know {_list(gone)}, which the model in service does; train it with them, too")
    if strange := set(new.labels) - set(old.labels) - {*sorting.empty_labels, *sorting.two_labels}:
        raise RejectedError(
            f"it knows {_list(strange)}, which the model in service does not; if that is an empty slot or several "
            "marbles, say so in sorting.empty_labels or sorting.two_labels"
        )


def _list(labels: set[str]) -> str:
    return ", ".join(sorted(labels))


@dataclass(frozen=True, kw_only=True)
class Running:
    """What knows which model sorts.

    Attributes:
        agent: makes the change between two frames.
        sorter: decides by the model.
        tally: counts mistakes.
        beside: journal, outbox, dashboard, MQTT.
        settings: of all of them.
        clock: stamps the new run.
    """

    agent: Agent
    sorter: Sorter
    tally: Tally
    beside: Beside
    settings: Settings
    clock: Clock


@dataclass(slots=True)
class _Counts:
    marbles: int = 0
    inference_failures: int = 0
    deadline_misses: int = 0


class _Gaps:
    """Waits for moments right after a marble; a belt that rested once is not waited for again for long."""

    def __init__(self, decided: threading.Event) -> None:
        self._decided = decided
        self._patience_s = _IDLE_S

    def wait(self) -> None:
        """Waits for the next one, or until it is clear that the belt rests."""
        self._decided.clear()
        if not self._decided.wait(self._patience_s):
            self._patience_s = _LOOK_S


class ModelInService:
    """See `protocols.InService`; `hear` must be one of the agent's listeners.

    Args:
        running: the parts that know the model.
        bundle: the model that sorts now.
        configured: the bundle that the configuration or the command line names; None: neither does.
        run: the journal's run.
        about: the facts for people.
    """

    def __init__(
        self, running: Running, *, bundle: Bundle, configured: Path | None, run: RunRecord, about: About
    ) -> None:
        self._running = running
        self._bundle = bundle
        self._configured = configured
        self._run = run
        self._about = about
        camera = running.settings.camera
        self._shape = (camera.height, camera.width)
        self._counts = _Counts()
        # Never changed but replaced, because the sorting thread goes through it.
        self._listeners: tuple[Callable[[Decision], None], ...] = ()
        self._decided = threading.Event()
        self._closed = threading.Event()

    @property
    def bundle(self) -> Bundle:
        """The bundle in service."""
        return self._bundle

    @property
    def digest(self) -> str:
        """Its digest."""
        return self._bundle.digest

    def hear(self, decision: Decision) -> None:
        """Takes a decision; returns at once."""
        said = decision.classification
        if decision.frame is not None and (said is not None or decision.inference_ms > 0):
            self._shape = decision.frame.image.shape[:2]
            counts = self._counts
            counts.marbles += 1
            counts.inference_failures += said is None or not math.isfinite(said.probability_of_ok)
            counts.deadline_misses += decision.late
        for listener in self._listeners:
            try:
                listener(decision)
            except Exception:  # the next one shall hear of it all the same
                self._running.sorter.counters.add(Event.LISTENER_FAILED)
        self._decided.set()

    def add_listener(self, hear: Callable[[Decision], None]) -> None:
        """From now on `hear` hears each decision, on the sorting thread."""
        self._listeners = (*self._listeners, hear)

    def remove_listener(self, hear: Callable[[Decision], None]) -> None:
        """No longer; nothing happens if it did not."""
        self._listeners = tuple(listener for listener in self._listeners if listener != hear)

    def health(self) -> Health:
        """Returns how the model in service has done since it was put there, or since the start."""
        counts = self._counts
        return Health(counts.marbles, counts.inference_failures, counts.deadline_misses)

    def make_trial(self, folder: Path) -> Trial:
        """Returns a trial of the bundle in `folder` beside the model in service; a `protocols.TrialFactory`."""

        def check(manifest: Manifest) -> None:
            check_labels(manifest, self._bundle.manifest, self._running.settings)

        return ChildTrial(folder, old=self._bundle.path, shape=self._shape, check=check)

    def change_model(self, folder: Path | None) -> None:
        """Sorts with another bundle from the next marble on; takes the time that loading takes.

        Whether its labels fit is asked in its trial, and not here: there must always be a way back.

        Args:
            folder: the bundle's; None: the one that the configuration or the command line names.

        Raises:
            OkkoError: it cannot be loaded, repeats its golden frames wrongly, or the camera gives no frame and so no
                moment to change in; the model in service has not changed.
        """
        path = folder or self._configured
        if path is None:
            raise OkkoError("no bundle is configured that could take the place of this one")
        gap = _Gaps(self._decided).wait
        gap()
        bundle = Bundle.open(path)
        gap()
        classifier = Classifier(bundle, threads=self._running.settings.sorting.threads, beside=True)
        classifier.self_test(before_each=gap)
        gap()
        # The first frame of a size makes the session take its memory: not while a marble waits for it.
        classifier.classify(np.zeros((*self._shape, 3), np.uint8))
        old = self._swap(bundle, classifier)
        gap()
        del old
        give_back_memory()

    def close(self) -> None:
        """Lets no change wait any longer for a moment to be made in."""
        self._closed.set()

    def _swap(self, bundle: Bundle, classifier: Classifier) -> Classifies:
        """Has the change made on the sorting thread; returns the classifier before.

        Raises:
            OkkoError: there was no moment to make it in.
        """
        running, manifest, before = self._running, bundle.manifest, self._bundle.manifest
        about = self._about.with_model(manifest, bundle.digest)
        run = dataclasses.replace(
            self._run,
            run=uuid.uuid4().hex,
            bundle_name=manifest.name,
            bundle_version=manifest.version,
            bundle_digest=bundle.digest,
        )
        judge = Judge.of(bundle)
        told = f"{manifest.name} {manifest.version} sorts from here on, in place of {before.name} {before.version}"
        old: list[Classifies] = []
        done = threading.Event()

        def swap() -> None:
            self._run = dataclasses.replace(run, started_unix_s=running.clock.unix_s())
            old.append(running.sorter.change_model(classifier, judge))
            running.tally.change_labels(manifest.labels, manifest.decision.ok_labels)
            running.beside.change_model(self._run, about, judge)
            running.beside.journal.note(MODEL_CHANGED, told)
            self._about, self._bundle, self._counts = about, bundle, _Counts()
            done.set()

        running.agent.call_between_frames(swap)
        for _ in range(math.ceil(_PATIENCE_S / _LOOK_S)):
            if done.wait(_LOOK_S) or self._closed.is_set():
                break
        if not done.is_set() and running.agent.withdraw(swap):
            why = "the run ended" if self._closed.is_set() else "the camera gave no frame"
            raise OkkoError(f"{why} before the model could be changed; it has not changed")
        if not done.wait(_PATIENCE_S):  # it is being made just now
            raise OkkoError("the model was not changed in time")
        return old.pop()
