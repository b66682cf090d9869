"""The outbox's folder: frames that wait for a label or a network, bounded, and whole after any power cut.

Each frame is `DIGEST.png` with `DIGEST.json` beside it, which is written last and deleted first: a frame is there if
both are. A person's label is `DIGEST.label.json`, and `DIGEST.sent.json` says what S3 has. What a power cut leaves
half is removed when the folder is opened next.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import msgspec

from okko_edge.frame_file import PART, is_digest, write_whole
from okko_edge.outbox.worth import Reason, Worth, is_precious, value
from okko_models.damaged import decode_json

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

IMAGE, SIDECAR, LABEL, SENT = ".png", ".json", ".label.json", ".sent.json"
_SUFFIXES = (LABEL, SENT, SIDECAR, IMAGE)  # the longer of two that end alike first
# Room for label and marker is set aside with the frame, so that neither needs room when it comes.
_BESIDE_BYTES = 1024
_LOCK = ".lock"
_T = TypeVar("_T")


class Sidecar(msgspec.Struct, frozen=True, kw_only=True):
    """What is known about a kept frame: the content of its JSON file, here and in S3.

    Attributes:
        digest: SHA-256 of the frame's pixels, as in the journal.
        sequence: counts the frames of this outbox.
        unix_s: when it was decided on, seconds since 1970, as the device believed.
        device: which device.
        bundle_digest: which model decided.
        number: the marble's number in its run.
        verdict: what was decided.
        label: the model's most probable label; None when there was no classification.
        probability: of each label.
        probability_of_ok: their sum over the good labels.
        novelty: beyond 1: unlike anything in training.
        reason: why the frame is kept.
        score: how much that is worth.
        format: of this file.
    """

    digest: str
    sequence: int
    unix_s: float
    device: str
    bundle_digest: str
    number: int
    verdict: str
    label: str | None
    probability: dict[str, float] | None
    probability_of_ok: float | None
    novelty: float | None
    reason: Reason
    score: float
    format: int = 1


class Label(msgspec.Struct, frozen=True, kw_only=True):
    """What a person says that a frame shows; each correction counts `revision` up."""

    digest: str
    label: str
    unix_s: float
    revision: int


class Sent(msgspec.Struct, frozen=True, kw_only=True):
    """What S3 has: the frame, and the label of this revision (0: none)."""

    target: str
    label_revision: int


@dataclass(frozen=True, slots=True)
class Item:
    """A frame in the outbox.

    Attributes:
        sidecar: what is known about it.
        size: bytes that it takes.
        label: what a person said.
        sent: what S3 has of it.
    """

    sidecar: Sidecar
    size: int
    label: Label | None = None
    sent: Sent | None = None

    def waits_for(self, target: str) -> bool:
        """Whether anything of it is not yet in `target`."""
        if self.sent is None or self.sent.target != target:
            return True
        return self.label is not None and self.label.revision > self.sent.label_revision

    @property
    def value(self) -> tuple[int, float]:
        """How little it may be missed, as `okko_edge.outbox.worth.value` says."""
        sent = self.sent is not None and not self.waits_for(self.sent.target)
        return value(Worth(self.sidecar.reason, self.sidecar.score), labelled=self.label is not None, sent=sent)


class OutboxFolder:
    """The frames of a folder; every method may be called by any thread.

    Args:
        folder: made if missing.
        max_bytes: how much the frames may take; None to only look, which removes nothing either.

    Raises:
        OSError: the folder cannot be read or made.
    """

    def __init__(self, folder: Path, max_bytes: int | None) -> None:
        self.folder = folder
        self._max_bytes = max_bytes
        self._lock = threading.RLock()
        self._lock_file: int | None = None
        if max_bytes is not None:
            folder.mkdir(parents=True, exist_ok=True)
        self._items = {item.sidecar.digest: item for item in self._read(clean=max_bytes is not None)}
        self._size = sum(item.size for item in self._items.values())
        self._next = max((item.sidecar.sequence for item in self._items.values()), default=0) + 1

    def close(self) -> None:
        """Lets another process clean the folder."""
        if self._lock_file is not None:
            os.close(self._lock_file)
            self._lock_file = None

    @property
    def size(self) -> int:
        """Bytes that the frames take."""
        return self._size

    def items(self) -> list[Item]:
        """Returns every frame, oldest first."""
        with self._lock:
            return sorted(self._items.values(), key=lambda item: item.sidecar.sequence)

    def get(self, digest: str) -> Item | None:
        """Returns a frame that is kept, or None."""
        with self._lock:
            return self._items.get(digest)

    def image(self, digest: str) -> bytes | None:
        """Returns the content of a frame's PNG file; None when it is not kept."""
        if not is_digest(digest):
            return None
        with contextlib.suppress(FileNotFoundError):
            return self._path(digest, IMAGE).read_bytes()
        return None

    def add(self, sidecar: Sidecar, image: bytes, *, labelled: bool = False) -> list[Item] | None:
        """Keeps a frame; its sequence is set here.

        Args:
            sidecar: what is known about it.
            image: its PNG file.
            labelled: whether a label will follow, so that it is worth as much as a labelled one.

        Returns:
            The frames that had to go; None when all that is here is worth more and the new one was refused.

        Raises:
            OSError: the disk is full or cannot be written.
        """
        with self._lock:
            if sidecar.digest in self._items:
                return []
            sidecar = msgspec.structs.replace(sidecar, sequence=self._next)
            data = msgspec.json.format(msgspec.json.encode(sidecar), indent=1)
            item = Item(sidecar, len(image) + len(data) + _BESIDE_BYTES)
            worth = value(Worth(sidecar.reason, sidecar.score), labelled=labelled, sent=False)
            gone = self._to_make_room(item.size, worth)
            if gone is None:
                return None
            for old in gone:
                self.remove(old.sidecar.digest)
            write_whole(self._path(sidecar.digest, IMAGE), image)
            try:
                write_whole(self._path(sidecar.digest, SIDECAR), data)
            except OSError:
                with contextlib.suppress(OSError):
                    self._path(sidecar.digest, IMAGE).unlink(missing_ok=True)
                raise
            self._items[sidecar.digest] = item
            self._size += item.size
            self._next += 1
            return gone

    def set_label(self, digest: str, label: str, unix_s: float) -> bool:
        """Records what a person says that a frame shows; returns whether the frame is kept.

        Raises:
            OSError: the disk is full or cannot be written.
        """
        with self._lock:
            item = self._items.get(digest)
            if item is None:
                return False
            if item.label is None or item.label.label != label:
                revision = item.label.revision + 1 if item.label else 1
                new = Label(digest=digest, label=label, unix_s=unix_s, revision=revision)
                write_whole(self._path(digest, LABEL), msgspec.json.encode(new))
                self._items[digest] = dataclasses.replace(item, label=new)
            return True

    def set_sent(self, digest: str, target: str, label_revision: int) -> None:
        """Records what S3 has.

        Raises:
            OSError: the disk is full or cannot be written.
        """
        with self._lock:
            item = self._items.get(digest)
            if item is not None:
                sent = Sent(target=target, label_revision=label_revision)
                write_whole(self._path(digest, SENT), msgspec.json.encode(sent))
                self._items[digest] = dataclasses.replace(item, sent=sent)

    def remove(self, digest: str) -> None:
        """Deletes a frame.

        Raises:
            OSError: the disk cannot be written.
        """
        with self._lock:
            # The sidecar first: without it what is left is nothing, and is removed at the next start.
            for suffix in (SIDECAR, SENT, LABEL, IMAGE):
                self._path(digest, suffix).unlink(missing_ok=True)
            self._size -= self._items.pop(digest).size

    def _to_make_room(self, needed: int, worth: tuple[int, float]) -> list[Item] | None:
        if self._max_bytes is None:
            raise OSError("the outbox is open for reading only")
        missing = self._size + needed - self._max_bytes
        gone: list[Item] = []
        if missing <= 0:
            return gone
        for old in sorted(self._items.values(), key=lambda item: (item.value, item.sidecar.sequence)):
            if is_precious(old.value) or old.value > worth:
                break
            gone.append(old)
            missing -= old.size
            if missing <= 0:
                return gone
        return None

    def _path(self, digest: str, suffix: str) -> Path:
        return self.folder / f"{digest}{suffix}"

    def _read(self, *, clean: bool) -> Iterable[Item]:
        if not self.folder.is_dir():
            return
        clean = clean and self._is_only_writer()
        found: dict[str, set[str]] = {}
        for path in self.folder.iterdir():
            suffix = next((end for end in _SUFFIXES if path.name.endswith(end)), "")
            digest = path.name.removesuffix(suffix)
            if suffix and is_digest(digest):
                found.setdefault(digest, set()).add(suffix)
            elif clean and path.name.startswith(".") and path.name.endswith(PART):
                path.unlink(missing_ok=True)
        for digest, suffixes in found.items():
            item = self._read_item(digest, suffixes) if {IMAGE, SIDECAR} <= suffixes else None
            if item is not None:
                yield item
            elif clean:
                for suffix in (SIDECAR, SENT, LABEL, IMAGE):
                    self._path(digest, suffix).unlink(missing_ok=True)

    def _read_item(self, digest: str, suffixes: set[str]) -> Item | None:
        try:
            data = self._path(digest, SIDECAR).read_bytes()
            image_size = self._path(digest, IMAGE).stat().st_size
            sidecar = decode_json(data, Sidecar)
        except (FileNotFoundError, msgspec.DecodeError):
            return None
        if sidecar.digest != digest or not image_size:
            return None
        label = self._decode(digest, LABEL, Label) if LABEL in suffixes else None
        sent = self._decode(digest, SENT, Sent) if SENT in suffixes else None
        return Item(sidecar, image_size + len(data) + _BESIDE_BYTES, label, sent)

    def _decode(self, digest: str, suffix: str, kind: type[_T]) -> _T | None:
        with contextlib.suppress(FileNotFoundError, msgspec.DecodeError):
            return decode_json(self._path(digest, suffix).read_bytes(), kind)
        return None

    def _is_only_writer(self) -> bool:
        """Whether no other process has the folder open for writing; what that one is writing must not be removed."""
        descriptor = os.open(self.folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            return False
        self._lock_file = descriptor
        return True
