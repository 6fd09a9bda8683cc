"""What a parameter may be: written where it is registered, checked before anything is built, printed by `list -v`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Protocol

from histotune.errors import ConfigError, suggest


class Allowed(Protocol):
    """The values that a parameter may take; `str` of it is what a person reads."""

    def check(self, what: str, value: Any) -> None:
        """Raise ConfigError, which names `what`, unless `value` lies in the range."""


@dataclass(frozen=True)
class Interval:
    """The numbers from `low` to `high`, never infinite.

    Args:
        open_low: leave out `low`.
        open_high: leave out `high`.
        whole: whole numbers only.
        unit: what is counted, when that can be mistaken ("radians").

    >>> str(Interval(0, 1, open_high=True)), str(Interval(0)), str(Interval(1, 16, whole=True))
    ('[0, 1)', '[0, inf)', '{1, ..., 16}')
    """

    low: float
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False
    whole: bool = False
    unit: str = ""

    def __str__(self) -> str:
        if self.whole:
            return f"{{{self.low:g}, ..., {self.high:g}}}"
        closed = self.high < math.inf and not self.open_high
        interval = f"{'(' if self.open_low else '['}{self.low:.4g}, {self.high:.4g}{']' if closed else ')'}"
        return f"{interval} {self.unit}".rstrip()

    def check(self, what: str, value: Any) -> None:
        """Raise ConfigError unless `value` is a number in the interval.

        >>> Interval(0, 1).check("beta", 1.5)
        Traceback (most recent call last):
            ...
        histotune.errors.ConfigError: beta must lie in [0, 1], got 1.5
        """
        if isinstance(value, bool) or not isinstance(value, Integral if self.whole else Real):
            raise ConfigError(f"{what} must be a {'whole ' if self.whole else ''}number in {self}, got {value!r}")
        number = float(value)
        above = number > self.low if self.open_low else number >= self.low
        below = number < self.high if self.open_high else number <= self.high
        if not (above and below and math.isfinite(number)):
            raise ConfigError(f"{what} must lie in {self}, got {value!r}")


@dataclass(frozen=True)
class OneOf:
    """One of a few names, or true and false.

    >>> str(OneOf("absolute", "auto")), str(YES_OR_NO)
    ('absolute | auto', 'false | true')
    """

    options: tuple[str | bool, ...]

    def __init__(self, *options: str | bool) -> None:
        object.__setattr__(self, "options", options)

    def __str__(self) -> str:
        return " | ".join(map(_word, self.options))

    def check(self, what: str, value: Any) -> None:
        """Raise ConfigError unless `value` is one of the options.

        >>> OneOf("absolute", "auto").check("sigma_mode", "auta")
        Traceback (most recent call last):
            ...
        histotune.errors.ConfigError: sigma_mode must be one of absolute | auto, got 'auta'. Did you mean 'auto'? ...
        """
        if not any(value == option and type(value) is type(option) for option in self.options):
            hint = suggest(str(value), map(_word, self.options))
            raise ConfigError(f"{what} must be one of {self}, got {value!r}. {hint}")


@dataclass(frozen=True)
class PerChannel:
    """A list of one number for red, green and blue each, all within an interval.

    >>> str(PerChannel(Interval(0, 1)))
    '3 numbers in [0, 1]'
    """

    each: Interval

    def __str__(self) -> str:
        return f"3 numbers in {self.each}"

    def check(self, what: str, value: Any) -> None:
        """Raise ConfigError unless `value` is such a list.

        >>> PerChannel(Interval(0, 1)).check("mean", [123.7, 116.3, 103.5])
        Traceback (most recent call last):
            ...
        histotune.errors.ConfigError: mean[0] must lie in [0, 1], got 123.7
        """
        if not isinstance(value, (list, tuple)) or len(value) != 3:
            raise ConfigError(f"{what} must be {self}, of red, green and blue, got {value!r}")
        for place, number in enumerate(value):
            self.each.check(f"{what}[{place}]", number)


MEAN, STD = PerChannel(Interval(0, 1)), PerChannel(Interval(0, 1, open_low=True))  # of pixels in [0, 1]
YES_OR_NO = OneOf(False, True)


def _word(option: str | bool) -> str:
    return str(option).lower() if isinstance(option, bool) else option
