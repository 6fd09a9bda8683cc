"""Tables and arrays on disk, read with the guard of `files`."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.lib import format as npy

from histotune.core import files


def read_table(
    path: Path, needs: Iterable[str], types: Any, *, gaps: bool = False, cure: str = files.RESTORE
) -> pd.DataFrame:
    """Read a CSV file that histotune wrote.

    Args:
        needs: its columns; there may be more.
        types: of the columns, as pandas takes them.
        gaps: whether a number may be missing.
        cure: what to do where it is damaged.

    Raises:
        StudyError: it is missing, damaged, or lacks a column.
    """

    def read() -> pd.DataFrame:
        raw = path.read_bytes()
        if not raw.endswith(b"\n"):
            raise ValueError("its last line is cut short")
        return pd.read_csv(io.BytesIO(raw), dtype=types, keep_default_na=gaps)

    table = files.guarded(path, read, cure)
    if lacking := [name for name in needs if name not in table]:
        raise files.damaged(path, f"it has no column {', '.join(map(repr, lacking))}", cure)
    return table


def open_array(path: Path, cure: str = "delete the folder that it lies in, and prepare it again") -> np.ndarray:
    """Map an .npy file into memory; one without values, which cannot be mapped, is read.

    Raises:
        StudyError: it is missing or damaged.
    """

    def opened() -> np.ndarray:
        try:
            return npy.open_memmap(path, mode="r")
        except ValueError:
            with path.open("rb") as file:
                array: np.ndarray = npy.read_array(file, allow_pickle=False)
            return array

    return files.guarded(path, opened, cure)
