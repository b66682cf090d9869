"""Belts that never rest, beams and timers; what a belt at rest shows is in test_trigger."""

from __future__ import annotations

import numpy as np
import pytest
from gpiozero import LED
from gpiozero.pins.mock import MockFactory

from okko_edge.clock import MonotonicClock, SimulatedClock
from okko_edge.frame import Frame
from okko_edge.settings import TriggerSettings
from okko_edge.trigger import MotionTrigger, TriggerChoice, TriggerError
from okko_edge.triggers.beam import BeamTrigger, Debounced
from okko_edge.triggers.interval import IntervalTrigger
from okko_edge.triggers.opening import open_trigger, why_not_available
from okko_edge.triggers.passing import PassingTrigger

WIDTH, HEIGHT = 96, 72


class MovingBelt:
    """A textured belt with marbles on it that moves past a camera without ever resting.

    Places are in widths of the view; a marble at place p is in the middle when p + lead of them have passed. The lead
    is as long as the trigger needs to learn the belt.
    """

    def __init__(self, places, *, step, noise=1.5, texture=12, marble=(200, 190, 180), diameter=0.4, seed=0):
        self.random = np.random.default_rng(seed)
        self.lead = PassingTrigger.LEARN_FRAMES * step + 0.8
        self.places = np.array(places) + self.lead
        self.step, self.noise, self.marble = step, noise, marble
        self.radius = diameter * HEIGHT / 2
        length = int((self.places.max(initial=0) + 4) * WIDTH)
        coarse = self.random.normal(0, texture, (HEIGHT // 4, length // 4 + 1))
        self.belt = 90 + coarse.repeat(4, axis=0).repeat(4, axis=1)
        self.frames = int((self.places.max(initial=0) + 1.5) / step) + 1

    def view(self, index):
        left = index * self.step
        image = np.repeat(self.belt[:, int(left * WIDTH) : int(left * WIDTH) + WIDTH, None], 3, axis=2)
        rows, columns = np.mgrid[:HEIGHT, :WIDTH]
        for place in self.places:
            x = (place - left + 0.5) * WIDTH
            far = np.hypot(columns - x, rows - HEIGHT / 2) / self.radius
            image[far < 1] = np.array(self.marble) * (1 - 0.4 * far[far < 1, None] ** 2)
            image[far < 0.2] = 255  # the glint of a lamp
        return np.clip(image + self.random.normal(0, self.noise, image.shape), 0, 255).astype(np.uint8)

    def fired_at(self, trigger, turn=lambda image: image):
        """Where in the belt's course the trigger fired, in widths of the view after the lead."""
        fired = []
        for index in range(self.frames):
            image = np.ascontiguousarray(turn(self.view(index)))
            fired += [index * self.step - self.lead] * len(trigger.see(Frame(image, index / 60, index)))
        return np.array(fired)


@pytest.mark.parametrize("step", [0.02, 0.05, 0.11, 0.2])
def test_each_marble_on_a_belt_that_never_rests_triggers_once_when_it_is_in_the_middle(step):
    places = np.arange(6) * 1.1 + np.random.default_rng(1).uniform(-0.1, 0.1, 6)
    fired = MovingBelt(places, step=step).fired_at(PassingTrigger())
    assert len(fired) == 6
    assert np.abs(fired - places).max() <= max(0.6 * step, 0.04)


@pytest.mark.parametrize(
    "look",
    [
        {"texture": 0, "noise": 0},
        {"texture": 20},
        {"noise": 6},
        {"marble": (60, 60, 60), "texture": 4},
        {"diameter": 0.2},
        {"diameter": 0.9},
    ],
)
def test_belt_noise_and_marble_may_look_as_they_like(look):
    places = np.arange(6) * 1.3
    fired = MovingBelt(places, step=0.07, **look).fired_at(PassingTrigger())
    assert len(fired) == 6
    assert np.abs(fired - places).max() < 0.1


@pytest.mark.parametrize(
    ("axis", "turn"),
    [
        ("across", lambda image: image[:, ::-1]),
        ("down", lambda image: image.swapaxes(0, 1)),
        ("down", lambda image: image.swapaxes(0, 1)[::-1]),
    ],
)
def test_the_belt_may_move_in_any_direction(axis, turn):
    places = np.arange(5) * 1.2
    fired = MovingBelt(places, step=0.06).fired_at(PassingTrigger(axis=axis), turn)
    assert len(fired) == 5
    assert np.abs(fired - places).max() < 0.1


def test_several_marbles_in_view_at_once_are_told_apart():
    places = np.arange(8) * 0.5
    fired = MovingBelt(places, step=0.05, diameter=0.3).fired_at(PassingTrigger())
    assert len(fired) == 8
    assert np.abs(fired - places).max() < 0.1


def test_an_empty_belt_triggers_nothing():
    belt = MovingBelt([], step=0.05)
    belt.frames = 150
    belt.belt = np.tile(belt.belt, (1, 3))
    assert len(belt.fired_at(PassingTrigger())) == 0


def test_a_marble_that_stops_in_the_middle_and_goes_on_is_one_marble():
    belt = MovingBelt([0.0], step=0.04)
    trigger = PassingTrigger()
    middle = round(belt.lead / belt.step)
    order = [*range(middle), *[middle] * 60, *range(middle, belt.frames)]
    fired = [len(trigger.see(Frame(belt.view(index), at / 60, at))) for at, index in enumerate(order)]
    assert sum(fired) == 1


def test_light_that_slowly_changes_is_no_marble():
    belt = MovingBelt([6.0], step=0.04)
    trigger = PassingTrigger()
    fired = 0
    for index in range(belt.frames):
        image = np.clip(belt.view(index) * (1 + 0.3 * index / belt.frames), 0, 255).astype(np.uint8)
        fired += len(trigger.see(Frame(image, index / 60, index)))
    assert fired == 1


def test_a_view_of_another_size_is_learned_anew():
    trigger = PassingTrigger()
    MovingBelt([0.0], step=0.05).fired_at(trigger)
    fired = MovingBelt([0.0], step=0.05).fired_at(trigger, lambda image: image[:60, :64])
    assert len(fired) == 1


def test_an_axis_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="across or down"):
        PassingTrigger(axis="up")


def beam(edges, *, until, debounce_s=0.005):
    """The marbles of a list of edges, each (when, whether the beam is broken)."""
    debounced = Debounced(debounce_s)
    certain = [at_s for edge_s, broken in edges for at_s in debounced.edge(edge_s, broken=broken)]
    return certain + debounced.until(until)


def test_a_broken_beam_is_one_marble_stamped_with_its_first_edge():
    assert beam([(1.0, True), (1.03, False), (2.0, True), (2.03, False)], until=3.0) == [1.0, 2.0]


def test_a_marble_that_still_breaks_the_beam_is_known_after_the_debouncing_time():
    assert beam([(1.0, True)], until=1.004) == []
    assert beam([(1.0, True)], until=1.006) == [1.0]


def test_chatter_at_both_ends_of_a_marble_is_one_marble():
    chatter = [(1.0, True), (1.001, False), (1.002, True), (1.03, False), (1.031, True), (1.032, False)]
    assert beam(chatter, until=2.0) == [1.0]


def test_a_spike_is_no_marble_and_a_glint_is_no_gap():
    assert beam([(1.0, True), (1.001, False)], until=2.0) == []
    assert beam([(1.0, True), (1.02, False), (1.021, True), (1.04, False)], until=2.0) == [1.0]


def test_a_lost_edge_does_not_make_a_marble():
    assert beam([(1.0, True), (1.5, True), (2.0, False)], until=3.0) == [1.0]


@pytest.fixture
def pins():
    factory = MockFactory()
    yield factory
    factory.reset()


@pytest.mark.parametrize("active_high", [True, False])
def test_a_beam_sensor_tells_when_a_marble_will_be_in_the_middle(pins, active_high):
    clock = MonotonicClock()
    trigger = BeamTrigger(23, clock=clock, delay_s=0.25, active_high=active_high, debounce_s=0, pin_factory=pins)
    pin = pins.pin(23)
    assert pin.pull == ("down" if active_high else "up")
    before_s = clock.now_s()
    for _ in range(2):
        (pin.drive_high if active_high else pin.drive_low)()
        (pin.drive_low if active_high else pin.drive_high)()
    arrivals = trigger.poll(clock.now_s())
    assert len(arrivals) == 2
    assert all(before_s <= at_s - 0.25 <= clock.now_s() for at_s in arrivals)
    assert not trigger.see(Frame(np.zeros((4, 4, 3), np.uint8), clock.now_s(), 0))
    trigger.close()
    LED(23, pin_factory=pins).close()


def test_a_stamp_of_another_clock_is_replaced_by_now(pins):
    clock = SimulatedClock(7.0)
    trigger = BeamTrigger(23, clock=clock, debounce_s=0, pin_factory=pins)
    pins.pin(23).drive_high()
    assert trigger.poll(7.0) == [7.0]


def test_a_beam_on_a_pin_that_is_taken_says_which(pins):
    led = LED(23, pin_factory=pins)
    with pytest.raises(TriggerError, match="GPIO23 is in use"):
        BeamTrigger(23, clock=SimulatedClock(), pin_factory=pins)
    led.close()


def test_a_timer_tells_each_period_once_with_or_without_frames():
    trigger = IntervalTrigger(0.5)
    assert trigger.poll(10.0) == [10.0]
    assert trigger.see(Frame(np.zeros((4, 4, 3), np.uint8), 10.4, 0)) == []
    assert trigger.see(Frame(np.zeros((4, 4, 3), np.uint8), 10.5, 1)) == [10.5]
    assert trigger.poll(11.7) == [11.0, 11.5]
    assert trigger.poll(11.2) == []
    assert trigger.poll(12.0) == [12.0]


@pytest.mark.parametrize("period_s", [0, -1, float("nan"), float("inf")])
def test_a_period_that_is_none_is_refused(period_s):
    with pytest.raises(ValueError, match="period_s"):
        IntervalTrigger(period_s)


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("motion", TriggerChoice("motion")),
        ("gpio:23", TriggerChoice("gpio", pin=23)),
        ("interval:0.5", TriggerChoice("interval", period_s=0.5)),
    ],
)
def test_a_trigger_is_named_by_its_kind_and_what_belongs_to_it(text, choice):
    assert TriggerChoice.parse(text) == choice
    assert str(choice) == text


@pytest.mark.parametrize(
    "text", ["", "beam:3", "motion:1", "gpio:", "gpio:28", "gpio:-1", "interval:", "interval:0", "interval:x"]
)
def test_what_is_no_trigger_is_refused_with_what_was_expected(text):
    with pytest.raises(ValueError, match="expected"):
        TriggerChoice.parse(text)


def test_the_settings_decide_which_trigger_opens():
    clock = SimulatedClock()
    assert isinstance(open_trigger(TriggerSettings(), clock=clock), MotionTrigger)
    assert isinstance(open_trigger(TriggerSettings(passing=True, axis="down"), clock=clock), PassingTrigger)
    assert isinstance(open_trigger(TriggerSettings(kind="interval:2"), clock=clock), IntervalTrigger)
    assert why_not_available(TriggerSettings()) is None
    assert "expected" in why_not_available(TriggerSettings(kind="clap"))
