"""Cohort: one table of cases, one array per modality, a presence mask; memory-mapped and keyed by digests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

UNKNOWN = -1  # the label of a case whose label is sealed


@dataclass(frozen=True)
class Cohort:
    """N cases in columns. It never holds a label: see `read_labels` and `splits`.

    Attributes:
        name: dataset name.
        table: [N rows] columns `id` (stable, unique, silent about the label), `patient`, `site` ("" if unknown),
            `content` (hexadecimal digest of the case's pixels), `x`, `y` (pixels in the slide, -1 where unknown),
            `part` ("train", "val", "test" where the source prescribes it, else "").
        classes: class names in the order of the label numbers.
        positive: the class whose recall is called sensitivity (two classes: normally 1).
        arrays: {modality: array [N, ...]}; images are uint8 [N, H, W, 3], memory-mapped.
        present: {modality: bool [N]}.
        digest: 16 hexadecimal digits over ids, contents, labels and options; the same data give it on every machine.
        folder: where it lies on disk.
        facts: what reports must say of it (`synthetic`, `source`, `licence`, counts of left-out files, ...).
    """

    name: str
    table: pd.DataFrame
    classes: tuple[str, ...]
    arrays: Mapping[str, np.ndarray]
    present: Mapping[str, np.ndarray]
    digest: str
    folder: Path
    positive: int = 1
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        """Return the number of cases."""
        return len(self.table)
