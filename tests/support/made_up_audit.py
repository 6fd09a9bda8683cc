"""A clean cohort for the audit, divided by patient, and what can be planted in it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.ndimage import gaussian_filter

from histotune.data.audits import Subject
from histotune.data.cohort import PROPERTIES, Cohort
from histotune.data.splits import split

PATIENTS, EACH, SITES, SIDE = 90, 6, 5, 32


def clean_cohort(folder: Path, seed: int = 0) -> tuple[Cohort, np.ndarray]:
    """90 patients of 5 sites with 6 textured images each, on a grid of 50 px, from PNG files; labels say nothing."""
    rng, n = np.random.default_rng(seed), PATIENTS * EACH
    owner = np.repeat(np.arange(PATIENTS), EACH)
    pixels = (
        170 + 90 * gaussian_filter(rng.normal(size=(n, SIDE, SIDE, 3)), (0, 1, 1, 0)) + rng.normal(0, 8, (n, 1, 1, 3))
    )
    table = pd.DataFrame(
        {
            "id": [f"i{row:04d}" for row in range(n)],
            "patient": [f"p{number:02d}" for number in owner],
            "site": [f"s{number % SITES}" for number in owner],
            "content": [f"{row:016x}" for row in range(n)],
            "x": 50 * (np.arange(n) % EACH % 3),
            "y": 50 * (np.arange(n) % EACH // 3),
            "part": "",
        }
    )
    labels = (rng.random(n) < rng.beta(4, 4, PATIENTS)[owner]).astype(np.int64)
    saved = {"bytes": rng.integers(5000, 6000, n), "width": 50, "height": 50, "format": "PNG", "quantisation": np.nan}
    folder.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(saved).to_csv(folder / PROPERTIES, index=False)
    images = {"image": pixels.clip(0, 255).astype(np.uint8)}
    present = {"image": np.ones(n, bool)}
    return Cohort("made-up", table, ("benign", "malignant"), images, present, "d", folder), labels


def by_patient(cohort: Cohort, labels: np.ndarray, protocol: str = "patient") -> Subject:
    """Divide by patient."""
    return Subject.of(cohort, split(cohort, labels, protocol), labels)


def with_images(subject: Subject, images: np.ndarray) -> Subject:
    """Give a subject other images."""
    return replace(subject, cohort=replace(subject.cohort, arrays={"image": images}))


def with_column(subject: Subject, **columns: Any) -> Subject:
    """Give a subject other columns of its table."""
    return replace(subject, cohort=replace(subject.cohort, table=subject.cohort.table.assign(**columns)))


def moved(subject: Subject, rows: np.ndarray, side: int) -> Subject:
    """Put cases on another side."""
    sides = subject.sides.copy()
    sides[:, rows] = side
    return replace(subject, sides=sides)


def on(subject: Subject, side: int) -> np.ndarray:
    """Return the rows on a side: 1 train, 2 val, 3 test."""
    return np.flatnonzero(subject.sides[0] == side)
