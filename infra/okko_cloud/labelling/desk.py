"""The desk: which photo is handed to whom next, and what becomes of a decision.

A decision is first written into the book, where it is refused if somebody was faster, and then the photo is moved.
Whatever breaks between the two, the photo lies where it was or where it goes, and is shown again. Any thread may ask;
nobody waits for somebody else's bucket to answer.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import threading
import time
from collections import OrderedDict, defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from okko_cloud.labelling.book import Decision
from okko_cloud.labelling.catalogue import places_of
from okko_cloud.labelling.leases import LEASE_S
from okko_cloud.labelling.looking import Look, decode
from okko_cloud.labelling.photos import LabellingError
from okko_models.errors import OkkoError
from okko_models.photo import PhotoError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from okko_cloud.labelling.book import Book
    from okko_cloud.labelling.catalogue import Catalogue, Entry
    from okko_cloud.labelling.leases import Leases
    from okko_cloud.labelling.photos import Photos
    from okko_cloud.labelling.reasons import Worth

AGAIN: Final = "looked at again"
"""The reason of a decision about a photo that nothing else asked for."""
_HELD_BYTES: Final = 48 << 20
_TAKEN_S: Final = 20.0
"""A photo that somebody else is looking at is asked for again after so long."""
_QUALITY: Final = 92


@dataclass(frozen=True, slots=True)
class Person:
    """Who asks: a name, and the browser window, which holds the leases."""

    who: str
    session: str


@dataclass(frozen=True, slots=True)
class Shown:
    """A photo as a person is shown it: `revision` is that of the latest decision about it, 0 if there is none."""

    entry: Entry
    worth: Worth
    look: Look
    revision: int
    decided: Decision | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a decision: it stands, or `decision` is that of somebody who was faster."""

    stands: bool
    decision: Decision


