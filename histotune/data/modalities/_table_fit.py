"""What a table's preprocessing learns of its training rows, in float64; `table.py` applies it in tensors.

The order of the steps, of which every one sees the result of the one before:

1. `log1p`: a numeric column with negative values is shifted by its minimum, then log(1 + x);
2. `clip`: to limits that the training rows give;
3. imputation: a missing number becomes the column's mean, a missing or unseen category no category;
4. one-hot of the categories that occur in training; with `indicator`, a column that is 1 where a value is missing;
5. columns without variation and copies of an earlier column leave;
6. `select`: the best `columns` of what is left;
7. z-score of the numeric columns; what is 0 or 1 stays so.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from histotune.core.parameters import YES_OR_NO, Allowed, Interval, OneOf
from histotune.errors import DataError

NUMBER_STATE = ("shift", "low", "high", "fill", "center", "scale")  # one value per numeric column that is kept
_LARGEST = float(np.finfo(np.float32).max)
_SMALLEST = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a table is preprocessed.

    Args:
        log1p: whether numbers enter as log(1 + x), shifted where some are negative.
        clip: `none`, `iqr` (quartiles -/+ `whiskers` interquartile ranges; Tukey, 1977) or `quantile` (`tail` and
            1 - `tail`). A column whose two limits coincide, such as a rare mutation, is not clipped.
        whiskers: interquartile ranges beyond the quartiles.
        tail: share of the training cases beyond each quantile.
        select: `none`, `variance` (the largest) or `anova` (the largest F of the training labels).
        columns: how many columns `select` keeps; 0 keeps all.
        indicator: whether every column that misses a value in training gets a column that marks where.
    """

    log1p: bool = False
    clip: str = "none"
    whiskers: float = 1.5
    tail: float = 0.01
    select: str = "none"
    columns: int = 0
    indicator: bool = False


RANGES: Mapping[str, Allowed] = {
    "log1p": YES_OR_NO,
    "clip": OneOf("none", "iqr", "quantile"),
    "whiskers": Interval(0, open_low=True),
    "tail": Interval(0, 0.5, open_low=True, open_high=True),
    "select": OneOf("none", "variance", "anova"),
    "columns": Interval(0, whole=True),
    "indicator": YES_OR_NO,
}


@dataclass(frozen=True)
class Fitted:
    """What `standardise` needs; positions count the columns of the table.

    Attributes:
        numbers: positions of the numeric columns that are kept; `state` has a float32 vector for each of NUMBER_STATE.
        seen: (position, code) of every category that occurs in training; `hot` are the places in it that are kept.
        missing: positions of the columns whose indicator is kept.
    """

    log1p: bool
    numbers: list[int]
    state: Mapping[str, np.ndarray]
    seen: list[tuple[int, int]]
    hot: list[int]
    missing: list[int]


def fit(values: np.ndarray, kinds: np.ndarray, labels: np.ndarray, options: Options) -> Fitted:
    """Fit everything on training rows, float [n, F] with codes of categories, NaN where a value is missing.

    Args:
        kinds: bool [F], whether a column has categories.

    Raises:
        DataError: no column varies, or there is no row.
    """
    if not len(values):
        raise DataError("no training case has this table, so that nothing can be learned from it")
    values = values.astype(np.float64)
    absent = np.isnan(values)
    numbers = np.flatnonzero(~kinds & ~absent.all(axis=0))
    state, filled = _numbers(values[:, numbers], options)
    seen = [(int(at), int(code)) for at in np.flatnonzero(kinds) for code in np.unique(values[~absent[:, at], at])]
    hot = [values[:, at] == code for at, code in seen]
    missing = np.flatnonzero(absent.any(axis=0)) if options.indicator else np.zeros(0, np.int64)
    features = np.column_stack([filled, *hot, absent[:, missing]]).astype(np.float64)  # [n, E]
    kept = select(features, distinct(features), labels, options)
    if not len(kept):
        raise DataError(
            f"none of {len(kinds)} columns varies over the {len(values)} training cases that have this table"
        )
    number = kept[kept < len(numbers)]
    is_hot = (kept >= len(numbers)) & (kept < len(numbers) + len(seen))
    center, scale = features[:, number].mean(axis=0), features[:, number].std(axis=0)
    state = {name: vector[number] for name, vector in state.items()} | {
        "center": center,
        "scale": np.maximum(scale, _SMALLEST),
    }
    return Fitted(
        options.log1p,
        numbers[number].tolist(),
        {name: state[name].astype(np.float32) for name in NUMBER_STATE},
        seen,
        (kept[is_hot] - len(numbers)).tolist(),
        missing[kept[kept >= len(numbers) + len(seen)] - len(numbers) - len(seen)].tolist(),
    )


