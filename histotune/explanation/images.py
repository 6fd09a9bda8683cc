"""What an export rests its predictions on: maps over patches, and a slide's predictions beside the truth; numbers only.

Drawing them is `figures._explanation`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch.nn import functional

from histotune.errors import ConfigError, suggest
from histotune.explanation import patches, saliency
from histotune.explanation.saliency import Key
from histotune.explanation.slide_map import Grid, SlideMap, grid_of, picture, spread_out
from histotune.exports.model import Export
from histotune.ingest.decode import content_digest
from histotune.ingest.images import fit, read_image
from histotune.ingest.new_cases import ImageFiles
from histotune.metrics.scores import decide

SIDE = 96  # px of a patch and its maps as they are shown
EMPTY = 200  # grey where a slide has no patch
Pixels = Callable[[int], np.ndarray]


@dataclass(frozen=True)
class Patch:
    """One image that is explained.

    Attributes:
        name: what it is called; silent about the class where that is possible.
        pixels: uint8 [SIDE, SIDE, 3].
        probabilities: float64 [C], in the order of the classes.
        predicted, asked: the class of highest probability, and the one that Grad-CAM asks for.
        truth: the class that its file name or CSV gives; "" where unknown or left out.
        part: of the export's study, "" where it stands in none or nobody knows.
    """

    name: str
    pixels: np.ndarray
    probabilities: np.ndarray
    predicted: str
    asked: str
    truth: str
    part: str


@dataclass(frozen=True)
class Map:
    """One kind of map over all patches that are explained.

    Attributes:
        key: what it shows.
        values: float32 [n, SIDE, SIDE], brought up from the grids bilinearly: a Grad-CAM in [0, 1], or attention in
            multiples of an equal share.
        grids: rows and columns of the positions, of every member that has this map.
        members: trials that have it; `values` are the mean over them.
    """

    key: Key
    values: np.ndarray
    grids: tuple[tuple[int, int], ...]
    members: tuple[int, ...]


@dataclass(frozen=True)
class Explanation:
    """All that an explanation shows.

    Attributes:
        export: name of the model.
        classes: class names.
        members: its trials, best first.
        patches: the images that are explained.
        maps: over these patches.
        available: images that could be read; more than the patches where `most` left some out.
        slide: the heat map, where one was asked for.
        notes: what a reader must know.
    """

    export: str
    classes: tuple[str, ...]
    members: tuple[int, ...]
    patches: tuple[Patch, ...]
    maps: tuple[Map, ...]
    available: int
    slide: SlideMap | None
    notes: tuple[str, ...]


def explain(
    model: Export,
    images: ImageFiles,
    *,
    slide: bool = False,
    most: int = 24,
    asked: str | None = None,
    branches: Sequence[str] = (),
    strict: bool = False,
    seal: str | None = None,
) -> Explanation:
    """Explain an export's predictions of some images.

    The true classes of images that stand in the sealed test set of the export's study are left out, whatever gives
    them, unless `seal` has it written down that they were looked at.

    Args:
        model: the export.
        images: as `Export.predict` takes them.
        slide: lay all of them out as one slide, too; they need places, from their names or a CSV.
        most: how many are explained one by one, evenly spread over all; with `slide` it may be 0.
        asked: the class that Grad-CAM and heat map ask for; None takes each patch's predicted class, and for the slide
            the positive one.
        branches: which get a Grad-CAM; the convolutional ones if empty.
        strict: whether an image that cannot be read is an error.
        seal: what the record shall say was called, if the seal may be opened; None leaves it closed.

    Raises:
        ConfigError: no such class or branch; a model without a map of positions; nothing to draw.
        DataError: no images, none that can be read, no places, several patients in a slide.
    """
    _check(model, slide, most, asked, branches)
    table = patches.listed(images, model.classes)
    passed_over = table.attrs.get(patches.PASSED_OVER, "")
    if slide:
        grid_of(table)  # refuse before anything is computed
    rows = np.arange(len(table)) if slide else _spread(len(table), most)
    probabilities, kept = _predict(model, images, table, rows, strict)
    total = len(table) - (len(rows) - len(kept))
    table, pixels = table.iloc[kept].reset_index(drop=True), _reader(images, table, kept)
    chosen = _spread(len(table), most)
    classes = np.array(model.classes, dtype=object)
    asks = np.full(len(table), model.classes.index(asked)) if asked else decide(probabilities)
    result = _maps(model, [pixels(row) for row in chosen], asks[chosen], branches) if len(chosen) else ()
    stands = patches.standing(model, [content_digest(pixels(row)) for row in range(len(table))], list(table["patient"]))
    table, notes = patches.with_truth(model, table, stands, seal)  # last: nothing can fail once the seal is open
    explained = tuple(
        Patch(
            str(table["name"][row]),
            fit(pixels(row), SIDE, model.info["resize"]),
            probabilities[row],
            str(classes[decide(probabilities[row : row + 1])[0]]),
            str(classes[asks[row]]),
            str(table["truth"][row]),
            stands.parts[row],
        )
        for row in chosen
    )
    heat = _slide(model, table, probabilities, pixels, asked) if slide else None
    trials = tuple(member.trial for member in model.members)
    notes += _missing(model, result) if explained else []
    notes += [f"Beside the images: {passed_over}."] if passed_over else []
    return Explanation(model.name, model.classes, trials, explained, result, total, heat, tuple(notes))


def _check(model: Export, slide: bool, most: int, asked: str | None, branches: Sequence[str]) -> None:
    if not model.only_images:
        raise ConfigError(
            f"{model.name} reads {', '.join(model.reads)}, and maps are drawn of models that read images only: "
            "`histotune figure attention_over_features STUDY` and feature_importance show what others rest on"
        )
    if most < (0 if slide else 1):
        raise ConfigError(f"{most=}: at least one patch must be explained, unless a slide is drawn")
    if asked is not None and asked not in model.classes:
        raise ConfigError(f"{model.name} has no class {asked!r}. {suggest(asked, model.classes)}")
    known = {name for member in model.members for name in member.predictor.model.branches}
    for name in branches:
        if name not in known:
            raise ConfigError(f"{model.name} has no branch {name!r}. {suggest(name, known)}")


def _spread(count: int, most: int) -> np.ndarray:
    """Choose at most `most` of `count` rows, evenly spread, int64.

    >>> _spread(10, 4).tolist(), _spread(2, 4).tolist(), _spread(5, 0).tolist()
    ([0, 3, 6, 9], [0, 1], [])
    """
    return np.linspace(0, count - 1, min(count, most)).round().astype(np.int64)


def _predict(
    model: Export, images: ImageFiles, table: pd.DataFrame, rows: np.ndarray, strict: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return the probabilities [k, C] of the rows that can be read, and these rows."""
    if isinstance(images, np.ndarray):
        predicted, kept = model.predict(images[rows] if images.ndim == 4 else images), rows
    else:
        predicted = model.predict(list(table["path"][rows]), strict=strict)
        bad = {problem["path"] for problem in predicted.attrs["problems"]}
        kept = np.array([row for row in rows if table["path"][row] not in bad])
    return predicted[[f"p_{name}" for name in model.classes]].to_numpy(), kept


