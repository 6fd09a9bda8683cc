"""The page of an explanation: maps over patches and slide, with captions and scales, and all patches as a picture."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont

from histotune.core import files
from histotune.core.format import counted
from histotune.data.splits import TEST
from histotune.explanation.images import EMPTY, SIDE, Explanation, Map, Patch
from histotune.explanation.slide_map import SlideMap
from histotune.reporting import charts as _style
from histotune.reporting.figure_page import drawing, write_text_page
from histotune.reporting.figures import _overlay

if TYPE_CHECKING:
    from plotly.graph_objects import Figure as PlotlyFigure


_TIMES, _GAP, _TEXT, _HEAD = 2, 12, 300, 116  # enlargement, and px: between pictures, of the words' width, of the head
_SIZE, _LINE = 15, 20
_PANEL, _TOP, _FRAME = 560, 66, 136  # px of a map of a slide: width, room above it, room above and below
PREDICTION, TRUTH, PICTURE = "prediction", "truth", "patches"
_APART = 0.2  # between two numbers on the scale
_WIDTH, _BELOW = 330, 60  # px of a map on a page, and of the scale under it
_LOW, _HIGH = (_style.SHARES[end][1] for end in (0, -1))
_CAM = (
    "Grad-CAM (Selvaraju et al., 2017): the evidence for the chosen class at each position of a branch, from 0 (grey) "
    "to 1, the strongest position of that patch. The colours do not show how strong the evidence is across patches. "
    "Of a transformer that reads its class token alone, the positions are those before its last attention."
)
_ATTENTION = (
    "Attention of one branch on the positions of another, the mean over layers, heads and tokens, in multiples of an "
    "equal share. Grey: 1x, an equal share; orange: more, up to {limit}x; blue: less, down to 1/{limit}x. The scale is "
    "the same for all patches."
)


def limit(explained: Explanation) -> int:
    """Return where the common scale of all attention maps ends."""
    return _overlay.attention_limit(max((m.values.max() for m in explained.maps if m.key.asking), default=1.0))


def strength(shown: Map, row: int, end: int) -> np.ndarray:
    """Return the tint of a map over one patch, [SIDE, SIDE] in [-1, 1]."""
    return _overlay.attention_strength(shown.values[row], end) if shown.key.asking else shown.values[row]


def title(shown: Map) -> str:
    """Return the title of a map."""
    return (
        f"Attention of {shown.key.asking} on {shown.key.branch}:"
        if shown.key.asking
        else f"Grad-CAM of {shown.key.branch}"
    )


def heading(shown: Map, members: int) -> str:
    """Return title, number of positions, and the number of members that the map is the mean of."""
    grids = ", ".join(f"{rows} x {columns}" for rows, columns in shown.grids)
    some = f", mean over {len(shown.members)} of {members} trials" if members > 1 else ""
    return f"{title(shown).rstrip(':')} ({grids} positions{some})"


def ends(shown: Map, end: int) -> tuple[str, ...]:
    """Return the numbers along a map's scale."""
    return (f"1/{end}x", "1x", f"{end}x") if shown.key.asking else ("0", "1")


def colors(shown: Map, steps: int) -> np.ndarray:
    """Return the colours of a map's scale, uint8 [steps, 3]."""
    return _overlay.scale(-1 if shown.key.asking else 0, steps)


def found(shown: Map, patch: Patch, row: int) -> str:
    """Return the range of one patch's map."""
    values = shown.values[row]
    if shown.key.asking:
        return f"{values.min():.2f}x to {values.max():.2f}x"
    return f"for {patch.asked}" + ("" if values.any() else ": 0 everywhere")


def words(patch: Patch, classes: tuple[str, ...]) -> tuple[str, str]:
    """Return the predicted class of a patch, and the true one."""
    probability = patch.probabilities[classes.index(patch.predicted)]
    truth = patch.truth or ("sealed" if patch.part == TEST else "not known")
    part = f"; {patch.part} part" if patch.part else ""
    return f"predicted {patch.predicted}, {probability:.2f}", f"true class {truth}{part}"


