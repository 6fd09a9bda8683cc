"""Colorectal tissue tiles of nine classes in the layout of NCT-CRC-HE: one folder per class, the test set apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from histotune.core.provenance import short_digest
from histotune.errors import DataError
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
from histotune.ingest.images import SUFFIXES, read_image
from histotune.ingest.walk import walk

CLASSES = ("ADI", "BACK", "DEB", "LYM", "MUC", "MUS", "NORM", "STR", "TUM")
TRAIN, TEST = "NCT-CRC-HE-100K", "CRC-VAL-HE-7K"
# CFAL's protocol: 15 % of the training tiles validate, and its long-tailed variant makes ADI the rarest class.
VALIDATION_SHARE, RAREST = 0.15, "ADI"
_UNKNOWN_PATIENTS = (
    "which tile is whose is not published: every tile counts as its own patient, so that near-duplicates (neighbouring "
    "tiles of one slide) may stand on both sides of training and validation; the test tiles are of other patients"
)


@DATASETS.register("crc")
@dataclass(frozen=True, kw_only=True)
class Crc(Dataset):
    """Colorectal cancer and normal tissue, nine classes, 224 px at 0.5 um per px (Kather et al., 2018).

    Args:
        train_folder: folder of the training tiles, relative to the data folder; "" takes NCT-CRC-HE-100K, or the data
            folder itself when the class folders lie in it.
        test_folder: folder of the external test tiles; "" takes CRC-VAL-HE-7K where it lies in the data folder.
    """

    train_folder: str = ""
    test_folder: str = ""

    name: ClassVar[str] = "crc"
    info: ClassVar[Info] = Info(
        title="NCT-CRC-HE-100K and CRC-VAL-HE-7K: colorectal tissue, H&E, 224x224 px at 0.5 um per px, 9 classes",
        source="https://zenodo.org/records/1214456",
        size="100,000 training tiles (11.7 GB) and 7,180 test tiles of other patients (0.8 GB)",
        licence="CC BY 4.0",
        layout=f"{TRAIN}/CLASS/FILE.tif and {TEST}/CLASS/FILE.tif (or .png), with CLASS one of {', '.join(CLASSES)}; "
        "or the class folders of either alone, with --split patient",
        protocol="given",
        folders=("crc", "nct_crc_tiles"),
    )

    def scan(self, root: Path | None) -> Listing:
        """List the tiles; those of the test folder get the part "test", the others "train" where there is one."""
        if root is None or not root.is_dir():
            raise DataError(f"{root} is no folder. Expected {self.info.layout}")
        train, test = self._folders(root)
        rows, problems = _rows(root, train, "train" if test else "", self.info.layout)
        if test:
            others, odd = _rows(root, test, "test", self.info.layout)
            rows, problems = [*rows, *others], [*problems, *odd]
        table, same = drop_same_ids(listing_table(rows))
        facts = {
            "patients_known": False,
            "patients_note": _UNKNOWN_PATIENTS,
            "test_of_other_patients": test == TEST,
            "validation_share": VALIDATION_SHARE,
            "long_tail_rarest": RAREST,
        }
        return Listing(table, CLASSES, CLASSES.index("TUM"), facts, [*problems, *same])

    def read(self, case: Mapping[Any, Any], root: Path | None) -> Picture:
        """Read one tile."""
        assert root is not None
        return read_image(f"{root}/{case['path']}")

    def _folders(self, root: Path) -> tuple[str, str]:
        """Return the folders of training and test tiles relative to `root`; "" is `root` itself, or no test tiles."""
        for given in (self.train_folder, self.test_folder):
            if given and not (root / given).is_dir():
                raise DataError(f"dataset 'crc': there is no folder {given!r} in {root}")
        test = self.test_folder or (TEST if (root / TEST).is_dir() else "")
        if self.train_folder or (root / TRAIN).is_dir():
            return self.train_folder or TRAIN, test
        if any((root / name).is_dir() for name in CLASSES):
            return "", test
        if not test:
            inside = ", ".join(sorted(path.name for path in root.iterdir() if path.is_dir())[:5]) or "none"
            raise DataError(
                f"no class folders and neither {TRAIN} nor {TEST} in {root} (folders: {inside}). "
                f"Expected {self.info.layout}"
            )
        raise DataError(
            f"{root} holds the test tiles ({test}) but no training tiles: put {TRAIN} beside it, or give {root / test} "
            "as the data, with --split patient"
        )


def _rows(root: Path, folder: str, part: str, layout: str) -> tuple[list[dict[str, Any]], list[Problem]]:
    """List the tiles of the nine class folders in `folder`."""
    missing = [name for name in CLASSES if not (root / folder / name).is_dir()]
    if missing:
        raise DataError(f"{root / folder} lacks the class folders {', '.join(missing)}. Expected {layout}")
    rows: list[dict[str, Any]] = []
    problems: list[Problem] = []
    for label, name in enumerate(CLASSES):
        walked = walk(root / folder / name, SUFFIXES, deep=False)
        within = f"{folder}/{name}" if folder else name
        problems += [one._replace(path=f"{within}/{one.path}") for one in walked.problems]
        for file, stat in walked.files:
            path = f"{within}/{file}"
            message = file.partition("-")[0]
            if message in CLASSES and message != name:
                problems.append(Problem(path, "contradiction", f"folder {name!r} contradicts {message!r} in the name"))
                continue
            key = short_digest(f"{part}/{name}/{file}", 16)  # a name tells the class
            row = {"id": key, "patient": key, "label": label, "part": part, "path": path}
            rows.append(row | {"bytes": stat.st_size, "mtime": stat.st_mtime_ns})
    if not rows:
        raise DataError(f"no images in the class folders of {root / folder}. Expected {layout}")
    return rows, problems
