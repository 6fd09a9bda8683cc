"""A slide's patches laid out by their places: what the model says of each, what is true, and how they look."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from histotune.errors import DataError
from histotune.ingest.images import fit

_MOST_CELLS = 1_000_000
_MOSAIC, _SMALLEST, _LARGEST = 720, 3, 32  # px: longer side of the picture of the slide, and side of a patch in it
_WHERE = "File names like PATIENT_idx5_xX_yY_classC.png tell it, or a CSV with the columns path, x, y"


@dataclass(frozen=True)
class Grid:
    """Rows and columns in which patches lie.

    Attributes:
        rows, columns: int64 [n], of each patch.
        shape: how many there are.
        step: px of the slide from one to the next.
        left, top: px of the slide where the first begins.
    """

    rows: np.ndarray
    columns: np.ndarray
    shape: tuple[int, int]
    step: int
    left: int
    top: int


@dataclass(frozen=True)
class SlideMap:
    """One slide.

    Attributes:
        patient: "" where unknown.
        asked: the class whose probability is shown.
        grid: where the patches lie.
        probability: of `asked`, float64 [R, C]; NaN where there is no patch.
        truth: 1 where it is `asked`, 0 where it is another class, NaN where nobody knows, float64 [R, C]; None where
            nothing is known at all.
        picture: the patches, uint8 [R * t, C * t, 3]; grey where there is none.
        threshold: probability from which on `asked` is called; None where it is not the positive one of two classes.
    """

    patient: str
    asked: str
    grid: Grid
    probability: np.ndarray
    truth: np.ndarray | None
    picture: np.ndarray
    threshold: float | None


def grid_of(table: pd.DataFrame) -> Grid:
    """Find the grid on which patches lie, by the columns `name`, `patient`, `x` and `y`; one cell is one step.

    Raises:
        DataError: a place is not known; there are several patients; places share no step; two patches lie on one.
    """
    nowhere = table[table["x"].isna() | table["y"].isna()]
    if len(nowhere):
        raise DataError(
            f"{len(nowhere)} of {len(table)} images have no place in the slide, such as {nowhere['name'].iloc[0]}. "
            f"{_WHERE}. Without --slide, the patches themselves are explained"
        )
    patients = sorted({patient or "unknown" for patient in table["patient"]})
    if len(patients) > 1:
        few = ", ".join(patients[:3]) + (", ..." if len(patients) > 3 else "")
        raise DataError(
            f"the images are of {len(patients)} patients ({few}), and a slide is of one: name the folder of one "
            "patient, or a CSV with the lines of one"
        )
    x, y = (np.rint(table[axis].to_numpy()).astype(np.int64) for axis in "xy")
    step = int(np.gcd.reduce([*(x - x[0]), *(y - y[0])])) or 1
    columns, rows = (x - x.min()) // step, (y - y.min()) // step
    shape = (int(rows.max()) + 1, int(columns.max()) + 1)
    if shape[0] * shape[1] > _MOST_CELLS:
        raise DataError(
            f"the places lie on no grid: the only step that they share is {step} px, which makes {shape[0]} x "
            f"{shape[1]} cells of {len(table)} images. Round x and y to the distance between patches"
        )
    _refuse_same_places(table, rows * shape[1] + columns)
    return Grid(rows, columns, shape, step, int(x.min()), int(y.min()))


def _refuse_same_places(table: pd.DataFrame, cells: np.ndarray) -> None:
    again = pd.Series(cells).duplicated().to_numpy()
    if again.any():
        second = int(np.flatnonzero(again)[0])
        first = int(np.flatnonzero(cells == cells[second])[0])
        raise DataError(
            f"{table['name'].iloc[first]} and {table['name'].iloc[second]} lie on the same place: leave one out, or "
            "name the images of one slide"
        )


def spread_out(grid: Grid, values: np.ndarray) -> np.ndarray:
    """Put values [n] on their places, float64 [R, C]; NaN where there is none."""
    cells = np.full(grid.shape, np.nan)
    cells[grid.rows, grid.columns] = values
    return cells


def picture(grid: Grid, pixels: Callable[[int], np.ndarray], empty: int) -> np.ndarray:
    """Put small copies of patches on their places, uint8 [R * t, C * t, 3].

    Args:
        grid: the places.
        pixels: gives uint8 [H, W, 3] of a patch by its number.
        empty: grey of the places without a patch.
    """
    side = int(np.clip(_MOSAIC // max(grid.shape), _SMALLEST, _LARGEST))
    whole = np.full((grid.shape[0] * side, grid.shape[1] * side, 3), empty, np.uint8)
    for number, (row, column) in enumerate(zip(grid.rows * side, grid.columns * side, strict=True)):
        whole[row : row + side, column : column + side] = fit(pixels(number), side)
    return whole
