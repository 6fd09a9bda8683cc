"""Folds of a cross-validation: the development part divided by patient, or by site, and its columns in `split.csv`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pandas as pd

from histotune.data.cohort import Cohort
from histotune.data.grouping import by_group, group_name, whole_groups
from histotune.data.splits import KFOLD, Split
from histotune.errors import ConfigError, DataError


def check_folds(folds: int, repeats: int, protocol: str | None = None) -> None:
    """Check how many folds and repeats are asked for.

    Raises:
        ConfigError: it is no cross-validation, or none is asked for under a protocol that has no other score.
    """
    if folds < 0 or folds == 1:
        raise ConfigError(f"folds={folds}: a cross-validation needs at least 2; 0 is one validation part, no folds")
    if repeats < 1 or (repeats > 1 and not folds):
        raise ConfigError(f"repeats={repeats}, folds={folds}: folds are dealt at least once, and without folds only so")
    if protocol == KFOLD and not folds:
        raise ConfigError(
            f"split {KFOLD!r} has no validation and no test part, so that every score is out of folds: ask for folds "
            "(--folds 5), or split by 'patient'"
        )


def check_patience(patience: int) -> None:
    """Check that trainings of folds end after a number of epochs that nothing decides on the way.

    Raises:
        ConfigError: they would choose when to end on the cases that they are scored on.
    """
    if patience:
        raise ConfigError(
            f"patience={patience}: with folds no epoch is chosen, because the fold that would choose it is the one "
            "that is scored, and the score would be too good. Set patience to 0 and search over epochs, or leave folds "
            "out"
        )


def deal_folds(cohort: Cohort, labels: np.ndarray, parts: Split, folds: int, repeats: int, *, seed: int) -> Split:
    """Divide training and validation part together, the development part, into folds; the test part stays as it is.

    What the split's protocol keeps whole, a patient or a site, stands in one fold. Classes and sizes are as even as
    that allows.

    Args:
        labels: int64 [N], all of them.
        folds: at least 2; 0 leaves the split as it is.
        repeats: how often it is dealt, each time with another seed.
        seed: of the study.

    Raises:
        DataError: a fold lacks a class, or all cases of a class stand in one fold.
    """
    check_folds(folds, repeats, parts.protocol)
    if not folds:
        return parts
    rows = np.sort(np.concatenate([parts.train, parts.val]))
    groups, name = whole_groups(cohort, parts.protocol)[rows], group_name(parts.protocol)
    dealt: np.ndarray = np.zeros((repeats, len(cohort)), np.int64)
    for repeat in range(repeats):
        dealt[repeat, rows] = 1 + by_group(groups, labels[rows], [1 / folds] * folds, [seed, repeat + 1], name)
        in_fold = np.stack([dealt[repeat, rows] == k for k in range(1, folds + 1)])
        _refuse_missing_class(cohort.classes, labels[rows], in_fold, groups, name)
    return replace(parts, folds=dealt)


def columns(folds: np.ndarray | None) -> dict[str, np.ndarray]:
    """Return the columns of `split.csv` that hold the fold of each case, "" for one in none; a column per repeat."""
    dealt: Iterable[np.ndarray] = () if folds is None else folds
    return {f"fold{n if n > 1 else ''}": np.where(row > 0, row.astype(str), "") for n, row in enumerate(dealt, start=1)}


def read(table: pd.DataFrame) -> np.ndarray | None:
    """Read what `columns` wrote: int64 [repeats, N], or None where there are no folds."""
    names = [name for name in table.columns if name.startswith("fold")]
    return np.stack([table[name].replace("", "0").to_numpy(np.int64) for name in names]) if names else None


def _refuse_missing_class(
    classes: tuple[str, ...], labels: np.ndarray, folds: np.ndarray, groups: np.ndarray, name: str
) -> None:
    """Refuse folds, bool [K, n], of which one cannot be scored in every class, or the others not train in it."""
    counts = np.stack([np.bincount(labels[fold], minlength=len(classes)) for fold in folds])  # [K, C]
    for label, count in enumerate(counts.T):
        lacking = np.flatnonzero(count == 0) + 1
        whole = np.flatnonzero(count == count.sum()) + 1
        if not (len(lacking) or len(whole)):
            continue
        owners = len(np.unique(groups[labels == label]))
        which = f"fold {', '.join(map(str, lacking))} of {len(counts)} has none"
        if len(whole):
            which = f"fold {whole[0]} of {len(counts)} has all of them, and its training part none"
        fewer = min(owners, len(counts) - 1)
        raise DataError(
            f"class {classes[label]!r}: {which} ({count.sum()} cases of {owners} {name}s in the development part); "
            + (f"ask for {fewer} folds at most, or " if fewer > 1 else "")
            + "merge or drop rare classes"
        )
