"""A law (a function that raises AssertionError with a sentence) and a contract (the laws of one kind of part)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import numpy as np
import torch

from histotune.core.registry import Registry
from histotune.errors import ConfigError, suggest

Law = TypeVar("Law", bound=Callable[..., None])


class Contract:
    """The laws of one kind of component, by name, in the order in which they are checked.

    Args:
        kind: of the components, as errors name it ("loss").
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.laws: dict[str, Callable[..., None]] = {}

    def law(self, function: Law) -> Law:
        """Add a law: its name and its docstring say what must hold."""
        self.laws[function.__name__] = function
        return function

    def check(self, name: str, *arguments: Any, without: Iterable[str] = ()) -> None:
        """Check every law but those `without`.

        Raises:
            AssertionError: a law does not hold, or the component fails where it is checked; names the law.
            ConfigError: `without` names no law.
        """
        left_out = set(without)
        for law in left_out - self.laws.keys():
            raise ConfigError(f"a {self.kind} has no law {law!r}. {suggest(law, self.laws)}")
        for law, function in self.laws.items():
            if law not in left_out:
                self.check_one(law, function, name, *arguments)

    def check_one(self, law: str, function: Callable[..., None], name: str, *arguments: Any) -> None:
        """Check one law.

        Raises:
            AssertionError: it does not hold, or the component fails.
        """
        rule = (function.__doc__ or "").partition("\n")[0]
        try:
            function(*arguments)
        except AssertionError as broken:
            raise AssertionError(f"{self.kind} {name!r} breaks the law {law!r} ({rule}) {broken}") from broken
        except Exception as error:
            raise AssertionError(f"{self.kind} {name!r} fails at the law {law!r} ({rule}) {error!r}") from error


def require(condition: Any, sentence: str) -> None:
    """Raise AssertionError with a sentence unless the condition holds, also under `python -O`."""
    if not bool(condition):
        raise AssertionError(sentence)


def finite(values: Any, what: str) -> None:
    """Require that there are values and all of them are finite."""
    require(values is not None, f"{what}: there is none")
    array = values.detach().double().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)
    bad = array[~np.isfinite(array)]
    require(not bad.size, f"{what} must be finite, got {bad.flat[0] if bad.size else ''}")


def alike(one: Any, other: Any, what: str, *, rtol: float = 0.0, atol: float = 0.0) -> None:
    """Require that two values or arrays agree, bit by bit unless a tolerance is given."""
    first, second = (
        np.asarray(value.detach().double().cpu() if isinstance(value, torch.Tensor) else value)
        for value in (one, other)
    )
    require(first.shape == second.shape, f"{what}: shapes {first.shape} and {second.shape} differ")
    if first.size and not np.allclose(first, second, rtol=rtol, atol=atol, equal_nan=True):
        away = np.abs(first - second)
        at = int(np.nanargmax(away)) if np.isfinite(away).any() else 0
        raise AssertionError(f"{what}: {first.flat[at]:.6g} against {second.flat[at]:.6g}")


def refused(call: Callable[[], Any], error: type[Exception] | tuple[type[Exception], ...], what: str) -> None:
    """Require that a call raises one of these errors with a message."""
    try:
        call()
    except error as raised:
        require(str(raised), f"{what} is refused without a word")
    else:
        raise AssertionError(f"{what} must be refused with {error}")


def documented(registry: Registry[Any], name: str) -> None:
    """Require a summary, and of every parameter with a range a default that lies in it."""
    entry = registry.entry(name)
    require(entry.summary, "its builder has no docstring, which `histotune list` shows")
    for parameter in entry.parameters:
        if parameter.range and not parameter.required:
            try:
                parameter.range.check(parameter.name, parameter.default)
            except ConfigError as error:
                raise AssertionError(f"the default of {error}") from error
    refused(lambda: registry.check(name, {"no_such_parameter": 1}), ConfigError, "an unknown parameter")
