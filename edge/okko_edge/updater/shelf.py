"""The device's models on its disk: one folder, two links, one small file; the rim around `state`.

    bundles/DIGEST/              verified bundles
    current -> bundles/DIGEST    the model in service; one rename changes it
    previous -> bundles/DIGEST   the one before, for going back
    state.json                   what is remembered
    outcomes.jsonl               what came of updates, for people
    trust/                       what the registry's client trusts

Whoever changes something holds a lock for that moment, so a shell and the agent never collide; whoever leads candidates
to service is in charge, and holds another lock as long as it lives. Reading needs neither, and goes on when the disk is
full, read-only or damaged: then what cannot be written is remembered by this process alone.
"""

from __future__ import annotations

import contextlib
import math
import time
from typing import TYPE_CHECKING

from okko_edge.updater import state as rules
from okko_edge.updater.disk import CURRENT, PREVIOUS, Disk
from okko_edge.updater.memory import Memory, ShelfError
from okko_edge.updater.reporting import Outcome, Reports, What
from okko_edge.updater.state import Candidate, Rejection, Stage, State
from okko_models.bundle import Bundle
from okko_models.errors import BundleError
from okko_models.registry.errors import BusyError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from okko_edge.updater.state import Arrival, Probation

__all__ = ["Candidate", "Shelf", "ShelfError"]


