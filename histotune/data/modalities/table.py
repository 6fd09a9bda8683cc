"""Tables: numbers and categories by column, with missing cells; one row per case."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from histotune.core import files
from histotune.core.files import open_array
from histotune.data.modalities import _table_fit
from histotune.data.modalities._base import MODALITIES, Modality, Preprocessing, refuse_options
from histotune.data.modalities._table_fit import Fitted
from histotune.errors import DataError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

FARTHEST = 1000.0  # standard deviations: no value, however wild, goes further, so that half precision can hold it
UNKNOWN_CATEGORY = -1.0  # the code of a category that the preprocessing was not fitted to


class TableColumn(NamedTuple):
    """A column by its name; `categories` are the words that its codes 0, 1, ... stand for, None for numbers."""

    name: str
    categories: tuple[str, ...] | None = None


class Table(NamedTuple):
    """What is stored: float32 [N, F], a number or the code of a category; NaN is a missing value."""

    values: np.ndarray
    columns: tuple[TableColumn, ...]


class TableSource:
    """Rows of a table as float32 [B, F]; the whole table lies on the device."""

    def __init__(self, table: Table, device: torch.device) -> None:
        import torch

        self.values = torch.from_numpy(np.array(table.values)).to(device)

    def take(self, rows: np.ndarray) -> Tensor:
        """Return the cases `rows` as they are stored."""
        import torch

        return self.values[torch.as_tensor(rows, dtype=torch.int64, device=self.values.device)]


@dataclass(frozen=True, eq=False)
class TablePreprocessing(Preprocessing):
    """What turns raw rows into features: numbers as z-scores, then categories one-hot, then what is missing.

    Attributes:
        columns: the columns of the raw rows, with the categories that occur in training; `check` gives such rows.
        fitted: what was learned of the training rows; `_table_fit` says in which order.
    """

    columns: tuple[TableColumn, ...]
    fitted: Fitted
    _copies: dict[torch.device, Mapping[str, Tensor]] = field(init=False, repr=False)

    kind: ClassVar[str] = "table"

    def __post_init__(self) -> None:
        """Make the tensors now: what is made while a graph is traced must not outlive it."""
        import torch

        object.__setattr__(self, "_copies", {torch.device("cpu"): _constants(self.columns, self.fitted)})

    @property
    def shape(self) -> tuple[int]:
        """(F,), the number of features."""
        return (len(self.fitted.numbers) + len(self.fitted.hot) + len(self.fitted.missing),)

    @property
    def names(self) -> list[str]:
        """What every feature is called: COLUMN, COLUMN=CATEGORY or "COLUMN is missing"."""
        numbers = [self.columns[at].name for at in self.fitted.numbers]
        hot = [self._category(*self.fitted.seen[place]) for place in self.fitted.hot]
        return [*numbers, *hot, *(f"{self.columns[at].name} is missing" for at in self.fitted.missing)]

    @property
    def sources(self) -> list[str]:
        """Which column every feature is made of."""
        return [self.columns[at].name for at in self._made_of]

    def standardise(self, raw: Tensor) -> Tensor:
        """Map raw rows [B, F] to features [B, F'], float32, finite whatever the rows hold."""
        import torch

        constants = self._constants(raw.device)
        seen = (raw[:, constants["position"]] == constants["code"]).float()  # [B, categories]
        there = torch.where(
            constants["has_categories"],
            seen @ constants["belongs"] > 0,
            ~raw[:, constants["missing"]].isnan(),
        )  # [B, indicators]
        return torch.cat([self._numbers(raw, constants), seen[:, constants["hot"]], (~there).float()], dim=1)

    def check(self, stored: Table) -> Table:
        """Return a table with the columns that this was fitted to, found by name; further columns are left out.

        Raises:
            DataError: a column that is needed is missing or of another kind, or a value is infinite.
        """
        if stored.columns == self.columns and not np.isinf(stored.values).any():
            return stored
        given = {column.name: at for at, column in enumerate(stored.columns)}
        missing = [name for name in dict.fromkeys(self.sources) if name not in given]
        if missing:
            more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
            raise DataError(
                f"the table lacks the column{'s' * (len(missing) > 1)} {', '.join(map(repr, missing[:3]))}{more}, "
                f"which the model was trained on; it has {len(given)} columns, such as {', '.join(list(given)[:3])}"
            )
        values = np.full((len(stored.values), len(self.columns)), np.nan, np.float32)
        for at in set(self._made_of):
            place = given[self.columns[at].name]
            values[:, at] = _recoded(stored.values[:, place], stored.columns[place], self.columns[at])
        return Table(values, self.columns)

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists, which JSON can hold."""
        columns = {column.name: column.categories and list(column.categories) for column in self.columns}
        return {"kind": self.kind, "columns": columns, **_table_fit.to_dict(self.fitted)}

    @cached_property
    def _made_of(self) -> list[int]:
        return [*self.fitted.numbers, *(self.fitted.seen[at][0] for at in self.fitted.hot), *self.fitted.missing]

    def _constants(self, device: torch.device) -> Mapping[str, Tensor]:
        """Return the fitted vectors on a device, each copied once."""
        if device not in self._copies:
            here = next(iter(self._copies.values()))
            self._copies[device] = {name: tensor.to(device) for name, tensor in here.items()}
        return self._copies[device]

    def _numbers(self, raw: Tensor, constants: Mapping[str, Tensor]) -> Tensor:
        import torch

        numbers = raw[:, constants["numbers"]]  # [B, K]
        values = numbers - constants["shift"]
        if self.fitted.log1p:
            values = values.clamp(min=0.0).log1p()  # below the least of training counts as the least
        values = values.clamp(constants["low"], constants["high"])
        values = torch.where(numbers.isnan(), constants["fill"], values)
        return ((values - constants["center"]) / constants["scale"]).clamp(-FARTHEST, FARTHEST)

    def _category(self, at: int, code: int) -> str:
        column = self.columns[at]
        assert column.categories is not None
        return f"{column.name}={column.categories[code]}"


class TableModality(Modality):
    """Numbers and categories by column, with missing cells."""

    name = "table"

    def cases(self, stored: Table) -> int:
        """Return the number of rows."""
        return len(stored.values)

    def select(self, stored: Table, rows: np.ndarray) -> Table:
        """Return the rows `rows`, in that order, in memory."""
        return Table(np.array(stored.values[rows]), stored.columns)

    def digests(self, stored: Table) -> list[str]:
        """Return a digest of every row: the names of the columns, its numbers, and its categories as words."""
        header = hashlib.blake2b(json.dumps([column.name for column in stored.columns]).encode(), digest_size=16)
        kinds = _are_categories(stored.columns)
        numbers = np.ascontiguousarray(stored.values[:, ~kinds] + np.float32(0))  # -0.0 is 0.0
        numbers[np.isnan(numbers)] = np.nan  # one NaN of the many
        words = [_words(stored.values[:, at], stored.columns[at]) for at in np.flatnonzero(kinds)]
        result = []
        for row, number in enumerate(numbers):
            digest = header.copy()
            digest.update(number.tobytes())
            digest.update(json.dumps([column[row] for column in words]).encode())
            result.append(digest.hexdigest())
        return result

    def save(self, stored: Table, folder: Path) -> None:
        """Write `values.npy` and `columns.json`."""
        values = np.ascontiguousarray(stored.values, dtype=np.float32)
        files.write_atomically(folder / "values.npy", lambda file: np.save(file, values))
        files.write_json(folder / "columns.json", [[column.name, column.categories] for column in stored.columns])

    def load(self, folder: Path) -> Table:
        """Open what `save` wrote; the values are memory-mapped.

        Raises:
            StudyError, ValueError: it is missing or damaged.
        """
        values, columns = open_array(folder / "values.npy"), _columns(files.read_json(folder / "columns.json", list))
        if values.dtype != np.float32 or values.ndim != 2 or values.shape[1] != len(columns):
            raise ValueError(f"{folder} holds {values.dtype} {list(values.shape)} for {len(columns)} columns")
        return Table(values, columns)

    def fit(
        self, stored: Table, rows: np.ndarray, labels: np.ndarray, options: Mapping[str, Any]
    ) -> TablePreprocessing:
        """Fit the preprocessing on `rows` and nothing else."""
        self.check_options(options)
        kinds = _are_categories(stored.columns)
        values = np.array(stored.values[rows])
        columns = tuple(_learned(values[:, at], column) for at, column in enumerate(stored.columns))
        for at in np.flatnonzero(kinds):
            values[:, at] = _recoded(values[:, at], stored.columns[at], columns[at])
        return TablePreprocessing(columns, _table_fit.fit(values, kinds, labels, _table_fit.Options(**options)))

    def restore(self, saved: Mapping[str, Any]) -> TablePreprocessing:
        """Take what `to_dict` gave."""
        return TablePreprocessing(_columns(saved["columns"].items()), _table_fit.from_dict(saved))

    def source(self, stored: Table, device: torch.device) -> TableSource:
        """Return what makes raw batches of the rows."""
        return TableSource(stored, device)

    def summary(self, stored: Table, rows: np.ndarray) -> np.ndarray:
        """Return the numbers of `rows` and their categories one-hot, float [n, F]; NaN is a missing value."""
        blocks = []
        for at, column in enumerate(stored.columns):
            values = np.asarray(stored.values[rows, at], dtype=np.float64)[:, None]
            if column.categories is not None:
                values = np.where(np.isnan(values), np.nan, values == np.arange(len(column.categories)))
            blocks.append(values)
        return np.concatenate(blocks, axis=1)

    def check_options(self, options: Mapping[str, Any]) -> None:
        """Check options: those of `_table_fit.Options`."""
        refuse_options(self.name, options, _table_fit.RANGES)


@MODALITIES.register("table")
def table() -> TableModality:
    """Numbers and categories by column, with missing cells."""
    return TableModality()


def _constants(columns: tuple[TableColumn, ...], fitted: Fitted) -> dict[str, Tensor]:
    import torch

    position, code = (torch.tensor([pair[at] for pair in fitted.seen], dtype=torch.int64) for at in (0, 1))
    missing = torch.tensor(fitted.missing, dtype=torch.int64)
    return {
        **{name: torch.from_numpy(vector) for name, vector in fitted.state.items()},
        "numbers": torch.tensor(fitted.numbers, dtype=torch.int64),
        "position": position,
        "code": code.float(),
        "hot": torch.tensor(fitted.hot, dtype=torch.int64),
        "missing": missing,
        "belongs": (position[:, None] == missing).float(),  # [categories, indicators]
        "has_categories": torch.from_numpy(_are_categories(columns)[fitted.missing]),
    }


def _are_categories(columns: tuple[TableColumn, ...]) -> np.ndarray:
    return np.array([column.categories is not None for column in columns], dtype=bool)


def _columns(saved: Any) -> tuple[TableColumn, ...]:
    return tuple(TableColumn(name, None if words is None else tuple(words)) for name, words in saved)


def _words(codes: np.ndarray, column: TableColumn) -> list[str | None]:
    assert column.categories is not None
    return [None if np.isnan(code) else column.categories[int(code)] for code in codes]


def _learned(codes: np.ndarray, column: TableColumn) -> TableColumn:
    """Return a column with those of its categories that occur: what other rows hold shall leave no trace."""
    if column.categories is None:
        return column
    return TableColumn(column.name, tuple(column.categories[int(code)] for code in np.unique(codes[~np.isnan(codes)])))


def _recoded(values: np.ndarray, given: TableColumn, wanted: TableColumn) -> np.ndarray:
    """Return one column's values with the codes that `wanted` has."""
    absent = np.isnan(values)
    if not absent.all() and (given.categories is None) != (wanted.categories is None):
        kinds = ("numbers", "categories") if given.categories is None else ("categories", "numbers")
        raise DataError(f"column {given.name!r} holds {kinds[0]}; the model was trained on {kinds[1]} in it")
    if np.isinf(values).any():
        raise DataError(f"column {given.name!r} of case {np.isinf(values).argmax()} (counted from 0) is infinite")
    if given.categories is None or wanted.categories is None or given.categories == wanted.categories:
        return values
    places = {word: code for code, word in enumerate(wanted.categories)}
    codes = np.array([places.get(word, UNKNOWN_CATEGORY) for word in given.categories] or [np.nan])
    return np.where(absent, np.nan, codes[np.where(absent, 0, values).astype(np.int64)])
