"""Servo and relay on fakes that refuse what the real kernel, lgpio and gpiozero were seen to refuse."""

from __future__ import annotations

import errno
import os
from types import SimpleNamespace

import pytest
from gpiozero import LED
from gpiozero.pins.mock import MockFactory

from okko_edge import gpio
from okko_edge.clock import SimulatedClock
from okko_edge.events import Counters
from okko_edge.gate import GateError, Position
from okko_edge.gates.lgpio_servo import LgpioServo
from okko_edge.gates.relay import Relay
from okko_edge.gates.scheduled import ScheduledGate
from okko_edge.gates.servo import PulseWidths, Servo, open_driver
from okko_edge.gates.sysfs_pwm import SysfsPwmServo, find_channel, why_not_available

PI_3 = "devices/platform/soc/3f20c000.pwm/pwm"
PI_4 = "devices/platform/soc/fe20c000.pwm/pwm"
PI_5 = "devices/platform/axi/1000120000.pcie/1f00098000.pwm/pwm"
PI_5_FAN = "devices/platform/axi/1000120000.pcie/1f0009c000.pwm/pwm"


class Kernel:
    """/sys/class/pwm with the rules of the kernel's PWM core, as they were measured on an emulated Pi 3B."""

    def __init__(self, tmp_path, *chips):
        self.root = tmp_path / "class" / "pwm"
        self.root.mkdir(parents=True)
        self.written = []
        self.values = {}
        self.denied = 0
        for number, device in enumerate(chips):
            folder = tmp_path / device / f"pwmchip{number}"
            folder.mkdir(parents=True)
            (self.root / f"pwmchip{number}").symlink_to(folder)

    def write(self, path, text):
        name, chip = path.name, path.parent
        self.written.append((chip.name, name, text))
        if name == "export":
            if (chip / f"pwm{text}") in self.values:
                raise OSError(errno.EBUSY, "Device or resource busy")
            self.values[chip / f"pwm{text}"] = {"period": 0, "duty_cycle": 0, "enable": 0}
            return
        if name == "unexport":
            if self.values.pop(chip / f"pwm{text}", None) is None:
                raise OSError(errno.ENODEV, "No such device")
            return
        if chip not in self.values:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path))
        if self.denied:
            self.denied -= 1
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        after = {**self.values[chip], name: int(text)}
        if after["period"] == 0 or after["duty_cycle"] > after["period"]:
            raise OSError(errno.EINVAL, "Invalid argument")
        self.values[chip] = after

    def servo(self, pin):
        return SysfsPwmServo(pin, root=self.root, write=self.write, sleep=lambda _: None)

    @property
    def channel(self):
        (values,) = self.values.values()
        return values


@pytest.mark.parametrize("width_us", [500, 1000, 1486.25, 1500, 1833, 2500])
def test_hardware_pulses_are_exact_to_the_nanosecond(tmp_path, width_us):
    kernel = Kernel(tmp_path, PI_3)
    servo = kernel.servo(18)
    assert kernel.channel["enable"] == 0, "no pulse before the first command: the horn must not jump"
    servo.pulse(width_us)
    assert kernel.channel == {"period": 20_000_000, "duty_cycle": width_us * 1000, "enable": 1}
    servo.detach()
    assert kernel.channel["enable"] == 0
    servo.pulse(1500)
    assert kernel.channel["enable"] == 1
    servo.close()
    assert kernel.values == {}


@pytest.mark.parametrize(
    ("chip", "pin", "channel"),
    [
        (PI_3, 18, 0),
        (PI_3, 12, 0),
        (PI_4, 19, 1),
        (PI_4, 13, 1),
        (PI_5, 12, 0),
        (PI_5, 13, 1),
        (PI_5, 18, 2),
        (PI_5, 19, 3),
    ],
)
def test_each_board_has_its_own_channel_for_a_pin(tmp_path, chip, pin, channel):
    kernel = Kernel(tmp_path, chip)
    assert find_channel(pin, kernel.root) == (kernel.root / "pwmchip0", channel)


@pytest.mark.parametrize("chips", [(PI_5_FAN, PI_5), (PI_5, PI_5_FAN)])
def test_the_chip_is_found_whatever_its_number_and_the_fan_is_never_touched(tmp_path, chips):
    kernel = Kernel(tmp_path, *chips)
    kernel.servo(12).pulse(1500)
    (chip, _) = kernel.values.popitem()
    assert "1f00098000.pwm" in str(chip.resolve())


