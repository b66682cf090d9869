"""okko's own code on an emulated Raspberry Pi 3B: its kernel, GPIO chip, PWM and camera; each finding is a line.

What is programmed is heard where the kernel's drivers write to the chips, and read back from outside the machine.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from outside import register, report
from PIL import Image
from taps import Taps, gpio_edges, register_writes

from okko_edge.settings import CameraSettings

if TYPE_CHECKING:
    from numpy.typing import NDArray

PHOTOS = sorted(Path("/photos").iterdir())
CAMERA = "/dev/video0"
CAMERA_SETTINGS = CameraSettings(source=f"v4l2:{CAMERA}", exposure_us=0, gain=0)
CONFIGURATION = """
[camera]
source = "v4l2:/dev/video0"

[trigger]
kind = "interval:2"

[sorting]
deadline_s = 5.0

[gate]
kind = "servo:18"
ok_us = 1850
ko_us = 1120
uncertain_us = 1490
rest_us = 1490
"""
BUNDLE = Path("/bundle")
PWM_PIN, SERVO_PIN, RELAY_PIN = 18, 17, 27
WIDTHS_US = (500, 1000, 1333.3, 1500, 1501, 2000, 2500)
WITHIN_US = 5
_DETACHES = 50
# BCM2835 ARM Peripherals, chapters 6 and 9, at the Pi 3's base address.
LEVELS = 0x3F200034
RANGE, DATA = 0x10, 0x14  # of PWM channel 0, from the chip's base
PWM_DRIVER = Path("/modules/pwm_bcm2835.ko")


def main() -> None:
    for part in (
        board,
        hardware_pwm,
        lgpio_pulses,
        gate_positions,
        relay,
        pin_in_use,
        camera,
        sorting,
        okko_run,
        doctor,
    ):
        try:
            part()
        except Exception as error:
            traceback.print_exc()
            report(part.__name__.replace("_", " "), "no error", f"{type(error).__name__}: {error}", ok=False)


def board() -> None:
    import lgpio
    import onnxruntime

    model = Path("/proc/device-tree/model").read_text().rstrip("\0")
    report("board", "Raspberry Pi 3", f"{model}, kernel {os.uname().release}", ok=model.startswith("Raspberry Pi 3"))
    handle = lgpio.gpiochip_open(0)
    _, lines, name, label = lgpio.gpio_get_chip_info(handle)
    lgpio.gpiochip_close(handle)
    said = f"{name} {label}, {lines} lines"
    report("GPIO chip", "pinctrl-bcm2835", f"{said}; {lgpio.get_module_version()}", ok=label == "pinctrl-bcm2835")
    python = sys.version.split()[0]
    report("onnxruntime", "loads", f"{onnxruntime.__version__}, Python {python}, {os.cpu_count()} processors", ok=True)


def hardware_pwm() -> None:
    """The registers that the kernel's PWM driver writes when okko asks for a width."""
    from okko_edge.gates.sysfs_pwm import SysfsPwmServo

    rate = int(Path("/sys/kernel/debug/clk/pwm/clk_rate").read_text())
    with Taps(register_writes(PWM_DRIVER, "bcm2835_pwm_apply")) as taps:
        servo = SysfsPwmServo(PWM_PIN)
        for width in WIDTHS_US:
            servo.pulse(width)
            sent = {each.values["address"] & 0xFF: each.values["value"] for each in taps.heard()}
            on_us, period_us = sent[DATA] / rate * 1e6, sent[RANGE] / rate * 1e6
            found = (
                f"{on_us:.1f} µs of {period_us:.0f} µs (registers {sent[DATA]} of {sent[RANGE]} at {rate / 1e6:g} MHz)"
            )
            ok = abs(on_us - width) <= WITHIN_US and period_us == 20_000 and sent[0] & 1 == 1
            report(f"hardware PWM, GPIO{PWM_PIN}", f"{width:g} µs", found, ok=ok)
        servo.detach()
        control = [each.values["value"] for each in taps.heard() if each.values["address"] & 0xFF == 0][-1]
        report(
            f"hardware PWM, GPIO{PWM_PIN}", "detached", f"control register {control:#x}: no pulses", ok=control & 1 == 0
        )
        servo.close()
    left = sorted(path.name for path in Path("/sys/class/pwm/pwmchip0").glob("pwm[0-9]"))
    report(f"hardware PWM, GPIO{PWM_PIN}", "closed", "channel given back" if not left else f"left: {left}", ok=not left)


