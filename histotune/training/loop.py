"""One training: a plain loop that reports every epoch and leaves a trial folder; its caller decides what follows.

A trial folder fills in this order: config.yaml, model.json, preprocessing.json and environment.json at the start;
curve.jsonl and checkpoint.pt as epochs pass; model.safetensors, predictions.npz and, last, metrics.json at the end.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Generator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from histotune.core import files, runtime
from histotune.core.config import TrialConfig
from histotune.data.batches import in_order, shuffled
from histotune.data.modalities import cut
from histotune.data.splits import TrainingData
from histotune.errors import StudyError, TrialFailed
from histotune.metrics.scores import INFORMATION, check_metric, direction, evaluate, softmax
from histotune.models.network import Inputs, Present
from histotune.models.predictor import predict
from histotune.storage import layout
from histotune.storage.records import TrialRecord, read_epoch
from histotune.storage.study_folder import STOPPED
from histotune.training import memory, probe
from histotune.training.checkpoint import Checkpoint, Epoch, TrainingProgress
from histotune.training.cross_validation import Fold, lockstep
from histotune.training.efficiency import costs
from histotune.training.optimizer import learning_rate
from histotune.training.session import Session, named_failures, start
from histotune.training.trial_folder import complete, conclude, describe, ended, fail, open_folder

EpochReport = Callable[[int, Mapping[str, float]], None]
"""Is called with (epoch from 1, metrics) after every epoch; may raise `StopTrial`."""

_LOOK_EVERY = {"cpu": 1, "cuda": 16}  # steps between two looks at the loss: a look makes a GPU wait
_BATCH = 256


class StopTrial(Exception):
    """Raised by a report to end a trial that is not worth finishing."""


def run_trial(
    config: TrialConfig,
    data: TrainingData,
    folder: Path,
    report: EpochReport | None = None,
    *,
    metric: str = "balanced_accuracy",
    share: float = 1.0,
    fold: Fold | None = None,
    probed: bool = True,
) -> TrialRecord:
    """Train to the end, or until `report` raises `StopTrial`; a failure is a record, not an exception.

    Arguments and errors are those of `epochs`.
    """
    while True:
        training = epochs(config, data, folder, metric=metric, share=share, fold=fold, probed=probed)
        try:
            for epoch in training:
                if report:
                    report(epoch.number, epoch.metrics)
        except StopTrial:
            training.close()
            return conclude(folder, STOPPED)
        except TrialFailed as error:
            failure = memory.verdict(folder, error)
        else:
            record = ended(folder, config)
            assert record is not None
            return record
        if failure is not None:
            return fail(folder, failure)
        runtime.free_memory()


def epochs(
    config: TrialConfig,
    data: TrainingData,
    folder: Path,
    *,
    metric: str = "balanced_accuracy",
    share: float = 1.0,
    keep: Collection[int] = (),
    fold: Fold | None = None,
    probed: bool = True,
) -> Generator[Epoch, None, None]:
    """Train, one item per epoch; go on from the folder's checkpoint as if there had been no interruption.

    Every epoch is seeded by (seed, epoch) alone, so that on a CPU a training that was interrupted ends with the same
    bits as one that was not. Closing the generator writes the checkpoint. A folder whose trial has ended yields its
    last epoch again; one whose trial failed starts anew.

    Args:
        config: what to train.
        data: cohort, split and the labels that training may see.
        folder: the trial folder; made when missing.
        metric: the validation metric by which the best epoch is chosen.
        share: of the device's memory that the training may take.
        keep: epochs after which the checkpoint is kept, too, under a name of its own, for other trials to go on from.
        fold: where this is one of a trial's trainings; no epoch is chosen then, the last one counts. With folds in
            `data`, all of them train in step, and an epoch is the mean over them.
        probed: measure after every epoch the information in several branches, which may take longer than training.

    Raises:
        TrialFailed: NaN loss, infeasible, out of memory, disk full or bad data; `fail` puts it on record.
        ConfigError: a name or parameter that does not make sense.
        StudyError: the folder holds another configuration's trial, or a damaged checkpoint.
    """
    check_metric(metric, len(data.classes))
    if data.folds is not None:
        one = partial(epochs, config, metric=metric, share=share, probed=probed)
        yield from lockstep(one, config, data, folder, keep=keep)
        return
    with named_failures():
        if ended(folder, config):
            yield Epoch.of(read_epoch(folder, 0), finished=True)
            return
        checkpoint = Checkpoint(folder)
        progress = _stored(checkpoint, config)
        open_folder(folder, config, progress.curve if progress else [])
        session = start(config, data)
        trial = fold.trial if fold else folder
        session.micro_batch = memory.plan(session, trial, share, at_once=fold.to_come if fold else 1)
        progress = _resume(session, folder, progress) if progress else _begin(session, folder)
        for place in {folder, trial}:
            memory.describe(place, session)
        while not _over(progress, config):
            began = time.perf_counter()
            loss = train_epoch(session, progress.epoch + 1)
            logits = _validate(session)
            row: dict[str, Any] = _measure(logits, data) | {
                "train_loss": loss,
                "learning_rate": session.optimizer.param_groups[0]["lr"],
            }
            if probed and probe.due(session, progress.epoch + 1):
                row[INFORMATION] = probe.measure(session, _at_once(session))
            value = float(progress.epoch) if fold else direction(metric) * row[metric]
            progress.add(row | {"seconds": time.perf_counter() - began}, value)
            if progress.best_epoch == progress.epoch:
                progress.keep(session.judged.state_dict(), logits)
            files.append_json(folder / layout.CURVE, progress.curve[-1])
            if not _over(progress, config):
                progress.state = session.state()
                if progress.epoch in keep:
                    checkpoint.keep(progress)
                if checkpoint.due():
                    checkpoint.save(progress)
                try:
                    yield Epoch.of(progress.curve[-1], finished=False)
                except GeneratorExit:
                    checkpoint.save(progress)
                    raise
        if config.tta:
            session.judged.load_state_dict(progress.best_weights)
            progress.keep(progress.best_weights, _validate(session, tta=True))
        memory.note_peak({folder, trial}, session.device)
        complete(folder, progress, _measure(progress.best_logits.numpy(), data) | costs(session))
        yield Epoch.of(progress.curve[-1], finished=True)


def train_epoch(session: Session, number: int) -> float:
    """Train epoch `number` (from 1) and return its mean loss.

    Raises:
        TrialFailed: the loss is not finite.
    """
    config, model, optimizer, device = session.config, session.model, session.optimizer, session.device
    rng = np.random.default_rng([config.seed, number])
    torch.manual_seed(int(rng.integers(2**62)))  # dropout and stochastic depth
    batches = shuffled(session.train, config.batch_size, rng)
    total = config.epochs * len(batches)
    parameters = [p for p in model.parameters() if p.requires_grad]
    summed = torch.zeros((), dtype=torch.float64, device=device)
    model.train()
    model.set_progress((number - 1) / config.epochs)
    for step, rows in enumerate(batches, start=(number - 1) * len(batches)):
        inputs, present, labels = session.drawn(rows, rng)
        optimizer.zero_grad()
        loss = _backward(session, inputs, present, labels)
        if config.optimizer.clip_norm:
            nn.utils.clip_grad_norm_(parameters, config.optimizer.clip_norm)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config.optimizer, step, total)
        optimizer.step()
        if session.average:
            session.average.update(model, step)
        summed += loss * len(rows)
        if step % _LOOK_EVERY[device.type] == 0 and not math.isfinite(summed.item()):
            raise _not_finite(config, number)
    if not math.isfinite(summed.item()):
        raise _not_finite(config, number)
    return summed.item() / len(session.train)


def _backward(session: Session, inputs: Inputs, present: Present, labels: Tensor) -> Tensor:
    """Add up the gradients of a batch's mean loss, one micro-batch after the other; returns that loss."""
    cases = len(labels)
    count = max(1, min(-(-cases // session.micro_batch), cases // session.least))
    values = {name: cut(batch, count) for name, batch in inputs.items()}
    masks = {name: there.tensor_split(count) for name, there in present.items()}
    losses = []
    for place, part in enumerate(labels.tensor_split(count)):
        own = {name: batches[place] for name, batches in values.items()}
        loss = session.loss(own, {name: there[place] for name, there in masks.items()}, part) * (len(part) / cases)
        loss.backward()
        losses.append(loss.detach())
    session.model.objective.adapt()
    return torch.stack(losses).sum()


def _stored(checkpoint: Checkpoint, config: TrialConfig) -> TrainingProgress | None:
    progress = checkpoint.load()
    if progress and progress.digest != config.digest():
        raise StudyError(
            f"{checkpoint.path} belongs to configuration {progress.digest}, not {config.digest()}: "
            "choose another folder, or delete it to train anew"
        )
    return progress


def _begin(session: Session, folder: Path) -> TrainingProgress:
    describe(folder, session)
    data = session.data
    validation = {
        "ids": data.ids[data.val].tolist(),
        "patients": data.patients[data.val].tolist(),
        "labels": data.labels[data.val].tolist(),
        "present": session.has_input[data.val].tolist(),
    }
    return TrainingProgress(session.config.digest(), time.time(), session.model.parameter_count(), validation)


def _resume(session: Session, folder: Path, progress: TrainingProgress) -> TrainingProgress:
    session.load_state(progress.state)
    if progress.epoch == progress.inherited:
        describe(folder, session)
    return progress


def _over(progress: TrainingProgress, config: TrialConfig) -> bool:
    waited = progress.epoch - progress.best_epoch
    return progress.epoch >= config.epochs or 0 < config.patience <= waited


def _validate(session: Session, *, tta: bool = False) -> np.ndarray:
    batches = map(session.feed.take, in_order(session.data.val, _at_once(session)))
    return predict(session.judged, batches, session.preparations, tta=tta)


def _at_once(session: Session) -> int:
    return _BATCH if session.micro_batch >= session.config.batch_size else min(_BATCH, session.micro_batch)


def _measure(logits: np.ndarray, data: TrainingData) -> dict[str, float]:
    return evaluate(softmax(logits), data.labels[data.val], positive=data.positive)


def _not_finite(config: TrialConfig, number: int) -> TrialFailed:
    return TrialFailed(
        "nan_loss",
        f"the training loss was not finite in epoch {number}: lower optimizer.learning_rate "
        f"({config.optimizer.learning_rate:g}) or lower optimizer.clip_norm ({config.optimizer.clip_norm:g})",
    )
