"""Who trains, who validates, who is sealed: by patient, fixed for a study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from histotune.data.cohort import Cohort, columns
from histotune.data.grouping import by_case, by_group, group_name, whole_groups
from histotune.data.imbalance import NATURAL, describe, sample, thin
from histotune.data.modalities import Column
from histotune.errors import ConfigError, DataError, suggest

TRAIN, VAL, TEST = "train", "val", "test"


@dataclass(frozen=True)
class Split:
    """Disjoint row numbers of a cohort.

    Attributes:
        protocol: one of `PROTOCOLS`; `leaky` is whether patients may stand on both sides.
        train, val, test: int64, sorted.
        training: what was made of the training part in a sentence, "" when nothing was.
        folds: int64 [repeats, N], the fold of each case from 1, 0 for one that is not in train or val; or None.
    """

    protocol: str
    train: np.ndarray
    val: np.ndarray
    test: np.ndarray
    leaky: bool = False
    training: str = ""
    folds: np.ndarray | None = None


@dataclass(frozen=True)
class TrainingData:
    """What a trial may see: every array, but labels of the training and validation part only.

    Attributes:
        arrays: {modality: N cases as its kind stores them}, memory-mapped.
        present: {modality: bool [N]}.
        kinds: {modality: kind}; `image` where a modality is not named.
        labels: int64 [N], `cohort.UNKNOWN` (-1) for sealed cases.
        ids, patients: str [N].
        train, val: int64 row numbers.
        classes: class names; `positive` is the index of the positive class.
        digest: the cohort's digest, which a trial's environment names.
        folds: as `Split` has them; where there are any, a trial trains once for each of `cuts`.
        targets: [N, C], probabilities that the training loss asks for in place of the labels; None asks for labels.
    """

    arrays: Mapping[str, Any]
    present: Mapping[str, np.ndarray]
    labels: np.ndarray
    ids: np.ndarray
    patients: np.ndarray
    train: np.ndarray
    val: np.ndarray
    classes: tuple[str, ...]
    positive: int = 1
    digest: str = ""
    kinds: Mapping[str, str] = field(default_factory=dict)
    folds: np.ndarray | None = None
    targets: np.ndarray | None = None

    @property
    def columns(self) -> dict[str, Column]:
        """Every modality with its kind and its presence mask."""
        return columns(self.arrays, self.present, self.kinds)

    @property
    def counts(self) -> tuple[int, ...]:
        """Cases of each class in the training part, [C], whether or not a model has input of them."""
        return self.counts_of(self.train)

    def counts_of(self, rows: np.ndarray) -> tuple[int, ...]:
        """Return how many of the cases `rows` are of each class, [C]."""
        return tuple(int(n) for n in np.bincount(self.labels[rows], minlength=len(self.classes)))

    def cuts(self) -> list[TrainingData]:
        """Return what each training of a cross-validation sees, fold by fold, repeat by repeat: one is scored."""
        return [
            replace(self, folds=None, train=np.flatnonzero((dealt > 0) & (dealt != k)), val=np.flatnonzero(dealt == k))
            for dealt in (() if self.folds is None else self.folds)
            for k in range(1, int(dealt.max()) + 1)
        ]


PROTOCOLS: Mapping[str, str] = {
    "patient": "every patient stands in one part; classes and sizes as even as the patients allow",
    "patient_70_30": "as `patient`, with 30 % of the patients' cases in the test part",
    "site": "every site stands in one part, with all its patients; as even as the sites allow",
    "official_patient": "the published training, validation and test patients; other patients are left out",
    "given": "the split column of a manifest; validation patients are drawn from the training part if there are none",
    "patient_kfold": "no test part: every patient is scored out of folds, which `folds` asks for (at least 2)",
    "patch_random_70_30": "leaky reproduction: patches at random, so that patients stand on both sides",
}
KFOLD = "patient_kfold"
LEAKY = frozenset({"patch_random_70_30"})
FRACTIONS = (0.6, 0.15, 0.25)
_70_30 = (0.56, 0.14, 0.30)
_PARTS = (TRAIN, VAL, TEST)


def default_protocol(cohort: Cohort, usual: str) -> str:
    """Return the protocol of a study that names none: that of the dataset, or the data's own training and test part.

    Args:
        cohort: its fact `own_split` says whether the parts are the user's, and not one of several that are published.
        usual: of the dataset.
    """
    parts = set(cohort.table["part"])
    return "given" if cohort.facts.get("own_split") and {TRAIN, TEST} <= parts else usual


def split(
    cohort: Cohort,
    labels: np.ndarray,
    protocol: str = "patient",
    *,
    seed: int = 0,
    fractions: tuple[float, float, float] = FRACTIONS,
    imbalance: str = NATURAL,
    training_cases: int = 0,
) -> Split:
    """Divide a cohort into training, validation and test part.

    Args:
        cohort: N cases.
        labels: int64 [N], all of them.
        protocol: one of `PROTOCOLS`.
        seed: of the study; the same seed gives the same split.
        fractions: of the cases that train, validate and test; protocols with their own fractions do not read it.
        imbalance: what `check_imbalance` takes; cases that the training part loses are in no part.
        training_cases: how many cases of the training part stay at most, drawn class by class; 0 is all.

    Raises:
        ConfigError: the protocol is unknown, or not one for this data.
        DataError: patients and classes do not allow it; names the numbers.
    """
    check_protocol(protocol)
    if len(fractions) != 3 or min(fractions) <= 0 or not np.isclose(sum(fractions), 1):
        raise ConfigError(f"fractions must be three positive numbers that sum to 1, got {fractions}")
    patients = cohort.table["patient"].to_numpy(str)
    if protocol == KFOLD:
        parts = np.zeros(len(labels), np.int64)
    elif protocol == "patch_random_70_30":
        parts = by_case(labels, _70_30, [seed])
    elif protocol in ("official_patient", "given"):
        parts = _prescribed(cohort, patients, labels, protocol, seed)
    else:
        shares = _70_30 if protocol == "patient_70_30" else fractions
        parts = by_group(whole_groups(cohort, protocol), labels, shares, [seed], group_name(protocol))
    train, val, test = (np.flatnonzero(parts == part) for part in range(3))
    for part, rows in zip(_PARTS, (train, val, test), strict=True):
        if protocol == KFOLD and part != TRAIN:  # that every fold has every class is seen to where they are dealt
            continue
        refuse_missing_class(cohort.classes, labels, rows, f"the {part} part of split {protocol!r}")
    leaky = protocol in LEAKY or not cohort.facts.get("patients_known", True)
    kept, message = _thinned(cohort, labels, train, imbalance, seed, patients)
    drawn = sample(kept, labels, len(cohort.classes), training_cases, seed=seed)
    if len(drawn) < len(kept):
        message = f"{message}; " if message else ""
        message += f"{len(drawn):,} of {len(kept):,} cases at random, in the proportions of the classes"
    return Split(protocol, drawn, val, test, leaky, message)


def check_protocol(name: str) -> str:
    """Return `name` if it is a split protocol.

    Raises:
        ConfigError: it is none; the nearest is offered.
    """
    if name not in PROTOCOLS:
        raise ConfigError(f"unknown split protocol {name!r}. {suggest(name, PROTOCOLS)}")
    return name


def describe_change(table: pd.DataFrame, cohort: Cohort, digest: str | None = None) -> str | None:
    """Describe what differs between the data that a study began with and the data as they are now.

    Args:
        table: `id`, `patient`, `content` of every case when the study began, as `StudyFolder.split_table` gives it.
        cohort: the data now.
        digest: the cohort's digest when the study began (at this image size), which also covers the labels.

    Returns:
        None when nothing changed.
    """
    then, now = table.set_index("id"), cohort.table.set_index("id")
    added, removed = now.index.difference(then.index), then.index.difference(now.index)
    both = then.index.intersection(now.index)
    repainted = both[(then.loc[both, "content"] != now.loc[both, "content"]).to_numpy()]
    moved = both[(then.loc[both, "patient"] != now.loc[both, "patient"]).to_numpy()]
    changes = [
        f"{len(ids)} {what} ({', '.join(ids[:3])}{', ...' if len(ids) > 3 else ''})"
        for ids, what in (
            (added, "cases were added"),
            (removed, "cases were removed"),
            (repainted, "cases have other content"),
            (moved, "cases have another patient"),
        )
        if len(ids)
    ]
    if not changes and list(then.index) != list(now.index):
        changes = ["the order of the cases differs"]
    if not changes and digest is not None and digest != cohort.digest:
        changes = [f"the cases are the same, but labels, sites, prescribed parts or options differ ({digest} then, "]
        changes[0] += f"{cohort.digest} now)"
    return f"{len(then)} cases then, {len(now)} now: {'; '.join(changes)}" if changes else None


def _thinned(
    cohort: Cohort, labels: np.ndarray, train: np.ndarray, imbalance: str, seed: int, patients: np.ndarray
) -> tuple[np.ndarray, str]:
    """Return the rows of the training part that stay, and a sentence about it."""
    if imbalance == NATURAL:
        return train, ""
    rarest = cohort.facts.get("long_tail_rarest")
    place = cohort.classes.index(rarest) if rarest in cohort.classes else -1
    about: dict[str, Any] = {"seed": seed, "patients": patients, "positive": cohort.positive, "rarest": place}
    kept = thin(train, labels, cohort.classes, imbalance, **about)
    before, after = (np.bincount(labels[rows], minlength=len(cohort.classes)) for rows in (train, kept))
    return kept, describe(cohort.classes, before, after, imbalance)


def _prescribed(cohort: Cohort, patients: np.ndarray, labels: np.ndarray, protocol: str, seed: int) -> np.ndarray:
    """Take the parts that the source prescribes. Returns part numbers [N], -1 for cases in no part."""
    given = cohort.table["part"].to_numpy(str)
    parts = np.select([given == part for part in _PARTS], range(3), default=-1)
    if protocol == "official_patient" and cohort.name != "idc":
        raise ConfigError(f"'official_patient' is for dataset 'idc'; {cohort.name!r} has no published patient lists")
    if not np.isin([0, 2], parts).all():
        missing = " and ".join(_PARTS[part] for part in (0, 2) if part not in parts)
        raise DataError(
            f"split {protocol!r}: no case of {len(given)} is marked {missing}: name the parts train, val, test in a "
            f"manifest's column 'split', or lay dataset {cohort.name!r} out as `histotune list datasets -v` says; else "
            "split by 'patient' (--split patient)"
        )
    _refuse_shared_patients(patients, parts, protocol)
    if 1 not in parts:
        rows = np.flatnonzero(parts == 0)
        share = cohort.facts.get("validation_share", FRACTIONS[1] / (FRACTIONS[0] + FRACTIONS[1]))
        parts[rows] = by_group(patients[rows], labels[rows], (1 - share, share), [seed])
    return parts


def _refuse_shared_patients(patients: np.ndarray, parts: np.ndarray, protocol: str) -> None:
    pairs = pd.DataFrame({"patient": patients, "part": parts})[parts >= 0].drop_duplicates()
    shared = sorted(pairs.loc[pairs["patient"].duplicated(), "patient"].unique())
    if shared:
        raise DataError(
            f"split {protocol!r} puts {len(shared)} patients in more than one part ({', '.join(shared[:5])}): what is "
            "learnt of a patient would be tested on the same patient; correct the column 'split'"
        )


def refuse_missing_class(classes: Sequence[str], labels: np.ndarray, rows: np.ndarray, where: str) -> None:
    """Refuse a part of which a class is absent.

    Raises:
        DataError: with `where` and the numbers.
    """
    counts = np.bincount(labels[rows], minlength=len(classes))
    if (counts == 0).any():
        message = ", ".join(f"{name}: {n}" for name, n in zip(classes, counts, strict=True))
        raise DataError(
            f"{where} lacks a class ({message}): every part needs every class, and for that every class needs cases "
            "of at least 3 patients that can be parted; add patients, or merge or drop rare classes"
        )
