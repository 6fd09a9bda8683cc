"""Figures of a reproduction: confusions on the test part, and what the study's own figures show."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from histotune import figures
from histotune.figures.confusion_matrix import Confusion
from histotune.places import Places
from histotune.reproductions._measure import Measured
from histotune.store import StudyStore


def draw(
    names: Sequence[str],
    confused: Sequence[str],
    measured: Measured,
    store: StudyStore,
    folder: Path,
    *,
    places: Places,
    data: str | os.PathLike[str] | None = None,
) -> list[Path]:
    """Write figures as pages into `folder` and return them.

    Args:
        names: registered figures of the study.
        confused: rows whose confusions on the test part are drawn, summed over seeds.
        places, data: where the study's cohort and data are.
    """
    written: list[Path] = []
    for name in names:
        numbers = figures.compute(name, store, places=places, data=data)
        written += figures.save(name, numbers, folder)
    for row in (row for row in confused if row in measured.rows):
        seeds = measured.rows[row].confusions
        numbers = Confusion(
            model=f"{row}, {len(seeds)} training seeds added up",
            part=f"test part of study {store.folder.name}",
            classes=tuple(measured.classes),
            counts=np.sum(seeds, axis=0),
            patients=measured.patients["test"],
        )
        stem = f"confusion_matrix-{row.lower().replace(' ', '-')}"
        written += figures.save("confusion_matrix", numbers, folder, stem=stem)
    return written
