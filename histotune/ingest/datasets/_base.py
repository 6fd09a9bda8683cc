"""The contract of a dataset: list what is there, then read one case at a time."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pandas as pd

from histotune.core.registry import Registry
from histotune.data.modalities import Column
from histotune.errors import DataError

COLUMNS = ("id", "patient", "site", "label", "x", "y", "part")
FILE_COLUMNS = ("path", "bytes", "mtime")


class BadFile(DataError):
    """One file cannot become one case; it is listed, left out and counted.

    Args:
        kind: a word that can be counted: `missing`, `empty`, `not_an_image`, `broken`, `unsupported`, `wrong_size`,
            `too_small`, `bad_name`, `same_id`, `no_label`, `no_patient`, `duplicate`, `contradiction`, `not_a_slide`,
            `no_scale`, `no_tissue` or `several_pages`; of what a folder holds those of `walk.Walked`, too.
        reason: one sentence for a person.
    """

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(kind, reason)
        self.kind = kind
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.kind}: {self.reason}"


class Problem(NamedTuple):
    """One line of `problems.csv`; `kept` is whether the case is in the cohort all the same."""

    path: str
    kind: str
    reason: str
    kept: bool = False


class FileFormat(NamedTuple):
    """How an image file was saved.

    Attributes:
        format: such as "PNG"; "" where there is no file.
        width, height: pixels in the file.
        quantisation: mean of a JPEG's quantisation tables, the more the coarser; NaN of other files.
    """

    format: str = ""
    width: int = 0
    height: int = 0
    quantisation: float = math.nan


class Picture(NamedTuple):
    """One case as read.

    Attributes:
        pixels: uint8 [H, W, 3], RGB.
        converted: from what it had to be converted ("grey", "cmyk", "16 bit", ...), "" when it was RGB of 8 bits.
        note: why the file is listed although it is kept, as (kind, reason), or None.
        saved: how the file was saved.
    """

    pixels: np.ndarray
    converted: str = ""
    note: tuple[str, str] | None = None
    saved: FileFormat = FileFormat()


@dataclass(frozen=True)
class Info:
    """What a person should know of a dataset before having it.

    Args:
        title: one line.
        source: where to download it from.
        size: what the download holds, in words.
        licence: under which terms.
        layout: how the files must lie.
        protocol: the split protocol that is used when none is asked for.
        folders: folder names under which it is looked for, in this order.
        synthetic: whether it is made up; then it needs no data.
        disease: whether the positive class is the diseased one, as published, so that models of one such dataset of two
            classes can be evaluated on another.
    """

    title: str
    source: str = ""
    size: str = ""
    licence: str = ""
    layout: str = ""
    protocol: str = "patient"
    folders: tuple[str, ...] = ()
    synthetic: bool = False
    disease: bool = False


@dataclass(frozen=True)
class Listing:
    """What `scan` found, before any file is opened.

    Attributes:
        table: one row per case, sorted by `id`: `COLUMNS`, and for files `path` (relative to the root, with "/"),
            `bytes` and `mtime` (ns). `id` is unique, the same on every machine and free of the label; `label` is
            int64; `x`, `y` are pixels in the slide or -1; `part` is "train", "val", "test" or "".
        classes: class names in the order of the label numbers.
        positive: index of the positive class.
        facts: what reports must say; `patients_known` is False when every image had to count as its own patient; then
            `test_of_other_patients` says whether a prescribed test part is known to be of other patients all the same.
            `own_split`: the parts are the user's own, and used unless another split is asked for.
        problems: files that are listed and left out already.
        sources: (path, bytes, mtime in ns) of further files that decide what the cohort holds.
    """

    table: pd.DataFrame
    classes: tuple[str, ...]
    positive: int = 1
    facts: Mapping[str, Any] = field(default_factory=dict)
    problems: Sequence[Problem] = ()
    sources: Sequence[tuple[str, int, int]] = ()


class Dataset:
    """A kind of files on disk. Its options are keyword-only, have defaults, and are the fields of a dataclass.

    Attributes:
        images: whether every case is an image, which `read` gives; other modalities come from `columns`.
    """

    name: ClassVar[str]
    info: ClassVar[Info]
    images: ClassVar[bool] = True

    @property
    def needs_data(self) -> bool:
        """Whether there must be files to read."""
        return not self.info.synthetic

    def options(self) -> dict[str, Any]:
        """Return the options that this reader was built with."""
        return dataclasses.asdict(self) if dataclasses.is_dataclass(self) else {}

    def scan(self, root: Path | None) -> Listing:
        """List the cases under `root` without opening an image.

        Raises:
            DataError: there is nothing to read, or the layout is another one.
        """
        raise NotImplementedError

    def read(self, case: Mapping[Any, Any], root: Path | None) -> Picture:
        """Read one row of the listing; runs in several processes at once.

        Raises:
            BadFile: the file cannot become a case.
        """
        raise NotImplementedError

    def columns(self, listing: Listing, root: Path | None, cache: Path) -> Mapping[str, Column]:
        """Return every modality but the images that `read` gives, by name, its cases as in the listing's table.

        It is called once, when the cohort is prepared.

        Args:
            cache: folder for what is worth keeping beyond this cohort.

        Raises:
            DataError: something in the files cannot be used.
        """
        return {}

    def stratum(self, case: str) -> str:
        """Return what a case is to be reported apart by, such as its magnification, read off its id; "" for nothing."""
        return ""


DATASETS: Registry[Dataset] = Registry("dataset", "histotune.ingest.datasets")


def listing_table(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Make a listing's table from one mapping per case, which needs `id`, `patient` and `label`; sorts by id."""
    table = pd.DataFrame(list(rows))
    defaults: dict[str, str | int] = {"site": "", "x": -1, "y": -1, "part": ""}
    for column, default in defaults.items():
        if column not in table:
            table[column] = default
    types = {"label": np.int64, "x": np.int64, "y": np.int64}
    return table.astype(types).sort_values("id", ignore_index=True)


def drop_same_ids(table: pd.DataFrame) -> tuple[pd.DataFrame, list[Problem]]:
    """Leave out every case whose id an earlier row has; returns the rest and one problem per case left out."""
    again = table["id"].duplicated()
    pairs = zip(table.loc[again, "path"], table.loc[again, "id"], strict=True)
    problems = [Problem(path, "same_id", f"another file is case {name} already") for path, name in pairs]
    return table[~again].reset_index(drop=True), problems


def in_order(names: set[str]) -> tuple[str, ...]:
    """Sort class names, as numbers where all are numbers."""
    if all(name.isdecimal() for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))