def distinct(features: np.ndarray) -> np.ndarray:
    """Return the columns of [n, E] that vary and of which no earlier column is a copy, in order."""
    varies = np.flatnonzero(features.max(axis=0) > features.min(axis=0)) if features.shape[1] else np.zeros(0, np.int64)
    first: dict[bytes, int] = {}
    for at in varies:
        first.setdefault((features[:, at] + 0.0).tobytes(), int(at))  # + 0.0: -0.0 is 0.0
    return np.array(list(first.values()), dtype=np.int64)


def select(features: np.ndarray, candidates: np.ndarray, labels: np.ndarray, options: Options) -> np.ndarray:
    """Return the best of `candidates` by the options, in order; of equals the first."""
    if options.select == "none" or not 0 < options.columns < len(candidates):
        return candidates
    result = features[:, candidates]
    worth = result.var(axis=0) if options.select == "variance" else anova(result, labels)
    best = np.argsort(-worth, kind="stable")[: options.columns]
    return candidates[np.sort(best)]


def anova(features: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return each column's F of a one-way analysis of variance between classes, [E]; features [n, E] that vary."""
    classes, code = np.unique(labels, return_inverse=True)
    n, groups = len(features), len(classes)
    if groups < 2 or n <= groups:
        return np.zeros(features.shape[1])
    centred = features - features.mean(axis=0)
    counts = np.bincount(code).astype(np.float64)
    means = np.stack([centred[code == group].mean(axis=0) for group in range(groups)])  # [groups, E]
    between = counts @ means**2
    within = ((centred - means[code]) ** 2).sum(axis=0)
    with np.errstate(divide="ignore"):  # a column that is constant within every class: infinitely good
        result: np.ndarray = (between / (groups - 1)) / (within / (n - groups))
    return result


def _numbers(values: np.ndarray, options: Options) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Fit log, limits and means of numeric columns [n, K]; returns their state and the columns as they then are."""
    shift = np.minimum(np.nanmin(values, axis=0), 0.0) if options.log1p and len(values) else np.zeros(values.shape[1])
    logged = np.log1p(values - shift) if options.log1p else values
    low, high = _limits(logged, options)
    clipped = np.clip(logged, low, high)
    fill = np.nanmean(clipped, axis=0)
    state = {"shift": shift, "low": low, "high": high, "fill": fill}
    return state, np.where(np.isnan(clipped), fill, clipped)


def _limits(values: np.ndarray, options: Options) -> tuple[np.ndarray, np.ndarray]:
    """Return the lower and upper limit of every column [n, K]; without clipping those of float32."""
    widest = np.full(values.shape[1], _LARGEST)
    if options.clip == "none" or not values.shape[1]:
        return -widest, widest
    share = 0.25 if options.clip == "iqr" else options.tail
    low, high = np.nanquantile(values, [share, 1 - share], axis=0)
    if options.clip == "iqr":
        reach = options.whiskers * (high - low)
        low, high = low - reach, high + reach
    flat = low == high
    return np.where(flat, -widest, low), np.where(flat, widest, high)


def to_dict(fitted: Fitted) -> dict[str, Any]:
    """Return plain lists, or one number where all columns have the same."""
    saved = {name: _packed(vector) for name, vector in fitted.state.items()}
    return dataclasses.asdict(fitted) | {"state": saved, "seen": [list(pair) for pair in fitted.seen]}


def from_dict(saved: Mapping[str, Any]) -> Fitted:
    """Take what `to_dict` gave."""
    numbers = list(saved["numbers"])
    state = {name: np.empty(len(numbers), dtype=np.float32) for name in NUMBER_STATE}
    for name, vector in state.items():
        vector[:] = saved["state"][name]
    return Fitted(
        saved["log1p"],
        numbers,
        state,
        [(int(at), int(code)) for at, code in saved["seen"]],
        list(saved["hot"]),
        list(saved["missing"]),
    )


def _packed(vector: np.ndarray) -> list[float] | float:
    """Write float32 in the fewest digits that give them back."""
    digits = [float(str(value)) for value in vector]
    return digits[0] if len(set(digits)) == 1 else digits