def test_a_pi_5_with_nothing_but_its_fan_has_no_servo(tmp_path):
    kernel = Kernel(tmp_path, PI_5_FAN)
    with pytest.raises(GateError, match="dtoverlay=pwm-2chan"):
        kernel.servo(18)
    assert kernel.written == []
    assert "not switched on" in why_not_available(18, kernel.root)


def test_a_pin_without_hardware_pulses_is_refused_with_those_that_have_them(tmp_path):
    kernel = Kernel(tmp_path, PI_4)
    with pytest.raises(GateError, match="GPIO17 has no hardware PWM; the pins that have are 12, 13, 18, 19"):
        kernel.servo(17)


@pytest.mark.parametrize("left", [(20_000_000, 1_500_000, 1), (1_000_000, 500_000, 1), (100_000_000, 90_000_000, 0)])
def test_pulses_that_a_killed_program_left_running_are_taken_over_and_ended(tmp_path, left):
    kernel = Kernel(tmp_path, PI_4)
    kernel.values[kernel.root / "pwmchip0" / "pwm0"] = dict(zip(("period", "duty_cycle", "enable"), left, strict=True))
    servo = kernel.servo(18)
    assert kernel.channel == {"period": 20_000_000, "duty_cycle": 0, "enable": 0}
    servo.pulse(1200)
    assert kernel.channel == {"period": 20_000_000, "duty_cycle": 1_200_000, "enable": 1}


def test_a_channel_that_another_program_gave_back_is_taken_again(tmp_path):
    kernel = Kernel(tmp_path, PI_4)
    servo = kernel.servo(18)
    servo.pulse(1200)
    kernel.servo(18).close()
    servo.pulse(1300)
    assert kernel.channel == {"period": 20_000_000, "duty_cycle": 1_300_000, "enable": 1}


def test_the_moment_until_the_channel_belongs_to_the_group_is_waited_for(tmp_path):
    kernel = Kernel(tmp_path, PI_4)
    kernel.denied = 10
    kernel.servo(18).pulse(1500)
    assert kernel.channel["duty_cycle"] == 1_500_000


def test_no_right_to_the_channel_is_said_with_what_to_do(tmp_path):
    kernel = Kernel(tmp_path, PI_4)
    kernel.denied = 1000
    with pytest.raises(GateError, match="usermod -aG gpio"):
        kernel.servo(18)


class Lgpio:
    """The library's functions, and its error, over two chips of which one has the header's pins."""

    class error(Exception):  # noqa: N801, N818 (lgpio's own name)
        pass

    def __init__(self, *labels, taken=()):
        self.labels = labels
        self.taken = set(taken)
        self.sent = []
        self.open = set()

    def gpiochip_open(self, number):
        if number >= len(self.labels):
            raise self.error("can not open gpiochip")
        self.open.add(number)
        return number

    def gpiochip_close(self, handle):
        self.open.discard(handle)

    def gpio_get_chip_info(self, handle):
        return (0, 54, f"gpiochip{handle}", self.labels[handle])

    def gpio_claim_output(self, handle, pin, level):
        if pin in self.taken:
            raise self.error("GPIO busy")

    def gpio_free(self, handle, pin):
        self.taken.discard(pin)

    def tx_servo(self, handle, pin, width, frequency, offset=0, cycles=0):
        """A width of 0 in the middle of a pulse leaves the real pin high, so nobody may ask for it."""
        assert isinstance(width, int)
        if not 500 <= width <= 2500:
            raise self.error("bad servo pulse width")
        self.sent.append((handle, pin, width, frequency, cycles))


@pytest.mark.parametrize("width_us", [500, 1486, 1500.4, 1833.3, 2500])
def test_lgpio_is_asked_for_exact_microseconds(width_us):
    library = Lgpio("raspberrypi-exp-gpio", "pinctrl-rp1")
    servo = LgpioServo(17, lgpio=library)
    assert library.sent == []
    servo.pulse(width_us)
    assert library.sent == [(1, 17, round(width_us), 50, 0)]
    assert library.open == {1}
    servo.detach()
    assert library.sent[1:] == [(1, 17, round(width_us), 50, 1)]
    servo.detach()
    assert len(library.sent) == 2
    servo.close()
    assert library.open == set()


def test_a_pin_that_another_program_has_is_named():
    library = Lgpio("pinctrl-bcm2711", taken=[18])
    with pytest.raises(GateError, match=r"GPIO18 is in use.*GPIO busy"):
        LgpioServo(18, lgpio=library)
    assert library.open == set()