def lgpio_pulses() -> None:
    """The edges that come out of the GPIO chip's driver while lgpio's thread makes pulses."""
    from okko_edge.gates.lgpio_servo import LgpioServo

    with Taps(gpio_edges()) as taps:
        servo = LgpioServo(SERVO_PIN)
        for width in WIDTHS_US:
            servo.pulse(width)
            time.sleep(0.5)
            servo.detach()
            time.sleep(0.05)
            widths = pulses(taps, SERVO_PIN)
            middle = statistics.median(widths)
            worst = max((each - width for each in widths), key=abs)
            found = f"{middle:.0f} µs, median of {len(widths)} pulses; worst {worst:+.0f} µs"
            report(f"lgpio, GPIO{SERVO_PIN}", f"{width:g} µs", found, ok=abs(middle - width) <= WITHIN_US)
        left, widths = 0, []
        for number in range(_DETACHES):
            servo.pulse(1500)
            time.sleep(0.07 + number * 0.00073)  # each time at another moment of the period of 20 ms
            servo.detach()
            time.sleep(0.06)
            left += register(LEVELS) >> SERVO_PIN & 1
            widths += pulses(taps, SERVO_PIN)
        found = f"{left} of {_DETACHES} left it high; pulses of {min(widths):.0f} to {max(widths):.0f} µs"
        report(f"lgpio, GPIO{SERVO_PIN}", "detached: the pin is low", found, ok=left == 0)
        servo.close()


def pulses(taps: Taps, pin: int) -> list[float]:
    """Widths in microseconds of the pulses that were heard on a pin."""
    widths, rose_s = [], None
    for each in taps.heard():
        if each.values["offset"] != pin:
            continue
        if each.values["value"]:
            rose_s = each.at_s
        elif rose_s is not None:
            widths.append((each.at_s - rose_s) * 1e6)
            rose_s = None
    return widths


def gate_positions() -> None:
    """A gate as the settings describe it, sent to each verdict's position."""
    from okko_edge.clock import MonotonicClock
    from okko_edge.events import Counters
    from okko_edge.gate import Position
    from okko_edge.gates.opening import open_gate
    from okko_edge.settings import GateSettings

    wanted = {Position.OK: 1850.0, Position.KO: 1120.0, Position.UNCERTAIN: 1490.0}
    settings = GateSettings(
        kind=f"servo:{PWM_PIN}", ok_us=wanted[Position.OK], ko_us=wanted[Position.KO], uncertain_us=1490.0, move_s=0.3
    )
    clock = MonotonicClock()
    with Taps(register_writes(PWM_DRIVER, "bcm2835_pwm_apply")) as taps:
        gate = open_gate(settings, clock=clock, counters=Counters())
        for position, width in wanted.items():
            taps.heard()
            gate.sort(position, clock.now_s())
            on_us = _last(taps, DATA) / 10
            report(
                "gate, hardware PWM", f"{position}: {width:g} µs", f"{on_us:.1f} µs", ok=abs(on_us - width) <= WITHIN_US
            )
        time.sleep(0.6)
        control = _last(taps, 0)
        report("gate, hardware PWM", "no pulses 0.3 s after", f"control register {control:#x}", ok=control & 1 == 0)
        gate.close()
        parked = [each.values["value"] / 10 for each in taps.heard() if each.values["address"] & 0xFF == DATA]
        report("gate, hardware PWM", "KO when closed", f"{parked[0]:.1f} µs", ok=abs(parked[0] - 1120) <= WITHIN_US)


def _last(taps: Taps, offset: int) -> int:
    return [each.values["value"] for each in taps.heard() if each.values["address"] & 0xFF == offset][-1]


