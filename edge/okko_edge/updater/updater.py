"""The light thread in the agent that leads a model from the registry to service, one small step at a time.

Fetching and trying are done by child processes; this only starts them, asks how far they are, and decides by the rules
in `state`. All it knows is on the `shelf`, so it may end at any moment and go on after the next start. Nothing it meets
can stop the sorting: what fails is counted, told once, and tried again later, more and more seldom.
"""

from __future__ import annotations

import contextlib
import random
import socket
import threading
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

from okko_edge.outbox.uploader import pause_s
from okko_edge.updater import state as rules
from okko_edge.updater.child import FetchProcess
from okko_edge.updater.fetching import ROOT, Request, Result
from okko_edge.updater.protocols import RejectedError, TrialError
from okko_edge.updater.reporting import Outcome, What
from okko_edge.updater.shelf import ShelfError
from okko_edge.updater.state import Stage
from okko_models.errors import BundleError, OkkoError

if TYPE_CHECKING:
    from collections.abc import Callable

    from okko_edge.clock import Clock
    from okko_edge.settings import UpdatesSettings
    from okko_edge.updater.child import Fetching
    from okko_edge.updater.fetching import Fetched
    from okko_edge.updater.protocols import InService, Trial, TrialFactory
    from okko_edge.updater.shelf import Candidate, Shelf
    from okko_models.bundle import Bundle

TICK_S: Final = 1.0
SERVE_PAUSE_S: Final = 10.0
"""After the model in service could not be changed, or its probation not be written down."""
FIRST_PAUSE_S: Final = 60.0
"""After the first failure; then it doubles, up to an hour."""
_CLOSE_S: Final = 5.0
_REGISTRY, _DISK = "registry", "disk"


def device_name(settings: UpdatesSettings) -> str:
    """Returns this device's name in the registry."""
    return settings.device or socket.gethostname()


def request_of(settings: UpdatesSettings, shelf: Shelf, *, okko: str, in_service: str, registry: str = "") -> Request:
    """Returns what is to be fetched: what this device is held on, or else what its channel wants.

    Args:
        settings: the section `updates`.
        shelf: the models; knows where the device was enrolled.
        okko: this program's version.
        in_service: digest of the model that sorts.
        registry: this one instead of the configured one, such as a USB stick.
    """
    state = shelf.state
    return Request(
        folder=str(shelf.folder),
        registry=registry or settings.registry or state.registry,
        endpoint_url=settings.endpoint_url,
        channel=settings.channel,
        device=device_name(settings),
        okko=okko,
        in_service=in_service,
        digest=state.pin,
        max_mb=settings.max_mb,
        memory_mb=settings.fetch_memory_mb,
    )


