"""Image files that are meant by a path, a folder or a CSV, and what could not be read of them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from histotune.errors import DataError
from histotune.ingest.images import SUFFIXES

Images = str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | np.ndarray
"""A file, a folder, a CSV with a column `path`, a list of files, or uint8 [n, H, W, 3]."""


def image_paths(images: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[str]:
    """List the image files that are meant, as text.

    Raises:
        DataError: there are none.
    """
    if not isinstance(images, (str, os.PathLike)):
        if not len(images):
            raise DataError("the list of images is empty")
        return [os.fspath(path) for path in images]
    root = Path(images)
    if root.is_dir():
        found = sorted(path for path in root.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
        if not found:
            raise DataError(f"{root} and its subfolders hold no image files ({', '.join(sorted(SUFFIXES))})")
        return [str(path) for path in found]
    if not root.exists():
        raise DataError(f"{root} does not exist: name an image, a folder of images, or a CSV with a column 'path'")
    return _listed(root) if root.suffix.lower() == ".csv" else [str(root)]


def _listed(file: Path) -> list[str]:
    try:
        table = pd.read_csv(file, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (ValueError, pd.errors.EmptyDataError) as error:
        raise DataError(f"{file} is no CSV file: {error}") from error
    if "path" not in table:
        raise DataError(f"{file} has no column 'path'; it has: {', '.join(map(str, table.columns))}")
    if table.empty:
        raise DataError(f"{file} lists no images")
    return [str(file.parent / path) for path in table["path"]]


def stacked(sized: Sequence[Mapping[int, np.ndarray]]) -> dict[int, np.ndarray]:
    """Turn a list of {size: [S, S, 3]} into {size: [n, S, S, 3]}."""
    return {size: np.stack([image[size] for image in sized]) for size in (sized[0] if sized else ())}


def words(problem: Mapping[str, str]) -> str:
    """Say what is wrong with a file or a case."""
    return f"{problem['path']}: {problem['kind']}: {problem['reason']}"
