"""All photos of a dataset: where each lies, what is known about it, and in which order people should see them.

Kept in memory, and brought up to date with the folder or bucket now and then; others move photos there too.
"""

from __future__ import annotations

import heapq
import itertools
import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from okko_cloud.labelling.layout import Layout, choose_labels, with_digest
from okko_cloud.labelling.looking import Look
from okko_cloud.labelling.photos import MOST_BYTES, LabellingError
from okko_cloud.labelling.reasons import Worth, judge, lot_of
from okko_models.layout import UNLABELLED
from okko_models.registry.errors import OfflineError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from okko_cloud.labelling.book import Book, Decision
    from okko_cloud.labelling.looking import Eye
    from okko_cloud.labelling.photos import Listed, Photos

_ENOUGH: Final = 200


@dataclass(slots=True, eq=False)
class Entry:
    """A photo that is known.

    Attributes:
        number: names it in this program.
        key: where it lies now.
        size: bytes.
        label: the label that it has now.
        rest: its name without that.
        look: what is known about it; None until it was looked at.
        worth: why it is shown, None if it need not be.
        digest: SHA-256 of its file, once it was shown.
        here: whether it was there when last looked for.
        skipped: the browser windows that do not want to see it again.
        taken_until_s: somebody else is looking at it until then, on the desk's clock.
        busy: held while it is handed out or decided on.
    """

    number: int
    key: str
    size: int
    label: str | None
    rest: str
    look: Look | None = None
    worth: Worth | None = None
    digest: str | None = None
    here: bool = True
    skipped: set[str] = field(default_factory=set)
    taken_until_s: float = 0.0
    busy: threading.Lock = field(default_factory=threading.Lock)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the labelling is.

    Attributes:
        done: photos decided on, by the reason that they were shown for.
        left: photos that wait, by reason.
        looked: how many were looked at for a reason.
        photos: how many there are.
        labels: how many have each label.
        unlabelled: how many have none.
    """

    done: dict[str, int]
    left: dict[str, int]
    looked: int
    photos: int
    labels: dict[str, int]
    unlabelled: int


class Catalogue:
    """A dataset's photos; any thread may ask.

    Args:
        photos: the dataset's files.
        book: the decisions.
        eye: looks at photos before people do.
        asked: the labels that the user asked for.
        of_model: the model's labels.

    Raises:
        OkkoError: the dataset cannot be listed, or its labels stand in a list.
    """

    def __init__(
        self, photos: Photos, book: Book, eye: Eye, *, asked: Sequence[str] = (), of_model: Sequence[str] = ()
    ) -> None:
        self._photos, self._book, self._eye = photos, book, eye
        self._asked, self._of_model = tuple(asked), tuple(of_model)
        self._lock = threading.RLock()
        self._numbers = itertools.count(1)
        self._entries: dict[int, Entry] = {}
        # Those without a label first: they are what people came for.
        self._to_look_at: list[tuple[bool, int]] = []
        self.labels: tuple[str, ...] = ()
        self.refresh()

    def refresh(self) -> None:
        """Finds out which photos and decisions are there now, and finishes moves that were interrupted.

        Raises:
            OkkoError: the place fails, or the labels stand in a list.
        """
        self._book.refresh()
        listed = {file.key: file for file in self._photos.list_all()}
        for key in self._finish_moves(listed):
            del listed[key]
        layout = Layout(listed, {*self._asked, *self._of_model})
        with self._lock:
            self._layout = layout
            self.labels = choose_labels(self._asked, self._of_model, layout.folders)
            known = {entry.key: entry for entry in self._entries.values()}
            for entry in known.values():  # others may have moved or deleted some
                entry.here = entry.key in listed
            for file in listed.values():
                self._note(file, known.get(file.key))

    def _note(self, file: Listed, entry: Entry | None) -> None:
        place = self._layout.place(file.key)
        if place is None or (entry is not None and entry.size == file.size):
            return
        if entry is not None:  # another photo has its name now
            del self._entries[entry.number]
        number = next(self._numbers)
        new = Entry(number, file.key, file.size, place.label, place.rest)
        if problem := _problem_of(file):
            new.look = Look(problem=problem)
        else:
            heapq.heappush(self._to_look_at, (new.label is not None, number))
        self._entries[number] = new
        self._judge(new)

    def _finish_moves(self, listed: dict[str, Listed]) -> list[str]:
        """Takes photos away that lie where they were and where they went to; returns where they were.

        That is left of a move that was interrupted, and of a device that uploads a photo twice.
        """
        finished = []
        for decision in self._book.all():
            source = listed.get(decision.from_key)
            for to_key in places_of(decision):
                target = listed.get(to_key)
                if source is None or target is None or source is target or source.size != target.size:
                    continue
                data = self._photos.load(source.key)
                if data is not None and data == self._photos.load(to_key):
                    self._photos.move(source.key, to_key, data)
                    finished.append(source.key)
                    break
        return finished

    def find(self, number: int) -> Entry:
        """Returns a photo.

        Raises:
            LabellingError: there is none of this number.
        """
        with self._lock:
            entry = self._entries.get(number)
        if entry is None:
            raise LabellingError("this photo is not known here any more: reload the page")
        return entry

    def moved(self, entry: Entry, key: str, label: str | None) -> None:
        """Notes where a photo lies now."""
        with self._lock:
            entry.key, entry.label, entry.here = key, label, True
            place = self._layout.place(key)
            entry.rest = place.rest if place else entry.rest
            self._judge(entry)

    def look_at_next(self) -> bool:
        """Looks at one photo that nobody has looked at; returns whether there was one.

        Raises:
            OfflineError: the place does not answer; the photo is looked at again later.
        """
        with self._lock:
            entry = None
            while entry is None:
                if not self._to_look_at:
                    return False
                turn = heapq.heappop(self._to_look_at)
                entry = self._entries.get(turn[1])
            key, beside = entry.key, self._layout.beside(entry.key, entry.rest)
        try:
            look = self._eye.look(key, beside)
        except OfflineError:
            with self._lock:
                heapq.heappush(self._to_look_at, turn)
            raise
        except Exception as error:  # whatever is wrong with one photo, the others are looked at
            look = Look(problem=f"it cannot be looked at: {error}")
        self.note_look(entry, look)
        return True

    def note_look(self, entry: Entry, look: Look) -> None:
        """Notes what there is to know about a photo."""
        with self._lock:
            entry.look = look
            self._judge(entry)

    @property
    def is_ready(self) -> bool:
        """Whether so many photos were looked at that the most useful ones are worth their name."""
        with self._lock:
            looks = [entry.look is not None for entry in self._entries.values() if entry.here]
        return all(looks) or sum(looks) >= _ENOUGH

    def queue(self) -> list[Entry]:
        """Returns the photos that wait for a decision, in the order in which they are to be shown."""
        with self._lock:
            return sorted(self._waiting(_decided(self._book.all())), key=_order)

    def progress(self) -> Progress:
        """Returns how far the labelling is."""
        decided = _decided(self._book.all())
        with self._lock:
            left = Counter(entry.worth.reason.value for entry in self._waiting(decided) if entry.worth)
            here = [entry for entry in self._entries.values() if entry.here]
        labels = Counter(entry.label or UNLABELLED for entry in here)
        done = Counter(decision.reason for decision in {id(one): one for one in decided.values()}.values())
        return Progress(
            done=dict(done),
            left=dict(left),
            looked=sum(entry.look is not None for entry in here),
            photos=len(here),
            labels={label: labels[label] for label in self.labels},
            unlabelled=labels[UNLABELLED],
        )

    def _waiting(self, decided: dict[str, Decision]) -> list[Entry]:
        return [
            entry
            for entry in self._entries.values()
            if entry.here
            and entry.worth
            and not ((decision := decided.get(entry.key)) is not None and decision.size == entry.size)
        ]

    def _judge(self, entry: Entry) -> None:
        look = entry.look or Look()
        entry.worth = judge(
            label=entry.label, guess=look.guess, corrected=look.corrected, problem=look.problem, lot=lot_of(entry.rest)
        )


def places_of(decision: Decision) -> tuple[str, str]:
    """Returns where the photo of a decision may lie."""
    return decision.to_key, with_digest(decision.to_key, decision.digest)


def _decided(decisions: Iterable[Decision]) -> dict[str, Decision]:
    """Decisions that stand, by where their photos lie."""
    return {key: one for one in decisions if not one.undoes and one.label is not None for key in places_of(one)}


def _order(entry: Entry) -> tuple[tuple[int, float], int]:
    assert entry.worth is not None
    return entry.worth.order, entry.number


def _problem_of(file: Listed) -> str | None:
    """Why a file cannot be shown, as far as that is known without opening it."""
    if file.size > MOST_BYTES:
        return f"{file.size >> 20} MB; the limit is {MOST_BYTES >> 20} MB. Save a smaller copy of it."
    try:
        file.key.encode()
    except UnicodeEncodeError:
        return "its name is not UTF-8. Rename it."
    return None
