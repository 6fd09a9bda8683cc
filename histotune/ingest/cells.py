"""The cells of one column -> numbers, or codes of categories; a cell that does not fit is named by row and column."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from histotune.data.modalities.table import TableColumn
from histotune.errors import DataError

NUMBERS, CATEGORIES = "numbers", "categories"
TRUTH = {"true": 1.0, "false": 0.0}
MOST_WORDS = 50  # a column of more different words, most of them in one case only, holds names, no categories


def read_column(path: Path, cells: pd.Series, ids: Sequence[str], kind: str) -> tuple[np.ndarray, TableColumn]:
    """Read one column as numbers or as codes of categories, float32 [n].

    Args:
        ids: of the rows.
        kind: `numbers` or `categories`; "" takes numbers where more than half of the cells that hold something do.

    Raises:
        DataError: a cell is no finite number in a column of numbers, or the words are names rather than categories.
    """
    name, in_words = str(cells.name), kind == CATEGORIES
    if pd.api.types.is_numeric_dtype(cells.dtype) and not in_words:
        return _numbers(path, name, pd.to_numeric(cells).to_numpy(np.float64, na_value=np.nan), ids), TableColumn(name)
    words = cells.map(lambda cell: str(cell).strip() or None, na_action="ignore")
    there = words.notna()
    if there.any() and words[there].str.lower().isin(list(TRUTH)).all():  # R writes TRUE, Python True
        words, in_words = words.str.capitalize(), kind != NUMBERS
        if not in_words:
            return _numbers(path, name, words.str.lower().map(TRUTH).to_numpy(np.float64), ids), TableColumn(name)
    if not in_words:
        parsed = pd.to_numeric(words, errors="coerce")
        wrong = there & parsed.isna()
        if kind == NUMBERS or wrong.sum() < there.sum() / 2 or not there.any():
            _refuse_words(path, name, words, wrong, ids)
            return _numbers(path, name, parsed.to_numpy(np.float64), ids), TableColumn(name)
    categories = tuple(sorted(words[there].unique()))
    if not in_words and len(categories) > max(MOST_WORDS, there.sum() / 2):
        raise DataError(
            f"{path}: column {name!r} holds {len(categories)} different words in {there.sum()} cases, such as "
            f"{categories[0]!r}: exclude it if these are names or dates, or list it under 'categories'"
        )
    codes = pd.Index(categories).get_indexer(pd.Index(words)).astype(np.float32)
    return np.where(there, codes, np.float32(np.nan)), TableColumn(name, categories)


def _refuse_words(path: Path, name: str, words: pd.Series, wrong: pd.Series, ids: Sequence[str]) -> None:
    if wrong.any():
        at = int(np.flatnonzero(wrong)[0])
        more = f" ({wrong.sum() - 1} more such cells)" if wrong.sum() > 1 else ""
        raise DataError(
            f"{path}: row {ids[at]!r}, column {name!r}: {words.iloc[at]!r} is no number{more}. Correct it, leave it "
            "empty where it is missing, or list the column under 'categories'"
        )


def _numbers(path: Path, name: str, values: np.ndarray, ids: Sequence[str]) -> np.ndarray:
    with np.errstate(over="ignore"):
        numbers = values.astype(np.float32)
    infinite = np.flatnonzero(np.isinf(numbers))
    if len(infinite):
        at = int(infinite[0])
        raise DataError(f"{path}: row {ids[at]!r}, column {name!r}: {values[at]} is infinite or too large for float32")
    return numbers
