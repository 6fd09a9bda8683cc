"""Draw a slide: prediction, truth and patches, each a figure of its own, so that a phone shows them one by one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from histotune.explanation.images import EMPTY
from histotune.explanation.slide_map import SlideMap
from histotune.reporting import charts as _style
from histotune.reporting.figures import _overlay

if TYPE_CHECKING:
    from plotly.graph_objects import Figure as PlotlyFigure

PREDICTION, TRUTH, PICTURE = "prediction", "truth", "patches"
_APART = 0.2  # between two numbers on the scale
_WIDTH, _BELOW = 330, 60  # px of a map on a page, and of the scale under it
_LOW, _HIGH = (_style.SHARES[end][1] for end in (0, -1))


def draw(slide: SlideMap) -> dict[str, PlotlyFigure]:
    """Draw what is known of a slide: {prediction, truth (where any is known), patches: figure}.

    Truth has the two ends of the prediction's colours, so that a prediction that is right looks like it.
    """
    titles = {PREDICTION: f"Predicted probability of {slide.asked}"}
    titles |= {} if slide.truth is None else {TRUTH: f"True class: {slide.asked} or not"}
    traces = {PREDICTION: _prediction, TRUTH: _truth, PICTURE: _picture}
    titles[PICTURE] = "The patches"
    return {name: _figure(title, slide, traces[name](slide)) for name, title in titles.items()}


def caption(slide: SlideMap) -> str:
    """Say whose slide it is, of how many patches, and what is not known."""
    count = int(np.isfinite(slide.probability).sum())
    whose, patches = f"Patient {slide.patient}" if slide.patient else "One slide", "patch" if count == 1 else "patches"
    told = f"{whose}, {count:,} {patches}; a cell is {slide.grid.step} px of the slide. Grey: no patch."
    unknown = count - (0 if slide.truth is None else int(np.isfinite(slide.truth).sum()))
    if slide.truth is None:
        return f"{told} No true class is shown, for none is given or all are sealed."
    return f"{told} Of {unknown:,} patches the true class is not known, or sealed." if unknown else told


def _figure(title: str, slide: SlideMap, trace: Mapping[str, Any]) -> PlotlyFigure:
    rows, columns = slide.grid.shape
    plain = {"showgrid": False, "zeroline": False, "showticklabels": False, "ticks": ""}
    layout = {
        "xaxis": {**plain, "range": [-0.5, columns - 0.5], "constrain": "domain"},
        "yaxis": {**plain, "range": [rows - 0.5, -0.5], "scaleanchor": "x", "constrain": "domain",
                  "constraintoward": "top"},
        "plot_bgcolor": f"rgb({EMPTY},{EMPTY},{EMPTY})",
    }  # fmt: skip
    height = int(np.clip(_WIDTH * rows / columns, 120, 600))
    return _style.figure(title, caption(slide), [trace], layout, height=height + _BELOW, below=_BELOW)


def ticks(slide: SlideMap) -> dict[float, str]:
    """Return the numbers along the scale of the probability, the threshold among them."""
    plain = {0.0: "0", 0.5: ".5", 1.0: "1"}
    if slide.threshold is None:
        return plain
    apart = {at: text for at, text in plain.items() if abs(at - slide.threshold) > _APART}
    return {**apart, slide.threshold: f"{slide.threshold:.2f} threshold".removeprefix("0")}


def _prediction(slide: SlideMap) -> dict[str, Any]:
    hover = "x %{customdata[0]}, y %{customdata[1]} px<br>probability %{z:.2f}<extra></extra>"
    return {**_heat(slide, slide.probability, ticks(slide)), "hovertemplate": hover}


def _truth(slide: SlideMap) -> dict[str, Any]:
    assert slide.truth is not None
    two = [[0, _LOW], [0.5, _LOW], [0.5, _HIGH], [1, _HIGH]]
    names = np.where(slide.truth == 1, slide.asked, f"not {slide.asked}")
    hover = "x %{customdata[0]}, y %{customdata[1]} px<br>%{text}<extra></extra>"
    heat = _heat(slide, slide.truth, {0.25: f"not {slide.asked}", 0.75: slide.asked})
    return {**heat, "colorscale": two, "text": names, "hovertemplate": hover}


def _heat(slide: SlideMap, values: np.ndarray, named: Mapping[float, str]) -> dict[str, Any]:
    rows, columns = np.indices(slide.grid.shape)
    places = np.stack([slide.grid.left + columns * slide.grid.step, slide.grid.top + rows * slide.grid.step], axis=-1)
    bar = {"orientation": "h", "y": 0, "yanchor": "top", "ypad": 8, "thickness": 12, "len": 0.9, "outlinewidth": 0,
           "tickvals": list(named), "ticktext": list(named.values())}  # fmt: skip
    return {"type": "heatmap", "z": values, "zmin": 0, "zmax": 1, "colorscale": _style.SHARES, "customdata": places,
            "hoverongaps": False, "colorbar": bar}  # fmt: skip


def _picture(slide: SlideMap) -> dict[str, Any]:
    side = slide.picture.shape[0] // slide.grid.shape[0]
    start = -0.5 + 0.5 / side  # the middle of the first pixel
    return {"type": "image", "source": _overlay.address(slide.picture, colors=128), "x0": start, "y0": start,
            "dx": 1 / side, "dy": 1 / side, "hoverinfo": "skip"}  # fmt: skip
