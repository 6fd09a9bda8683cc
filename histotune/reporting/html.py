"""Pieces of HTML whose words are escaped: paragraphs, tables, lists of facts."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from markupsafe import Markup

UNKNOWN = "not stated"


def paragraph(text: str, *, kind: str = "") -> Markup:
    """Set a paragraph; `kind` is a class of the style sheet."""
    sentence = words(text)
    return Markup('<p class="{}">{}</p>').format(kind, sentence) if kind else Markup("<p>{}</p>").format(sentence)


def words(text: str) -> Markup:
    """Escape a sentence, in which `backticks` set a command apart.

    >>> words("run `histotune audit <b>`")
    Markup('run <code>histotune audit &lt;b&gt;</code>')
    """
    if isinstance(text, Markup):
        return text
    pieces = text.split("`")
    if len(pieces) % 2 == 0:  # a backtick of somebody's own
        return Markup.escape(text)
    return Markup("").join(code(piece) if at % 2 else Markup.escape(piece) for at, piece in enumerate(pieces))


def heading(text: str) -> Markup:
    """Set a heading inside a section."""
    return Markup("<h3>{}</h3>").format(text)


def badge(text: str, kind: str = "") -> Markup:
    """Set a word apart; `kind` is good, warn or bad."""
    return Markup('<span class="badge {}">{}</span>').format(kind, text)


def code(text: str) -> Markup:
    """Set a command or a digest; of a full path its last part, for folders above it may tell who works where.

    >>> code("histotune search idc --data /home/somebody/idc_patches")
    Markup('<code>histotune search idc --data idc_patches</code>')
    """
    return Markup("<code>{}</code>").format(re.sub(r"(?<![^\s=])/(?:[^\s/]+/)*([^\s/]+)/?", r"\1", text))


def joined(pieces: Iterable[str]) -> Markup:
    """Put pieces one after another; what is no markup is escaped."""
    return Markup("\n").join(pieces)


def bullets(items: Iterable[str]) -> Markup:
    """Set a list."""
    return Markup("<ul>{}</ul>").format(joined(Markup("<li>{}</li>").format(item) for item in items))


def facts(pairs: Mapping[str, Any]) -> Markup:
    """Set names and what they are; what is None or empty is not stated."""
    rows = (Markup("<div><dt>{}</dt><dd>{}</dd></div>").format(name, cell(value)) for name, value in pairs.items())
    return Markup('<dl class="facts">{}</dl>').format(joined(rows))


def table(caption: str, head: Sequence[str], rows: Iterable[Sequence[Any]], *, stacked: bool = False) -> Markup:
    """Set a table that scrolls in itself where the screen is narrow; columns of numbers stand to the right.

    Args:
        stacked: of sentences: where the screen is narrow, the cells of a row stand one above another.
    """
    cells = [list(row) for row in rows]
    right = [any(_is_number(row[at]) for row in cells) for at in range(len(head))]
    kinds = ["num" if one else "text" for one in right]
    top = joined(Markup('<th scope="col" class="{}">{}</th>').format(*one) for one in zip(kinds, head, strict=True))
    body = joined(
        Markup("<tr>{}</tr>").format(
            joined(
                Markup('<td class="{}" data-head="{}">{}</td>').format(kind, name, cell(value))
                for kind, name, value in zip(kinds, head, row, strict=True)
            )
        )
        for row in cells
    )
    whole = '<p class="caption">{}</p><div class="scroll {}" tabindex="0" role="region" aria-label="{}"><table>'
    return Markup(whole + "<thead><tr>{}</tr></thead><tbody>{}</tbody></table></div>").format(
        words(caption), "stacked" if stacked else "", caption, top, body
    )


def cell(value: Any) -> Markup:
    """Write a value: numbers in few digits, nothing as "not stated"."""
    if value is None or (isinstance(value, str) and not value):
        return Markup('<span class="unknown">{}</span>').format(UNKNOWN)
    if isinstance(value, bool):
        return Markup("yes") if value else Markup("no")
    if isinstance(value, int):
        return Markup(f"{value:,}")
    if isinstance(value, float):
        return Markup(number(value))
    return Markup.escape(value)


def number(value: Any, *, signed: bool = False) -> str:
    """Write a number in three decimals, large ones in none.

    >>> number(0.91234), number(0.01, signed=True), number(12345.6), number(None)
    ('0.912', '+0.010', '12,346', 'unknown')
    """
    if value is None or not math.isfinite(value):
        return "unknown"
    sign = "+" if signed else ""
    return f"{value:{sign},.0f}" if abs(value) >= 1000 else f"{value:{sign}.3f}"


def interval(result: Mapping[str, Any] | None, *, signed: bool = False) -> str:
    """Write a value with its interval, from a dict with `value`, `low` and `high`.

    >>> interval({"value": 0.9, "low": 0.85, "high": 0.94})
    '0.900 (0.850 to 0.940)'
    >>> interval({"value": 0.9, "low": None, "high": None}), interval(None)
    ('0.900 (interval unknown)', 'unknown')
    """
    if not result or result.get("value") is None:
        return "unknown"
    low, high = result.get("low"), result.get("high")
    known = low is not None and high is not None and math.isfinite(low) and math.isfinite(high)
    span = f"{number(low, signed=signed)} to {number(high, signed=signed)}" if known else "interval unknown"
    return f"{number(result['value'], signed=signed)} ({span})"


def span(result: Mapping[str, Any] | None, *, signed: bool = False) -> Markup:
    """Write a value for a table, its interval small below it."""
    text = interval(result, signed=signed)
    value, _, rest = text.partition(" (")
    return Markup('<span class="span">{}<small>{}</small></span>').format(value, rest.removesuffix(")"))


def time(stamp: Any) -> str | None:
    """Write an ISO time in UTC to the minute.

    >>> time("2026-11-21T14:33:28+00:00"), time(None)
    ('2026-11-21 14:33', None)
    """
    return str(stamp)[:16].replace("T", " ") if stamp else None


def counted(count: int, what: str) -> str:
    """Write a count with its noun.

    >>> counted(1, "trial"), counted(1200, "trial")
    ('1 trial', '1,200 trials')
    """
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
