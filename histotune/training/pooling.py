"""Several trainings of one trial, a fold each, become one result: means, their spread, out-of-fold predictions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from histotune.core import files
from histotune.errors import StudyError
from histotune.metrics import scores as metrics
from histotune.storage import layout
from histotune.storage.records import Predictions, TrialRecord, networks, read_record, write_record


def pooled(saved: Sequence[Predictions]) -> Predictions:
    """Join the predictions of folds, by id; a case that was scored in several repeats gets the mean of its logits."""
    joined = {name: np.concatenate([column[name] for column in map(_columns, saved)]) for name in _columns(saved[0])}
    _, first, owner, times = np.unique(joined["ids"], return_index=True, return_inverse=True, return_counts=True)
    logits = joined.pop("logits")
    summed = np.zeros((len(first), logits.shape[1]))
    np.add.at(summed, owner, logits)
    rows = {name: column[first] for name, column in joined.items()}
    return Predictions(logits=(summed / times[:, None]).astype(np.float32), **rows)


def over_folds(measured: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Return what a record holds of the metrics of folds: `metrics`, their means, and `spread`.

    The spread is the sample standard deviation over folds, and over those of every repeat. Training parts of folds
    overlap, so that it understates the error of the mean.

    >>> over_folds([{"auroc": 0.5}, {"auroc": 1.0}])
    {'metrics': {'auroc': 0.75}, 'spread': {'auroc': 0.3535533905932738}}
    """
    values = {name: [one[name] for one in measured] for name in measured[0]}
    return {
        "metrics": {name: float(np.mean(result)) for name, result in values.items()},
        "spread": {name: float(np.std(result, ddof=1)) for name, result in values.items()},
    }


def scored(saved: Sequence[Predictions], together: Predictions, positive: int) -> dict[str, dict[str, float]]:
    """Return what a record has of predictions of folds, one by one and taken together; of a single one its metrics."""
    whole = _measured(together, positive)
    if len(saved) == 1:
        return {"metrics": whole}
    return over_folds([_measured(one, positive) for one in saved]) | {"out_of_fold": whole}


def by_fold(saved: Predictions, table: Any) -> Iterator[Predictions]:
    """Cut predictions of the development part into folds, those of the first repeat first.

    Args:
        table: of the split, as `StudyFolder.split_table` gives it.
    """
    of_case = table.set_index("id").loc[saved.ids]
    for name in (name for name in table.columns if name.startswith("fold")):
        dealt = of_case[name].to_numpy(str)
        for k in sorted(set(dealt), key=int):
            yield Predictions(**{name: column[dealt == k] for name, column in _columns(saved).items()})


def by_repeat(record: TrialRecord, repeats: int) -> list[Predictions]:
    """Return the out-of-fold predictions of every repeat of a cross-validation, by case id.

    What has no networks of its own, such as an ensemble, has one prediction for a case and is scored anew by the folds
    of each repeat.
    """
    places = networks(record.folder)
    if repeats == 1 or len(places) == 1:
        return [record.predictions()] * repeats
    saved = [Predictions.load(place / layout.PREDICTIONS) for place in places]
    count = len(saved) // repeats
    return [pooled(saved[at : at + count]) for at in range(0, len(saved), count)]


def pool(folder: Path, state: str, scores: str = layout.PREDICTIONS) -> TrialRecord:
    """End a trial whose folds have all ended with a result: write its predictions and, last, its record.

    Args:
        scores: file in every fold's folder that holds what it is scored on.
    """
    folds = [record for place in networks(folder) if (record := read_record(place)) is not None]
    saved = [Predictions.load(record.folder / scores) for record in folds]
    together = pooled(saved)
    together.save(folder / layout.PREDICTIONS)
    positive = files.read_json(folds[0].folder / layout.CLASSES)["positive"]
    epochs = min(record.epochs for record in folds)
    message = {
        "state": state,
        "digest": folds[0].digest,
        **over_folds(
            [{**record.metrics, **_measured(one, positive)} for record, one in zip(folds, saved, strict=True)]
        ),
        "out_of_fold": _measured(together, positive),
        "epochs": epochs,
        "best_epoch": epochs,
        "seconds": sum(record.seconds for record in folds),
        "parameters": folds[0].parameters,
        "started": min(record.started for record in folds),
    }
    write_record(folder, message)
    written = read_record(folder)
    assert written is not None
    return written


def epoch_row(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Join the rows that the folds' curves have of one epoch: means, the sum of the seconds, and the spread."""
    if len({row["epoch"] for row in rows}) > 1:
        raise StudyError(f"the curves of the folds are of epochs {[row['epoch'] for row in rows]}: delete the trial")
    known = [{name: value for name, value in metrics.reported(row).items() if name in metrics.METRICS} for row in rows]
    seconds = sum(row["seconds"] for row in rows)
    return mean_of(rows) | {"seconds": seconds, metrics.SPREAD: over_folds(known)["spread"]}


def mean_of(values: Sequence[Any]) -> Any:
    """Return the mean of nested values of the same shape, number by number; of anything else the first.

    >>> mean_of([{"epoch": 2, "heads": [{"entropy": [0.5, 1.0]}]}, {"epoch": 2, "heads": [{"entropy": [1.5, 2.0]}]}])
    {'epoch': 2, 'heads': [{'entropy': [1.0, 1.5]}]}
    """
    first = values[0]
    if isinstance(first, Mapping):
        return {name: mean_of([value[name] for value in values]) for name in first}
    if isinstance(first, list):
        return [mean_of(items) for items in zip(*values, strict=True)]
    if any(isinstance(value, float) for value in values):
        return float(np.mean([float("nan") if value is None else value for value in values]))
    return first


def _columns(saved: Predictions) -> dict[str, np.ndarray]:
    return {field.name: getattr(saved, field.name) for field in fields(saved)} | {"present": saved.has_input}


def _measured(saved: Predictions, positive: int) -> dict[str, float]:
    return metrics.evaluate(metrics.softmax(saved.logits), saved.labels, positive=positive)
