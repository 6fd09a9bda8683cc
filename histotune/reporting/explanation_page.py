"""The words and scales of an explanation's maps, and all of its patches as one picture."""

from __future__ import annotations

import textwrap

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont

from histotune.data.splits import TEST
from histotune.explanation.images import EMPTY, SIDE, Explanation, Map, Patch
from histotune.explanation.slide_map import SlideMap
from histotune.reporting import charts as _style
from histotune.reporting._slide import caption, ticks
from histotune.reporting.figures import _overlay

_TIMES, _GAP, _TEXT, _HEAD = 2, 12, 300, 116  # enlargement, and px: between pictures, of the words' width, of the head
_SIZE, _LINE = 15, 20
_PANEL, _TOP, _FRAME = 560, 66, 136  # px of a map of a slide: width, room above it, room above and below


def limit(explained: Explanation) -> int:
    """Return where the common scale of all attention maps ends."""
    return _overlay.attention_limit(max((m.values.max() for m in explained.maps if m.key.asking), default=1.0))


def strength(shown: Map, row: int, end: int) -> np.ndarray:
    """Return the tint of a map over one patch, [SIDE, SIDE] in [-1, 1]."""
    return _overlay.attention_strength(shown.values[row], end) if shown.key.asking else shown.values[row]


def title(shown: Map) -> str:
    """Say in a few words what a map shows."""
    return f"{shown.key.asking} looks at {shown.key.branch}:" if shown.key.asking else f"Grad-CAM of {shown.key.branch}"


def heading(shown: Map, members: int) -> str:
    """Say what a map shows, of how many positions, and of how many of the members it is the mean."""
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
    """Say what one patch's map shows, in numbers."""
    values = shown.values[row]
    if shown.key.asking:
        return f"{values.min():.2f}x to {values.max():.2f}x"
    return f"for {patch.asked}" + ("" if values.any() else ": 0 everywhere")


def words(patch: Patch, classes: tuple[str, ...]) -> tuple[str, str]:
    """Say what is predicted of a patch, and what is true."""
    probability = patch.probabilities[classes.index(patch.predicted)]
    truth = patch.truth or ("sealed" if patch.part == TEST else "not known")
    part = f"; {patch.part} part" if patch.part else ""
    return f"predicted {patch.predicted}, {probability:.2f}", f"true class {truth}{part}"


def draw(explained: Explanation) -> np.ndarray:
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
        told = ends(shown, end)
        for number, text in enumerate(told):
            place = left + number * cell // (len(told) - 1)
            anchor = "la" if number == 0 else "ra" if number == len(told) - 1 else "ma"
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


def draw_slide(slide: SlideMap) -> np.ndarray:
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
