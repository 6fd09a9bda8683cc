"""Figures of a reproduction: confusions on the test part, the imbalance curve, and the study's own figures."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from histotune.core.runtime import Places
from histotune.data.cohort import Cohort
from histotune.metrics.scores import in_words
from histotune.reporting import figures
from histotune.reporting.figure_page import write_page
from histotune.reporting.figures.confusion_matrix import Confusion
from histotune.reporting.reproduction_charts import ImbalanceCurve
from histotune.reporting.reproduction_charts import draw as draw_curve
from histotune.reproductions.papers import Reproduction
from histotune.reproductions.report import Arm


def draw(
    reproduction: Reproduction,
    arm: Arm,
    folder: Path,
    *,
    places: Places,
    data: str | os.PathLike[str] | None = None,
) -> list[Path]:
    """Write the figures of one study and its test part as pages into `folder` and return them.

    Args:
        places, data: where the study's cohort and data are.
    """
    written: list[Path] = []
    for name in reproduction.figures:
        numbers = figures.compute(name, arm.store, places=places, data=data)
        written += figures.save(name, numbers, folder)
    rows = arm.measured.rows
    for row in (row for row in reproduction.confused if row in rows):
        seeds = rows[row].confusions
        numbers = Confusion(
            model=f"{row}, {len(seeds)} training seeds added up",
            part=f"test part of study {arm.store.folder.name}",
            classes=tuple(arm.measured.classes),
            counts=np.sum(seeds, axis=0),
            patients=arm.measured.patients["test"],
        )
        stem = f"confusion_matrix-{row.lower().replace(' ', '-')}"
        written += figures.save("confusion_matrix", numbers, folder, stem=stem)
    return written


def draw_imbalances(arms: Sequence[Arm], cohort: Cohort, folder: Path) -> list[Path]:
    """Write the curve over the make-ups of the training part as a page into `folder` and return it."""
    panels = {}
    for table, _ in arms[0].tables:
        how = "threshold of validation" if table.at_threshold else "at .5"
        for metric in dict.fromkeys(("sensitivity", table.tested)):
            if metric not in table.metrics:
                continue
            title = in_words(metric) if metric == "auroc" else f"{in_words(metric)},<br>{how}"
            rows = [arm.measured.of(table) for arm in arms]
            panels[title] = {row: [one[row].intervals[metric] for one in rows] for row in table.rows if row in rows[0]}
    counts = []
    for arm in arms:
        data = arm.store.training_data(cohort)
        result = np.bincount(data.labels[data.train], minlength=2)
        positive = arm.store.settings.positive
        counts.append((int(result[1 - positive]), int(result[positive])))
    measured = arms[0].measured
    first = next(iter(measured.rows.values()))
    settings = arms[0].store.settings
    curve = ImbalanceCurve(
        makeups=[arm.name for arm in arms],
        counts=counts,
        panels=panels,
        cases=measured.cases["test"],
        patients=measured.patients["test"],
        seeds=len(first.seeds),
        where=f"{settings.dataset}, split {settings.protocol}",
    )
    return [write_page(draw_curve(curve), folder / "imbalance_curve.html")]
