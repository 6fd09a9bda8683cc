"""Cross-validation: the trainings of a trial, one for each fold, in step, epoch by epoch; an epoch is their mean.

No fold chooses an epoch, for it would choose it on the very cases that it is then scored on: the last epoch counts.
`folder/folds/<k>/` is a trial folder of its own with a checkpoint of its own, so that after a kill every fold goes on
from where it stood, and those that are behind catch up before the trial reports more.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator
from pathlib import Path
from typing import Any, NamedTuple

from histotune.core import files
from histotune.core.config import TrialConfig
from histotune.data.fold_assignment import check_patience
from histotune.data.splits import TrainingData
from histotune.errors import ConfigError
from histotune.storage import layout
from histotune.storage.records import read_epoch
from histotune.storage.study_folder import COMPLETE
from histotune.training import memory
from histotune.training.checkpoint import Epoch
from histotune.training.pooling import epoch_row, pool
from histotune.training.trial_folder import ended, open_folder


class Fold(NamedTuple):
    """The trial that a training is a fold of.

    Args:
        trial: the trial's folder, which records the micro-batch of all its folds.
        to_come: trainings, itself included, that will share the memory.
    """

    trial: Path
    to_come: int


Training = Generator[Epoch, None, None]


def lockstep(
    train: Callable[..., Training], config: TrialConfig, data: TrainingData, folder: Path, *, keep: Collection[int] = ()
) -> Training:
    """Train every fold, one item per epoch as `train.epochs` gives them; go on where an interruption left each fold.

    Args:
        train: makes the training of a fold of (data, folder, fold).
        folder: the trial's; those of its folds are in it.

    Raises:
        ConfigError: patience, or checkpoints to be kept for other trials.
        StudyError, TrialFailed: as `train.epochs`.
    """
    check_patience(config.patience)
    if keep:
        raise ConfigError("folds: no trial can go on from another's checkpoint, so scheduler 'pbt' has no folds")
    if ended(folder, config):
        yield Epoch.of(read_epoch(folder, 0), finished=True)
        return
    cuts = data.cuts()
    places = [folder / layout.FOLDS / str(k) for k in range(1, len(cuts) + 1)]
    for place in places:
        place.mkdir(parents=True, exist_ok=True)
    if not (folder / layout.CONFIG).exists():
        open_folder(folder, config, [])
    trainings = [
        train(cut, place, fold=Fold(folder, len(cuts) - before))
        for before, (cut, place) in enumerate(zip(cuts, places, strict=True))
    ]
    try:
        reached = [next(training).number for training in trainings]
        number = min(reached)
        open_folder(folder, config, [_row(places, earlier) for earlier in range(1, number)])
        _describe(folder, places[0], data, len(cuts))
        while True:
            files.append_json(folder / layout.CURVE, _row(places, number))
            row = read_epoch(folder, 0)
            if number == config.epochs:
                break
            yield Epoch.of(row, finished=False)
            number += 1
            for k, training in enumerate(trainings):
                while reached[k] < number:
                    reached[k] = next(training).number
        pool(folder, COMPLETE)
        yield Epoch.of(row, finished=True)
    finally:
        for training in trainings:
            training.close()  # writes its checkpoint, where it has not ended


def _row(places: Collection[Path], number: int) -> dict[str, Any]:
    return epoch_row([read_epoch(place, number) for place in places])


def _describe(folder: Path, first: Path, data: TrainingData, trainings: int) -> None:
    """Write what must be known to repeat the trial, as its first fold says it; the micro-batch is the trial's."""
    one, own = (files.read_json(place / layout.ENVIRONMENT) for place in (first, folder))
    cases = len(data.train) + len(data.val)
    about = {"training_cases": cases, "validation_cases": cases, "trainings": trainings}
    files.write_json(
        folder / layout.ENVIRONMENT, one | about | {name: own[name] for name in (memory.MICRO, memory.LEAST)}
    )
