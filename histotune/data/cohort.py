"""Cohort: one table of cases, one array per modality, a presence mask; memory-mapped and keyed by digests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from histotune.core import files
from histotune.core.files import read_table
from histotune.data.modalities import MODALITIES, Column
from histotune.errors import DataError, StudyError

UNKNOWN = -1  # the label of a case whose label is sealed
FORMAT = 3  # of a prepared cohort on disk
COHORT, MODALITY, PRESENT, PROPERTIES = "cohort.json", "modalities", "present.csv", "properties.csv"
EMBEDDINGS = "embeddings"  # folder beside the prepared cohorts: what frozen networks made of images

_AGAIN = "delete its folder and run `histotune prepare`"
_TYPES = {"id": str, "patient": str, "site": str, "content": str, "x": np.int64, "y": np.int64, "part": str}


@dataclass(frozen=True)
class Cohort:
    """N cases in columns. It never holds a label: see `read_labels` and `splits`.

    Attributes:
        name: dataset name.
        table: [N rows] columns `id` (stable, unique, silent about the label), `patient`, `site` ("" if unknown),
            `content` (hexadecimal digest of what the case's modalities hold), `x`, `y` (pixels in the slide, -1 where
            unknown), `part` ("train", "val", "test" where the source prescribes it, else "").
        classes: class names in the order of the label numbers.
        positive: the class whose recall is called sensitivity (two classes: normally 1).
        arrays: {modality: N cases as its kind stores them}; images are uint8 [N, H, W, 3], memory-mapped.
        present: {modality: bool [N]}.
        kinds: {modality: kind}; `image` where a modality is not named.
        digest: 16 hexadecimal digits over ids, contents, labels and options; the same data give it on every machine.
        folder: where it lies on disk.
        facts: what reports must say of it (`synthetic`, `source`, `licence`, counts of left-out files, ...).
    """

    name: str
    table: pd.DataFrame
    classes: tuple[str, ...]
    arrays: Mapping[str, Any]
    present: Mapping[str, np.ndarray]
    digest: str
    folder: Path
    positive: int = 1
    facts: Mapping[str, Any] = field(default_factory=dict)
    kinds: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        """Return the number of cases."""
        return len(self.table)

    @property
    def columns(self) -> dict[str, Column]:
        """Every modality with its kind and its presence mask."""
        return columns(self.arrays, self.present, self.kinds)


def columns(
    arrays: Mapping[str, Any], present: Mapping[str, np.ndarray], kinds: Mapping[str, str]
) -> dict[str, Column]:
    """Join what is stored of every modality, who has it and its kind (`image` where none is named)."""
    return {name: Column(kinds.get(name, "image"), stored, present[name]) for name, stored in arrays.items()}


def load(folder: Path) -> Cohort:
    """Open a prepared cohort; its arrays are memory-mapped, so that all processes of a machine share them.

    Raises:
        DataError: the folder holds none, or one that another version wrote or that is damaged.
    """
    try:
        saved = files.read_json(folder / COHORT, cure=_AGAIN)
        if saved.get("format") != FORMAT:
            why = f"it has format {saved.get('format')!r}, this version reads {FORMAT}"
            raise files.damaged(folder / COHORT, why, _AGAIN)
        table = read_table(folder / "table.csv", _TYPES, _TYPES, cure=_AGAIN)
        masks = read_table(folder / PRESENT, saved["modalities"], bool, cure=_AGAIN)
        kinds = {name: MODALITIES.build(kind) for name, kind in saved["modalities"].items()}
        arrays = {name: kind.load(folder / MODALITY / name) for name, kind in kinds.items()}
        if any(kind.cases(arrays[name]) != len(table) for name, kind in kinds.items()) or len(masks) != len(table):
            raise ValueError(f"table.csv has {len(table)} cases, and {PRESENT} or a modality another number")
    except StudyError as error:
        raise DataError(f"{folder} holds no prepared cohort, or a damaged one: {error}") from error
    except ValueError as error:
        raise DataError(f"{folder} holds a damaged cohort ({error}): {_AGAIN}") from error
    return Cohort(
        name=saved["name"],
        table=table,
        classes=tuple(saved["classes"]),
        arrays=arrays,
        present={name: masks[name].to_numpy(bool) for name in kinds},
        digest=saved["digest"],
        folder=folder,
        positive=saved["positive"],
        facts=saved["facts"],
        kinds=saved["modalities"],
    )


def select(result: Mapping[str, Column], rows: np.ndarray) -> dict[str, Column]:
    """Return the cases `rows` of every modality, in memory."""
    return {name: column.select(rows) for name, column in result.items()}


def training_files(folder: Path) -> list[str]:
    """Return the files of a prepared cohort that training reads, `cohort.json` last: all but the labels."""
    return [*files.read_json(folder / COHORT)["files"], COHORT]


def read_labels(cohort: Cohort) -> np.ndarray:
    """Read all labels, int64 [N]; only the creation of a study may, for it puts those of the test part under seal."""
    return _label_file(cohort)["label"].to_numpy(np.int64)


def read_paths(cohort: Cohort) -> np.ndarray:
    """Read the path of every case relative to the data's root, str [N]; a path may tell the label."""
    return _label_file(cohort)["path"].to_numpy(str)


def read_properties(cohort: Cohort) -> pd.DataFrame | None:
    """Read what is known of every case's image file: `bytes`, `width`, `height`, `format`, `quantisation`.

    `quantisation` is the mean of a JPEG file's tables (more is coarser), NaN of other files.

    Returns:
        One row per case, or None where the cases are no image files.
    """
    path = cohort.folder / PROPERTIES
    needs = ("bytes", "width", "height", "format", "quantisation")
    return read_table(path, needs, {"format": str}, gaps=True, cure=_AGAIN) if path.exists() else None


def _label_file(cohort: Cohort) -> pd.DataFrame:
    types, path = {"id": str, "label": np.int64, "path": str}, cohort.folder / "labels.csv"
    table = read_table(path, types, types, cure=_AGAIN)
    if not table["id"].equals(cohort.table["id"]):
        raise files.damaged(path, "its cases are not those of table.csv", _AGAIN)
    return table
