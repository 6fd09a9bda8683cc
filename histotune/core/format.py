"""Numbers, intervals, counts and times as a person reads them; the same on the terminal, in reports and in cards."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any


def megabytes(size: float) -> str:
    """Write a number of bytes.

    >>> megabytes(3_500_000), megabytes(81_000_000_000)
    ('4 MB', '81.0 GB')
    """
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def counted(count: int, noun: str) -> str:
    """Write a count with its noun.

    >>> counted(1, "trial"), counted(1200, "trial")
    ('1 trial', '1,200 trials')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def listed(names: Sequence[str]) -> str:
    """Write names as a sentence has them.

    >>> listed(["a"]), listed(["a", "b", "c"])
    ('a', 'a, b and c')
    """
    return " and ".join([*([", ".join(names[:-1])] if len(names) > 1 else []), *names[-1:]])


def ordinal(number: int) -> str:
    """Write a place in an order.

    >>> [ordinal(number) for number in (1, 2, 3, 11, 22)]
    ['1st', '2nd', '3rd', '11th', '22nd']
    """
    ending = "th" if 10 <= number % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def times(count: int) -> str:
    """Write how often something happened.

    >>> times(1), times(2), times(3)
    ('once', 'twice', '3 times')
    """
    return {1: "once", 2: "twice"}.get(count, f"{count} times")


def number(value: float | None, digits: int = 3, *, signed: bool = False, unknown: str = "unknown") -> str:
    """Write a number with a fixed count of decimals, large ones with none.

    >>> number(0.91234), number(0.91234, 4), number(0.01, signed=True), number(12345.6), number(None)
    ('0.912', '0.9123', '+0.010', '12,346', 'unknown')
    """
    if value is None or not math.isfinite(value):
        return unknown
    sign = "+" if signed else ""
    return f"{value:{sign},.0f}" if abs(value) >= 1000 else f"{value:{sign}.{digits}f}"


def bracketed(result: Mapping[str, Any] | float | None, digits: int = 3, *, signed: bool = False) -> str:
    """Write a number, or a value with its interval in brackets; what is not known is a dash.

    >>> bracketed({"value": 0.9, "low": 0.85, "high": 0.93}), bracketed(0.9, 4), bracketed(None)
    ('0.900 [0.850, 0.930]', '0.9000', '-')
    >>> bracketed({"value": 0.9, "low": None, "high": float("nan")})
    '0.900 (interval unknown)'
    """
    if not isinstance(result, Mapping):
        return number(result, digits, signed=signed, unknown="-")
    value, low, high = (number(result[key], digits, signed=signed, unknown="-") for key in ("value", "low", "high"))
    if value == "-":
        return value
    return f"{value} (interval unknown)" if low == high == "-" else f"{value} [{low}, {high}]"


def interval(result: Mapping[str, Any] | None, *, signed: bool = False) -> str:
    """Write a value with its interval for a sentence, from a mapping with `value`, `low` and `high`.

    >>> interval({"value": 0.9, "low": 0.85, "high": 0.94})
    '0.900 (0.850 to 0.940)'
    >>> interval({"value": 0.9, "low": None, "high": None}), interval(None)
    ('0.900 (interval unknown)', 'unknown')
    """
    if not result or result.get("value") is None:
        return "unknown"
    low, high = (number(result.get(key), signed=signed, unknown="") for key in ("low", "high"))
    return f"{number(result['value'], signed=signed)} ({f'{low} to {high}' if low and high else 'interval unknown'})"


def with_spread(mean: float, spread: float, digits: int = 3) -> str:
    """Write a mean with the standard deviation of what it is a mean of, as far as both are known; else a dash.

    >>> with_spread(0.81234, 0.03, 4), with_spread(0.81234, float("nan")), with_spread(float("nan"), 0.1)
    ('0.8123 ± 0.0300', '0.812', '-')
    """
    if mean != mean:
        return "-"
    return f"{mean:.{digits}f}" + (f" ± {spread:.{digits}f}" if spread == spread else "")


def p_value(value: float | None) -> str:
    """Write a p value; nothing where there is none.

    >>> p_value(0.0312), p_value(0.0001), p_value(None)
    ('0.031', '< 0.001', '')
    """
    return "" if value is None else f"{value:.3f}" if value >= 0.001 else "< 0.001"


def duration(seconds: float) -> str:
    """Write a length of time in the unit that fits.

    >>> duration(42.1), duration(600), duration(9000)
    ('42 s', '10.0 min', '2.50 h')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.2f} h"


def minute(stamp: Any) -> str | None:
    """Write an ISO time in UTC to the minute.

    >>> minute("2026-11-21T14:33:28+00:00"), minute(None)
    ('2026-11-21 14:33', None)
    """
    return str(stamp)[:16].replace("T", " ") if stamp else None


def cell(value: Any) -> str:
    """Write a value for a table on the terminal: floats with four decimals, what is not known as a dash."""
    if value is None or (isinstance(value, float) and value != value):
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else str(value)
