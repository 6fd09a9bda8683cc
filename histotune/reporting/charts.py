"""One look for all figures: colours that the colour-blind tell apart, and the title and caption around a drawing."""

from __future__ import annotations

import html
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from plotly.graph_objects import Figure as PlotlyFigure

# Paul Tol's "muted" scheme (2021) in an order in which the first ones differ most, with its grey at the end.
PALETTE = (
    "#332288",
    "#cc6677",
    "#117733",
    "#88ccee",
    "#882255",
    "#44aa99",
    "#999933",
    "#aa4499",
    "#ddcc77",
    "#8c8c8c",
)
# Okabe and Ito's scheme (2008) without its yellow: each stands out from white and from a dark page.
VIVID = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#888888")
MUTED = VIVID[-1]
SYMBOLS = ("circle", "triangle-up", "square", "diamond", "x", "cross", "star", "hexagon", "pentagon", "bowtie")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
LIGHT, DARK = (158, 202, 225), (8, 48, 107)  # ends of the ramp for ordered values
SHARES = [[0.0, "#f3f6fa"], [1.0, "#08519c"]]
INK, FAINT, GRID = "#222222", "#5a5a5a", "#e4e4e4"
FONT = "Helvetica, Arial, 'Liberation Sans', sans-serif"
WIDTH = 640  # pixels of an image; a page takes the width of its screen
_TITLE, _CAPTION = 17, 12.5  # pixels
_LINE = 1.3 * _CAPTION  # plotly sets all lines of a title apart by its own size, that of the caption here
_WIDE, _LETTER = 0.62, 0.54  # mean width of a letter in its size, bold and plain


def figure(
    title: str,
    caption: str,
    traces: Sequence[Mapping[str, Any]],
    layout: Mapping[str, Any],
    *,
    height: int,
    above: int = 0,
    below: int = 12,
) -> PlotlyFigure:
    """Build a plotly figure in the common look.

    Args:
        title: what is shown, with units.
        caption: of how many cases and patients, and what else a reader must know.
        traces: plotly traces as plain mappings.
        layout: plotly layout, over the common one.
        height: of the drawing without title and caption, pixels.
        above, below: of it, room over and under the axes that plotly does not find itself, pixels.
    """
    from plotly.graph_objects import Figure  # here: numbers are computed without plotly

    head, top = heading(title, caption)
    common = {
        "template": "none",
        "font": {"family": FONT, "size": 13, "color": INK},
        "title": {
            "text": head,
            "x": 0,
            "xref": "container",
            "xanchor": "left",
            "pad": {"l": 12, "t": 20},
            "y": 1,
            "yref": "container",
            "yanchor": "top",
            "font": {"size": _CAPTION},
        },
        "margin": {"l": 12, "r": 36, "t": top + above, "b": below},
        "paper_bgcolor": "#ffffff",
        "plot_bgcolor": "#ffffff",
        "height": height + top,
        "dragmode": False,  # a finger scrolls the page
        "hoverlabel": {"font": {"family": FONT}},
        "legend": {"orientation": "h", "x": 0, "xref": "container", "y": 0, "yref": "container", "yanchor": "bottom"},
        "meta": {"title": title, "caption": caption, "top": top},
    }
    return Figure({"data": list(traces), "layout": {**common, **layout}})


def heading(title: str, caption: str) -> tuple[str, int]:
    """Set title and caption in lines that fit an image's width; returns the text and its height, pixels."""
    room = WIDTH - 24
    first = [*map(text, textwrap.wrap(title, int(room / (_TITLE * _WIDE))))]
    second = [*map(text, textwrap.wrap(caption, int(room / (_CAPTION * _LETTER))))]
    large = f"<span style='font-size:{_TITLE}px'><b>{'<br>'.join(first)}</b></span>"
    small = f"<span style='color:{FAINT}'>{'<br>'.join(second)}</span>"
    return f"{large}<br>{small}", round(_LINE * (len(first) + len(second)) + 28)


def axis(title: str, **further: Any) -> dict[str, Any]:
    """Describe an axis with a title, a faint grid and room for its labels."""
    common = {
        "gridcolor": GRID,
        "linecolor": INK,
        "showline": True,
        "zeroline": False,
        "automargin": True,
        "ticks": "outside",
    }
    return {**common, "title": {"text": title, "standoff": 8}, **further}


def ramp(count: int) -> list[str]:
    """Return `count` colours from light to dark, for values in ascending order.

    >>> ramp(2)
    ['#9ecae1', '#08306b']
    """
    shares = [1.0] if count == 1 else [k / (count - 1) for k in range(count)]
    mixed = ([round(a + share * (b - a)) for a, b in zip(LIGHT, DARK, strict=True)] for share in shares)
    return ["#" + "".join(f"{part:02x}" for part in color) for color in mixed]


def place(index: int) -> dict[str, str]:
    """Give the class or group of that number a colour and a symbol, so that colour does not stand alone."""
    return {"color": PALETTE[index % len(PALETTE)], "symbol": SYMBOLS[index % len(SYMBOLS)]}


def vivid(index: int) -> dict[str, str]:
    """As `place`, in colours for light and for dark pages."""
    return {"color": VIVID[index % len(VIVID)], "symbol": SYMBOLS[index % len(SYMBOLS)]}


def text(name: object) -> str:
    """Write a name from outside so that plotly, which reads some HTML, shows it as it is.

    >>> text("<b>grade</b> 2")
    '&lt;b&gt;grade&lt;/b&gt; 2'
    """
    return html.escape(str(name), quote=False)


def small(values: Sequence[float] | np.ndarray, digits: int = 5) -> np.ndarray:
    """Round numbers to what a drawing shows, in the few bytes that plotly then writes; float32."""
    return np.round(np.asarray(values, dtype=np.float64), digits).astype(np.float32)
