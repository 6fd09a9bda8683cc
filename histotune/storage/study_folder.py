"""The files of one study: who may read and write them, and the seal on the test labels."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from histotune.core import files
from histotune.core.config import unparse
from histotune.core.files import read_table
from histotune.core.provenance import utc_time
from histotune.data import fold_assignment as _cuts
from histotune.data.cohort import UNKNOWN, Cohort
from histotune.data.imbalance import NATURAL
from histotune.data.splits import TEST, TRAIN, VAL, Split, TrainingData
from histotune.errors import StudyError, suggest
from histotune.storage import layout, trial_index
from histotune.storage.records import TrialEnd, TrialRecord, to_record

_CURE = "restore it from a copy, or begin a new study"
COMPLETE, STOPPED, FAILED, INFEASIBLE = TrialEnd


@dataclass(frozen=True)
class StudySettings:
    """What a study began with; it never changes.

    Args:
        name: the study's name, which is its folder's.
        dataset: registered dataset name.
        data: folder or file that the data came from, as an absolute path; "" for made-up data.
        options: dataset options that change the cohort (never the image size).
        digests: {image size: cohort digest}.
        classes: class names in label order.
        positive: index of the positive class.
        protocol: split protocol.
        leaky: whether patients may stand on both sides of the split.
        seed: seed of split and search.
        metric: validation metric that ranks trials; more is better unless `metrics` says otherwise.
        others: further metrics of a search for a Pareto front.
        space: the resolved search space.
        facts: the cohort's facts.
        imbalance: of the training part; `training` says it in numbers, `training_cases` limits it.
        folds, repeats: into how many folds, 0 for none, training and validation part are dealt, and how often.
        created: UTC time, ISO 8601.
        version: histotune's version.
    """

    name: str
    dataset: str
    data: str
    options: Mapping[str, Any]
    digests: Mapping[str, str]
    classes: list[str]
    positive: int
    protocol: str
    leaky: bool
    seed: int
    metric: str
    space: Mapping[str, Any]
    facts: Mapping[str, Any] = field(default_factory=dict)
    imbalance: str = NATURAL
    training: str = ""
    training_cases: int = 0
    folds: int = 0
    repeats: int = 1
    created: str = ""
    version: str = ""
    others: list[str] = field(default_factory=list)

    @property
    def metrics(self) -> list[str]:
        """All metrics of the search, the ranking one first."""
        return [self.metric, *self.others]


class StudyFolder:
    """Paths and files of one study; the only door to them.

    What a study begins with never changes, so `settings` and `split` are read once, where they are first needed, and
    are the same for all that this object is passed to.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()

    def __reduce__(self) -> tuple[type[StudyFolder], tuple[Path]]:
        return StudyFolder, (self.folder,)  # a worker reads what it needs

    @classmethod
    def named(cls, name: str, runs: Path) -> StudyFolder:
        """Return the study of that name in the folder of studies, whether it exists or not.

        Raises:
            ConfigError: the name is no name of a folder.
        """
        return cls(runs / layout.checked_name(name, "a study"))

    @classmethod
    def find(cls, study: str | os.PathLike[str], runs: Path) -> StudyFolder:
        """Return a study that exists, by its name in `runs` or by its folder.

        Raises:
            StudyError: there is none; the nearest name is offered.
        """
        named, elsewhere = cls(runs / study), cls(Path(study))
        result = elsewhere if elsewhere.exists() and not named.exists() else named
        result.require()
        return result

    def of_member(self, study: str) -> StudyFolder:
        """Return the study of a member of an ensemble: "" is this one, else a folder, from this one where relative."""
        return StudyFolder(self.folder / study) if study else self

    def name_of(self, study: StudyFolder) -> str:
        """Return how an ensemble of this study names the study of a member, as `of_member` reads it."""
        if study.folder == self.folder:
            return ""
        return str(study.folder.relative_to(self.folder) if study.folder.is_relative_to(self.folder) else study.folder)

    @property
    def journal(self) -> Path:
        """Optuna's journal."""
        return self.folder / layout.JOURNAL

    @property
    def controls(self) -> Path:
        """Folder of the controls."""
        return self.folder / layout.CONTROLS

    @property
    def singles(self) -> Path:
        """Folder of single trainings, each under its configuration's digest."""
        return self.folder / layout.SINGLES

    @property
    def ensembles(self) -> Path:
        """Folder of the ensembles."""
        return self.folder / layout.ENSEMBLES

    def built_ensembles(self) -> list[Path]:
        """Return the folders of the ensembles that are whole, by name."""
        return sorted(path.parent for path in self.ensembles.glob(f"*/{layout.ENSEMBLE}"))

    def exists(self) -> bool:
        """Whether the study was created here, whole."""
        return (self.folder / layout.STUDY).exists()

    def lock(self, doing: str) -> AbstractContextManager[None]:
        """Hold the study for one writer."""
        return files.lock(self.folder / layout.LOCK, doing)

    def holder(self) -> str:
        """Say which process holds the study; "" when none does."""
        return files.holder(self.folder / layout.LOCK)

    def create(self, settings: StudySettings, cohort: Cohort, split: Split, labels: np.ndarray) -> None:
        """Write the study's fixed files; `study.json` comes last and makes it exist.

        Args:
            labels: int64 [N], all of them; those of the test part go under the seal.
        """
        parts = np.full(len(cohort), "", dtype=object)
        for part, rows in ((TRAIN, split.train), (VAL, split.val), (TEST, split.test)):
            parts[rows] = part
        table = cohort.table[["id", "patient", "content"]].assign(part=parts, **_cuts.columns(split.folds))
        known = np.sort(np.concatenate([split.train, split.val]))
        self._write_labels(self.folder / layout.LABELS, table["id"], known, labels)
        self._write_labels(self._sealed / layout.LABELS, table["id"], split.test, labels)
        files.write_text(self.folder / layout.SPLIT, table.to_csv(index=False))
        stamped = unparse(settings) | {"created": utc_time()}
        files.write_json(self.folder / layout.STUDY, stamped)

    @cached_property
    def settings(self) -> StudySettings:
        """What the study began with, of `study.json`.

        Raises:
            StudyError: there is no study here; the nearest name beside it is offered.
        """
        self.require()
        path = self.folder / layout.STUDY
        return files.restored(StudySettings, unparse(files.read_json(path, cure=_CURE)), path, _CURE)

    def require(self) -> None:
        """Refuse a folder that holds no study.

        Raises:
            StudyError: there is none; the nearest name beside it is offered.
        """
        if not self.exists():
            beside = [folder.name for folder in layout.studies(self.folder.parent)]
            raise StudyError(
                f"no study {self.folder.name!r} in {self.folder.parent}. {suggest(self.folder.name, beside)}"
            )

    @cached_property
    def split(self) -> pd.DataFrame:
        """Id, patient, content, part and folds of every case, in the cohort's order; not to be changed."""
        path = self.folder / layout.SPLIT
        table = read_table(path, ("id", "patient", "content", "part"), str, cure=_CURE)
        cases = self.settings.facts.get("cases", len(table))
        if len(table) != cases or not set(table["part"]) <= {TRAIN, VAL, TEST, ""}:
            raise files.damaged(path, f"it does not name a part for each of {cases} cases", _CURE)
        return table

    def known_labels(self) -> pd.DataFrame:
        """Read (id, label) of the training and validation part; those of the test part are under the seal."""
        return self._labels(self.folder / layout.LABELS, TRAIN, VAL)

    def training_data(self, cohort: Cohort) -> TrainingData:
        """Join the cohort with the split and the labels that are not sealed."""
        table, settings = self.split, self.settings
        labels = table["id"].map(self.known_labels().set_index("id")["label"]).fillna(UNKNOWN).to_numpy(np.int64)
        part = table["part"].to_numpy()
        return TrainingData(
            arrays=cohort.arrays,
            present=cohort.present,
            labels=labels,
            ids=table["id"].to_numpy(str),
            patients=table["patient"].to_numpy(str),
            train=np.flatnonzero(part == TRAIN),
            val=np.flatnonzero(part == VAL),
            classes=tuple(settings.classes),
            positive=settings.positive,
            digest=cohort.digest,
            kinds=cohort.kinds,
            folds=_cuts.read(table),
        )

    def open_seal(self, command: str, subject: str) -> tuple[pd.DataFrame, int]:
        """Read the test labels, on the record: returns (id, label) and how many openings came before this one.

        The caller calls `close_seal` when the figures are there; an opening without stays on the record as such.

        Args:
            command: what the user typed.
            subject: digest of the model that is evaluated.

        Raises:
            StudyError: the sealed labels are gone or damaged; the seal then counts as closed.
        """
        labels = self._labels(self._sealed / layout.LABELS, TEST)
        return labels, self.record_opening(command, subject)

    def record_opening(self, command: str, subject: str, shows: str = "") -> int:
        """Write down that sealed truth is about to be seen; returns how many openings came before this one.

        Args:
            shows: what is seen, where it is not figures of all test cases.
        """
        with files.lock(self._sealed / layout.LOCK, "opening the seal", wait=True):
            before = len(self.openings())
            now = utc_time()
            text = {"time": now, "command": command, "subject": subject} | ({"shows": shows} if shows else {})
            files.append_json(self._sealed / layout.OPENINGS, text)
        return before

    def close_seal(self, opening: int, figures: Mapping[str, Any]) -> None:
        """Write down what an opening found.

        Args:
            opening: how many came before it.
            figures: {name: value, or value with interval}.
        """
        files.append_json(self._sealed / layout.OPENINGS, {"of": opening, "figures": figures})

    def openings(self) -> list[dict[str, Any]]:
        """Return every opening of the seal, first to last: time, command, subject, `figures`, and `shows` if written.

        `figures` is None where an opening ended without: the labels were read, and nobody knows what was seen.
        """
        path = self._sealed / layout.OPENINGS
        rows = files.read_json_lines(path, cure=_CURE)
        if not all({"of", "figures"} <= row.keys() or {"time", "command", "subject"} <= row.keys() for row in rows):
            raise files.damaged(path, "a line of it is neither an opening nor what one found", _CURE)
        result = {row["of"]: row["figures"] for row in rows if "of" in row}
        opened = [row for row in rows if "of" not in row]
        return [row | {"figures": result.get(number)} for number, row in enumerate(opened)]

    def evaluations(self) -> list[dict[str, Any]]:
        """Return every evaluation of an export, oldest first."""
        path = self.folder / layout.EVALUATION
        return files.read_json(path, list, cure=_CURE) if path.exists() else []

    def record_command(self, command: str) -> None:
        """Note what a user typed to search or train; the report says it."""
        now = utc_time()
        files.append_json(self.folder / layout.COMMANDS, {"time": now, "command": command})

    def commands(self) -> list[dict[str, Any]]:
        """Return what was typed to search and train."""
        return files.read_json_lines(self.folder / layout.COMMANDS, needs=("time", "command"), cure=_CURE)

    def trial_folder(self, number: int) -> Path:
        """Return where trial `number` lives."""
        return self.folder / layout.TRIALS / layout.trial(number)

    def trials(self) -> list[TrialRecord]:
        """Return every ended trial, by number."""
        folder = self.folder / layout.TRIALS
        ended = trial_index.read_trials(folder, self.folder / layout.TRIAL_INDEX).items()
        return [
            to_record(folder / layout.trial(number), number, entry["record"], entry["config"])
            for number, entry in ended
        ]

    @property
    def _sealed(self) -> Path:
        return self.folder / layout.SEALED

    def _labels(self, path: Path, *parts: str) -> pd.DataFrame:
        """Read the labels of all cases of some parts."""
        labels = read_table(path, ("id", "label"), {"id": str, "label": np.int64}, cure=_CURE)
        split = self.split
        cases = split["id"][split["part"].isin(parts)]
        if len(labels) != len(cases) or set(labels["id"]) != set(cases):
            raise files.damaged(path, f"{len(labels)} labels, not those of the {len(cases)} cases in split.csv", _CURE)
        return labels

    @staticmethod
    def _write_labels(path: Path, ids: pd.Series[str], rows: np.ndarray, labels: np.ndarray) -> None:
        files.write_text(path, pd.DataFrame({"id": ids.iloc[rows], "label": labels[rows]}).to_csv(index=False))
