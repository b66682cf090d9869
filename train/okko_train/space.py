"""What is searched: named parameters on the one side, a unit cube on the other.

A swarm moves in ``[0, 1]**dimension`` and knows nothing of learning rates; a training run wants a dict and
knows nothing of cubes. A `Space` translates in both directions. It does not search and draws no random numbers.
The three scales are those of SageMaker's automatic model tuning; a category gets one coordinate per choice (the
highest wins), because a single coordinate would invent an order between choices that have none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Unit = NDArray[np.float64]
When = tuple[str, tuple[Any, ...]]

# Where an encoded category puts its choice and the others: clearly apart, near enough to change its mind.
_CHOSEN, _NOT_CHOSEN = 0.75, 0.25


@dataclass(frozen=True)
class Float:
    """A real number in ``[low, high]``.

    ``scale`` says along which axis the range is even: ``"linear"``; ``"log"`` (for a learning rate, needs low > 0);
    ``"reverse_log"`` (even in log(1 - x), for a momentum near 1, needs 0 <= low and high < 1). ``when`` is an optional
    condition ``(parameter, values)``: the parameter is active only if that other parameter has one of the values.

    Raises:
        ValueError: bounds that are not finite or not in order, or that do not suit the scale.
    """

    low: float
    high: float
    scale: str = "linear"
    when: tuple[str, Any] | None = None

    def __post_init__(self) -> None:
        _check_range(self.low, self.high)
        if self.scale not in ("linear", "log", "reverse_log"):
            raise ValueError(f"scale is {self.scale!r}; use 'linear', 'log' or 'reverse_log'")
        if self.scale == "log" and self.low <= 0:
            raise ValueError(f"low is {self.low:g}; a log scale needs low > 0")
        if self.scale == "reverse_log" and not (self.low >= 0 and self.high < 1):
            raise ValueError(f"the range is {self.low:g} to {self.high:g}; reverse_log needs 0 <= low and high < 1")
        object.__setattr__(self, "when", _condition(self.when))

    @property
    def width(self) -> int:
        """Number of unit coordinates: one."""
        return 1

    def decode(self, unit: Unit) -> float:
        """Number at the unit coordinates (1,)."""
        u = float(unit[0])
        if u in (0.0, 1.0):  # the logarithm of an end does not come back exactly
            return float(self.high if u else self.low)
        if self.scale == "log":
            value = math.exp(_between(math.log(self.low), math.log(self.high), u))
        elif self.scale == "reverse_log":
            value = 1 - math.exp(_between(math.log(1 - self.low), math.log(1 - self.high), u))
        else:
            value = _between(self.low, self.high, u)
        return min(max(value, float(self.low)), float(self.high))

    def encode(self, value: Any) -> Unit:
        """Unit coordinates (1,) of a number.

        Raises:
            ValueError: not a number in the range.
        """
        x = _number(value, self.low, self.high)
        if self.scale == "log":
            u = _position(math.log(self.low), math.log(self.high), math.log(x))
        elif self.scale == "reverse_log":
            u = _position(math.log(1 - self.low), math.log(1 - self.high), math.log(1 - x))
        else:
            u = _position(self.low, self.high, x)
        return np.array([u])


@dataclass(frozen=True)
class Integer:
    """A whole number from ``low`` to ``high``, both included; ``when`` as in `Float`.

    Each value owns an equal share of the axis on the linear scale, and the share between its half-way neighbours on the
    ``"log"`` scale (needs low >= 1).

    Raises:
        ValueError: bounds that are not whole numbers or not in order, or that do not suit the scale.
    """

    low: int
    high: int
    scale: str = "linear"
    when: tuple[str, Any] | None = None

    def __post_init__(self) -> None:
        for name, value in (("low", self.low), ("high", self.high)):
            if isinstance(value, bool) or int(value) != value:
                raise ValueError(f"{name} is {value!r}; an integer parameter needs whole numbers")
        _check_range(self.low, self.high)
        if self.scale not in ("linear", "log"):
            raise ValueError(f"scale is {self.scale!r}; use 'linear' or 'log'")
        if self.scale == "log" and self.low < 1:
            raise ValueError(f"low is {self.low}; a log scale needs low >= 1")
        object.__setattr__(self, "when", _condition(self.when))

    @property
    def width(self) -> int:
        """Number of unit coordinates: one."""
        return 1

    def decode(self, unit: Unit) -> int:
        """Whole number at the unit coordinates (1,)."""
        start, end = self._axis()
        x = _between(start, end, float(unit[0]))
        nearest = math.floor((math.exp(x) if self.scale == "log" else x) + 0.5)
        return min(max(nearest, int(self.low)), int(self.high))

    def encode(self, value: Any) -> Unit:
        """Unit coordinates (1,) of a whole number.

        Raises:
            ValueError: not a whole number in the range.
        """
        x = _number(value, self.low, self.high)
        if x != int(x):
            raise ValueError(f"value is {value!r}; expected a whole number")
        start, end = self._axis()
        return np.array([_position(start, end, math.log(x) if self.scale == "log" else x)])

    def _axis(self) -> tuple[float, float]:
        ends = self.low - 0.5, self.high + 0.5
        return (math.log(ends[0]), math.log(ends[1])) if self.scale == "log" else ends


@dataclass(frozen=True)
class Categorical:
    """One of several choices without an order; ``when`` as in `Float`.

    One coordinate per choice, the highest coordinate wins. Two choices need a single coordinate, one choice needs none.

    Raises:
        ValueError: no choices, or a choice given twice.
    """

    choices: Sequence[Any]
    when: tuple[str, Any] | None = None

    def __post_init__(self) -> None:
        choices = (self.choices,) if isinstance(self.choices, str) else tuple(self.choices)
        if not choices:
            raise ValueError("choices is empty; give at least one")
        if any(_index(choices, choice) != i for i, choice in enumerate(choices)):
            raise ValueError(f"choices are {list(choices)!r}; each may stand there once")
        object.__setattr__(self, "choices", choices)
        object.__setattr__(self, "when", _condition(self.when))

    @property
    def width(self) -> int:
        """Number of unit coordinates: 0 for one choice, 1 for two, else one per choice."""
        return len(self.choices) if len(self.choices) > 2 else len(self.choices) - 1

    def decode(self, unit: Unit) -> Any:
        """Choice at the unit coordinates (width,)."""
        if self.width <= 1:
            return self.choices[int(self.width == 1 and unit[0] >= 0.5)]
        return self.choices[int(np.argmax(unit))]

    def encode(self, value: Any) -> Unit:
        """Unit coordinates (width,) of a choice.

        Raises:
            ValueError: not one of the choices.
        """
        index = _index(self.choices, value)
        if index is None:
            raise ValueError(f"value is {value!r}; expected one of {list(self.choices)!r}")
        if self.width <= 1:
            return np.full(self.width, _CHOSEN if index else _NOT_CHOSEN)
        unit = np.full(self.width, _NOT_CHOSEN)
        unit[index] = _CHOSEN
        return unit


Parameter = Float | Integer | Categorical
_KINDS: dict[str, type[Parameter]] = {"float": Float, "integer": Integer, "categorical": Categorical}


class Space:
    """Named parameters, and their place in a unit cube.

    Example:
        >>> space = Space({
        ...     "learning_rate": Float(1e-4, 1e-1, scale="log"),
        ...     "layers": Integer(1, 2),
        ...     "width_2": Integer(4, 64, scale="log", when=("layers", 2)),
        ...     "activation": Categorical(["relu", "tanh", "sigmoid"]),
        ... })
        >>> space.dimension
        6
        >>> sorted(space.decode([0.5] * 6))
        ['activation', 'layers', 'learning_rate', 'width_2']

    Raises:
        ValueError: no parameters, or a condition on a parameter that does not stand before it, or on a value
            which that parameter cannot have.
    """

    def __init__(self, parameters: Mapping[str, Parameter]) -> None:
        if not parameters:
            raise ValueError("parameters is empty; a space needs at least one parameter")
        self._parameters = dict(parameters)
        self._where: dict[str, slice] = {}
        start = 0
        for name, parameter in self._parameters.items():
            if not isinstance(parameter, Float | Integer | Categorical):
                raise ValueError(f"parameter {name!r} is {parameter!r}; expected Float, Integer or Categorical")
            self._check_condition(name, parameter)
            self._where[name] = slice(start, start + parameter.width)
            start += parameter.width
        self.dimension = start

    @property
    def parameters(self) -> Mapping[str, Parameter]:
        """The parameters by name, in order; read-only."""
        return MappingProxyType(self._parameters)

    @property
    def coordinates(self) -> tuple[str, ...]:
        """A name for each of the unit coordinates (dimension,): the parameter's, or ``parameter=choice``."""
        names: list[str] = []
        for name, p in self._parameters.items():
            several = isinstance(p, Categorical) and p.width > 1
            names += [f"{name}={c}" for c in p.choices] if several and isinstance(p, Categorical) else [name] * p.width
        return tuple(names)

    def decode(self, unit: ArrayLike) -> dict[str, Any]:
        """Parameters at a point of the unit cube; the inactive ones are absent.

        Args:
            unit: coordinates (dimension,); what lies outside [0, 1] counts as 0 or 1.

        Raises:
            ValueError: another number of coordinates, or one that is NaN.
        """
        u = np.asarray(unit, dtype=np.float64)
        if u.shape != (self.dimension,):
            raise ValueError(f"unit has shape {u.shape}; expected ({self.dimension},)")
        if np.isnan(u).any():
            raise ValueError(f"unit is NaN at {self.coordinates[int(np.isnan(u).argmax())]!r}")
        u = u.clip(0, 1)
        values: dict[str, Any] = {}
        for name, parameter in self._parameters.items():
            if _is_active(parameter, values):
                values[name] = parameter.decode(u[self._where[name]])
        return values

    def encode(self, values: Mapping[str, Any]) -> Unit:
        """Point of the unit cube (dimension,) that decodes to these parameters; inactive ones get 0.5.

        Raises:
            ValueError: an unknown or missing parameter, or a value outside its range; the message names the parameter.
        """
        unknown = [name for name in values if name not in self._parameters]
        if unknown:
            raise ValueError(f"parameter {unknown[0]!r} is not in this space; it has {list(self._parameters)}")
        unit = np.full(self.dimension, 0.5)
        for name, parameter in self._parameters.items():
            if not _is_active(parameter, values):
                continue
            if name not in values:
                raise ValueError(f"parameter {name!r} is missing; it is active for these values")
            try:
                unit[self._where[name]] = parameter.encode(values[name])
            except ValueError as error:
                raise ValueError(f"parameter {name!r}: {error}") from None
        return unit

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """The space as plain dicts, ready for JSON, YAML or TOML if the choices are."""
        plain: dict[str, dict[str, Any]] = {}
        for name, p in self._parameters.items():
            entry: dict[str, Any] = {"type": type(p).__name__.lower()}
            if isinstance(p, Categorical):
                entry["choices"] = list(p.choices)
            else:
                entry |= {"low": p.low, "high": p.high, "scale": p.scale}
            if p.when is not None:
                entry["when"] = [p.when[0], list(p.when[1])]
            plain[name] = entry
        return plain

    @classmethod
    def from_dict(cls, plain: Mapping[str, Mapping[str, Any]]) -> Space:
        """The space that `to_dict` wrote (or that a person wrote in a file).

        Raises:
            ValueError: an entry that is no parameter; the message names the parameter.
        """
        parameters: dict[str, Parameter] = {}
        for name, entry in plain.items():
            if not isinstance(entry, Mapping) or entry.get("type") not in _KINDS:
                raise ValueError(
                    f"parameter {name!r} is {entry!r}; expected a dict with 'type' one of {sorted(_KINDS)}"
                )
            try:
                parameters[name] = _KINDS[entry["type"]](
                    **{key: value for key, value in entry.items() if key != "type"}
                )
            except (TypeError, ValueError) as error:
                raise ValueError(f"parameter {name!r}: {error}") from None
        return cls(parameters)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Space) and list(self._parameters.items()) == list(other._parameters.items())

    def __hash__(self) -> int:
        return hash(tuple(self._parameters))

    def __repr__(self) -> str:
        return f"Space({self._parameters!r})"

    def _check_condition(self, name: str, parameter: Parameter) -> None:
        if parameter.when is None:
            return
        other, values = parameter.when
        if other not in self._where:
            raise ValueError(f"parameter {name!r} depends on {other!r}, which must stand before it in the space")
        for value in values:
            try:
                self._parameters[other].encode(value)
            except ValueError as error:
                raise ValueError(f"parameter {name!r} depends on {other!r}: {error}") from None


