"""Steps downhill: SGD, momentum, RMSprop, Adam, AdamW, and how the learning rate shrinks over the epochs.

An optimizer moves one flat vector of weights along one flat gradient, in place and without new memory; it knows
nothing of layers. Its moments are plain arrays that can be saved, so that training continues where it stopped.
"""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from okko_models.errors import OkkoError

Array = NDArray[Any]


class Optimizer(ABC):
    """One rule for a step. The first step decides the number of weights; moments start at zero."""

    name: ClassVar[str]
    moments: ClassVar[int]  # vectors of memory per weight
    decoupled: ClassVar[bool] = False  # whether decay acts on the weights themselves instead of on the gradient

    def __init__(self) -> None:
        self.steps = 0
        self._memory = np.zeros((0, 0))
        self._scratch = np.zeros(0)

    def step(self, weights: Array, gradient: Array, learning_rate: float, decay: Array | None = None) -> None:
        """Move ``weights`` (n,) in place; ``gradient`` (n,) is scratch memory. ``decay`` (n,) is L2 per weight."""
        if self._memory.shape != (self.moments, weights.size):
            if self.steps:
                raise ValueError(f"optimizer has moments for {self._memory.shape[1]} weights; got {weights.size}")
            self._memory = np.zeros((self.moments, weights.size), weights.dtype)
        if decay is not None:
            if self._scratch.shape != weights.shape:
                self._scratch = np.empty_like(weights)
            np.multiply(weights, decay, out=self._scratch)
            if self.decoupled:
                self._scratch *= learning_rate
                weights -= self._scratch
            else:
                gradient += self._scratch
        self.steps += 1
        self._move(weights, gradient, learning_rate)

    @abstractmethod
    def _move(self, weights: Array, gradient: Array, learning_rate: float) -> None: ...

    def state(self) -> dict[str, Array]:
        """Copies of everything that `restore` needs to continue: ``steps`` () and ``moments`` (m, n)."""
        return {"steps": np.asarray(self.steps), "moments": self._memory.copy()}

    def restore(self, state: Mapping[str, Array]) -> None:
        """Continue from what `state` returned."""
        self.steps, self._memory = int(state["steps"]), np.array(state["moments"])

    def save(self, path: str | Path) -> None:
        """Write settings and moments to an npz file at ``path``."""
        settings = {key: value for key, value in vars(self).items() if not key.startswith("_") and key != "steps"}
        with Path(path).open("wb") as file:
            state = self.state()
            np.savez(
                file,
                optimizer=self.name,
                settings=json.dumps(settings),
                steps=state["steps"],
                moments=state["moments"],
            )


def load(path: str | Path) -> Optimizer:
    """Read what `Optimizer.save` wrote; OkkoError if it is not that."""
    try:
        with np.load(Path(path), allow_pickle=False) as file:
            optimizer = OPTIMIZERS[str(file["optimizer"])](**json.loads(str(file["settings"])))
            optimizer.restore({"steps": file["steps"], "moments": file["moments"]})
            return optimizer
    except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile) as error:
        raise OkkoError(f"{path} is not a saved optimizer ({error}); expected a file of Optimizer.save") from error


class SGD(Optimizer):
    """w <- w - lr g."""

    name, moments = "sgd", 0

    def _move(self, weights: Array, gradient: Array, learning_rate: float) -> None:
        gradient *= learning_rate
        weights -= gradient


class Momentum(Optimizer):
    """v <- beta v + g; w <- w - lr v (Polyak 1964)."""

    name, moments = "momentum", 1

    def __init__(self, beta: float = 0.9) -> None:
        super().__init__()
        self.beta = _share("beta", beta)

    def _move(self, weights: Array, gradient: Array, learning_rate: float) -> None:
        velocity = self._memory[0]
        velocity *= self.beta
        velocity += gradient
        np.multiply(velocity, learning_rate, out=gradient)
        weights -= gradient


class RMSprop(Optimizer):
    """s <- beta s + (1 - beta) g^2; w <- w - lr g / (sqrt(s) + epsilon) (Tieleman and Hinton 2012)."""

    name, moments = "rmsprop", 1

    def __init__(self, beta: float = 0.9, epsilon: float = 1e-8) -> None:
        super().__init__()
        self.beta, self.epsilon = _share("beta", beta), epsilon

    def _move(self, weights: Array, gradient: Array, learning_rate: float) -> None:
        square = self._memory[0]
        if self._scratch.shape != weights.shape:
            self._scratch = np.empty_like(weights)
        scratch = self._scratch
        square *= self.beta
        np.multiply(gradient, gradient, out=scratch)
        scratch *= 1 - self.beta
        square += scratch
        np.sqrt(square, out=scratch)
        scratch += self.epsilon
        gradient /= scratch
        gradient *= learning_rate
        weights -= gradient


