"""What a trial leaves behind: the record of its end and its scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from histotune.core import files
from histotune.errors import StudyError
from histotune.storage import layout


class TrialEnd(StrEnum):
    """How a trial ended, as `metrics.json` and MLflow's tags spell it."""

    COMPLETE = "complete"
    STOPPED = "stopped"  # by the scheduler, so not to be ranked with complete ones
    FAILED = "failed"
    INFEASIBLE = "infeasible"  # it cannot be trained in the memory that there is


@dataclass(frozen=True)
class TrialRecord:
    """One ended trial, as its `metrics.json` says.

    Attributes:
        number: trial number; -1 for a baseline or a single training.
        state: how it ended.
        metrics: validation metrics of the best epoch, with folds the mean over folds; empty when it failed.
        spread, out_of_fold: with folds the sample standard deviation over them, and metrics of all their predictions.
        epochs: epochs trained; `best_epoch` counts from 1.
        kind, reason: why it failed ("" otherwise).
    """

    number: int
    state: TrialEnd
    folder: Path
    digest: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    epochs: int = 0
    best_epoch: int = 0
    seconds: float = 0.0
    parameters: int = 0
    kind: str = ""
    reason: str = ""
    started: float = 0.0
    spread: Mapping[str, float] = field(default_factory=dict)
    out_of_fold: Mapping[str, float] = field(default_factory=dict)
    known_config: Mapping[str, Any] | None = field(default=None, repr=False, compare=False)

    def config(self) -> dict[str, Any]:
        """Return the trial's configuration, which is not to be changed; from its file where it is not known."""
        return dict(self.known_config or read_config(self.folder))

    def curve(self) -> list[dict[str, Any]]:
        """Read one mapping per epoch: `epoch` (from 1), `train_loss`, `seconds`, metrics, of branches `information`."""
        return read_curve(self.folder)

    def predictions(self) -> Predictions:
        """Read the validation predictions."""
        return Predictions.load(self.folder / layout.PREDICTIONS)


@dataclass(frozen=True)
class Predictions:
    """Saved scores of n cases.

    Attributes:
        ids, patients: str [n].
        labels: int64 [n].
        logits: float32 [n, C].
        present: bool [n], whether the model has input of the case; None where it has input of all.
    """

    ids: np.ndarray
    patients: np.ndarray
    labels: np.ndarray
    logits: np.ndarray
    present: np.ndarray | None = None

    @property
    def has_input(self) -> np.ndarray:
        """Whether the model has input of the case, bool [n]."""
        return np.ones(len(self.ids), bool) if self.present is None else self.present

    def save(self, path: Path) -> None:
        """Write to `path` atomically."""
        columns = {"ids": self.ids, "patients": self.patients, "labels": self.labels, "logits": self.logits}
        columns |= {} if self.present is None else {"present": self.present}
        files.write_atomically(path, lambda file: np.savez_compressed(file, **columns))  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: Path) -> Predictions:
        """Read what `save` wrote; nothing is unpickled."""
        if not path.exists():
            raise StudyError(f"{path} is missing: the trial has no saved predictions")

        def read() -> Predictions:
            with path.open("rb") as file, np.lib.npyio.NpzFile(file, allow_pickle=False) as saved:
                return cls(saved["ids"], saved["patients"], saved["labels"], saved["logits"], saved.get("present"))

        return files.guarded(path, read)


_SAVED = {one.name for one in fields(TrialRecord)} - {"number", "folder", "known_config"}


def read_config(folder: Path) -> dict[str, Any]:
    """Read the configuration of a trial or a baseline; the seed, with which its file ends, says that it is whole."""
    return files.read_yaml(folder / layout.CONFIG, needs=("seed",))


def read_ensemble(folder: Path) -> dict[str, Any]:
    """Read how an ensemble was built."""
    return files.read_json(folder / layout.ENSEMBLE, cure="restore it from a copy, or delete its folder and build anew")


def read_curve(folder: Path) -> list[dict[str, Any]]:
    """Read the epochs of a trial as far as it is, as `TrialRecord.curve` gives them."""
    return files.read_json_lines(folder / layout.CURVE, needs=("epoch", "seconds"))


def read_epoch(folder: Path, number: int) -> dict[str, Any]:
    """Read what the curve of a trial says of an epoch, from 1; 0 is its last.

    Raises:
        StudyError: it does not go so far.
    """
    rows = read_curve(folder)
    if len(rows) < max(1, number):
        raise files.damaged(folder / layout.CURVE, f"it has {len(rows)} epochs of {max(1, number)} or more")
    return rows[number - 1]


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Write `metrics.json`, the last file of a trial: once it stands, the trial has ended."""
    files.write_json(folder / layout.RECORD, record)


def read_record(folder: Path, number: int = -1) -> TrialRecord | None:
    """Read an ended trial, or None while it has not ended."""
    path = folder / layout.RECORD
    return to_record(folder, number, files.read_json(path)) if path.exists() else None


def to_record(folder: Path, number: int, saved: dict[str, Any], config: Mapping[str, Any] | None = None) -> TrialRecord:
    """Make a record of what `metrics.json` holds.

    Raises:
        StudyError: it holds something else.
    """
    scores = {"metrics", "spread", "out_of_fold"} & saved.keys()
    if "state" not in saved or saved.keys() - _SAVED or not all(isinstance(saved[name], dict) for name in scores):
        raise files.damaged(folder / layout.RECORD, f"it is no record of a trial: {', '.join(saved) or '{}'}")
    if saved["state"] not in list(TrialEnd):
        raise files.damaged(folder / layout.RECORD, f"its state is {saved['state']!r}, not {' | '.join(TrialEnd)}")
    for name in scores:
        saved[name] = {k: float("nan") if v is None else float(v) for k, v in saved[name].items()}
    state = TrialEnd(saved["state"])
    return TrialRecord(number=number, folder=folder, known_config=config, **saved | {"state": state})


def networks(folder: Path) -> list[Path]:
    """Return the folders that hold the networks of a trial: one for each fold, or the trial's own."""
    return sorted((folder / layout.FOLDS).glob("[0-9]*"), key=lambda path: int(path.name)) or [folder]


class Parent(NamedTuple):
    """A trial as another one found it.

    Args:
        number: of the trial.
        epoch: after which its checkpoint was taken; the descendant's first own epoch is the next.
    """

    number: int
    epoch: int


def read_parent(folder: Path) -> Parent | None:
    """Read whom the trial in `folder` began from; None when it began by itself."""
    path = folder / layout.PARENT
    return Parent(**files.read_json(path)) if path.exists() else None


def inherited(folder: Path) -> int:
    """Return how many epochs of the trial in `folder` another one trained."""
    parent = read_parent(folder)
    return parent.epoch if parent else 0


def ancestor(folder: Path) -> Path:
    """Return the folder of the trial with which the line of the one in `folder` began; its own where it began it."""
    while parent := read_parent(folder):
        folder = folder.parent / layout.trial(parent.number)
    return folder


def write_parent(folder: Path, parent: Parent) -> None:
    """Write whom the trial in `folder` begins from."""
    files.write_json(folder / layout.PARENT, parent._asdict())