def _is_active(parameter: Parameter, values: Mapping[str, Any]) -> bool:
    if parameter.when is None:
        return True
    other, allowed = parameter.when
    return other in values and _index(allowed, values[other]) is not None


def _condition(when: Any) -> When | None:
    if when is None:
        return None
    if not (isinstance(when, Sequence) and len(when) == 2 and isinstance(when[0], str)):
        raise ValueError(f"when is {when!r}; expected (parameter name, value or list of values)")
    values = when[1]
    return when[0], tuple(values) if isinstance(values, list | tuple) else (values,)


def _index(choices: Sequence[Any], value: Any) -> int | None:
    """Position of a choice; True is not 1 here, as it is for ``in``."""
    for i, choice in enumerate(choices):
        if choice == value and isinstance(choice, bool) == isinstance(value, bool):
            return i
    return None


def _check_range(low: float, high: float) -> None:
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"the range is {low!r} to {high!r}; expected finite numbers with low < high")


def _number(value: Any, low: float, high: float) -> float:
    try:
        x = math.nan if isinstance(value, bool | str) else float(value)
    except (TypeError, ValueError):
        x = math.nan
    if not low <= x <= high:
        raise ValueError(f"value is {value!r}; expected a number from {low:g} to {high:g}")
    return x


def _between(start: float, end: float, u: float) -> float:
    return start + (end - start) * u


def _position(start: float, end: float, x: float) -> float:
    return min(max((x - start) / (end - start), 0.0), 1.0)
