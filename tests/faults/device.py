"""A whole device in a process of its own: `okko run` with a belt, a beam and a camera around it that take orders.

Real are the command and all its parts: beam trigger on gpiozero's mock pin, supervised camera, scheduled gate, journal,
outbox, uploader, dashboard. Beneath them is the world of `tests.faults.world`. Standard input takes faults, a line each
("stall 2.5", "clock -1e9"); the log gets a line for each marble that came ("in NUMBER TIME PHOTO"), each verdict
("out TIME POSITION") and each move of the gate ("move TIME POSITION"), written at once, so that a kill loses none.

    python -m tests.faults.device PHOTOS LOG START_S PERIOD_S okko run arguments...
"""

from __future__ import annotations

import asyncio
import errno
import os
import sqlite3
import sys
import threading
import time
from pathlib import Path

from tests.faults.world import Belt, BeltCamera, Faults, make_faulty

BEAM_PIN = 17
# The beam is broken for so long, and clear for at least as long.
_BROKEN_S = 0.015
_PHOTOS = 24


class Device:
    """Puts the world beneath okko's parts.

    Args:
        photos: a folder with a sub-folder for each label.
        log: where to write what happens.
        start_s: when marble 0 came.
        period_s: from one marble to the next.
    """

    def __init__(self, photos: Path, log: Path, start_s: float, period_s: float) -> None:
        self.faults = Faults()
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._clock_ahead_s = 0.0
        self._break_disk()
        self._bend_time()
        from okko_edge.photos import find_photos
        from okko_models.photo import read_photo

        # A few are enough, and the world's memory is not to be taken for okko's.
        found = find_photos(photos)
        found = found[:: max(1, len(found) // _PHOTOS)]
        shown = [(read_photo(photo.path, name=photo.name), photo.label or "") for photo in found]
        self._belt = Belt(shown, start_s=start_s, period_s=period_s)
        self._break_camera()
        self._break_inference()
        self._break_dashboard()
        self._watch_gate()
        threading.Thread(target=self._obey, daemon=True).start()

    def note(self, *words: object) -> None:
        """Writes a line of the log."""
        os.write(self._log, (" ".join(map(str, words)) + "\n").encode())

    def _obey(self) -> None:
        for line in sys.stdin:
            name, value = line.split()
            if name == "clock":
                self._clock_ahead_s = float(value)
            else:
                self.faults.add(name, float(value))

    def _bend_time(self) -> None:
        real = time.time
        time.time = lambda: real() + self._clock_ahead_s

    def _break_disk(self) -> None:
        """Lets SQLite and fsync fail while the disk is "full" or "readonly", where no real disk can be made so."""
        faults = self.faults
        fsync = os.fsync

        def faulty_fsync(descriptor):
            if "full" in faults:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if "readonly" in faults:
                raise OSError(errno.EROFS, os.strerror(errno.EROFS))
            fsync(descriptor)

        class Connection(sqlite3.Connection):
            def execute(self, statement, *arguments):
                if statement.startswith(("BEGIN", "COMMIT", "INSERT", "DELETE")):
                    if "full" in faults:
                        raise sqlite3.OperationalError("database or disk is full")
                    if "readonly" in faults:
                        raise sqlite3.OperationalError("attempt to write a readonly database")
                return super().execute(statement, *arguments)

        connect = sqlite3.connect
        os.fsync = faulty_fsync
        sqlite3.connect = lambda *arguments, **named: connect(*arguments, **named, factory=Connection)

    def _break_camera(self) -> None:
        from okko_edge.cameras import v4l2
        from okko_edge.clock import MonotonicClock

        clock = MonotonicClock()
        v4l2.load = lambda: None
        v4l2.V4l2Camera = lambda settings, device: BeltCamera(
            self._belt, self.faults, clock, frames_per_s=settings.frames_per_s
        )

    def _break_inference(self) -> None:
        from okko_edge.clock import MonotonicClock
        from okko_models.classifier import Classifier

        Classifier.classify = make_faulty(Classifier.classify, self.faults, MonotonicClock())

    def _break_dashboard(self) -> None:
        from okko_edge.dashboard.server import Server

        serve = Server.serve

        async def faulty(server, *arguments):
            serving = asyncio.ensure_future(serve(server, *arguments))
            while not serving.done():
                if "dashboard" in self.faults:
                    serving.cancel()
                    raise RuntimeError("the dashboard crashed")
                await asyncio.wait([serving], timeout=0.05)
            await serving

        Server.serve = faulty

    def _watch_gate(self) -> None:
        from okko_edge import rig
        from okko_edge.gates.simulated import SimulatedServo

        open_gate, go = rig.open_gate, SimulatedServo.go

        def watched(*arguments, **named):
            gate = open_gate(*arguments, **named)
            sort = gate.sort

            def noted(position, arrived_s):
                in_time = sort(position, arrived_s)
                self.note("out", f"{arrived_s:.6f}", f"{time.monotonic():.6f}", position.value if in_time else "KO")
                return in_time

            gate.sort = noted
            self._start_belt()
            return gate

        def moved(servo, position):
            go(servo, position)
            self.note("move", f"{time.monotonic():.6f}", position.value)

        rig.open_gate = watched
        SimulatedServo.go = moved

    def _start_belt(self) -> None:
        from gpiozero import Device as Gpio

        threading.Thread(target=self._carry, args=(Gpio.pin_factory.pin(BEAM_PIN),), daemon=True).start()

    def _carry(self, pin) -> None:
        number = self._belt.next_number(time.monotonic())
        while True:
            time.sleep(max(0.0, self._belt.due_s(number) - time.monotonic()))
            marble = self._belt.marble(number, time.monotonic())
            self.note("in", marble.number, f"{marble.at_s:.6f}", marble.photo)
            self._belt.in_view = marble
            pin.drive_high()
            time.sleep(_BROKEN_S)
            pin.drive_low()
            time.sleep(_BROKEN_S)
            number += 1


def main(arguments: list[str]) -> None:
    """Runs okko in the world."""
    photos, log, start_s, period_s, *command = arguments
    os.environ["GPIOZERO_PIN_FACTORY"] = "mock"
    device = Device(Path(photos), Path(log), float(start_s), float(period_s))
    device.note("start", f"{time.monotonic():.6f}")
    from okko.cli import main as okko

    sys.argv = ["okko", *command]
    okko()


if __name__ == "__main__":
    main(sys.argv[1:])
