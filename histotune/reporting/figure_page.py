"""A drawn figure -> files: a page that needs nothing else, and an image where Chrome and kaleido are installed."""

from __future__ import annotations

import html
from pathlib import Path
from typing import TYPE_CHECKING, Any

from histotune.core import files
from histotune.errors import HistotuneError
from histotune.reporting.charts import FAINT, FONT, INK, WIDTH

if TYPE_CHECKING:
    from plotly.graph_objects import Figure as PlotlyFigure
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from plotly.graph_objects import Figure as PlotlyFigure


_SCALE = 2  # pixels of an image per pixel of the drawing
_NEEDED = (
    "a PNG is drawn by Chrome: `pip install 'histotune[png]'`, and Chrome or Chromium (`apt-get install chromium`, or "
    "`kaleido_get_chrome` downloads one). The HTML page needs neither"
)
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ margin: 0 auto; max-width: 760px; padding: 12px; font-family: {font}; color: {ink}; background: #fff; }}
h1 {{ font-size: 1.1rem; margin: 0 0 .3rem; }}
p {{ font-size: .82rem; line-height: 1.35; margin: 0 0 .6rem; color: {faint}; }}
{style}</style>
</head>
<body>
<h1>{title}</h1>
<p>{caption}</p>
{body}
</body>
</html>
"""


def write_page(drawn: PlotlyFigure, path: Path) -> Path:
    """Write a drawn figure as a self-contained HTML page; the same figure gives the same bytes.

    On a page the title and caption are text, which breaks its lines where the screen ends.
    """
    meta = drawn.layout.meta
    return write_text_page(path, meta["title"], meta["caption"], drawing(drawn, path.stem, script=True))


def write_text_page(path: Path, title: str, caption: str, body: str, style: str = "") -> Path:
    """Write a page in the common look.

    Args:
        path: of the file.
        title, caption: plain text.
        body: HTML, in which whatever came from outside is escaped.
        style: CSS besides the common one.
    """
    text = {"title": html.escape(title), "caption": html.escape(caption)}
    files.write_text(path, _PAGE.format(**text, body=body, style=style, font=FONT, ink=INK, faint=FAINT))
    return path


def drawing(drawn: PlotlyFigure, name: str, *, script: bool) -> str:
    """Return a figure as a piece of a page, which shows title and caption itself.

    Args:
        drawn: the figure.
        name: of the piece, unique on the page.
        script: put plotly itself before it, which a page needs once.
    """
    quiet = {"responsive": True, "displayModeBar": False}  # plotly's buttons cover a small drawing
    piece: str = without_title(drawn).to_html(full_html=False, include_plotlyjs=script, div_id=name, config=quiet)
    return piece


def without_title(drawn: PlotlyFigure) -> PlotlyFigure:
    """Return a copy of a figure without title and caption, for a page that shows them itself."""
    from plotly.graph_objects import Figure

    bare = Figure(drawn)
    without = bare.layout.meta["top"] - 8
    bare.update_layout(title_text="", margin_t=bare.layout.margin.t - without, height=bare.layout.height - without)
    return bare


def write_image(drawn: PlotlyFigure, path: Path) -> Path:
    """Write a drawn figure as a PNG of 1280 pixels' width.

    Raises:
        HistotuneError: kaleido or Chrome is not installed, or Chrome does not start.
    """
    try:
        import kaleido
    except ImportError as error:
        raise HistotuneError(f"cannot write {path}: kaleido is not installed; {_NEEDED}") from error
    size = {"width": WIDTH, "height": drawn.layout.height, "scale": _SCALE}
    # Through kaleido and not `drawn.write_image`, which would let Chrome ask the network for MathJax.
    without_network: dict[str, Any] = {"mathjax": False}
    try:
        image = kaleido.calc_fig_sync(drawn.to_dict(), opts={"format": "png", **size}, kopts=without_network)
    except RuntimeError as error:  # of all errors of a browser that is not there, does not start or dies
        raise HistotuneError(f"cannot write {path}: {_sentence(error)}; {_NEEDED}") from error
    files.write_bytes(path, image)
    return path


def _sentence(error: RuntimeError) -> str:
    """Take the first sentence of an error that may hold several.

    >>> _sentence(RuntimeError("No browser found. To install one, ...", "more"))
    'No browser found'
    """
    first = str(error.args[0]) if error.args else type(error).__name__
    return first.strip().partition(". ")[0].rstrip(".")


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
