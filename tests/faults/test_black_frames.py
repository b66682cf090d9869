"""A frame without light: what a model says about it is chance, and no bundle is asked."""

from __future__ import annotations

import numpy as np
import pytest

from okko_edge.clock import SimulatedClock
from okko_edge.events import Event
from okko_edge.frame import Frame
from okko_edge.gate import Position
from okko_edge.gates.simulated import SimulatedGate
from okko_edge.sorter import Sorter, is_black
from okko_edge.trigger import EveryFrame
from okko_models.classifier import Classification
from okko_models.decision import Verdict


class AlwaysGood:
    def classify(self, image):
        nothing = np.zeros(2, np.float32)
        return Classification(Verdict.OK, "OK", nothing, 1.0, nothing)


def dark_with_noise(levels: float) -> np.ndarray:
    noise = np.abs(np.random.default_rng(0).normal(0, levels, (240, 320, 3)))
    return np.clip(noise, 0, 255).astype(np.uint8)


def test_a_black_frame_goes_to_ko_even_if_the_model_would_call_it_good():
    clock = SimulatedClock()
    gate = SimulatedGate(clock)
    sorter = Sorter(classifier=AlwaysGood(), trigger=EveryFrame(), gate=gate, clock=clock)
    (decision,) = sorter.see(Frame(dark_with_noise(2), 1.0, 0))
    assert [move.position for move in gate.moves] == [Position.KO]
    assert "black" in decision.error
    assert sorter.counters[Event.BLACK_FRAME] == 1
    assert sorter.counters[Event.INFERENCE_FAILED] == 0


@pytest.mark.parametrize("levels", [0, 1, 3, 6])
def test_noise_alone_is_no_light(levels):
    assert is_black(dark_with_noise(levels))


def test_a_small_glint_on_a_black_marble_on_a_black_belt_is_light():
    image = dark_with_noise(2)
    image[100:140, 150:190] = 40
    assert not is_black(image)