def relay() -> None:
    """A relay's pin, read from outside the machine, and the length of its pulse."""
    from okko_edge.clock import MonotonicClock
    from okko_edge.events import Counters
    from okko_edge.gate import Position
    from okko_edge.gates.opening import open_gate
    from okko_edge.settings import GateSettings

    clock = MonotonicClock()
    settings = GateSettings(kind=f"relay:{RELAY_PIN}", pulse_s=0.5, fires_on="not OK")
    gate = open_gate(settings, clock=clock, counters=Counters())

    def level() -> int:
        return register(LEVELS) >> RELAY_PIN & 1

    def check(what: str, wanted: int) -> None:
        found = level()
        report(f"relay, GPIO{RELAY_PIN}", f"{what}: {wanted}", f"pin level {found}", ok=found == wanted)

    check("at rest", 0)
    gate.sort(Position.OK, clock.now_s())
    check("OK", 0)
    gate.sort(Position.KO, clock.now_s())
    check("KO", 1)
    time.sleep(1)
    check("after the jet", 0)
    gate.close()
    settings = GateSettings(kind=f"relay:{RELAY_PIN}", pulse_s=0.05, fires_on="KO")
    with Taps(gpio_edges()) as taps:
        gate = open_gate(settings, clock=clock, counters=Counters())
        time.sleep(0.1)
        taps.heard()
        gate.sort(Position.KO, clock.now_s())
        time.sleep(0.3)
        widths = pulses(taps, RELAY_PIN)
        gate.close()
    found = ", ".join(f"{width / 1000:.2f} ms" for width in widths)
    report(f"relay, GPIO{RELAY_PIN}", "one jet of 50 ms", found, ok=len(widths) == 1 and 49_000 <= widths[0] <= 55_000)


def pin_in_use() -> None:
    """What okko says of a pin that somebody else has."""
    import lgpio

    from okko_edge.gate import GateError
    from okko_edge.gates.lgpio_servo import LgpioServo

    handle = lgpio.gpiochip_open(0)
    lgpio.gpio_claim_output(handle, SERVO_PIN)
    try:
        LgpioServo(SERVO_PIN)
    except GateError as error:
        report("pin in use", "said so", error, ok=f"GPIO{SERVO_PIN} is in use" in str(error))
    else:
        report("pin in use", "said so", "nothing was said", ok=False)
    finally:
        lgpio.gpiochip_close(handle)


def camera() -> None:
    """Photos in front of the kernel's virtual camera, seen by okko's."""
    from okko_edge.cameras.v4l2 import V4l2Camera, why_not_available

    with Screen() as screen:
        screen.show(PHOTOS[0])
        why = why_not_available(CAMERA)
        report("camera", "can be used", why or "nothing stands in its way", ok=why is None)
        opened = V4l2Camera(CAMERA_SETTINGS, CAMERA)
        for photo in PHOTOS[:2]:
            shown_s = screen.show(photo)
            frame = opened.read(5)
            while frame is not None and frame.captured_at_s < shown_s + 0.1:
                frame = opened.read(5)
            assert frame is not None
            age_ms = (time.monotonic() - frame.captured_at_s) * 1000
            difference = float(np.abs(frame.image.astype(int) - pixels(photo)).mean())
            found = f"{difference:.1f} grey levels off on average, {age_ms:.0f} ms after its stamp"
            report("camera", f"shows {photo.name}", found, ok=difference < 3 and 0 < age_ms < 500)
        opened.close()


def pixels(photo: Path) -> NDArray[np.int64]:
    with Image.open(photo) as image:
        return np.asarray(image.convert("RGB").resize((640, 480), Image.Resampling.BICUBIC)).astype(int)


