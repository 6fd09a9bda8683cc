"""Invasive ductal carcinoma patches in the Kaggle layout; patient, place and class stand in the file name."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from histotune.errors import DataError
from histotune.ingest.datasets._base import (
    DATASETS,
    BadFile,
    Dataset,
    Info,
    Listing,
    Picture,
    Problem,
    drop_same_ids,
    listing_table,
)
from histotune.ingest.images import WHITE, read_image
from histotune.ingest.walk import walk

SIDE = 50  # px of a whole patch; those at the lower and right edge of a slide are cut off
NAME = re.compile(r"(?P<patient>\d+)_idx(?P<scan>\d+)_x(?P<x>\d+)_y(?P<y>\d+)_class(?P<label>[01])\.png")
CLASSES = ("negative", "positive")
_TWICE = "IDC_regular_ps50_idx5"  # the Kaggle archive holds everything a second time in a folder of this name


@DATASETS.register("idc")
@dataclass(frozen=True, kw_only=True)
class Idc(Dataset):
    """Breast cancer patches of 50 px, invasive ductal carcinoma or not (Cruz-Roa et al., 2014)."""

    name: ClassVar[str] = "idc"
    info: ClassVar[Info] = Info(
        disease=True,
        title="Breast Histopathology Images: invasive ductal carcinoma, H&E, 50x50 px at 40x, 2 classes",
        source="https://www.kaggle.com/datasets/paultimothymooney/breast-histopathology-images",
        size="277,524 PNG files of 279 patients, 1.6 GB (any subset of the patients works)",
        licence="CC0 1.0 (public domain) by its Kaggle page, which is what counts",
        layout="PATIENT/CLASS/PATIENT_idx5_xX_yY_classC.png, with CLASS and C 0 (no carcinoma) or 1 (carcinoma)",
        protocol="patient",
        folders=("idc", "idc_patches", _TWICE, "breast-histopathology-images"),
    )

    def scan(self, root: Path | None) -> Listing:
        """List the patches; the published train, validation and test patients get their `part`."""
        if root is None or not root.is_dir():
            raise DataError(f"{root} is no folder; the IDC patches lie in {self.info.layout}")
        part = {patient: name for name, patients in official_patients().items() for patient in patients}
        rows: list[dict[str, Any]] = []
        problems: list[Problem] = []
        walked = walk(root, {".png"}, skip=_second_copy)
        for path, stat in walked.files:
            result = NAME.fullmatch(path.rpartition("/")[2])
            folder = path.rpartition("/")[0].rpartition("/")[2]
            if result is None:
                problems.append(Problem(path, "bad_name", "the name is not PATIENT_idx5_xX_yY_classC.png"))
            elif folder in ("0", "1") and folder != result["label"]:
                reason = f"folder {folder!r} contradicts class {result['label']} in the name"
                problems.append(Problem(path, "contradiction", reason))
            else:
                rows.append(_row(path, stat, result, part))
        if not rows:
            others = f"; {len(problems)} PNG files have other names, such as {problems[0].path}" if problems else ""
            raise DataError(f"no IDC patches in {root}{others}. Expected {self.info.layout}")
        table, same = drop_same_ids(listing_table(rows))
        return Listing(table, CLASSES, 1, {"patients_known": True}, [*problems, *walked.problems, *same])

    def read(self, case: Mapping[Any, Any], root: Path | None) -> Picture:
        """Read a patch; one that the slide's edge cut off is completed with white, unless over half of it is missing.

        Raises:
            BadFile: it cannot be decoded, or most of it is missing.
        """
        assert root is not None
        picture = read_image(f"{root}/{case['path']}")
        height, width = picture.pixels.shape[:2]
        if (height, width) == (SIDE, SIDE):
            return picture
        size = f"{width}x{height} px instead of {SIDE}x{SIDE}"
        if min(height, SIDE) * min(width, SIDE) < SIDE * SIDE / 2:
            raise BadFile("wrong_size", f"{size}: less than half a patch")
        if height > SIDE or width > SIDE:
            return picture._replace(note=("wrong_size", f"{size}: scaled"))
        whole = np.full((SIDE, SIDE, 3), WHITE, np.uint8)
        whole[:height, :width] = picture.pixels
        return picture._replace(pixels=whole, note=("wrong_size", f"{size}: completed with white"))


def official_patients() -> dict[str, list[str]]:
    """Return the published patient ids of "train" (84), "val" (29) and "test" (49)."""
    text = (
        resources.files("histotune.ingest.datasets").joinpath("resources/idc_official.json").read_text(encoding="utf-8")
    )
    saved = json.loads(text)
    return {part: saved[part] for part in ("train", "val", "test")}


def read_name(name: str) -> dict[str, Any] | None:
    """Return id (silent about the class), patient, label (0 or 1), x and y (pixels) that a file name tells.

    >>> read_name("8863_idx5_x51_y1251_class0.png")
    {'id': '8863_idx5_x51_y1251', 'patient': '8863', 'label': 0, 'x': 51, 'y': 1251}
    >>> read_name("001.png") is None
    True
    """
    result = NAME.fullmatch(name)
    return None if result is None else _told(result)


def _told(result: re.Match[str]) -> dict[str, Any]:
    patient, x, y = result["patient"], int(result["x"]), int(result["y"])
    name = f"{patient}_idx{result['scan']}_x{x}_y{y}"
    return {"id": name, "patient": patient, "label": int(result["label"]), "x": x, "y": y}


def _row(path: str, stat: os.stat_result, result: re.Match[str], part: Mapping[str, str]) -> dict[str, Any]:
    return {
        **_told(result),
        "part": part.get(result["patient"], ""),
        "path": path,
        "bytes": stat.st_size,
        "mtime": stat.st_mtime_ns,
    }


def _second_copy(path: str, beside: Collection[str]) -> bool:
    """Whether a folder is the archive's second copy of all others beside it."""
    return path.rpartition("/")[2] == _TWICE and sum(not name.startswith(".") for name in beside) > 1