class Updater:
    """Leads models to service; a thread of its own after `start`.

    Args:
        settings: the section `updates`.
        shelf: the models; this process is in charge of it, or will be.
        trial_factory: tries a model in a child process.
        in_service: the model that sorts.
        okko: this program's version.
        clock: the monotonic clock.
        warn: takes one sentence for the user.
        fetch: starts a look at the registry.
        lot: gives a random number in [0, 1), so that many devices do not come at the same moment.
    """

    def __init__(
        self,
        settings: UpdatesSettings,
        shelf: Shelf,
        trial_factory: TrialFactory,
        in_service: InService,
        *,
        okko: str,
        clock: Clock,
        warn: Callable[[str], None],
        fetch: Callable[[Request], Fetching] = FetchProcess,
        lot: Callable[[], float] = random.random,
    ) -> None:
        self._settings = settings
        self._shelf = shelf
        self._trial_factory = trial_factory
        self._in_service = in_service
        self._okko = okko
        self._clock = clock
        self._warn = warn
        self._start_fetch = fetch
        self._lot = lot
        self._fetching: Fetching | None = None
        self._fetch_due_s = clock.now_s() + min(FIRST_PAUSE_S, settings.poll_s) * lot()
        self._fetch_failures = 0
        self._trial: Trial | None = None
        self._tried = ""
        self._try_due_s = clock.now_s()
        self._failures = 0
        self._serve_due_s = self._mend_due_s = clock.now_s()
        self._served = in_service.digest
        with contextlib.suppress(OSError):
            self._served = shelf.chosen
        self._told: dict[str, str] = {}
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begins; returns at once."""
        self._thread = threading.Thread(target=self._work, name="updater", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends within seconds, with its child processes; what is unfinished goes on after the next start."""
        self._stop.set()
        trial = self._trial
        if trial is not None:
            trial.close()  # the thread may be waiting for it
        if self._thread is not None:
            self._thread.join(_CLOSE_S)
        self._end_trial()
        if self._fetching is not None:
            self._fetching.close()
            self._fetching = None

    def tick(self) -> None:
        """Does what is due, and returns within seconds. What fails is told and counted, never raised.

        Nothing is due as long as another process is in charge, or the disk does not let this one be.
        """
        try:
            if not self._shelf.take_charge():
                return
        except ShelfError as error:
            self._tell(_DISK, str(error))
            return
        for step in (self._serve, self._fetch, self._try):
            try:
                step()
            except Exception as error:  # the thread must live as long as the agent
                if self._stop.is_set():
                    return  # what was under way was ended, and goes on after the next start
                now_s = self._clock.now_s()
                if step == self._serve:
                    self._serve_due_s = now_s + SERVE_PAUSE_S
                elif step == self._try:
                    self._end_trial()
                    self._failures += 1
                    self._try_due_s = now_s + pause_s(self._failures, FIRST_PAUSE_S, self._lot())
                said = str(error) if isinstance(error, OkkoError) else f"{type(error).__name__}: {error}"
                self._failed(step.__name__, said)

    # The model in service: the one that the shelf says, and on probation at first.

    def _serve(self) -> None:
        if self._clock.now_s() < self._serve_due_s:
            return
        if self._clock.now_s() >= self._mend_due_s:
            self._mend_due_s = self._clock.now_s() + SERVE_PAUSE_S
            self._shelf.mend()
        if self._shelf.chosen != self._served:
            # A person in a shell went back, or chose another one.
            self._settle()
            return
        probation = self._shelf.probation()
        if probation is None or probation.digest != self._in_service.digest:
            return
        judgement = rules.judge_health(self._in_service.health(), self._settings)
        if judgement.bad:
            self._change_to(_digest(self._shelf.roll_back(judgement.bad)))
        elif judgement.proven:
            self._shelf.healthy(probation.digest)

    def _settle(self) -> None:
        """Sorts with the model that the shelf says."""
        self._change_to(_digest(self._shelf.bundle_in_service()))

    def _change_to(self, digest: str) -> None:
        """Sorts with another model of the shelf; empty: with the one that the configuration names."""
        self._end_trial()
        if digest != self._in_service.digest:
            try:
                self._in_service.change_model(self._shelf.bundles / digest if digest else None)
            except Exception as error:
                probation = self._shelf.probation()
                if probation is not None and probation.digest == digest and _is_its_fault(error):
                    # What sorts has not changed, and is what the shelf says again.
                    self._served = _digest(self._shelf.roll_back(f"it could not be put in service: {error}"))
                raise
        self._served = digest

    # The registry.

    def _fetch(self) -> None:
        if self._fetching is None:
            if self._clock.now_s() < self._fetch_due_s:
                return
            request = request_of(self._settings, self._shelf, okko=self._okko, in_service=self._in_service.digest)
            if not request.registry or not (self._shelf.trust / ROOT).is_file():
                self._fetch_due_s = self._clock.now_s() + self._settings.poll_s
                return
            self._shelf.prune(self._in_service.digest, self._tried)
            self._fetch_failures += 1  # until it has ended well, also if it cannot be started
            self._fetch_due_s = self._clock.now_s() + self._pause_s()
            self._fetching = self._start_fetch(request)
        fetched = self._fetching.poll()
        if fetched is not None:
            self._fetching = None
            self._hear_of(fetched)

    def _hear_of(self, fetched: Fetched) -> None:
        now_s = self._clock.now_s()
        if fetched.result in {Result.OFFLINE, Result.BUSY}:
            # A device may be offline for months; that is no failure. It is told once.
            self._fetch_due_s = now_s + self._pause_s()
            self._tell(_REGISTRY, f"{fetched.message}; it is tried again later")
            return
        if fetched.result in {Result.FAILED, Result.EXPIRED, Result.UNTRUSTED}:
            self._fetch_due_s = now_s + self._pause_s()
            self._failed(_REGISTRY, fetched.message)
            return
        self._fetch_failures = 0
        self._fetch_due_s = now_s + self._settings.poll_s * (1 - self._lot() / 10)
        what = {Result.FETCHED: What.FETCHED, Result.REFUSED: What.REJECTED}.get(fetched.result)
        if what is not None:
            self._shelf.reports.hear(Outcome(self._clock.unix_s(), what, fetched.digest, fetched.message))
        if fetched.result is Result.REFUSED:
            self._tell(_REGISTRY, fetched.message)
        elif fetched.result is not Result.MISSING:
            self._told.pop(_REGISTRY, None)

    def _pause_s(self) -> float:
        return pause_s(self._fetch_failures, min(FIRST_PAUSE_S, self._settings.poll_s), self._lot())

    # The candidate.

    def _try(self) -> None:
        candidate = self._shelf.candidate()
        if self._trial is not None and (candidate is None or candidate.digest != self._tried):
            self._end_trial()
        if candidate is None or self._clock.now_s() < self._try_due_s:
            return
        if candidate.digest == self._in_service.digest:
            self._shelf.withdraw()
            return
        if candidate.shadow and self._shelf.probation() is not None:
            return  # first the one in service has to prove itself: two unproven ones say nothing about each other
        try:
            if self._trial is None:
                self._begin(candidate)
            else:
                self._go_on(candidate)
        except RejectedError as error:
            self._end_trial()
            self._shelf.reject(candidate.digest, str(error))

    def _begin(self, candidate: Candidate) -> None:
        self._shelf.testing(candidate.digest)
        if candidate.proven:
            # Its labels may be fewer than those of the one that is left, so that one is no measure for it.
            self._switch(candidate.digest)
            return
        self._trial, self._tried = self._trial_factory(candidate.folder), candidate.digest
        try:
            test = self._trial.self_test()
        except TrialError:
            self._shelf.untested()
            raise
        if reason := rules.judge_self_test(test, self._settings):
            raise RejectedError(reason)
        self._shelf.tested(candidate.digest, asdict(test))
        self._failures = 0
        self._told.pop(self._try.__name__, None)
        if candidate.shadow and candidate.stage is not Stage.SHADOWED and self._settings.shadow_marbles:
            self._trial.shadow(self._settings.shadow_marbles)
            self._in_service.add_listener(self._trial.hear)
        else:
            self._switch(candidate.digest)

    def _go_on(self, candidate: Candidate) -> None:
        assert self._trial is not None
        report = self._trial.report()
        if not report.finished:
            return
        if reason := rules.judge(report, self._settings):
            raise RejectedError(reason)
        self._shelf.shadowed(candidate.digest, asdict(report))
        self._switch(candidate.digest)

    def _switch(self, digest: str) -> None:
        self._end_trial()
        self._shelf.switch(digest, running=True)
        self._change_to(digest)

    def _end_trial(self) -> None:
        trial, self._trial, self._tried = self._trial, None, ""
        if trial is not None:
            self._in_service.remove_listener(trial.hear)
            trial.close()

    # Telling, and the thread.

    def _failed(self, about: str, message: str) -> None:
        self._shelf.reports.add(Outcome(self._clock.unix_s(), What.FAILED, "", message))
        self._tell(about, message)

    def _tell(self, about: str, message: str) -> None:
        if message != self._told.get(about):
            self._told[about] = message
            self._warn(f"no new model: {message}")

    def _work(self) -> None:
        while not self._stop.is_set():
            self.tick()
            self._stop.wait(TICK_S)


def _digest(bundle: Bundle | None) -> str:
    return "" if bundle is None else bundle.digest


def _is_its_fault(error: Exception) -> bool:
    """Whether a model could not be put in service because of what it is, and not because of the moment."""
    if isinstance(error, OkkoError):
        return isinstance(error, RejectedError | BundleError)
    return not isinstance(error, OSError | MemoryError)
