"""Any images in folders named after their class, or listed in a CSV manifest."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd

from histotune.core.provenance import short_digest
from histotune.errors import DataError, suggest
from histotune.ingest.datasets._base import (
    DATASETS,
    Dataset,
    Info,
    Listing,
    Picture,
    Problem,
    drop_same_ids,
    in_order,
    listing_table,
)
from histotune.ingest.datasets._manifest import read_manifest
from histotune.ingest.images import SUFFIXES, read_image
from histotune.ingest.walk import summary, walk

PARTS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


@DATASETS.register("image_folder")
@dataclass(frozen=True, kw_only=True)
class ImageFolder(Dataset):
    """Your own images: CLASS/FILE, PATIENT/CLASS/FILE, or a CSV manifest (path, label, patient, site, split).

    Args:
        manifest: CSV file, relative to the data folder; "" reads the folders' names. The data may also be the CSV.
        positive: name of the class whose recall is called sensitivity; "" takes the second of two in order.
        patient_pattern: regular expression whose first group in a file's path is the patient, for CLASS/FILE.
    """

    manifest: str = ""
    positive: str = ""
    patient_pattern: str = ""

    name: ClassVar[str] = "image_folder"
    info: ClassVar[Info] = Info(
        title="your own images",
        source="your own disk",
        size="any",
        licence="your own",
        layout="CLASS/FILE or PATIENT/CLASS/FILE (png, jpg, tif, bmp, webp), or a CSV file with the columns path and "
        "label and, where known, patient, site, split (train, val, test)",
    )

    def __post_init__(self) -> None:
        """Refuse a pattern that finds no patient."""
        try:
            groups = re.compile(self.patient_pattern).groups
        except re.error as error:
            raise ValueError(f"patient_pattern is no regular expression: {error}") from error
        if self.patient_pattern and not groups:
            raise ValueError("patient_pattern needs a group, such as '([^_]+)_'")

    def scan(self, root: Path | None) -> Listing:
        """List the images of the manifest or of the folders."""
        if root is None or not root.exists():
            raise DataError(f"{root} does not exist. Expected {self.info.layout}")
        if self.manifest or root.is_file():
            rows, problems = read_manifest(root / self.manifest if self.manifest else root)
        else:
            rows, problems = _rows_of_folders(root, self.info.layout)
        if not rows:
            listed = f"; {len(problems)} are listed but left out: {problems[0]}" if problems else ""
            raise DataError(f"no usable images in {root}{listed}. Expected {self.info.layout}")
        rows, unmatched = self._with_patients(rows)
        known = all(row["patient"] for row in rows)
        for row in rows:
            row["id"] = short_digest(row["path"], 16)  # a path may tell the label, an id not
            row["patient"] = row["patient"] or row["id"]
        classes = in_order({row["label"] for row in rows})
        for row in rows:
            row["label"] = classes.index(row["label"])
        table, same = drop_same_ids(listing_table(rows))
        facts = {"patients_known": known, "own_split": any(row["part"] for row in rows)}
        return Listing(table, classes, self._positive(classes), facts, [*problems, *unmatched, *same])

    def read(self, case: Mapping[Any, Any], root: Path | None) -> Picture:
        """Read one image."""
        assert root is not None
        base = root.parent if root.is_file() else root / Path(self.manifest).parent
        return read_image(os.path.join(base, case["path"]))  # noqa: PTH118  (a hot path: no Path object)

    def _with_patients(self, rows: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[Problem]]:
        if not self.patient_pattern:
            return rows, []
        kept, problems = [], []
        for row in rows:
            result = re.search(self.patient_pattern, row["path"])
            if result and result[1]:
                kept.append(row | {"patient": result[1]})
            else:
                reason = f"patient_pattern {self.patient_pattern!r} finds no patient in the path"
                problems.append(Problem(row["path"], "no_patient", reason))
        if not kept:
            raise DataError(f"{problems[0].reason} {problems[0].path!r}, nor in any of the {len(rows)} images")
        return kept, problems

    def _positive(self, classes: Sequence[str]) -> int:
        if self.positive and self.positive not in classes:
            raise DataError(f"there is no class {self.positive!r} to be positive. {suggest(self.positive, classes)}")
        return classes.index(self.positive) if self.positive else min(1, len(classes) - 1)


def _rows_of_folders(root: Path, layout: str) -> tuple[list[dict[str, Any]], list[Problem]]:
    files, problems = (walked := walk(root, SUFFIXES)).files, walked.problems
    if not files:
        others = sum(1 for path in root.rglob("*") if path.is_file())
        listed = f"; {summary(problems)}" if problems else ""
        raise DataError(f"no images in {root} ({others} other files{listed}). Expected {layout}")
    depths = {path.count("/"): path for path, _ in files}
    if len(depths) > 1 or not depths.keys() <= {1, 2}:
        examples = ", ".join(repr(path) for path in depths.values())
        raise DataError(f"the images in {root} lie at the wrong or at different depths: {examples}. Expected {layout}")
    parts = [path.split("/") for path, _ in files]
    first = {names[0].lower() for names in parts}
    by_part = 2 in depths and first <= PARTS.keys()
    if 2 in depths and not by_part:
        _refuse_patients_inside_classes(root, parts)
    rows = []
    for (path, stat), names in zip(files, parts, strict=True):
        row: dict[str, Any] = {"path": path, "label": names[-2], "bytes": stat.st_size, "mtime": stat.st_mtime_ns}
        row["patient"] = names[0] if len(names) == 3 and not by_part else ""
        row["part"] = PARTS[names[0].lower()] if by_part else ""
        rows.append(row)
    return rows, problems


def _refuse_patients_inside_classes(root: Path, parts: Sequence[Sequence[str]]) -> None:
    """Refuse CLASS/PATIENT/FILE, which would make every patient a class without anybody noticing."""
    pairs = pd.DataFrame([names[:2] for names in parts], columns=["first", "second"]).drop_duplicates()
    outer, inner = pairs["first"].nunique(), pairs["second"].nunique()
    if inner > outer > 1 and len(pairs) == inner:
        raise DataError(
            f"{root} looks like CLASS/PATIENT/FILE: {inner} folders such as {parts[0][1]!r}, each inside one of only "
            f"{outer} folders such as {parts[0][0]!r}. Put the patient outside (PATIENT/CLASS/FILE), or give a manifest"
        )
