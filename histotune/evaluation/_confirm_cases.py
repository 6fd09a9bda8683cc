"""Measure contenders and their trials of the search on the development part."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from histotune.evaluation._outer_folds import Outer
from histotune.metrics.bootstrap import Interval, Seeded, over_seeds
from histotune.metrics.scores import direction, softmax
from histotune.storage.records import Predictions, networks
from histotune.storage.study_folder import StudyStore, TrialRecord
from histotune.training.pooling import pooled


class Cases:
    """The development part: search and confirmation are measured on the same draws of its patients."""

    def __init__(self, store: StudyStore, outer: Outer, replicates: int) -> None:
        self.outer, self.metric = outer, outer.settings.metric
        self._settings, self._replicates = store.settings(), replicates
        data = outer.data
        self._rows = np.sort(np.concatenate([data.train, data.val]))
        self._place = {case: at for at, case in enumerate(data.ids[self._rows])}
        self.patients = len(np.unique(data.patients[self._rows]))

    def confirmed(self, records: Sequence[TrialRecord]) -> Seeded:
        """Measure a contender: the mean over outer folds, seed by seed."""
        folds = [self.outer.dealt(record.config()["seed"]).folds for record in records]
        dealt = [one[0] for one in folds if one is not None]
        return self._measured([record.predictions() for record in records], dealt)

    def gap(self, record: TrialRecord, scores: Seeded) -> Interval:
        """Return by how much the score that a trial had in the search looks better than the confirmed one."""
        found = self._search(record)
        sign = direction(self.metric)
        drawn, without = (values.mean(axis=0, keepdims=True) for values in (found.drawn, found.without))
        gap = Seeded(np.array([found.values.mean()]), drawn, without, found.patients).minus(scores).interval()
        return gap if sign > 0 else Interval(-gap.value, -gap.high, -gap.low)

    def _search(self, record: TrialRecord) -> Seeded:
        """Measure a trial as the search did: on the validation part, or on the folds of every repeat."""
        dealt = self.outer.data.folds
        if dealt is None:
            part = np.zeros(len(self.outer.data.ids), np.int64)
            part[self.outer.data.val] = 1
            return self._measured([record.predictions()], [part])
        if len(dealt) == 1:
            return self._measured([record.predictions()], list(dealt))
        places, count = networks(record.folder), self._settings.folds
        saved = [Predictions.load(place / "predictions.npz") for place in places]
        return self._measured([pooled(saved[at : at + count]) for at in range(0, len(saved), count)], list(dealt))

    def _measured(self, saved: Sequence[Predictions], dealt: Sequence[np.ndarray]) -> Seeded:
        """Measure predictions, each by the mean over its own parts of the cases, [N], of which part 0 is none."""
        data = self.outer.data
        whole = []
        for one in saved:
            probabilities = np.full((len(self._rows), len(data.classes)), 1 / len(data.classes))
            probabilities[[self._place[case] for case in one.ids]] = softmax(one.logits)
            whole.append(probabilities)
        parts = np.stack([np.where(fold > 0, fold, -1)[self._rows] for fold in dealt])
        return over_seeds(
            self.metric, whole, data.labels[self._rows], data.patients[self._rows],
            positive=data.positive, strata=parts, replicates=self._replicates,
        )  # fmt: skip
