"""BreakHis: breast tumours at four magnifications; patient, magnification and class stand in the file name."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

from histotune.core.provenance import short_digest
from histotune.errors import ConfigError, DataError
from histotune.ingest.datasets._base import (
    DATASETS,
    Dataset,
    Info,
    Listing,
    Picture,
    Problem,
    drop_same_ids,
    listing_table,
)
from histotune.ingest.images import read_image
from histotune.ingest.walk import walk

CLASSES = ("benign", "malignant")
MAGNIFICATIONS = (40, 100, 200, 400)
NAME = re.compile(
    r"(?P<procedure>[A-Z]+)_(?P<label>[BM])_(?P<kind>[A-Z]+)-(?P<year>\d+)-(?P<slide>\w+)"
    r"-(?P<magnification>40|100|200|400)-(?P<number>\d+)\.png"
)
UNMAGNIFIED = re.compile(r"[A-Z]+_[BM]_[A-Z]+-\d+-\w+-\d+\.png")
_MAGNIFIED_FOLDER = re.compile(r"(\d+)X")


@DATASETS.register("breakhis")
@dataclass(frozen=True, kw_only=True)
class BreakHis(Dataset):
    """Breast tumours, benign or malignant, at 40x to 400x, 82 patients (Spanhol et al., 2016).

    Args:
        magnification: 40, 100, 200 or 400; 0 takes all of them. It is the second part of a case's id.
    """

    magnification: int = 0

    name: ClassVar[str] = "breakhis"
    info: ClassVar[Info] = Info(
        disease=True,
        title="BreakHis: benign and malignant breast tumours, H&E, 700x460 px at 40x, 100x, 200x and 400x, 2 classes",
        source="https://web.inf.ufpr.br/vri/databases/breast-cancer-histopathological-database-breakhis/",
        size="7,909 PNG files of 82 patients, 4 GB",
        licence="CC BY 4.0",
        layout="any folders with files SOB_C_TYPE-YEAR-SLIDE-MAGNIFICATION-NUMBER.png, C being B (benign) or M "
        "(malignant) and MAGNIFICATION 40, 100, 200 or 400",
        protocol="patient",
        folders=("breakhis", "BreaKHis_v1"),
    )

    def __post_init__(self) -> None:
        """Refuse another magnification."""
        if self.magnification not in (0, *MAGNIFICATIONS):
            raise ConfigError(
                f"dataset 'breakhis': magnification must be one of {', '.join(map(str, MAGNIFICATIONS))}, or 0 for all "
                f"of them, got {self.magnification!r}"
            )

    def scan(self, root: Path | None) -> Listing:
        """List the images of the magnification asked for; a patient is what the data set calls one: year and slide."""
        if root is None or not root.is_dir():
            raise DataError(f"{root} is no folder. Expected {self.info.layout}")
        every, problems = _rows(root)
        if not every:
            raise DataError(f"no BreakHis images in {root}{_others(problems)}. Expected {self.info.layout}")
        rows = [row for row in every if self.magnification in (0, row["magnification"])]
        there = sorted({row["magnification"] for row in every})
        if not rows:
            message = ", ".join(map(str, there))
            raise DataError(f"no BreakHis image at {self.magnification}x in {root}, which has those at {message}x")
        table, same = drop_same_ids(listing_table(rows))
        facts = {"patients_known": True, "magnifications": sorted({row["magnification"] for row in rows})}
        return Listing(table.drop(columns="magnification"), CLASSES, 1, facts, [*problems, *same])

    def stratum(self, case: str) -> str:
        """Return the magnification, such as "40x"."""
        return case.rsplit("_", 2)[1]

    def read(self, case: Mapping[Any, Any], root: Path | None) -> Picture:
        """Read one image."""
        assert root is not None
        return read_image(f"{root}/{case['path']}")


def _rows(root: Path) -> tuple[list[dict[str, Any]], list[Problem]]:
    rows: list[dict[str, Any]] = []
    problems: list[Problem] = []
    walked = walk(root, {".png"})
    for path, stat in walked.files:
        file = PurePosixPath(path)
        result = NAME.fullmatch(file.name)
        if result is None:
            lacks = (
                "40, 100, 200 or 400 for its magnification" if UNMAGNIFIED.fullmatch(file.name) else "BreakHis' form"
            )
            problems.append(Problem(path, "bad_name", f"the name lacks {lacks}"))
        elif contradiction := _contradiction(result, file.parent.parts):
            problems.append(Problem(path, "contradiction", contradiction))
        else:
            rows.append(_row(path, stat, result))
    return rows, [*problems, *walked.problems]


def _row(path: str, stat: os.stat_result, result: re.Match[str]) -> dict[str, Any]:
    patient = f"{result['year']}-{result['slide']}"
    key = short_digest(path.rpartition("/")[2], 8)  # the name tells the class
    return {
        "id": f"{patient}_{result['magnification']}x_{key}",
        "patient": patient,
        "label": "BM".index(result["label"]),
        "magnification": int(result["magnification"]),
        "path": path,
        "bytes": stat.st_size,
        "mtime": stat.st_mtime_ns,
    }


def _contradiction(result: re.Match[str], folders: tuple[str, ...]) -> str:
    """Describe how a folder contradicts the name; empty where it does not."""
    own = CLASSES["BM".index(result["label"])]
    for folder in folders:
        if folder in CLASSES and folder != own:
            return f"folder {folder!r} contradicts {own!r} in the name"
        magnified = _MAGNIFIED_FOLDER.fullmatch(folder)
        if magnified and magnified[1] != result["magnification"]:
            return f"folder {folder!r} contradicts {result['magnification']} in the name"
    return ""


def _others(problems: list[Problem]) -> str:
    if not problems:
        return ""
    first = problems[0]
    return f"; {len(problems)} PNG files are of no use, such as {first.path}: {first.reason}"
