"""Figures (a study's files -> numbers -> a drawing): one file each; a new file is a new figure.

from histotune.reporting import figures

numbers = figures.compute("confusion_matrix", store, of=7)
figures.save("confusion_matrix", numbers, "reports/idc", png=True)
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from histotune.core.runtime import Places
from histotune.reporting.figure_page import write_image, write_page
from histotune.reporting.figures._base import FIGURES, Figure, FigureSource
from histotune.storage import layout
from histotune.storage.study_folder import StudyFolder

if TYPE_CHECKING:
    from plotly.graph_objects import Figure as PlotlyFigure

__all__ = ["FIGURES", "Figure", "FigureSource", "compute", "draw", "save"]


def compute(
    name: str,
    study: StudyFolder,
    *,
    places: Places | None = None,
    data: str | os.PathLike[str] | None = None,
    **options: Any,
) -> Any:
    """Compute the numbers of the figure `name` for a study, without plotly.

    Args:
        places: where prepared cohorts are kept; None takes the usual places.
        data: where the study's data are now; None looks where they were when it began.
        options: parameters of the figure; see `histotune list figures -v`.

    Returns:
        The figure's numbers, a frozen dataclass of plain values and arrays.

    Raises:
        ConfigError: no such figure or option.
        StudyError: the study does not hold what the figure shows.
    """
    return FIGURES.build(name, **options).compute(FigureSource(study, places or Places.of(), data))


def draw(name: str, numbers: Any) -> PlotlyFigure:
    """Draw numbers, from `compute` or of another origin, as the figure `name`."""
    return FIGURES.build(name).draw(numbers)


def save(
    name: str, numbers: Any, folder: str | os.PathLike[str], *, png: bool = False, stem: str | None = None
) -> list[Path]:
    """Draw numbers as the figure `name` and write `folder/<name>.html`, and if asked `.png`; returns the files.

    Args:
        stem: file name without its ending, where a folder gets several figures of one kind.

    Raises:
        ConfigError: `stem` is no file name.
        HistotuneError: a PNG is asked for and cannot be drawn here; the page stands then.
    """
    drawn = draw(name, numbers)
    path = Path(folder) / layout.checked_name(name if stem is None else stem, "a figure")
    written = [write_page(drawn, path.with_name(f"{path.name}.html"))]
    return [*written, write_image(drawn, path.with_name(f"{path.name}.png"))] if png else written