def sorting() -> None:
    """The whole path: photo, camera, motion, network, verdict, and what the PWM is told."""
    from okko_edge.cameras.v4l2 import V4l2Camera
    from okko_edge.clock import MonotonicClock
    from okko_edge.events import Counters
    from okko_edge.gates.opening import open_gate
    from okko_edge.settings import GateSettings
    from okko_edge.sorter import Sorter
    from okko_edge.trigger import MotionTrigger
    from okko_models.bundle import Bundle
    from okko_models.classifier import Classifier
    from okko_models.photo import read_photo

    clock, counters = MonotonicClock(), Counters()
    classifier = Classifier(Bundle.open(BUNDLE))
    golden = classifier.self_test()
    report("model", "repeats its golden frames", f"probabilities differ by at most {golden:.1e}", ok=True)
    settings = GateSettings(kind=f"servo:{PWM_PIN}", ok_us=1850, ko_us=1120, uncertain_us=1490, move_s=0.3)
    widths = {"OK": 1850, "KO": 1120, "UNCERTAIN": 1490}
    with Screen() as screen, Taps(register_writes(PWM_DRIVER, "bcm2835_pwm_apply")) as taps:
        gate = open_gate(settings, clock=clock, counters=counters)
        trigger = MotionTrigger()
        sorter = Sorter(classifier=classifier, trigger=trigger, gate=gate, clock=clock, deadline_s=5, counters=counters)
        opened = V4l2Camera(CAMERA_SETTINGS, CAMERA)
        for photo in PHOTOS:
            screen.show(photo)
            taps.heard()
            decisions = []
            until_s = time.monotonic() + 10
            while not decisions and time.monotonic() < until_s:
                frame = opened.read(5)
                assert frame is not None
                decisions = list(sorter.see(frame))
            (decision,) = decisions
            on_us = _last(taps, DATA) / 10
            said, wanted = decision.classification, classifier.classify(read_photo(photo)).verdict.value
            assert said is not None
            found = f"{decision.verdict.value} ({said.probability.max():.3f}), {on_us:.1f} µs at the PWM"
            ok = decision.verdict.value == wanted and abs(on_us - widths[wanted]) <= WITHIN_US and not decision.error
            report("sorting", f"{photo.stem}: {wanted}, {widths[wanted]} µs", found, ok=ok)
        quiet = 0
        for _ in range(8):
            frame = opened.read(5)
            assert frame is not None
            quiet += len(sorter.see(frame))
        report("sorting", "no second verdict", f"{quiet} in 8 more frames", ok=quiet == 0)
        opened.close()
        gate.close()
    counted = {name: n for name, n in counters.snapshot().items() if n}
    report("sorting", "nothing counted", counted or "nothing", ok=not counted)


class Screen:
    """What is in front of the camera; a context manager."""

    def __enter__(self) -> Screen:
        self._program = subprocess.Popen(
            [sys.executable, "/guest/screen.py"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._program.kill()
        self._program.wait()

    def show(self, photo: Path) -> float:
        """Puts a photo in front of the camera; returns when, on the monotonic clock."""
        assert self._program.stdin is not None
        assert self._program.stdout is not None
        print(photo, file=self._program.stdin, flush=True)
        self._program.stdout.readline()
        return time.monotonic()


def okko_run() -> None:
    """The command itself, from its configuration to its summary, with one photo in front of the camera."""
    Path("/root/okko.toml").write_text(CONFIGURATION)
    command = [sys.executable, "-m", "okko.cli", "run", BUNDLE, "--config", "/root/okko.toml", "--count", "2", "--json"]
    with Screen() as screen, Taps(register_writes(PWM_DRIVER, "bcm2835_pwm_apply")) as taps:
        screen.show(PHOTOS[-1])
        done = subprocess.run(command, text=True, capture_output=True, check=False, timeout=120)
        widths = [each.values["value"] / 10 for each in taps.heard() if each.values["address"] & 0xFF == DATA]
    print(done.stdout, done.stderr)
    said = json.loads(done.stdout)
    moves = [f"{width:g}" for width, before in zip(widths, [0.0, *widths], strict=False) if width not in (0, before)]
    report("okko run", "2 marbles, both OK", said["verdicts"], ok=said["verdicts"]["OK"] == 2 and done.returncode == 0)
    report("okko run", "rest, OK, KO at the end", f"{', '.join(moves)} µs", ok=moves == ["1490", "1850", "1120"])


def doctor() -> None:
    """What okko itself says about this machine."""
    Path("/root/okko.toml").write_text(CONFIGURATION)
    bundle = [BUNDLE] if "long" in sys.argv else []
    program = "from okko_edge.commands.doctor import doctor; doctor(prog_name='okko doctor')"
    done = subprocess.run(
        [sys.executable, "-c", program, *bundle, "--config", "/root/okko.toml", "--json"],
        text=True,
        capture_output=True,
        check=False,
    )
    print(done.stderr)
    for line in json.loads(done.stdout)["lines"]:
        # Only what says that sorting cannot work is wrong here: the emulated board has no firmware and no clock chip.
        report(
            f"doctor: {line['name']}", "does not fail", f"{line['state']}: {line['said']}", ok=line["state"] != "fail"
        )


if __name__ == "__main__":
    main()
