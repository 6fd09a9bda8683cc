"""Write an explanation as a page that needs nothing else, and as images."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from histotune.core import files
from histotune.explanation.images import SIDE, Explanation, Map, Patch
from histotune.reporting import _slide
from histotune.reporting import explanation_page as _sheet
from histotune.reporting.charts import FAINT, GRID, counted
from histotune.reporting.figure_page import drawing, write_text_page
from histotune.reporting.figures import _overlay

if TYPE_CHECKING:
    from plotly.graph_objects import Figure as PlotlyFigure

_STYLE = f"""
h2 {{ font-size: 1rem; margin: 1.2rem 0 .3rem; }}
h3 {{ font-size: .85rem; margin: 0; overflow-wrap: anywhere; }}
ul {{ font-size: .82rem; line-height: 1.35; margin: 0 0 .6rem; padding-left: 1.1rem; }}
.slide {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 330px), 1fr)); gap: 8px; }}
.slide > div {{ min-width: 0; }}
.patch {{ border-top: 1px solid {GRID}; padding: .5rem 0; }}
.patch p {{ margin: .1rem 0 .4rem; }}
.maps {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(140px, 1fr)); gap: 8px; }}
figure {{ margin: 0; max-width: 180px; }}
figure img {{ width: 100%; height: auto; display: block; }}
figcaption {{ font-size: .72rem; line-height: 1.3; color: {FAINT}; }}
.bar {{ height: 6px; margin-top: 3px; }}
.ends {{ display: flex; justify-content: space-between; }}
"""
_CAM = (
    "Grad-CAM (Selvaraju et al., 2017): the positions of a branch that speak for the class asked for, from 0 (grey) to "
    "1, the strongest position of that patch. Strong and weak evidence get the same colours."
)
_ATTENTION = (
    "Attention: where on one branch's positions another branch looks, the mean over its layers, heads and tokens, in "
    "multiples of an equal share. Grey is 1x: a grey patch is attention that makes no difference. Orange is more, up "
    "to {limit}x, blue is less, down to 1/{limit}x; the same scale for all patches."
)


def write(explained: Explanation, folder: Path, *, images: bool = False) -> list[Path]:
    """Write an explanation into `folder` and return the files, the page first.

    Args:
        explained: what `explain` returned.
        folder: is made where there is none.
        images: also the patches and the slide as PNG.
    """
    stem = _stem(explained)
    page = folder / f"{stem}.html"
    drawn = _slide.draw(explained.slide) if explained.slide else {}
    parts = []
    if explained.notes:
        parts.append(_items(explained.notes))
    if explained.slide:
        pieces = (_drawn(figure, name, script=number == 0) for number, (name, figure) in enumerate(drawn.items()))
        told = html.escape(_slide.caption(explained.slide))
        parts.append(f'<h2>The slide</h2><p>{told}</p><div class="slide">{"".join(pieces)}</div>')
    if explained.patches:
        parts += _patches(explained)
    write_text_page(page, f"Explanation of {explained.export}", _caption(explained), "\n".join(parts), _STYLE)
    written = [page]
    if images and explained.patches:
        path = folder / (f"{stem}-patches.png" if explained.slide else f"{stem}.png")
        files.write_bytes(path, _overlay.png(_sheet.draw(explained)))
        written.append(path)
    if images and explained.slide:
        path = folder / f"{stem}.png"
        files.write_bytes(path, _overlay.png(_sheet.draw_slide(explained.slide)))
        written.append(path)
    return written


def _stem(explained: Explanation) -> str:
    """Name the files, so that several slides find room in a folder."""
    if explained.slide is None:
        return "patches"
    patient = re.sub(r"[^\w.-]+", "_", explained.slide.patient)
    return f"slide-{patient}" if patient else "slide"


def _caption(explained: Explanation) -> str:
    members = counted(len(explained.members), "trial")
    told = f"{explained.export}, {members} ({', '.join(map(str, explained.members))})."
    shown, available = len(explained.patches), explained.available
    if shown < available and shown:
        told += f" {shown} of {available:,} images, evenly spread; {available - shown:,} are left out (--most)."
    return f"{told} Research software: not for diagnosis."


def _drawn(figure: PlotlyFigure, name: str, *, script: bool) -> str:
    title = html.escape(figure.layout.meta["title"])
    return f"<div><h3>{title}</h3>{drawing(figure, name, script=script)}</div>"


def _patches(explained: Explanation) -> list[str]:
    end = _sheet.limit(explained)
    texts = [_CAM] if any(not shown.key.asking for shown in explained.maps) else []
    texts += [_ATTENTION.format(limit=end)] if any(shown.key.asking for shown in explained.maps) else []
    parts = ["<h2>Patch by patch</h2>", *(f"<p>{text}</p>" for text in texts)]
    parts.append(_items([_sheet.heading(shown, len(explained.members)) for shown in explained.maps]))
    return parts + [_patch(explained, row, patch, end) for row, patch in enumerate(explained.patches)]


def _items(texts: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{html.escape(text)}</li>' for text in texts)}</ul>"


def _patch(explained: Explanation, row: int, patch: Patch, end: int) -> str:
    pictures = [_picture(_overlay.address(patch.pixels), "the patch", "")]
    for shown in explained.maps:
        tinted = _overlay.tinted(patch.pixels, _sheet.strength(shown, row, end))
        told = f"{_sheet.title(shown)} {_sheet.found(shown, patch, row)}"
        pictures.append(_picture(_overlay.address(tinted, colors=64), told, _bar(shown, end)))
    head = f"<h3>{html.escape(patch.name)}</h3><p>{html.escape('; '.join(_sheet.words(patch, explained.classes)))}</p>"
    return f'<section class="patch">{head}<div class="maps">{"".join(pictures)}</div></section>'


def _picture(address: str, told: str, below: str) -> str:
    text = html.escape(told)
    image = f'<img src="{address}" width="{SIDE}" height="{SIDE}" alt="{text}">'
    return f"<figure>{image}{below}<figcaption>{text}</figcaption></figure>"


def _bar(shown: Map, end: int) -> str:
    """Draw a map's scale with its numbers."""
    stops = ", ".join(f"rgb({r},{g},{b})" for r, g, b in _sheet.colors(shown, 9).tolist())
    numbers = "".join(f"<span>{text}</span>" for text in _sheet.ends(shown, end))
    return (
        f'<div class="bar" style="background: linear-gradient(to right, {stops})"></div>'
        f'<figcaption class="ends">{numbers}</figcaption>'
    )