class Shelf:
    """The models of one device.

    Args:
        folder: where they are; made when something is first written.
        okko: this program's version; what only it could not read is tried again by others.
        reports: hear what happens; None: written into the folder, and not counted.
        warn: takes one sentence for the user.
        clock: the time in seconds since 1970, for people.
    """

    def __init__(
        self,
        folder: Path,
        *,
        okko: str = "",
        reports: Reports | None = None,
        warn: Callable[[str], None] = lambda _: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.folder = folder
        self._disk = Disk(folder)
        self.bundles = self._disk.bundles
        self.trust = self._disk.trust
        self.reports = reports or Reports(folder / "outcomes.jsonl")
        self._okko = okko
        self._memory = Memory(self._disk, warn)
        self._clock = clock
        self._charge: contextlib.ExitStack | None = None
        self._avoided: frozenset[str] = frozenset()

    # Reading.

    @property
    def state(self) -> State:
        """What is remembered now; nothing, if the disk cannot be read."""
        return self._memory.now()

    @property
    def complete(self) -> bool:
        """Whether all that was rejected is on the disk; what is not is known to this process alone."""
        return self._memory.complete

    @property
    def chosen(self) -> str:
        """The digest of the model that is to sort, by what is remembered; empty: the one that the configuration names.

        Cheap; whether the model is undamaged is found out by `bundle_in_service`.

        Raises:
            OSError: the disk cannot be read now.
        """
        found = self._memory.read().choices(self._disk.link(CURRENT), self._disk.link(PREVIOUS))
        return next((digest for digest in found if digest not in self._avoided), "")

    @property
    def current(self) -> str:
        """The digest that the link `current` names; empty: none."""
        return self._link(CURRENT)

    @property
    def previous(self) -> str:
        """The digest that the link `previous` names; empty: none."""
        return self._link(PREVIOUS)

    def bundle_in_service(self) -> Bundle | None:
        """Returns the model to sort with, every file compared with its digest; None: the shelf has none.

        That is the current one; or the one before, if the current one was rejected or is damaged. Whoever is in charge
        then also changes the link; but not before the disk has taken why.
        """
        current, told = self.current, ""
        for digest in self.state.choices(current, self.previous):
            if digest in self._avoided:
                continue
            try:
                bundle = self.open(digest)
            except ShelfError as error:
                told = told or str(error)
                continue
            if told:
                self._memory.warn(f"{told}; sorting with model {digest[:12]}")
            if digest != current and current not in self._avoided and self.complete:
                self._settle(digest, current, told)
            return bundle
        if told:
            # The links stay: a disk that cannot be read now may be read again at the next start.
            self._memory.warn(f"{told}; sorting with the model that the configuration names")
        elif current and current not in self._avoided and self.complete:
            self._settle("", current, "")
        return None

    def open(self, digest: str) -> Bundle:
        """Returns a bundle of the shelf, every file compared with its digest.

        Raises:
            ShelfError: it is not there, damaged, or nothing that this okko reads.
        """
        try:
            bundle = Bundle.open(self.bundles / digest)
        except (BundleError, OSError) as error:
            raise ShelfError(f"model {digest[:12]} is not usable: {error}") from error
        if bundle.digest != digest:
            raise ShelfError(f"model {digest[:12]} is not usable: its manifest was altered ({bundle.path})")
        return bundle

    def candidate(self) -> Candidate | None:
        """Returns the bundle that wants to be put in service; None: there is none."""
        state = self.state
        wanted = state.wants(self.current)
        if wanted is None:
            return None
        folder, proven = self.bundles / wanted.digest, wanted.digest in state.confirmed
        return Candidate(wanted.digest, folder, wanted.stage, wanted.shadow, proven)

    def probation(self) -> Probation | None:
        """Returns the probation of the model in service; None: it has none."""
        return self.state.on_probation(self.current)

    def rejection(self, digest: str) -> Rejection | None:
        """Returns why a bundle is not tried again; None: it may be tried."""
        return self.state.rejection(digest, self._okko)

    def present(self) -> list[str]:
        """Returns the digests of the bundles on the disk, whether damaged or not."""
        try:
            return self._disk.present()
        except OSError:
            return []

    # Being in charge.

    @property
    def in_charge(self) -> bool:
        """Whether this process leads candidates to service."""
        return self._charge is not None

    def take_charge(self) -> bool:
        """Becomes the one that leads candidates to service, until `give_up_charge`; returns whether that is so now.

        Raises:
            ShelfError: the disk does not take the lock.
        """
        if self._charge is None:
            stack = contextlib.ExitStack()
            try:
                stack.enter_context(self._disk.charge())
            except BusyError:
                return False
            except OSError as error:
                raise ShelfError(f"{self.folder} cannot be written: {error.strerror or error}") from error
            self._charge = stack
        return True

    def give_up_charge(self) -> None:
        """Lets another process lead candidates to service."""
        if self._charge is not None:
            self._charge.close()
            self._charge = None

    def started(self, max_starts: int = 3) -> bool:
        """The agent starts: takes charge, and counts a start of a model that is on probation.

        After `max_starts` starts that did not end well the model is rejected, and the one before is current. If the
        disk does not take the count, the one before sorts this time.

        Returns:
            whether this process is in charge; if not, another agent uses the same folder, or it cannot be written.
        """
        probation = self.probation()
        try:
            if not self.take_charge():
                return False
            if probation is not None and probation.starts >= max_starts:
                self.roll_back(f"{probation.starts} starts with it ended badly")
            elif probation is not None:
                self._memory.change(lambda state: rules.started(state, self.current))
        except ShelfError as error:
            self._memory.warn(f"{error}; models are not updated until it can be")
            if probation is not None:
                self._avoided = frozenset({probation.digest})
        return self.in_charge

    def ended_well(self) -> None:
        """The agent ends as it should: its start is not counted as a bad one; gives up charge."""
        if self.in_charge and self.probation() is not None:
            with contextlib.suppress(ShelfError):
                self._memory.change(lambda state: rules.ended_well(state, self.current))
        self.give_up_charge()

    # From candidate to service. What is raised: ShelfError, if the disk does not take it; then nothing has changed.

    def fetched(self, arrival: Arrival, downloaded_bytes: int = 0) -> None:
        """A bundle is here, verified: it becomes the candidate, in place of another."""
        self._memory.change(lambda state: rules.arrived(state, arrival))
        self._report(What.FETCHED, arrival.digest, f"for {arrival.place}", {"downloaded_bytes": downloaded_bytes})

    def withdraw(self) -> None:
        """There is no candidate any more: what is in service is wanted."""
        if self.state.candidate is not None:
            self._memory.change(rules.withdrawn)

    def testing(self, digest: str) -> None:
        """The candidate's self-test begins; one that never ended three times is rejected.

        Raises:
            ShelfError: it was rejected, is damaged and has to be fetched again, or this cannot be remembered.
        """
        try:
            self.open(digest)
        except ShelfError:
            self.withdraw()
            raise
        known = self.state.candidate
        if known is not None and known.digest == digest and known.tries >= rules.MAX_TRIES:
            reason = f"its self-test was begun {known.tries} times and never ended"
            self.reject(digest, reason)
            raise ShelfError(f"model {digest[:12]} is not tried again: {reason}")
        self._memory.change(rules.testing)

    def untested(self) -> None:
        """The self-test could not be done now; that says nothing about the candidate."""
        self._memory.change(rules.untested)

    def tested(self, digest: str, facts: Mapping[str, float]) -> None:
        """The candidate passed its self-test."""
        self._memory.change(lambda state: rules.passed(state, digest, Stage.TESTED))
        self._report(What.TESTED, digest, "", facts)

    def shadowed(self, digest: str, facts: Mapping[str, float]) -> None:
        """The candidate judged enough marbles beside the model in service, well enough."""
        self._memory.change(lambda state: rules.passed(state, digest, Stage.SHADOWED))
        self._report(What.SHADOWED, digest, "", facts)

    def switch(self, digest: str, *, running: bool = False) -> Bundle:
        """Puts a bundle in service, on probation; the one that was stays on the disk, if it has proven itself.

        Args:
            digest: the bundle's.
            running: the agent sorts with it at once, not only from its next start on.

        Raises:
            ShelfError: the bundle is damaged, or the disk does not take the change; the current one is still current.
        """
        bundle = self.open(digest)
        with self._memory.changing() as disk:
            current = disk.link(CURRENT)
            if digest == current:
                return bundle
            state = self._memory.read()
            try:
                disk.write(rules.switching(state, digest, self._clock(), running=running))
                if current not in state.choices(current, ""):
                    disk.remove(PREVIOUS)
                elif state.on_probation(current) is None or current in state.confirmed:
                    disk.point(PREVIOUS, current)
                disk.point(CURRENT, digest)
            except OSError:
                if self.current != digest:
                    raise
            # It is current; that it is no candidate any more follows from that.
            with contextlib.suppress(OSError):
                disk.write(rules.withdrawn(self._memory.read()))
        self._report(What.SWITCHED, digest, f"after {current[:12]}" if current else "")
        return bundle

    def healthy(self, digest: str) -> None:
        """The model in service has proven itself."""
        self._memory.change(lambda state: rules.healthy(state, digest))
        self._report(What.CONFIRMED, digest)

    def reject(self, digest: str, reason: str, *, only_this_okko: bool = False) -> None:
        """Remembers that a bundle is not to be tried again; it is no candidate any more. Never raises.

        Args:
            digest: the bundle's.
            reason: what it did.
            only_this_okko: another version of okko may try it.
        """
        self._memory.reject(Rejection(digest, reason, self._clock(), self._okko if only_this_okko else ""))
        self._report(What.REJECTED, digest, reason)

    def forgive(self, digest: str) -> None:
        """A person wants a rejected bundle tried again."""
        self._memory.forgive(digest)

    def roll_back(self, reason: str) -> Bundle | None:
        """Rejects the current bundle and goes back to the one before. Never raises.

        Returns:
            the model that is in service now; None: the shelf has none, what the configuration names sorts.
        """
        current = self.current
        if current:
            self._memory.reject(Rejection(current, reason, self._clock()))
            self._report(What.ROLLED_BACK, current, reason)
        return self.bundle_in_service()

    def mend(self) -> None:
        """Tries again to write what the disk did not take; never raises."""
        with contextlib.suppress(ShelfError, OSError):
            if not self.complete:
                self._memory.change(lambda state: state)
            if self.current not in {self.chosen, *self._avoided}:
                self.bundle_in_service()

    def pin(self, digest: str) -> None:
        """Holds the device on a bundle, of which the full digest is given; empty: on none."""
        self._memory.change(lambda state: rules.pinned(state, digest))

    def enrolled(self, registry: str) -> None:
        """Remembers where this device was enrolled."""
        self._memory.change(lambda state: rules.enrolled(state, registry))

    def prune(self, *keep: str) -> list[str]:
        """Removes the bundles that nobody needs, but `keep`; returns their digests. Never raises."""
        gone = []
        with contextlib.suppress(OSError, ShelfError), self._memory.changing() as disk:
            needed = self._memory.read().needed(disk.link(CURRENT), disk.link(PREVIOUS)) | set(keep)
            for digest in disk.present():
                if digest not in needed:
                    disk.discard(digest)
                    gone.append(digest)
            disk.sweep()
        return gone

    # How it is changed.

    def _settle(self, digest: str, current: str, why: str) -> None:
        """Makes the links say which model is in service, after the current one was left; only if in charge."""
        if not self.in_charge:
            return
        if why:
            self._report(What.ROLLED_BACK, current, why)
        try:
            with self._memory.changing() as disk:
                if digest:
                    disk.point(CURRENT, digest)
                else:
                    disk.remove(PREVIOUS)
                    disk.remove(CURRENT)
        except ShelfError as error:
            self._memory.warn(f"{error}; the next start tries again")

    def _link(self, name: str) -> str:
        try:
            return self._disk.link(name)
        except OSError:
            return ""

    def _report(self, what: What, digest: str, reason: str = "", facts: Mapping[str, float] | None = None) -> None:
        # JSON has no infinity, and a flag is a number here.
        numbers = {name: float(fact) for name, fact in (facts or {}).items() if math.isfinite(fact)}
        self.reports.add(Outcome(self._clock(), what, digest, reason, numbers))
