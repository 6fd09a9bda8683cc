"""The compiled space: constants, ranges, choices, switches between components, and groups of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

Condition = tuple[tuple[str, str], ...]
"""Which option must have been drawn at which switch for a parameter to exist."""


class Draws(Protocol):
    """What proposes values: an Optuna trial, or an object with its methods."""

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """Propose a number in [low, high]."""

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """Propose a whole number in [low, high]."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """Propose one of `choices`."""


@dataclass(frozen=True)
class Constant:
    """A value that is not searched."""

    path: str
    value: Any
    where: str = ""

    def draw(self, draws: Draws) -> Any:
        """Return the value."""
        return self.value

    def parameters(self, condition: Condition = ()) -> Iterator[tuple[SearchParameter, Condition]]:
        """Yield nothing: there is nothing to propose."""
        yield from ()


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included, perhaps in steps or on a logarithmic scale."""

    path: str
    low: float
    high: float
    step: float | None
    log: bool
    whole: bool
    default: float
    where: str

    def draw(self, draws: Draws) -> Any:
        """Propose a number."""
        if self.whole:
            step = 1 if self.step is None else int(self.step)
            return draws.suggest_int(self.path, int(self.low), int(self.high), step=step, log=self.log)
        value = draws.suggest_float(self.path, self.low, self.high, step=self.step, log=self.log)
        # samplers reach a step by different sums: 0.3 and 0.1 + 0.2 are one configuration
        return value if self.step is None else round(value, 12)

    def parameters(self, condition: Condition = ()) -> Iterator[tuple[SearchParameter, Condition]]:
        """Yield itself."""
        yield self, condition

    def values(self) -> tuple[Any, ...]:
        """Return the ends, which a check of the whole range looks at."""
        return (int(self.low), int(self.high)) if self.whole else (self.low, self.high)

    def contains(self, value: Any) -> bool:
        """Whether `value` is a number of the range, on its grid."""
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return False
        if not self.low <= (value if self.step is None else round(value, 12)) <= self.high:
            return False
        steps = 0.0 if self.step is None else (value - self.low) / self.step
        return abs(steps - round(steps)) < 1e-9

    def middle(self) -> float:
        """Return the middle on the range's own scale, on its grid."""
        middle = math.sqrt(self.low * self.high) if self.log else (self.low + self.high) / 2
        step = self.step if self.step is not None else (1 if self.whole else None)
        if step is None:
            return middle
        snapped = self.low + round((middle - self.low) / step) * step
        return int(snapped) if self.whole else round(snapped, 12)

    def describe(self) -> tuple[str, str]:
        """Return (kind, range) for a table."""
        scale = ", log" if self.log else f", step {self.step:g}" if self.step is not None else ""
        return ("int" if self.whole else "float"), f"{self.low:g} to {self.high:g}{scale}"


@dataclass(frozen=True)
class Choice:
    """One of several plain values."""

    path: str
    options: tuple[Any, ...]
    default: Any
    where: str

    def draw(self, draws: Draws) -> Any:
        """Propose one of the options."""
        return draws.suggest_categorical(self.path, self.options)

    def parameters(self, condition: Condition = ()) -> Iterator[tuple[SearchParameter, Condition]]:
        """Yield itself."""
        yield self, condition

    def values(self) -> tuple[Any, ...]:
        """Return every option."""
        return self.options

    def contains(self, value: Any) -> bool:
        """Whether `value` is one of the options; 1 is not True."""
        return any(value == option and type(value) is type(option) for option in self.options)

    def describe(self) -> tuple[str, str]:
        """Return (kind, range) for a table."""
        return "choice", ", ".join(str(option) for option in self.options)


@dataclass(frozen=True)
class Switch:
    """One of several components, each with parameters of its own that exist only when it was drawn."""

    path: str
    options: Mapping[str, Group]
    default: str
    where: str

    def draw(self, draws: Draws) -> Any:
        """Propose a component, then its own parameters."""
        name = draws.suggest_categorical(self.path, list(self.options))
        return {"name": name, **self.options[name].draw(draws)}

    def parameters(self, condition: Condition = ()) -> Iterator[tuple[SearchParameter, Condition]]:
        """Yield itself, then the parameters of every option."""
        yield self, condition
        for name, group in self.options.items():
            yield from group.parameters((*condition, (self.path, name)))

    def values(self) -> tuple[Any, ...]:
        """Return the names of all options."""
        return tuple(self.options)

    def contains(self, value: Any) -> bool:
        """Whether `value` names an option."""
        return value in self.options

    def describe(self) -> tuple[str, str]:
        """Return (kind, range) for a table."""
        return "component", ", ".join(self.options)


@dataclass(frozen=True)
class Group:
    """Named nodes, drawn in order."""

    children: Mapping[str, Node]

    def draw(self, draws: Draws) -> dict[str, Any]:
        """Draw every child."""
        return {key: child.draw(draws) for key, child in self.children.items()}

    def parameters(self, condition: Condition = ()) -> Iterator[tuple[SearchParameter, Condition]]:
        """Yield the parameters of every child."""
        for child in self.children.values():
            yield from child.parameters(condition)


SearchParameter = Range | Choice | Switch
Node = Constant | Range | Choice | Switch | Group


class Fixed:
    """Draws that return the values of a mapping from parameter names."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """Return the number under `name`."""
        return float(self._values[name])

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """Return the whole number under `name`."""
        return int(self._values[name])

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """Return the option under `name`."""
        return self._values[name]


def constants(node: Node, path: str) -> list[tuple[str, Any]]:
    """Return the path and value of everything that is fixed, without the parameters of options."""
    if isinstance(node, Constant):
        return [(path, node.value)]
    if not isinstance(node, Group):
        return []
    inner = ((child, f"{path}.{key}" if path else key) for key, child in node.children.items())
    return [row for child, inside in inner for row in constants(child, inside)]
