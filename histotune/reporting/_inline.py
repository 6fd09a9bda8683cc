"""A drawn figure as plain values for a page that holds plotly once and draws many."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from histotune.reporting.figure_page import without_title

if TYPE_CHECKING:
    from plotly.graph_objects import Figure as PlotlyFigure


@dataclass(frozen=True)
class Inline:
    """A figure whose title and caption a page shows itself.

    Attributes:
        plain: `data` and `layout`, as JSON may hold them.
        height: of the drawing, pixels.
    """

    title: str
    caption: str
    height: int
    plain: dict[str, Any]


def inline(drawn: PlotlyFigure) -> Inline:
    """Take title and caption off a figure, and write the rest as plain values."""
    bare = without_title(drawn)
    plain = json.loads(bare.to_json())
    for name in ("title", "meta", "template"):
        plain["layout"].pop(name, None)
    meta = drawn.layout.meta
    return Inline(meta["title"], meta["caption"], int(bare.layout.height), plain)


def plotly_script() -> str:
    """Return plotly itself, which may stand in a script element."""
    from plotly.offline import get_plotlyjs

    script: str = get_plotlyjs()
    assert "</script" not in script
    return script