def patches_picture(explained: Explanation) -> np.ndarray:
    """Draw every patch beside its maps, a row each, uint8 [H, W, 3]."""
    cell, end = SIDE * _TIMES, limit(explained)
    width = _TEXT + (1 + len(explained.maps)) * (cell + _GAP) + _GAP
    sheet = Image.new("RGB", (width, _HEAD + len(explained.patches) * (cell + _GAP)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(_SIZE)
    pen.multiline_text((_GAP, _GAP), _wrapped(explained.export, _TEXT // 9), "black", font)
    for column, shown in enumerate(explained.maps, 1):
        left = _TEXT + column * (cell + _GAP)
        pen.multiline_text(
            (left, _GAP // 2), _wrapped(heading(shown, len(explained.members)), cell // 8), "black", font
        )
        bar = np.repeat(colors(shown, cell)[None], 8, axis=0)
        sheet.paste(Image.fromarray(bar), (left, _HEAD - _LINE - 14))
        sentence = ends(shown, end)
        for number, text in enumerate(sentence):
            place = left + number * cell // (len(sentence) - 1)
            anchor = "la" if number == 0 else "ra" if number == len(sentence) - 1 else "ma"
            pen.text((place, _HEAD - _LINE - 4), text, "black", font, anchor=anchor)
    for row, patch in enumerate(explained.patches):
        top = _HEAD + row * (cell + _GAP)
        lines = [_wrapped(patch.name, _TEXT // 9), *words(patch, explained.classes)]
        pen.multiline_text((_GAP, top), "\n".join(lines), "black", font)
        pictures = [patch.pixels, *(_overlay.tinted(patch.pixels, strength(m, row, end)) for m in explained.maps)]
        for column, pixels in enumerate(pictures):
            large = Image.fromarray(pixels).resize((cell, cell), Image.Resampling.BICUBIC)
            sheet.paste(large, (_TEXT + column * (cell + _GAP), top))
    return np.asarray(sheet)


def slide_picture(slide: SlideMap) -> np.ndarray:
    """Draw prediction, truth (where any is known) and patches of a slide side by side, uint8 [H, W, 3]."""
    rows, columns = slide.grid.shape
    wide = _PANEL, round(_PANEL * rows / columns)
    panels = {f"Predicted probability of {slide.asked}": _shades(slide.probability)}
    if slide.truth is not None:
        panels[f"True class: {slide.asked} (dark) or not"] = _shades(slide.truth)
    panels["The patches"] = slide.picture
    sheet = Image.new("RGB", (_GAP + len(panels) * (_PANEL + _GAP), wide[1] + _FRAME), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(_SIZE)
    pen.text((_GAP, _GAP), caption(slide), "black", font)
    for number, (title, pixels) in enumerate(panels.items()):
        left = _GAP + number * (_PANEL + _GAP)
        pen.text((left, _GAP + _LINE), title, "black", font)
        exact = number < len(panels) - 1
        way = Image.Resampling.NEAREST if exact else Image.Resampling.BICUBIC
        sheet.paste(Image.fromarray(pixels).resize(wide, way), (left, _TOP))
    low = _TOP + wide[1] + _GAP
    bar = np.repeat(_shades(np.linspace(0, 1, _PANEL)[None]), 10, axis=0)
    sheet.paste(Image.fromarray(bar), (_GAP, low))
    for at, text in ticks(slide).items():
        anchor = "la" if at < 0.1 else "ra" if at > 0.9 else "ma"
        pen.text((_GAP + round(at * _PANEL), low + 12), text, "black", font, anchor=anchor)
    return np.asarray(sheet)


def _shades(values: np.ndarray) -> np.ndarray:
    """Map [H, W] in [0, 1] to the colours of shares, and NaN to the grey of an empty place, uint8 [H, W, 3]."""
    low, high = (np.array(ImageColor.getrgb(str(color))) for _, color in _style.SHARES)
    mixed = low + np.nan_to_num(values)[:, :, None] * (high - low)
    return np.where(np.isnan(values)[:, :, None], EMPTY, np.rint(mixed)).astype(np.uint8)


def _wrapped(text: str, letters: int) -> str:
    return "\n".join(textwrap.wrap(text, letters))


def draw_slide(slide: SlideMap) -> dict[str, PlotlyFigure]:
    """Draw what is known of a slide: {prediction, truth (where any is known), patches: figure}.

    Truth has the two ends of the prediction's colours, so that a prediction that is right looks like it.
    """
    titles = {PREDICTION: f"Predicted probability of {slide.asked}"}
    titles |= {} if slide.truth is None else {TRUTH: f"True class: {slide.asked} or not"}
    traces = {PREDICTION: _prediction, TRUTH: _truth, PICTURE: _picture}
    titles[PICTURE] = "The patches"
    return {name: _figure(title, slide, traces[name](slide)) for name, title in titles.items()}


def caption(slide: SlideMap) -> str:
    """Return the caption of a slide: its patient, number of patches, and what is unknown."""
    count = int(np.isfinite(slide.probability).sum())
    whose, patches = f"Patient {slide.patient}" if slide.patient else "One slide", "patch" if count == 1 else "patches"
    text = f"{whose}, {count:,} {patches}; a cell is {slide.grid.step} px of the slide. Grey: no patch."
    unknown = count - (0 if slide.truth is None else int(np.isfinite(slide.truth).sum()))
    if slide.truth is None:
        return f"{text} No true class is shown: none is given, or all are sealed."
    return f"{text} The true class of {unknown:,} patches is unknown or sealed." if unknown else text


def _figure(title: str, slide: SlideMap, trace: Mapping[str, Any]) -> PlotlyFigure:
    rows, columns = slide.grid.shape
    plain = {"showgrid": False, "zeroline": False, "showticklabels": False, "ticks": ""}
    layout = {
        "xaxis": {**plain, "range": [-0.5, columns - 0.5], "constrain": "domain"},
        "yaxis": {
            **plain,
            "range": [rows - 0.5, -0.5],
            "scaleanchor": "x",
            "constrain": "domain",
            "constraintoward": "top",
        },
        "plot_bgcolor": f"rgb({EMPTY},{EMPTY},{EMPTY})",
    }
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
    bar = {
        "orientation": "h",
        "y": 0,
        "yanchor": "top",
        "ypad": 8,
        "thickness": 12,
        "len": 0.9,
        "outlinewidth": 0,
        "tickvals": list(named),
        "ticktext": list(named.values()),
    }
    return {
        "type": "heatmap",
        "z": values,
        "zmin": 0,
        "zmax": 1,
        "colorscale": _style.SHARES,
        "customdata": places,
        "hoverongaps": False,
        "colorbar": bar,
    }


def _picture(slide: SlideMap) -> dict[str, Any]:
    side = slide.picture.shape[0] // slide.grid.shape[0]
    start = -0.5 + 0.5 / side  # the middle of the first pixel
    return {
        "type": "image",
        "source": _overlay.address(slide.picture, colors=128),
        "x0": start,
        "y0": start,
        "dx": 1 / side,
        "dy": 1 / side,
        "hoverinfo": "skip",
    }


def write(explained: Explanation, folder: Path, *, images: bool = False) -> list[Path]:
    """Write an explanation into `folder` and return the files, the page first.

    Args:
        explained: what `explain` returned.
        folder: is made where there is none.
        images: also the patches and the slide as PNG.
    """
    stem = _stem(explained)
    page = folder / f"{stem}.html"
    drawn = draw_slide(explained.slide) if explained.slide else {}
    end = limit(explained)
    kinds = {bool(shown.key.asking) for shown in explained.maps}
    write_text_page(
        page,
        "explanation.html.j2",
        title=f"Explanation of {explained.export}",
        caption=_caption(explained),
        notes=explained.notes,
        slide=explained.slide and {"caption": caption(explained.slide), "maps": _slide_maps(drawn)},
        legends=[text for asking, text in {False: _CAM, True: _ATTENTION.format(limit=end)}.items() if asking in kinds],
        headings=[heading(shown, len(explained.members)) for shown in explained.maps],
        patches=[_patch(explained, row, patch, end) for row, patch in enumerate(explained.patches)],
        grid=_style.GRID,
        side=SIDE,
    )
    written = [page]
    if images and explained.patches:
        path = folder / (f"{stem}-patches.png" if explained.slide else f"{stem}.png")
        files.write_bytes(path, _overlay.png(patches_picture(explained)))
        written.append(path)
    if images and explained.slide:
        path = folder / f"{stem}.png"
        files.write_bytes(path, _overlay.png(slide_picture(explained.slide)))
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
    text = f"{explained.export}, {members} ({', '.join(map(str, explained.members))})."
    shown, available = len(explained.patches), explained.available
    if shown < available and shown:
        text += f" {shown} of {available:,} images, evenly sampled; {available - shown:,} are left out (--most)."
    return f"{text} Research software, not a medical device."


def _slide_maps(drawn: Mapping[str, PlotlyFigure]) -> list[tuple[str, str]]:
    """Return title and drawing of every map of the slide; the first drawing brings plotly along."""
    return [
        (figure.layout.meta["title"], drawing(figure, name, script=at == 0))
        for at, (name, figure) in enumerate(drawn.items())
    ]


def _patch(explained: Explanation, row: int, patch: Patch, end: int) -> dict[str, Any]:
    """Return what the page shows of a patch: its name, a sentence, its picture and its maps with their scales."""
    maps = []
    for shown in explained.maps:
        tinted = _overlay.tinted(patch.pixels, strength(shown, row, end))
        stops = ", ".join(f"rgb({r},{g},{b})" for r, g, b in colors(shown, 9).tolist())
        text = f"{title(shown)} {found(shown, patch, row)}"
        address = _overlay.address(tinted, colors=64)
        maps.append({"address": address, "text": text, "stops": stops, "ends": ends(shown, end)})
    sentence = "; ".join(words(patch, explained.classes))
    return {"name": patch.name, "sentence": sentence, "address": _overlay.address(patch.pixels), "maps": maps}
