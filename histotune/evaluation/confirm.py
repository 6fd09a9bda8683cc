"""An unbiased score of a search: its best configurations, and the default, trained again with new seeds and folds.

The best of many trials looks better than it is: the search kept the configuration, the epoch and the seed that suited
its validation patients. Here none of the three is chosen again on what is scored. A seed is another deal of the outer
folds as well as another initialisation, and every patient of the development part (training and validation part; the
sealed test set is never touched) is scored once per seed by networks that never saw the patient. A score is the mean
over outer folds, as a study with folds ranks by it, and then over seeds.

What remains of the choice: the validation patients who chose the configuration are among those scored. A search within
every outer fold (`histotune search --outer`) has no such trace, and the sealed test set none either.

    STUDY/confirm/confirm.json                      what was found
    STUDY/confirm/outer-<K>/<digest>/seed-<s>/      one configuration with one seed; see `_outer`
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from histotune.core import files
from histotune.core.progress import Message, silent
from histotune.core.runtime import Places
from histotune.data.imbalance import NATURAL
from histotune.errors import ConfigError, StudyError
from histotune.evaluation._contenders import Candidate, contenders
from histotune.evaluation._outer_folds import FRESH, Outer, refuse_thinned
from histotune.evaluation._retrain import Plan, TrainingsByCandidate, crew, train_again
from histotune.evaluation.confirmation import Confirmation, ConfirmationRow, chance_in, cheapest, judge, sentence
from histotune.evaluation.next_steps import MOST_OUTER, OUTER
from histotune.metrics.bootstrap import REPLICATES, over_seeds
from histotune.metrics.intervals import ConfidenceInterval, Seeded
from histotune.metrics.scores import direction, softmax
from histotune.storage import layout
from histotune.storage.records import Predictions, TrialRecord, networks, read_record
from histotune.storage.study_folder import COMPLETE, StudyFolder
from histotune.studies.create import study_cohort
from histotune.training.pooling import by_repeat
from histotune.tuning.events import Resources

TOP, SEEDS = 5, 5
_UNKNOWN = ConfidenceInterval(float("nan"), float("nan"), float("nan"))


def confirm(
    store: StudyFolder,
    places: Places,
    *,
    top: int = TOP,
    seeds: int = SEEDS,
    outer: int | None = None,
    data: str | os.PathLike[str] | None = None,
    resources: Resources | None = None,
    ray_address: str | None = None,
    replicates: int = REPLICATES,
    say: Message | None = None,
    command: str = "histotune.Study.confirm",
) -> Confirmation:
    """Train the best configurations of a study and its default again, and compare them; the same call goes on.

    Args:
        top: how many of the best distinct configurations.
        seeds: fresh seeds, at least 2.
        outer: folds of the development part; None takes the study's folds, 5 at most, or 3 in a study without.
        data: where the study's data are now; None looks where they were when it began.
        resources: what one training takes, and how many run at once, in workers of Ray; None trains one after another
            in this process.
        ray_address: of a Ray cluster to join, "auto" or "HOST:PORT"; all its nodes must see study and cache.
        replicates: draws of patients for every interval.
        say: is called with a line before the first training and after each.
        command: the command to record.

    Raises:
        ConfigError: numbers that make no sense, more resources than there are, or a study whose training part was
            thinned.
        StudyError: no complete trial, changed data, another process confirms, no cluster answers, or no configuration
            trains again.
        KeyboardInterrupt: SIGINT, or SIGTERM while workers train.
        DataError: fewer patients than folds, or a class in too few of them.
    """
    folds = _check(store, seeds, outer)
    if resources is not None and ray_address is None:
        resources.check()
    chosen = contenders(store, top)
    say = say or silent
    sizes = {one.config.image_size for one in chosen}
    outers = {size: Outer(store, study_cohort(store, places, size, data), folds) for size in sizes}
    fresh = [store.settings.seed + FRESH + number for number in range(1, seeds + 1)]
    for one in outers.values():
        for seed in fresh:
            one.dealt(seed)  # what cannot be dealt is refused before the first training
    folder = store.folder.absolute() / layout.CONFIRM  # workers have a working directory of their own
    with files.lock(folder / layout.LOCK, "histotune confirm"):
        plan = Plan(chosen, outers, fresh, folder / f"outer-{folds}")
        with crew(plan, folder, resources, ray_address) as them:
            trained = train_again(plan, them, say)
        confirmed = _compare(store, chosen, trained, outers, replicates, command)
        files.write_json(folder / layout.CONFIRMATION, confirmed.to_dict())
    return confirmed


def _check(store: StudyFolder, seeds: int, outer: int | None) -> int:
    """Return the number of outer folds."""
    settings = store.settings
    if seeds < 2:
        raise ConfigError(f"seeds={seeds}: at least 2 seeds are needed to see how much a score depends on the seed")
    if outer is not None and outer < 2:
        raise ConfigError(f"outer={outer}: there must be at least 2 outer folds, one to score and one to train on")
    thinned = settings.imbalance != NATURAL or settings.training_cases > 0
    refuse_thinned(settings.name, thinned=thinned)
    return outer or min(settings.folds, MOST_OUTER) or OUTER


def _compare(
    store: StudyFolder,
    chosen: Sequence[Candidate],
    trained: TrainingsByCandidate,
    outers: Mapping[int, Outer],
    replicates: int,
    command: str,
) -> Confirmation:
    settings = store.settings
    complete = {name: records for name, records in trained.items() if all(r.state == COMPLETE for r in records)}
    if not complete:
        raise StudyError(
            "no configuration could be trained again: "
            + "; ".join(f"{name}: {records[0].kind}: {records[0].reason}" for name, records in trained.items())
        )
    cases = DevelopmentCases(store, next(iter(outers.values())), replicates)
    scores = {name: cases.confirmed(records) for name, records in complete.items()}
    judged = judge(scores, settings.metric)
    rows = [_row(one, trained[one.name], scores.get(one.name), cases) for one in chosen]
    rows = [
        replace(
            row,
            against_best=judged.against_best.get(row.name, {}),
            against_default=judged.against_default.get(row.name, {}),
            tied=row.name in judged.tied,
        )
        for row in rows
    ]
    best = next(row for row in rows if row.name == judged.best)
    luck = chance_in(best.confirmed, settings.metric, len(settings.classes))
    recommended, cost = ("", "") if luck else cheapest([row for row in rows if row.tied], direction(settings.metric))
    winner = next(row for row in rows if not row.failed)
    message, beats = sentence(winner, judged, settings.metric, len(settings.classes))
    some = cases.outer
    return Confirmation(
        study=settings.name,
        metric=settings.metric,
        seeds=len(next(iter(complete.values()))),
        outer=some.folds,
        patients=cases.patients,
        contenders=rows,
        best=judged.best,
        tied=judged.tied,
        recommended=recommended,
        cost=cost,
        beats_default=beats,
        sentence=message,
        notes=_notes(store, some, rows),
        command=command,
    )


def _notes(store: StudyFolder, outer: Outer, rows: Sequence[ConfirmationRow]) -> list[str]:
    settings = store.settings
    seen = 1 - 1 / settings.folds if settings.folds else 1 - outer.share
    notes = []
    if outer.trained_on < 0.95 * seen:
        notes.append(
            f"An outer training saw {outer.trained_on:.0%} of the development part's cases, one of the search "
            f"{seen:.0%}: part of the gap is due to fewer training patients (a larger --outer reduces it)."
        )
    notes += [f"{row.name} could not be trained again and is left out: {row.failed}" for row in rows if row.failed]
    if settings.leaky:
        notes.append(
            "The split of the search is leaky; outer folds are split by patient, as far as patients are known."
        )
    return notes


def _latency(records: Sequence[TrialRecord]) -> float:
    """Return the least latency of all networks that were trained."""
    trained = (read_record(place) for record in records for place in networks(record.folder))
    return min(
        (one.metrics["latency_ms"] for one in trained if one and "latency_ms" in one.metrics), default=float("nan")
    )


def _row(
    one: Candidate, records: Sequence[TrialRecord], scores: Seeded | None, cases: DevelopmentCases
) -> ConfirmationRow:
    """Gather what is known of a contender but its differences from others."""
    about: dict[str, Any] = {
        "name": one.name,
        "number": None if one.record is None else one.record.number,
        "digest": one.config.digest(),
        "search_score": float("nan") if one.record is None else one.record.metrics[cases.metric],
    }
    if scores is None:
        return ConfirmationRow(
            **about, confirmed=_UNKNOWN, optimism_gap=_UNKNOWN, failed=f"{records[0].kind}: {records[0].reason}"
        )
    return ConfirmationRow(
        **about,
        confirmed=scores.interval(),
        optimism_gap=_UNKNOWN if one.record is None else cases.gap(one.record, scores),
        per_seed=[float(value) for value in scores.values],
        latency_ms=_latency(records),
        parameters=records[0].parameters,
        seconds=sum(record.seconds for record in records),
    )


class DevelopmentCases:
    """The development part: search and confirmation are measured on the same draws of its patients."""

    def __init__(self, store: StudyFolder, outer: Outer, replicates: int) -> None:
        self.outer, self.metric = outer, outer.settings.metric
        self._settings, self._replicates = store.settings, replicates
        data = outer.data
        self._rows = np.sort(np.concatenate([data.train, data.val]))
        self._place = {case: at for at, case in enumerate(data.ids[self._rows])}
        self.patients = len(np.unique(data.patients[self._rows]))

    def confirmed(self, records: Sequence[TrialRecord]) -> Seeded:
        """Measure a contender: the mean over outer folds, seed by seed."""
        folds = [self.outer.dealt(record.config()["seed"]).folds for record in records]
        dealt = [one[0] for one in folds if one is not None]
        return self._measured([record.predictions() for record in records], dealt)

    def gap(self, record: TrialRecord, scores: Seeded) -> ConfidenceInterval:
        """Return by how much the score that a trial had in the search looks better than the confirmed one."""
        result = self._search(record)
        sign = direction(self.metric)
        gap = result.averaged().minus(scores).interval()
        return gap if sign > 0 else ConfidenceInterval(-gap.value, -gap.high, -gap.low)

    def _search(self, record: TrialRecord) -> Seeded:
        """Measure a trial as the search did: on the validation part, or on the folds of every repeat."""
        dealt = self.outer.data.folds
        if dealt is None:
            part = np.zeros(len(self.outer.data.ids), np.int64)
            part[self.outer.data.val] = 1
            return self._measured([record.predictions()], [part])
        if len(dealt) == 1:
            return self._measured([record.predictions()], list(dealt))
        return self._measured(by_repeat(record, len(dealt)), list(dealt))

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
            self.metric,
            whole,
            data.labels[self._rows],
            data.patients[self._rows],
            positive=data.positive,
            strata=parts,
            replicates=self._replicates,
        )
