"""Train a configuration on outer folds of the development part: each patient is scored by networks that never saw it.

In a study with folds a training takes all its outer-training patients and the last epoch counts, as in the search. In a
study without, the search chose each trial's epoch, or when to stop, on the validation part. To repeat that honestly, as
large a share of the outer-training patients as the study has for validation is set apart to choose the epoch, and only
the network so chosen scores the outer fold. Training for the number of epochs found would be cheaper and see more
patients, but it would be another procedure: the learning-rate schedule ends elsewhere, the number was chosen on
patients that are now scored, and a default that the scheduler stopped has none. The price is fewer training patients
than in the search, which makes the score rather too low than too high.

FOLDER/                    a configuration with one seed
    folds/<k>/             the trial folder of each outer training; outer.npz holds what it says of the outer fold
    predictions.npz        of all outer folds
    metrics.json           their mean, and what the trainings cost; once it stands, nothing is trained again
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from histotune.core.config import TrialConfig
from histotune.data.cohort import Cohort, select
from histotune.data.fold_assignment import deal_folds
from histotune.data.grouping import by_group, group_name, whole_groups
from histotune.data.splits import Split, TrainingData, refuse_missing_class
from histotune.errors import ConfigError
from histotune.models.predictor import load_model
from histotune.storage import layout
from histotune.storage.records import Predictions, TrialRecord, networks
from histotune.storage.study_folder import COMPLETE, StudyFolder
from histotune.training.loop import run_trial
from histotune.training.pooling import pool
from histotune.training.trial_folder import ended, open_folder

FRESH = 10_000  # added to the study's seed: no search deals folds or draws weights from these
CHUNK = 256  # cases in memory at once


class Outer:
    """The development part of a study, dealt into outer folds anew for every seed.

    Args:
        cohort: the study's, at one image size.
        folds: how many outer folds.
    """

    def __init__(self, store: StudyFolder, cohort: Cohort, folds: int) -> None:
        self.store, self.cohort, self.settings, self.folds = store, cohort, store.settings, folds
        self.data = store.training_data(cohort)
        self._groups = whole_groups(cohort, self.settings.protocol)
        self._dealt: dict[int, TrainingData] = {}
        self.share = 0.0 if self.settings.folds else len(self.data.val) / (len(self.data.train) + len(self.data.val))

    @property
    def trained_on(self) -> float:
        """The share of the development part that an outer training trains on."""
        return (1 - 1 / self.folds) * (1 - self.share)

    def dealt(self, seed: int) -> TrainingData:
        """Return the development part in the outer folds of a seed.

        Raises:
            DataError: there are too few patients, or a class would be absent.
        """
        if seed in self._dealt:
            return self._dealt[seed]
        parts = Split(self.settings.protocol, self.data.train, self.data.val, np.array([], np.int64))
        result = deal_folds(self.cohort, self.data.labels, parts, self.folds, 1, seed=seed)
        data = replace(self.data, folds=result.folds)
        for k, cut in enumerate(data.cuts() if self.share else [], start=1):
            self.carved(cut, k, seed)
        self._dealt[seed] = data
        return data

    def train(self, config: TrialConfig, folder: Path, *, share: float = 1.0) -> TrialRecord:
        """Train a configuration on the outer folds of its seed, from where an interruption left it.

        Args:
            share: of the device's memory that the training may take.

        Returns:
            The record of all outer trainings together, or that of the first one that failed.
        """
        if record := ended(folder, config):
            return record
        data, metric = self.dealt(config.seed), self.settings.metric
        if self.share:
            folder.mkdir(parents=True, exist_ok=True)
            open_folder(folder, config, [])
            for k, cut in enumerate(data.cuts(), start=1):
                place = folder / layout.FOLDS / str(k)
                carved = self.carved(cut, k, config.seed)
                record = run_trial(config, carved, place, metric=metric, probed=False, share=share)
                if record.state != COMPLETE:
                    return record
                if not (place / layout.OUTER_PREDICTIONS).exists():
                    _score(place, cut).save(place / layout.OUTER_PREDICTIONS)
            record = pool(folder, COMPLETE, layout.OUTER_PREDICTIONS)
        else:
            record = run_trial(config, data, folder, metric=metric, probed=False, share=share)
        for place in networks(folder):  # what they were trained for is done, and there are many
            (place / layout.WEIGHTS).unlink(missing_ok=True)
        return record

    def carved(self, cut: TrainingData, k: int, seed: int) -> TrainingData:
        """Set a part of the outer-training patients apart, whole ones, to choose the epoch."""
        rows, labels = cut.train, self.data.labels
        shares = (1 - self.share, self.share)
        parts = by_group(
            self._groups[rows], labels[rows], shares, [seed, self.folds, k], group_name(self.settings.protocol)
        )
        train, val = rows[parts == 0], rows[parts == 1]
        for what, chosen in (("training", train), ("validation", val)):
            refuse_missing_class(cut.classes, labels, chosen, f"the {what} part within outer fold {k} of {self.folds}")
        return replace(cut, train=train, val=val)


def refuse_thinned(name: str, *, thinned: bool) -> None:
    """Refuse a study whose development part cannot be dealt into outer folds.

    Raises:
        ConfigError: its training part was thinned.
    """
    if thinned:
        raise ConfigError(
            f"study {name!r} thins its training part (imbalance, training cases), and outer folds would mix that with "
            "the natural validation part: use a study without"
        )


def _score(folder: Path, cut: TrainingData) -> Predictions:
    """Score the outer fold, the validation part of `cut`, with the network in `folder`."""
    predictor, rows = load_model(folder), cut.val
    logits, observed = [], []
    for start in range(0, len(rows), CHUNK):
        cases = select(cut.columns, rows[start : start + CHUNK])
        logits.append(predictor.logits(cases))
        observed.append(predictor.has_input(cases))
    return Predictions(
        cut.ids[rows], cut.patients[rows], cut.labels[rows], np.concatenate(logits), np.concatenate(observed)
    )
