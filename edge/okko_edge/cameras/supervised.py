"""Keeps a camera running that stalls, vanishes, hangs and comes back, and never lets the sorting path wait for it.

The camera is opened, read and closed by a thread of its own, which leaves its newest frame in a box with one place. A
second thread watches: when no frame has come for too long it gives the first one up, hanging or not, and starts another
with a fresh camera, for ever. It does not judge what a frame shows.
"""

from __future__ import annotations

import contextlib
import math
import threading
from typing import TYPE_CHECKING, TypeGuard

import numpy as np

from okko_edge.camera import CameraTimeoutError, CorruptFrameError
from okko_edge.events import Event
from okko_edge.frame import Frame

if TYPE_CHECKING:
    from collections.abc import Callable

    from okko_edge.camera import Camera
    from okko_edge.clock import Clock
    from okko_edge.events import Counters
    from okko_edge.settings import CameraSettings

# Starting a camera takes a second or two; one that takes longer hangs.
_OPENING_S = 10.0
# How long a camera that was given up may take to let go, before another is opened all the same.
_CLOSING_S = 2.0
# The camera's thread looks up so often whether it is still wanted.
_LOOK_UP_S = 0.25
# A driver in which so many calls hang is not helped by one more.
_MOST_HANGING = 4
# Frames of the future: clocks that tick differently by less are the same clock.
_AHEAD_S = 0.1
_BETWEEN_BAD_FRAMES_S = 0.01


class SupervisedCamera:
    """A camera that is always there, although the one behind it may not be.

    Counts `CAMERA_STALLED` when no usable frame came for `settings.stall_s`, `CAMERA_FAILED` when the camera could not
    be opened or broke off, `CAMERA_REOPENED` when frames come again, `CORRUPT_FRAME` for what is no picture, and
    `STALE_FRAME` for frames that are no newer than the one before or older than `settings.stall_s`.

    Args:
        open_one: opens the camera; may fail, and may hang.
        settings: only `stall_s` is used.
        counters: where to count.
        clock: the monotonic clock that the camera stamps its frames with.
        first_pause_s: before the second attempt to open it; doubles with each.
        longest_pause_s: the pause never grows beyond it.
        opening_s: how long an opening may take.

    Attributes:
        trouble: why there are no frames now, in words; None while they come.
    """

    def __init__(
        self,
        open_one: Callable[[], Camera],
        settings: CameraSettings,
        counters: Counters,
        clock: Clock,
        *,
        first_pause_s: float = 0.5,
        longest_pause_s: float = 10.0,
        opening_s: float = _OPENING_S,
    ) -> None:
        self.trouble: str | None = "the camera is being opened"
        self._open_one = open_one
        self._stall_s = settings.stall_s
        self._counters = counters
        self._clock = clock
        self._pauses_s = (first_pause_s, longest_pause_s)
        self._opening_s = opening_s
        self._changed = threading.Condition()
        self._closed = False
        self._session: _Session | None = None
        self._given_up: list[_Session] = []
        self._frame: Frame | None = None
        self._newest_s = -math.inf
        self._sequence = 0
        self._keeper = threading.Thread(target=self._keep, name="camera-keeper", daemon=True)
        self._keeper.start()

    def read(self, timeout_s: float | None = None) -> Frame | None:
        """Waits for a frame that was not read yet, never longer than told; None after `close`.

        Raises:
            CameraTimeoutError: none came in time; the message says what is known about why.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._closed or self._frame is not None, timeout_s):
                raise CameraTimeoutError(self.trouble or f"no frame came in {timeout_s or 0:g} s")
            frame, self._frame = self._frame, None
            return None if self._closed else frame

    def close(self) -> None:
        """Lets go of the camera; of one that hangs, after two seconds, by leaving it to its thread."""
        with self._changed:
            self._closed = True
            self._frame = None
            self._changed.notify_all()
        self._keeper.join(2 * _CLOSING_S + 1)

    def _keep(self) -> None:
        """What the watching thread does, until `close`."""
        pause_s, longest_s = self._pauses_s
        before = False
        while True:
            self._wait_for_the_hanging()
            if self._closed:
                return
            session = _Session(self, reopens=before)
            started_s = self._clock.now_s()
            self._watch(session)
            before = before or session.delivered
            self._give_up(session)
            if self._clock.now_s() - started_s > longest_s and session.delivered:
                pause_s = self._pauses_s[0]  # it ran well for a while: whatever it was, try again at once
                continue
            with self._changed:
                self._changed.wait_for(lambda: self._closed, pause_s)
            pause_s = min(2 * pause_s, longest_s)

    def _watch(self, session: _Session) -> None:
        """Returns when the session ends, stalls, or nobody wants it any more."""
        with self._changed:
            self._session = session
            try:
                session.thread.start()
            except RuntimeError as error:  # no memory for a thread; there may be some later
                self._ended(session, error)
            while not (self._closed or session.ended):
                due_s = session.heard_at_s + (self._stall_s if session.is_open else self._opening_s)
                left_s = due_s - self._clock.now_s()
                if left_s <= 0:
                    self._note_silence(session)
                    break
                self._changed.wait(left_s)
            self._session = None
            # What was taken before the silence is not what the camera sees now.
            self._frame = None

    def _note_silence(self, session: _Session) -> None:
        if session.is_open:
            self._counters.add(Event.CAMERA_STALLED)
            self.trouble = f"no frame came for {self._stall_s:g} s; the camera is being opened anew"
        else:
            self._counters.add(Event.CAMERA_FAILED)
            self.trouble = f"the camera hangs: it did not open in {self._opening_s:g} s"

    def _give_up(self, session: _Session) -> None:
        """Has the session's thread close its camera; if it hangs, tries from outside; if that hangs too, leaves it."""
        if session.thread.ident is None:
            return
        session.thread.join(_CLOSING_S)
        if session.thread.is_alive() and session.camera is not None:
            closing = threading.Thread(target=session.close, name="camera-close", daemon=True)
            closing.start()
            closing.join(_CLOSING_S)
        if session.thread.is_alive():
            self._given_up.append(session)

    def _wait_for_the_hanging(self) -> None:
        with self._changed:
            while not self._closed:
                self._given_up = [session for session in self._given_up if session.thread.is_alive()]
                if len(self._given_up) < _MOST_HANGING:
                    return
                self.trouble = "the camera's driver hangs; restart the machine, or unplug the camera"
                self._changed.wait(self._pauses_s[1])

    # What follows is called by the session's thread.

    def _wants(self, session: _Session) -> bool:
        return self._session is session and not self._closed

    def _take(self, session: _Session, frame: Frame | None) -> bool:
        """Puts a frame into the box if it is a good one; says whether it was."""
        now_s = self._clock.now_s()
        if not _is_picture(frame, session.shape) or not frame.captured_at_s <= now_s + _AHEAD_S:
            self._counters.add(Event.CORRUPT_FRAME)
            return False
        if frame.captured_at_s <= self._newest_s or now_s - frame.captured_at_s > self._stall_s:
            self._counters.add(Event.STALE_FRAME)
            return False
        with self._changed:
            if not self._wants(session):
                return False
            session.heard_at_s, session.shape = now_s, frame.image.shape
            self._newest_s = frame.captured_at_s
            self._frame = Frame(frame.image, frame.captured_at_s, self._sequence, frame.truth, frame.photo)
            self._sequence += 1
            if not session.delivered:
                session.delivered, self.trouble = True, None
                if session.reopens:
                    self._counters.add(Event.CAMERA_REOPENED)
            self._changed.notify_all()
        return True

    def _ended(self, session: _Session, error: Exception | None) -> None:
        with self._changed:
            session.ended = True
            if error is not None and self._wants(session):
                self._counters.add(Event.CAMERA_FAILED)
                self.trouble = str(error) or type(error).__name__
            self._changed.notify_all()