class Desk:
    """Hands out photos and takes decisions.

    Args:
        catalogue: the dataset's photos.
        photos: their files.
        book: the decisions.
        leases: who looks at what.
        now_s: seconds on a clock that never jumps.
        unix_s: the time.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        photos: Photos,
        book: Book,
        leases: Leases,
        *,
        now_s: Callable[[], float] = time.monotonic,
        unix_s: Callable[[], float] = time.time,
    ) -> None:
        self.catalogue = catalogue
        self._photos, self._book, self._leases = photos, book, leases
        self._now_s, self._unix_s = now_s, unix_s
        self._lock = threading.Lock()
        self._pictures: OrderedDict[int, bytes] = OrderedDict()
        self._leased_s: defaultdict[str, dict[int, float]] = defaultdict(dict)
        self.decisions = 0

    # --- handing out ---

    def take(self, person: Person, count: int, holding: Iterable[int] = ()) -> list[Shown]:
        """Hands a person up to `count` photos that nobody else is looking at, the most useful first.

        None until enough photos were looked at to know which those are.

        Args:
            person: who asks.
            count: how many.
            holding: numbers of photos that the window has already and wants to keep.

        Raises:
            OkkoError: the place fails.
        """
        holding = set(holding)
        self.keep(person, holding)
        shown: list[Shown] = []
        if not self.catalogue.is_ready:
            return shown
        for entry in self.catalogue.queue():
            if len(shown) >= count:
                break
            if entry.number in holding or person.session in entry.skipped or entry.taken_until_s > self._now_s():
                continue
            if not entry.busy.acquire(blocking=False):
                continue  # somebody has just decided on it
            try:
                one = self._hand_out(entry, person)
            finally:
                entry.busy.release()
            if one:
                shown.append(one)
        return shown

    def keep(self, person: Person, holding: Iterable[int]) -> None:
        """Renews leases before they end.

        Raises:
            OkkoError: the place fails.
        """
        leased_s = self._leased_s[person.session]
        for number in holding:
            if number in leased_s and self._now_s() - leased_s[number] > LEASE_S / 2:
                self._lease(self.catalogue.find(number), person)

    def picture(self, number: int) -> bytes:
        """Returns a photo as JPEG, upright, no longer than `okko_models.photo.LONGEST_SIDE` pixels.

        Raises:
            OkkoError: it cannot be read, or is not there any more.
        """
        with self._lock:
            if number in self._pictures:
                return self._pictures[number]
        entry = self.catalogue.find(number)
        data = self._photos.load(entry.key)
        if data is None:
            raise LabellingError("the photo is not there any more")
        return self._paint(entry, data)

    def _hand_out(self, entry: Entry, person: Person) -> Shown | None:
        if not self._lease(entry, person):
            entry.taken_until_s = self._now_s() + _TAKEN_S
            return None
        look = entry.look or Look()
        if look.problem is None:
            data = self._photos.load(entry.key)
            if data is None:
                entry.here = False
                self._give_back(entry.key, entry.number, person)
                return None
            entry.digest = hashlib.sha256(data).hexdigest()
            try:
                self._paint(entry, data)
            except PhotoError as error:
                look = replace(look, problem=str(error).removeprefix(f"{entry.key}: "))
                self.catalogue.note_look(entry, look)
        decided = self._book.latest(entry.digest) if entry.digest else None
        if entry.worth is None or (decided and not decided.undoes and decided.label == entry.label is not None):
            entry.here = False  # somebody has said of this very photo what its folder says
            self._give_back(entry.key, entry.number, person)
            return None
        return Shown(entry, entry.worth, look, decided.revision if decided else 0, decided)

    def _lease(self, entry: Entry, person: Person) -> bool:
        if not self._leases.take(entry.key, person.who, person.session):
            return False
        self._leased_s[person.session][entry.number] = self._now_s()
        return True

    def _give_back(self, key: str, number: int, person: Person) -> None:
        if self._leased_s[person.session].pop(number, None) is not None:
            self._leases.give_back(key, person.session)

    def _paint(self, entry: Entry, data: bytes) -> bytes:
        from PIL import Image

        picture = io.BytesIO()
        Image.fromarray(decode(data, entry.key).pixels).save(picture, "JPEG", quality=_QUALITY)
        with self._lock:
            self._pictures[entry.number] = picture.getvalue()
            while len(self._pictures) > 1 and sum(map(len, self._pictures.values())) > _HELD_BYTES:
                self._pictures.popitem(last=False)
        return picture.getvalue()

    # --- decisions ---

    def decide(self, person: Person, number: int, label: str, revision: int) -> Outcome:
        """Takes what a person says that a photo shows.

        Args:
            person: who says so.
            number: which photo.
            label: one of the catalogue's labels.
            revision: of the latest decision that the person knows of.

        Raises:
            OkkoError: there is no such label or photo, the photo cannot be read, or the place fails.
        """
        entry = self.catalogue.find(number)
        if label not in self.catalogue.labels:
            raise LabellingError(f"there is no label {label[:80]!r}; there are {', '.join(self.catalogue.labels)}")
        if entry.look and entry.look.problem:
            raise LabellingError(f"{entry.key} cannot be read, so it takes no label; skip it")
        with entry.busy:
            to_key = entry.key if label == entry.label else f"{label}/{entry.rest}"
            return self._write(person, entry, label, to_key, revision)

    def undo(self, person: Person, number: int, revision: int) -> Outcome:
        """Takes back a decision: the photo lies again where it lay, and waits.

        Raises:
            OkkoError: there is no such photo, there is nothing to undo, or the place fails.
        """
        entry = self.catalogue.find(number)
        with entry.busy:
            latest = self._book.latest(entry.digest) if entry.digest else None
            if latest is None or latest.revision < revision or latest.undoes:
                raise LabellingError("there is nothing to undo")
            if latest.revision > revision:
                return self._overtaken(entry, latest)
            outcome = self._write(person, entry, latest.was, latest.from_key, revision, undoes=revision)
            if outcome.stands:
                self._lease(entry, person)
            return outcome

    def skip(self, person: Person, number: int) -> None:
        """Leaves a photo to others; this window is not shown it again.

        Raises:
            OkkoError: there is no such photo, or the place fails.
        """
        entry = self.catalogue.find(number)
        entry.skipped.add(person.session)
        self._give_back(entry.key, number, person)

    def leave(self, session: str) -> None:
        """Lets others look at all that a window was shown; what cannot be given back ends by itself."""
        for number in list(self._leased_s.pop(session, ())):
            with contextlib.suppress(OkkoError):
                self._leases.give_back(self.catalogue.find(number).key, session)

    def close(self) -> None:
        """Ends all leases."""
        for session in list(self._leased_s):
            self.leave(session)

    def _write(
        self, person: Person, entry: Entry, label: str | None, to_key: str, revision: int, *, undoes: int = 0
    ) -> Outcome:
        if entry.digest is None:
            raise LabellingError("this photo was not shown yet: reload the page")
        data = self._photos.load(entry.key)
        if data is None or hashlib.sha256(data).hexdigest() != entry.digest:
            latest = self._book.look_up(entry.digest)
            if latest is not None and latest.revision > revision:
                return self._overtaken(entry, latest)
            entry.here = False
            raise LabellingError(f"{entry.key} is not there any more, or was changed; nothing was stored")
        decision = Decision(
            digest=entry.digest,
            revision=revision + 1,
            who=person.who,
            unix_s=self._unix_s(),
            label=label,
            was=entry.label,
            from_key=entry.key,
            to_key=to_key,
            size=len(data),
            reason=entry.worth.reason.value if entry.worth else AGAIN,
            undoes=undoes,
        )
        there = self._book.add(decision)
        if there is not None:
            if not _is_same(there, decision):
                return self._overtaken(entry, there)
            decision = there  # the photo could not be moved the first time
        key_before = entry.key
        self.catalogue.moved(entry, self._photos.move(key_before, decision.to_key, data), label)
        # Who was overruled while the photo was on its way has put it where it does not belong any more.
        latest = self._book.look_up(entry.digest)
        if latest is not None and latest.revision > decision.revision:
            key = self._photos.move(entry.key, latest.to_key, data)
            self.catalogue.moved(entry, key, latest.label)
            return Outcome(False, latest)
        self.decisions += 1
        self._give_back(key_before, entry.number, person)
        return Outcome(True, decision)

    def _overtaken(self, entry: Entry, latest: Decision) -> Outcome:
        """Somebody else was faster; finds the photo where it lies now."""
        for key in places_of(latest):
            data = self._photos.load(key)
            if data is not None and hashlib.sha256(data).hexdigest() == latest.digest:
                self.catalogue.moved(entry, key, latest.label)
                break
        return Outcome(False, latest)


def _is_same(there: Decision, wanted: Decision) -> bool:
    """Whether a decision that is there is the one that a person tries to make once more."""
    return (there.revision, there.who, there.label, there.from_key, there.to_key, there.undoes) == (
        wanted.revision,
        wanted.who,
        wanted.label,
        wanted.from_key,
        wanted.to_key,
        wanted.undoes,
    )
