"""Resume a study, however it was left: the trial folders hold what has ended, the journal what was begun."""

from __future__ import annotations

from collections.abc import Sequence

from optuna.trial import FrozenTrial, TrialState

from histotune.core import files
from histotune.storage import layout
from histotune.storage.records import Parent, TrialRecord, read_curve, read_parent, read_record
from histotune.storage.selection import modality_of
from histotune.storage.study_folder import StudyFolder
from histotune.tuning.budget import Ledger
from histotune.tuning.controller import TrialHistory, settle
from histotune.tuning.journal import CONFIG, DEATHS, DIGEST, ORDER, PARENT, RECORD, Journal, facts
from histotune.tuning.schedulers import Scheduler


def take_up(
    store: StudyFolder, journal: Journal, scheduler: Scheduler, *, metric: str, sign: int, others: Sequence[str] = ()
) -> TrialHistory:
    """Bring journal and trial folders into agreement and return what is left to do.

    - A trial that the journal holds for running and whose folder is complete: recorded in the journal, never run again.
    - A running trial without: to be taken up again, from its checkpoint where it has one.
    - An ended folder that the journal does not know, because the journal was lost: kept, and counted.
    - The scheduler is given every epoch of every trial again, and decides where a crash came before its decision.
    """
    records = store.trials()
    _adopt(journal, records)
    for order, record in enumerate(_unrecorded(store, journal), start=_ended(journal)):
        settle(journal, record, [metric, *others], order=order)
    longest = max((r.seconds / r.epochs for r in records if r.epochs), default=0.0)
    history = TrialHistory(ledger(journal.trials(), sign), longest=longest)
    for trial in journal.trials():
        if DIGEST in trial.user_attrs:
            history.digests[trial.user_attrs[DIGEST]] = trial.number
        if PARENT in trial.user_attrs:
            history.parents[trial.number] = Parent(*trial.user_attrs[PARENT])
        if not trial.state.is_finished():
            history.unfinished[trial.number] = trial.user_attrs[CONFIG]
            history.deaths[trial.number] = trial.user_attrs.get(DEATHS, 0)
        for epoch, value in sorted(trial.intermediate_values.items()):
            scheduler.report(trial.number, epoch, sign * value, modality_of(trial.user_attrs.get(CONFIG, {})))
    for trial in journal.trials():
        if trial.number in history.unfinished:
            _catch_up(store, journal, scheduler, trial, metric=metric, sign=sign)
            for row in read_curve(store.trial_folder(trial.number)):
                history.ledger.train(trial.number, row["epoch"])
    return history


def ledger(trials: list[FrozenTrial], sign: int) -> Ledger:
    """Add up what the trials of a journal spent, ended ones in the order in which they had ended."""
    result = Ledger()
    for trial in trials:
        if PARENT in trial.user_attrs:
            result.inherit(trial.number, Parent(*trial.user_attrs[PARENT]).epoch)
    ended = [trial for trial in trials if RECORD in trial.user_attrs and trial.state.is_finished()]
    for trial in sorted(ended, key=lambda one: (one.user_attrs[RECORD].get(ORDER, one.number), one.number)):
        score = sign * trial.values[0] if trial.state == TrialState.COMPLETE else None
        result.end(trial.number, trial.user_attrs[RECORD]["epochs"], score)
    for trial in trials:
        result.train(trial.number, max(trial.intermediate_values, default=0))
    return result


def _unrecorded(store: StudyFolder, journal: Journal) -> list[TrialRecord]:
    """Return the trials that ended before the journal recorded it."""
    running = [trial.number for trial in journal.trials() if not trial.state.is_finished()]
    records = (read_record(store.trial_folder(number), number) for number in running)
    return [record for record in records if record is not None]


def _ended(journal: Journal) -> int:
    return sum(trial.state.is_finished() and RECORD in trial.user_attrs for trial in journal.trials())


def _catch_up(
    store: StudyFolder, journal: Journal, scheduler: Scheduler, trial: FrozenTrial, *, metric: str, sign: int
) -> None:
    """Decide on the last epoch of an interrupted trial as if there had been no interruption."""
    folder = store.trial_folder(trial.number)
    stop, inherited = False, trial.user_attrs.get(PARENT, (0, 0))[1]
    for row in read_curve(folder):
        value = row.get(metric)
        if value is None or row["epoch"] <= inherited:
            continue
        if row["epoch"] not in trial.intermediate_values:
            journal.report(trial.number, row["epoch"], value)
        league = modality_of(trial.user_attrs.get(CONFIG, {}))
        stop = scheduler.report(trial.number, row["epoch"], sign * value, league)
    if stop and trial.number > 0:
        files.write_text(folder / layout.STOP, "decided after an interruption\n")


def _adopt(journal: Journal, records: list[TrialRecord]) -> None:
    """Give the journal what only the folders know, up to the last ended one; a number is never given twice."""
    known = len(journal.trials())
    lost: dict[int, TrialRecord] = {record.number: record for record in records if record.number >= known}
    for number in range(known, max(lost, default=-1) + 1):
        record = lost.get(number)
        if record is None:
            journal.adopt({})
            continue
        parent = read_parent(record.folder)
        journal.adopt(({PARENT: parent} if parent else {DIGEST: record.digest}) | {RECORD: facts(record)})
