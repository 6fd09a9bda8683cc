"""What an interrupted training needs to go on bit by bit as if nothing had happened: one file, written now and then."""

from __future__ import annotations

import io
import pickle
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from histotune.core import files
from histotune.errors import StudyError
from histotune.metrics.scores import reported
from histotune.storage import layout
from histotune.storage.records import networks

_SHARE = 0.1  # of the training time that may go into writing checkpoints
_NO_CHECKPOINT = (pickle.UnpicklingError, RuntimeError, EOFError, TypeError, ValueError, LookupError, AttributeError)


@dataclass
class TrainingProgress:
    """How far a training has come.

    Attributes:
        digest: of the configuration.
        started: when it first began, seconds since 1970.
        parameters: weights that are trained.
        validation: `ids`, `patients`, `labels` of the rows of `best_logits`.
        curve: one mapping per epoch, as curve.jsonl has it.
        best_epoch: the one with the best validation metric, from 1; `best_weights` and `best_logits` [n, C] are its.
        best_value: its metric, signed so that more is better.
        inherited: epochs that another trial trained; the best epoch is one of this trial's own as soon as it has one.
        state: state of network, optimiser and moving average after the last epoch.
    """

    digest: str
    started: float
    parameters: int = 0
    validation: dict[str, list[Any]] = field(default_factory=dict)
    curve: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int = 0
    best_value: float = float("nan")
    inherited: int = 0
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    best_logits: Tensor = field(default_factory=lambda: torch.zeros(0))
    state: dict[str, Any] = field(default_factory=dict)

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return len(self.curve)

    def add(self, row: Mapping[str, float], value: float) -> None:
        """Add an epoch; it is the best when its `value` is larger than any before, or the first that is a number.

        Of epochs with equal values the one with the lowest `nll` is the best: on a small validation set a rank measure
        soon stands at its maximum, long before the probabilities are of use.
        """
        self.curve.append({"epoch": self.epoch + 1, **row})
        first = self.best_epoch <= self.inherited
        better = value > self.best_value or (self.best_value != self.best_value and value == value)
        tied = value == self.best_value and row["nll"] < self.curve[self.best_epoch - 1]["nll"]
        if first or better or tied:
            self.best_epoch, self.best_value = self.epoch, value

    def keep(self, weights: Mapping[str, Tensor], logits: np.ndarray) -> None:
        """Keep copies of the best epoch's weights, and its logits."""
        self.best_weights = {name: tensor.detach().to("cpu", copy=True) for name, tensor in weights.items()}
        self.best_logits = torch.from_numpy(logits)


@dataclass(frozen=True)
class Epoch:
    """One epoch that is done.

    Attributes:
        number: from 1.
        metrics: the validation metrics, `train_loss` and `learning_rate`; with folds their means.
        seconds: of training and validation.
        finished: whether it was the last; the trial folder is complete then.
    """

    number: int
    metrics: Mapping[str, float]
    seconds: float
    finished: bool

    @classmethod
    def of(cls, row: Mapping[str, Any], *, finished: bool) -> Epoch:
        """Read a row of a curve."""
        return cls(int(row["epoch"]), reported(row), row["seconds"], finished)


class Checkpoint:
    """The checkpoint of one trial folder.

    Args:
        folder: the trial's.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / layout.CHECKPOINT
        self._cost = 0.0
        self._written = 0.0
        self._epoch = 0

    def due(self) -> bool:
        """Whether writing now keeps to the share of time; the first one is always due."""
        return (time.monotonic() - self._written) * _SHARE >= self._cost

    def save(self, progress: TrainingProgress) -> None:
        """Write `progress`, whole or not at all, unless the file holds it already."""
        if progress.epoch == self._epoch:
            return
        began = time.monotonic()
        _write(self.path, progress)
        self._written = time.monotonic()
        self._cost = self._written - began
        self._epoch = progress.epoch

    def keep(self, progress: TrainingProgress) -> None:
        """Write `progress` beside it, under a name of its own, for other trials to go on from."""
        _write(self.path.with_name(layout.kept_checkpoint(progress.epoch)), progress)

    def inherit(self, source: Path, digest: str) -> None:
        """Begin the trial, whose configuration has `digest`, where another one stood when it wrote `source`.

        Raises:
            StudyError: `source` is no checkpoint.
        """
        progress = _read(source)
        _write(self.path, replace(progress, digest=digest, started=time.time(), inherited=progress.epoch))

    def load(self) -> TrainingProgress | None:
        """Read what `save` wrote, with tensors on the CPU; None when there is none. Nothing is unpickled but tensors.

        Raises:
            StudyError: the file is no checkpoint.
        """
        return _read(self.path) if self.path.exists() else None

    def delete(self) -> None:
        """Remove it; an ended trial needs none."""
        self.path.unlink(missing_ok=True)


def forget(folder: Path) -> None:
    """Remove the checkpoints of a trial that has ended, those of its folds, too."""
    for place in {folder, *networks(folder)}:
        Checkpoint(place).delete()


def kept_after(path: Path) -> int:
    """Return the epoch of a checkpoint that was kept."""
    return int(path.stem.rpartition("-")[2])


def _write(path: Path, progress: TrainingProgress) -> None:
    shallow = {f.name: getattr(progress, f.name) for f in fields(progress)}
    buffer = io.BytesIO()
    torch.save(shallow, buffer)
    files.write_atomically(path, lambda file: file.write(buffer.getbuffer()))


def _read(path: Path) -> TrainingProgress:
    try:
        return TrainingProgress(**torch.load(path, map_location="cpu", weights_only=True))
    except _NO_CHECKPOINT as error:
        raise StudyError(
            f"{path} is no checkpoint that this version can read ({error}): delete it to train anew"
        ) from error