def test_a_pulse_that_lgpio_cannot_send_is_refused_with_the_way_out():
    servo = LgpioServo(18, lgpio=Lgpio("pinctrl-bcm2835"))
    with pytest.raises(GateError, match="500 to 2500 µs, not 400"):
        servo.pulse(400)


@pytest.mark.parametrize("labels", [(), ("gpio-sim",)])
def test_a_machine_without_a_header_is_told_so(labels):
    with pytest.raises(GateError, match=r"GPIO18 cannot be used|none of this machine's"):
        LgpioServo(18, lgpio=Lgpio(*labels))


def test_when_neither_way_of_making_pulses_works_both_reasons_are_said(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "lgpio", None)
    with pytest.raises(GateError, match=r"GPIO17.*hardware PWM.*lgpio"):
        open_driver(17)


def test_a_servo_is_sent_to_its_calibrated_widths_and_detached_after_the_move(tmp_path):
    kernel, clock = Kernel(tmp_path, PI_3), SimulatedClock()
    widths = PulseWidths(ok_us=1234, ko_us=1111, min_us=1100, max_us=1600)
    gate = ScheduledGate(Servo(widths, kernel.servo(18), move_s=0.3), clock=clock, counters=Counters(), travel_s=1.0)
    gate.sort(Position.OK, 0.0)
    clock.sleep_until(1.1)
    assert kernel.channel == {"period": 20_000_000, "duty_cycle": 1_234_000, "enable": 1}
    clock.sleep_until(1.31)
    assert kernel.channel["enable"] == 0
    gate.close()
    assert kernel.values == {}
    assert ("pwm0", "duty_cycle", "1111000") in kernel.written


@pytest.fixture
def pins():
    factory = MockFactory()
    yield factory
    factory.reset()


@pytest.mark.parametrize(
    ("fires_on", "fired"),
    [("not OK", ["KO", "UNCERTAIN"]), ("OK", ["OK"]), ("KO", ["KO"]), ("UNCERTAIN", ["UNCERTAIN"])],
)
def test_a_relay_fires_for_its_verdicts_and_for_a_moment_only(pins, fires_on, fired):
    clock = SimulatedClock()
    gate = ScheduledGate(
        Relay(17, fires_on=fires_on, pulse_s=0.05, pin_factory=pins), clock=clock, counters=Counters(), travel_s=0.5
    )
    seen = []
    for number, position in enumerate((Position.OK, Position.KO, Position.UNCERTAIN, Position.REST)):
        gate.sort(position, float(number))
        clock.sleep_until(number + 0.51)
        if pins.pin(17).state:
            seen.append(position.value)
        clock.sleep_until(number + 0.56)
        assert not pins.pin(17).state
    assert seen == fired


def test_an_inverted_relay_is_off_from_the_start(pins):
    relay = Relay(17, active_high=False, pin_factory=pins)
    assert pins.pin(17).state
    relay.go(Position.KO)
    assert not pins.pin(17).state
    relay.close()


def test_a_relay_does_not_fire_when_the_program_ends(pins):
    clock = SimulatedClock()
    gate = ScheduledGate(Relay(17, pin_factory=pins), clock=clock, counters=Counters())
    gate.sort(Position.OK, 0.0)
    pin = pins.pin(17)
    pin.clear_states()
    gate.close()
    assert not any(state.state for state in pin.states)


def test_a_relay_on_a_pin_that_is_taken_says_which(pins):
    led = LED(17, pin_factory=pins)
    with pytest.raises(GateError, match="GPIO17 is in use"):
        Relay(17, pin_factory=pins)
    led.close()


def test_why_there_are_no_pins_is_said_step_by_step(tmp_path, monkeypatch):
    assert "no GPIO pins" in gpio.why_not_available(devices=tmp_path)
    (tmp_path / "gpiochip0").touch()
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert "usermod -aG gpio" in gpio.why_not_available(devices=tmp_path)
    monkeypatch.setattr(os, "access", lambda *_: True)
    there = SimpleNamespace(name="gpiozero")
    monkeypatch.setattr(gpio.importlib.util, "find_spec", lambda name: there if name == "gpiozero" else None)
    assert "python3-lgpio" in gpio.why_not_available(devices=tmp_path)
    monkeypatch.setattr(gpio.importlib.util, "find_spec", lambda _: there)
    assert gpio.why_not_available(devices=tmp_path) is None
