"""Keeps every frame that was decided on, without loss, so that `okko replay` can show it to another model.

A listener: the sorting path puts a reference into a short queue, a thread of its own compresses and writes. The folder
is bounded; the oldest frames go first. It holds numbered sub-folders of `SHELF` frames each, so that "oldest" needs no
clock, and knowing the size needs no list of files in memory.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from typing import TYPE_CHECKING

from okko_edge.events import Event
from okko_edge.frame_file import PART, digest_of, encode, is_digest, write_whole

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from okko_edge.events import Counters
    from okko_edge.sorter import Decision

SHELF = 500
"""So many frames lie in one sub-folder."""
_SUFFIX = ".png"
_CLOSE_S = 10.0


def frames_folder(journal: Path) -> Path:
    """Returns where the frames of a journal are kept: beside it, `journal-frames` for `journal.sqlite`."""
    return journal.with_name(f"{journal.stem}-frames")


class FrameFolder:
    """A bounded folder of frames; one thread writes it.

    Args:
        folder: made if missing.
        max_bytes: how much the files may take.

    Raises:
        OSError: the folder cannot be read or written.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder = folder
        self._max_bytes = max_bytes
        folder.mkdir(parents=True, exist_ok=True)
        self._sizes: dict[int, int] = {}
        self._on_last = 0
        for shelf in shelves(folder):
            files = [file for file in shelf.iterdir() if file.is_file()]
            for file in files:
                if file.name.endswith(PART) or not file.stat().st_size:
                    file.unlink()
            whole = [file for file in files if file.exists()]
            self._sizes[int(shelf.name)] = sum(file.stat().st_size for file in whole)
            self._on_last = len(whole)

    @property
    def size(self) -> int:
        """Bytes that the files take."""
        return sum(self._sizes.values())

    def add(self, digest: str, data: bytes) -> None:
        """Writes a frame's file, and deletes the oldest until all fit.

        Raises:
            OSError: the disk is full or cannot be written, or the frame alone is larger than the folder may be.
        """
        if len(data) > self._max_bytes:
            raise OSError(f"a frame takes {len(data)} bytes, more than the {self._max_bytes} allowed for all")
        if not self._sizes or self._on_last >= SHELF:
            number = max(self._sizes, default=0) + 1
            (self.folder / f"{number:09d}").mkdir(exist_ok=True)
            self._sizes[number], self._on_last = 0, 0
        number = max(self._sizes)
        path = self.folder / f"{number:09d}" / f"{digest}{_SUFFIX}"
        if path.exists():
            return
        self._make_room(len(data))
        write_whole(path, data)
        self._sizes[number] += len(data)
        self._on_last += 1

    def _make_room(self, needed: int) -> None:
        last = max(self._sizes)
        for number in sorted(self._sizes):
            if self.size + needed <= self._max_bytes:
                return
            shelf = self.folder / f"{number:09d}"
            for file in sorted(shelf.iterdir(), key=lambda file: file.stat().st_mtime_ns):
                self._sizes[number] -= file.stat().st_size
                file.unlink()
                self._on_last -= number == last
                if self.size + needed <= self._max_bytes:
                    break
            if number != last and not any(shelf.iterdir()):
                shelf.rmdir()
                del self._sizes[number]


def shelves(folder: Path) -> list[Path]:
    """Returns the sub-folders that hold frames, oldest first."""
    return sorted(
        (path for path in folder.iterdir() if path.name.isdecimal() and path.is_dir()), key=lambda p: int(p.name)
    )


def find_frames(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yields digest and file of every frame in a folder and the folders in it, in order of name.

    Raises:
        OSError: the folder cannot be read.
    """
    for path in sorted(folder.rglob(f"*{_SUFFIX}")):
        if is_digest(path.stem):
            yield path.stem, path


class KeptFrames:
    """Hears every decision and keeps its frame.

    Nothing that goes wrong here is raised: frames that could not be kept are counted, and the first reason is told.

    Args:
        folder: where the frames are kept; made if missing.
        max_mb: megabytes that they may take.
        warn: takes one sentence for the user.
        counters: hears of lost frames.
        capacity: how many frames may wait in memory.
    """

    def __init__(
        self,
        folder: Path,
        *,
        max_mb: float,
        warn: Callable[[str], None],
        counters: Counters | None = None,
        capacity: int = 8,
    ) -> None:
        self.folder = folder
        self.kept = 0
        self._max_bytes = int(max_mb * 1_000_000)
        self._warn = warn
        self._counters = counters
        self._warned = False
        self._files: FrameFolder | None = None
        self._queue: queue.Queue[NDArray[np.uint8] | None] = queue.Queue(capacity)
        self._thread = threading.Thread(target=self._keep_until_closed, name="kept frames", daemon=True)
        self._thread.start()

    def hear(self, decision: Decision) -> None:
        """Takes a decision; returns at once."""
        if decision.frame is None:
            return
        try:
            self._queue.put_nowait(decision.frame.image)
        except queue.Full:
            self._lose()

    def close(self) -> None:
        """Writes what waits, for 10 seconds at most."""
        with contextlib.suppress(queue.Full):
            self._queue.put(None, timeout=_CLOSE_S)
        self._thread.join(_CLOSE_S)

    def _keep_until_closed(self) -> None:
        while (image := self._queue.get()) is not None:
            try:
                if self._files is None:
                    self._files = FrameFolder(self.folder, self._max_bytes)
                self._files.add(digest_of(image), encode(image))
                self.kept += 1
            except Exception as error:  # a frame that cannot be kept is lost, and nothing else
                if isinstance(error, FileNotFoundError):
                    self._files = None  # someone removed a folder: begin anew
                self._lose()
                self._tell(str(error))

    def _lose(self) -> None:
        if self._counters is not None:
            self._counters.add(Event.FRAME_LOST)

    def _tell(self, why: str) -> None:
        if not self._warned:
            self._warned = True
            with contextlib.suppress(Exception):
                self._warn(f"frames are not kept in {self.folder} ({why}); sorting goes on without")
