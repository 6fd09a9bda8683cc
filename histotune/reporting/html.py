"""Pieces of HTML from the macros of `templates/pieces.html.j2`; whatever is no markup is escaped."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from histotune.core.format import interval, number

TEMPLATES = Path(__file__).parent / "templates"
UNKNOWN = "not stated"


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


def code(text: str) -> Markup:
    """Set a command or a digest; of a full path its last part, for folders above it may tell who works where.

    >>> code("histotune search idc --data /home/somebody/idc_patches")
    Markup('<code>histotune search idc --data idc_patches</code>')
    """
    return Markup("<code>{}</code>").format(re.sub(r"(?<![^\s=])/(?:[^\s/]+/)*([^\s/]+)/?", r"\1", text))


def cell(value: Any) -> Markup:
    """Write a value: numbers in few digits, nothing as "not stated"."""
    if value is None or (isinstance(value, str) and not value):
        return Markup('<span class="unknown">{}</span>').format(UNKNOWN)
    if isinstance(value, bool):
        return Markup("yes") if value else Markup("no")
    if isinstance(value, int):
        return Markup(f"{value:,}")
    return Markup(number(value)) if isinstance(value, float) else Markup.escape(value)


def asset(name: str) -> Markup:
    """Return a file of the templates' folder that stands in a page as it is: a style sheet or a script."""
    return Markup((TEMPLATES / name).read_text(encoding="utf-8"))


_ENVIRONMENT = Environment(
    loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)
_ENVIRONMENT.filters |= {"words": words, "cell": cell}
_ENVIRONMENT.globals["asset"] = asset


def render(template: str, **values: Any) -> str:
    """Fill a template of `templates/`; what is no markup is escaped.

    Raises:
        UndefinedError: the template uses a value that is not given.
    """
    return _ENVIRONMENT.get_template(template).render(**values)


def piece(name: str, *values: Any, **options: Any) -> Markup:
    """Return what a macro of `pieces.html.j2` makes of values."""
    markup: Markup = getattr(_ENVIRONMENT.get_template("pieces.html.j2").module, name)(*values, **options)
    return markup


def paragraph(text: str, *, kind: str = "") -> Markup:
    """Set a paragraph; `kind` is a class of the style sheet."""
    return piece("paragraph", text, kind)


def heading(text: str) -> Markup:
    """Set a heading inside a section."""
    return piece("heading", text)


def badge(text: str, kind: str = "") -> Markup:
    """Set a word apart; `kind` is good, warn or bad."""
    return piece("badge", text, kind)


def joined(pieces: Iterable[str]) -> Markup:
    """Put pieces one after another; what is no markup is escaped."""
    return Markup("\n").join(pieces)


def bullets(items: Iterable[str]) -> Markup:
    """Set a list."""
    return piece("bullets", list(items))


def facts(pairs: Mapping[str, Any]) -> Markup:
    """Set names and what they are; what is None or empty is not stated."""
    return piece("facts", pairs)


def table(caption: str, head: Sequence[str], rows: Iterable[Sequence[Any]], *, stacked: bool = False) -> Markup:
    """Set a table that scrolls in itself where the screen is narrow; columns of numbers stand to the right.

    Args:
        stacked: of sentences: where the screen is narrow, the cells of a row stand one above another.
    """
    cells = [list(row) for row in rows]
    kinds = ["num" if any(_is_number(row[at]) for row in cells) else "text" for at in range(len(head))]
    columns = list(zip(kinds, head, strict=True))
    return piece("table", caption, columns, [list(zip(columns, row, strict=True)) for row in cells], stacked)


def span(result: Mapping[str, Any] | None, *, signed: bool = False) -> Markup:
    """Write a value for a table, its interval small below it."""
    value, _, rest = interval(result, signed=signed).partition(" (")
    return piece("span", value, rest.removesuffix(")"))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
