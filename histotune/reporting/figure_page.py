"""A drawn figure -> files: a page that needs nothing else, and an image where Chrome and kaleido are installed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from histotune.core import files
from histotune.errors import HistotuneError
from histotune.reporting.charts import FAINT, FONT, INK, WIDTH
from histotune.reporting.html import render

if TYPE_CHECKING:
    from plotly.graph_objects import Figure as PlotlyFigure


_SCALE = 2  # pixels of an image per pixel of the drawing
_NEEDED = (
    "a PNG is drawn by Chrome: `pip install 'histotune[png]'`, and Chrome or Chromium (`apt-get install chromium`, or "
    "`kaleido_get_chrome` downloads one). The HTML page needs neither"
)


def write_page(drawn: PlotlyFigure, path: Path) -> Path:
    """Write a drawn figure as a self-contained HTML page; the same figure gives the same bytes.

    On a page the title and caption are text, which breaks its lines where the screen ends.
    """
    meta, piece = drawn.layout.meta, drawing(drawn, path.stem, script=True)
    return write_text_page(path, "figure.html.j2", title=meta["title"], caption=meta["caption"], drawing=piece)


def write_text_page(path: Path, template: str, *, title: str, caption: str, **values: Any) -> Path:
    """Write a page in the common look from `figure.html.j2` or a template that extends it; text is escaped."""
    look: dict[str, Any] = {"font": Markup(FONT), "ink": INK, "faint": FAINT}
    files.write_text(path, render(template, title=title, caption=caption, **look, **values))
    return path


def drawing(drawn: PlotlyFigure, name: str, *, script: bool) -> Markup:
    """Return a figure as a piece of a page, which shows title and caption itself.

    Args:
        drawn: the figure.
        name: of the piece, unique on the page.
        script: put plotly itself before it, which a page needs once.
    """
    quiet = {"responsive": True, "displayModeBar": False}  # plotly's buttons cover a small drawing
    return Markup(without_title(drawn).to_html(full_html=False, include_plotlyjs=script, div_id=name, config=quiet))


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


def plotly_script() -> Markup:
    """Return plotly itself, which may stand in a script element."""
    from plotly.offline import get_plotlyjs

    script: str = get_plotlyjs()
    assert "</script" not in script
    return Markup(script)
