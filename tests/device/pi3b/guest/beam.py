"""okko's beam sensor on a real GPIO chip with real interrupts, and a finger in the beam from outside the machine.

The emulated Pi's own chip has no inputs that can be driven; this is another emulated machine with the same kernel and
the same libraries, whose chip (ARM PL061) has.
"""

from __future__ import annotations

import time
import traceback

from outside import drive, report

LINE = 5


def main() -> None:
    for part in (marbles, chatter, low_when_broken):
        try:
            part()
        except Exception as error:
            traceback.print_exc()
            report(part.__name__, "no error", f"{type(error).__name__}: {error}", ok=False)


def marbles() -> None:
    """One trigger for each marble, stamped by the kernel when it broke the beam."""
    import lgpio

    from okko_edge.clock import MonotonicClock
    from okko_edge.triggers.beam import BeamTrigger

    handle = lgpio.gpiochip_open(0)
    _, lines, _, label = lgpio.gpio_get_chip_info(handle)
    lgpio.gpiochip_close(handle)
    report("GPIO chip", "inputs with interrupts", f"{label}, {lines} lines", ok=True)
    drive(LINE, 0)
    trigger = BeamTrigger(LINE, clock=MonotonicClock(), debounce_s=0.005)
    time.sleep(0.1)
    clear = len(trigger.poll(time.monotonic()))
    report("beam", "clear: nothing", f"{clear} marbles", ok=clear == 0)
    told, late_ms = [], []
    for _ in range(5):
        before_s = time.monotonic()
        drive(LINE, 1)
        broken_s = time.monotonic()
        time.sleep(0.05)
        drive(LINE, 0)
        time.sleep(0.05)
        arrived = trigger.poll(time.monotonic())
        told.append(len(arrived))
        late_ms += [(at_s - before_s) * 1000 for at_s in arrived if before_s <= at_s <= broken_s + 0.02]
    found = (
        f"{told} marbles, stamped {min(late_ms, default=-1):.1f} to {max(late_ms, default=-1):.1f} ms after the order"
    )
    report("beam", "5 marbles, one each", found, ok=told == [1] * 5 and len(late_ms) == 5)
    trigger.close()


def chatter() -> None:
    """A beam that flickers while one marble passes is one marble."""
    from okko_edge.clock import MonotonicClock
    from okko_edge.triggers.beam import BeamTrigger

    drive(LINE, 0)
    trigger = BeamTrigger(LINE, clock=MonotonicClock(), debounce_s=1.0)
    time.sleep(0.1)
    for level in (1, 0, 1, 0, 1):
        drive(LINE, level)
    time.sleep(1.3)
    arrived = trigger.poll(time.monotonic())
    report("beam", "5 edges within the debouncing time: one", f"{len(arrived)} marbles", ok=len(arrived) == 1)
    trigger.close()


def low_when_broken() -> None:
    """A sensor that pulls the line down."""
    from okko_edge.clock import MonotonicClock
    from okko_edge.triggers.beam import BeamTrigger

    drive(LINE, 1)
    trigger = BeamTrigger(LINE, clock=MonotonicClock(), active_high=False, delay_s=0.25)
    time.sleep(0.1)
    before_s = time.monotonic()
    drive(LINE, 0)
    time.sleep(0.1)
    drive(LINE, 1)
    time.sleep(0.1)
    arrived = trigger.poll(time.monotonic())
    after_s = [at_s - before_s for at_s in arrived]
    ok = len(arrived) == 1 and 0.25 <= after_s[0] < 0.35
    report("beam, active low", "one marble 0.25 s later", f"{[round(each, 3) for each in after_s]} s", ok=ok)
    trigger.close()


if __name__ == "__main__":
    main()