class Adam(Optimizer):
    """Adam with bias correction (Kingma and Ba 2015, algorithm 1).

    The moments are kept without their factors (1 - beta): those are plain numbers, so they go into the step size, and
    each step passes over the vector ten times instead of thirteen.
    """

    name, moments = "adam", 2

    def __init__(self, beta1: float = 0.9, beta2: float = 0.999, epsilon: float = 1e-8) -> None:
        super().__init__()
        self.beta1, self.beta2, self.epsilon = _share("beta1", beta1), _share("beta2", beta2), epsilon

    def _move(self, weights: Array, gradient: Array, learning_rate: float) -> None:
        first, second = self._memory
        size1 = (1 - self.beta1) / (1 - self.beta1**self.steps)
        size2 = math.sqrt((1 - self.beta2) / (1 - self.beta2**self.steps))
        first *= self.beta1
        first += gradient
        second *= self.beta2
        gradient *= gradient
        second += gradient
        # size1 m / (size2 sqrt(v) + epsilon), with the numbers taken out of the vectors.
        np.sqrt(second, out=gradient)
        gradient += self.epsilon / size2
        np.divide(first, gradient, out=gradient)
        gradient *= learning_rate * size1 / size2
        weights -= gradient


class AdamW(Adam):
    """Adam whose L2 shrinks the weights themselves, w <- w - lr l2 w (Loshchilov and Hutter 2019)."""

    name, decoupled = "adamw", True


OPTIMIZERS: dict[str, type[Optimizer]] = {kind.name: kind for kind in (SGD, Momentum, RMSprop, Adam, AdamW)}


def resolve(optimizer: str | Optimizer) -> Optimizer:
    """The optimizer a name stands for (new, without memory), or the given one itself (it continues)."""
    if isinstance(optimizer, Optimizer):
        return optimizer
    if optimizer not in OPTIMIZERS:
        raise ValueError(f"optimizer is {optimizer!r}; choose from {', '.join(OPTIMIZERS)}, or pass an Optimizer")
    return OPTIMIZERS[optimizer]()


def _share(name: str, value: float) -> float:
    if not 0 <= value < 1:
        raise ValueError(f"{name} is {value}; expected a number in [0, 1)")
    return value


#: Factor of the learning rate in an epoch (the first is 0).
Schedule = Callable[[int], float]


@dataclass(frozen=True)
class InverseTime:
    """1 / (1 + rate * epoch)."""

    rate: float = 0.1

    def __call__(self, epoch: int) -> float:
        """Factor in ``epoch``."""
        return 1 / (1 + self.rate * epoch)


@dataclass(frozen=True)
class Exponential:
    """factor to the power of the epoch."""

    factor: float = 0.95

    def __call__(self, epoch: int) -> float:
        """Factor in ``epoch``."""
        return self.factor**epoch


@dataclass(frozen=True)
class Step:
    """Times ``factor`` every ``every`` epochs."""

    factor: float = 0.5
    every: int = 10

    def __call__(self, epoch: int) -> float:
        """Factor in ``epoch``."""
        return self.factor ** (epoch // self.every)


@dataclass(frozen=True)
class Cosine:
    """Half a cosine from 1 down to ``final`` after ``epochs`` (Loshchilov and Hutter 2017)."""

    epochs: int
    final: float = 0.0

    def __call__(self, epoch: int) -> float:
        """Factor in ``epoch``."""
        done = min(epoch / self.epochs, 1.0)
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * done)) / 2


def resolve_schedule(decay: str | float | Schedule | None, epochs: int) -> Schedule:
    """The schedule that None (constant), a number (rate of `InverseTime`), a name or a function stands for."""
    if decay is None:
        return InverseTime(0.0)
    if isinstance(decay, (int, float)):
        return InverseTime(float(decay))
    if not isinstance(decay, str):
        return decay
    schedules: dict[str, Schedule] = {
        "inverse_time": InverseTime(),
        "exponential": Exponential(),
        "step": Step(),
        "cosine": Cosine(epochs),
    }
    if decay not in schedules:
        raise ValueError(f"learning_rate_decay is {decay!r}; choose from {', '.join(schedules)}, or pass a number")
    return schedules[decay]