class _Session:
    """One camera from its opening to its closing, on a thread of its own."""

    def __init__(self, owner: SupervisedCamera, *, reopens: bool) -> None:
        self.reopens = reopens
        self.camera: Camera | None = None
        self.is_open = False
        self.delivered = False
        self.ended = False
        self.heard_at_s = owner._clock.now_s()
        self.shape: tuple[int, ...] | None = None
        self._owner = owner
        self.thread = threading.Thread(target=self._run, name="camera", daemon=True)

    def close(self) -> None:
        """Closes the camera, whatever it thinks of that."""
        if self.camera is not None:
            with contextlib.suppress(Exception):
                self.camera.close()

    def _run(self) -> None:
        owner, error = self._owner, None
        try:
            self.camera = owner._open_one()
            self.heard_at_s, self.is_open = owner._clock.now_s(), True
            while owner._wants(self):
                self._read(self.camera)
        except Exception as failure:  # a driver raises anything, and the camera is to come back from it
            error = failure
        owner._ended(self, error)
        self.close()

    def _read(self, camera: Camera) -> None:
        try:
            good = self._owner._take(self, camera.read(_LOOK_UP_S))
        except CameraTimeoutError:
            return
        except CorruptFrameError:
            self._owner._counters.add(Event.CORRUPT_FRAME)
            good = False
        if not good:
            # A camera that delivers nothing but rubbish must not take the processor from the sorting path.
            threading.Event().wait(_BETWEEN_BAD_FRAMES_S)


def _is_picture(frame: Frame | None, shape: tuple[int, ...] | None) -> TypeGuard[Frame]:
    """Whether it is a contiguous RGB image, as large as the one before, with a time."""
    image = getattr(frame, "image", None)
    return (
        frame is not None
        and isinstance(image, np.ndarray)
        and image.dtype == np.uint8
        and image.ndim == 3
        and image.shape[2] == 3
        and image.size > 0
        and image.flags.c_contiguous
        and (shape is None or image.shape == shape)
        and math.isfinite(frame.captured_at_s)
    )
