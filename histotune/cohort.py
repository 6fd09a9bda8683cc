"""Cohort: one table of cases, one array per modality, a presence mask; memory-mapped and keyed by digests."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from histotune.errors import DataError

UNKNOWN = -1  # the label of a case whose label is sealed
FORMAT = 1  # of a prepared cohort on disk

_TYPES = {"id": str, "patient": str, "site": str, "content": str, "x": np.int64, "y": np.int64, "part": str}


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


def load(folder: Path) -> Cohort:
    """Open a prepared cohort; its arrays are memory-mapped, so that all processes of a machine share them.

    Raises:
        DataError: the folder holds none, or one that another version wrote or that is damaged.
    """
    try:
        saved = json.loads((folder / "cohort.json").read_text(encoding="utf-8"))
        table = pd.read_csv(folder / "table.csv", dtype=_TYPES, keep_default_na=False)
        images = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DataError(f"{folder} holds no prepared cohort ({error}); run `histotune prepare` again") from error
    if saved.get("format") != FORMAT or len(images) != len(table):
        raise DataError(
            f"{folder} was prepared by another version or is damaged ({saved.get('format')=}, {len(images)} images, "
            f"{len(table)} cases); delete it and run `histotune prepare` again"
        )
    return Cohort(
        name=saved["name"],
        table=table,
        classes=tuple(saved["classes"]),
        arrays={"image": images},
        present={"image": np.ones(len(table), bool)},
        digest=saved["digest"],
        folder=folder,
        positive=saved["positive"],
        facts=saved["facts"],
    )


def read_labels(cohort: Cohort) -> np.ndarray:
    """Read all labels, int64 [N]; only the creation of a study may, for it puts those of the test part under seal."""
    return _label_file(cohort)["label"].to_numpy(np.int64)


def read_paths(cohort: Cohort) -> np.ndarray:
    """Read the path of every case relative to the data's root, str [N]; a path may tell the label."""
    return _label_file(cohort)["path"].to_numpy(str)


def _label_file(cohort: Cohort) -> pd.DataFrame:
    types = {"id": str, "label": np.int64, "path": str}
    return pd.read_csv(cohort.folder / "labels.csv", dtype=types, keep_default_na=False)