def _reader(images: ImageFiles, table: pd.DataFrame, kept: np.ndarray) -> Pixels:
    """Return what reads the pixels uint8 [H, W, 3] of a kept row; a slide's patches need not be in memory at once."""
    if isinstance(images, np.ndarray):
        return lambda row: np.asarray(images[kept[row]])
    return lambda row: read_image(table["path"][kept[row]]).pixels


def _maps(model: Export, pixels: Sequence[np.ndarray], asked: np.ndarray, branches: Sequence[str]) -> tuple[Map, ...]:
    """Return the mean of every kind of map over the members that have it, Grad-CAM first."""
    result: dict[Key, list[np.ndarray]] = {}
    trials: dict[Key, dict[int, None]] = {}  # in their order
    for member in model.members:
        sized = np.stack([fit(image, member.image_size, model.info["resize"]) for image in pixels])
        shown = saliency.mapped_branches(member.predictor.model, branches)
        for part in member.predictor.parts:
            for key, values in saliency.maps(part, sized, asked, shown).items():
                result.setdefault(key, []).append(values)
                trials.setdefault(key, {})[member.trial] = None
    if not result:
        raise ConfigError(
            f"no map can be drawn of {model.name}: {'; '.join(_without_positions(model))}. `--slide --most 0` draws a "
            "slide without maps"
        )
    return tuple(
        Map(
            key,
            np.mean([_enlarged(values) for values in result[key]], axis=0),
            tuple(dict.fromkeys(values.shape[1:] for values in result[key])),
            tuple(trials[key]),
        )
        for key in sorted(result, key=lambda key: (key.asking != "", key))
    )


def _without_positions(model: Export) -> Iterable[str]:
    networks = [member.predictor.model for member in model.members]
    return dict.fromkeys(saliency.without_positions(network, name) for network in networks for name in network.branches)


def _enlarged(values: np.ndarray) -> np.ndarray:
    """Bring maps [n, h, w] to [n, SIDE, SIDE]."""
    maps = torch.from_numpy(values)[:, None].float()
    return functional.interpolate(maps, size=(SIDE, SIDE), mode="bilinear")[:, 0].numpy()


def _missing(model: Export, result: Sequence[Map]) -> list[str]:
    """Say which maps there are not, and which are empty."""
    notes = []
    if not any(shown.key.asking for shown in result):
        fusions = sorted({member.predictor.config.model.fusion.name for member in model.members} - {"none"})
        why = f"the fusion {', '.join(fusions)} has none" if fusions else "a single branch has no other to look at"
        notes.append(f"There is no map of attention: {why}.")
    empty = [shown.key.branch for shown in result if not shown.key.asking and not shown.values.any()]
    networks = [member.predictor.model for member in model.members]
    for name in empty:
        why = next(saliency.why_empty(network, name) for network in networks if name in network.branches)
        notes.append(f"The Grad-CAM of branch {name} is 0 everywhere: {why}.")
    return notes


def _slide(
    model: Export, table: pd.DataFrame, probabilities: np.ndarray, pixels: Pixels, asked: str | None
) -> SlideMap:
    grid: Grid = grid_of(table)
    shown = asked or model.classes[model.positive]
    index = model.classes.index(shown)
    known = (table["truth"] != "").to_numpy()
    truth = np.where(known, table["truth"] == shown, np.nan)
    return SlideMap(
        patient=table["patient"][0],
        asked=shown,
        grid=grid,
        probability=spread_out(grid, probabilities[:, index]),
        truth=spread_out(grid, truth) if known.any() else None,
        picture=picture(grid, pixels, EMPTY),
        threshold=model.threshold if index == model.positive else None,
    )
