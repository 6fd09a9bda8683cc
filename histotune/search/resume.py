"""Take a study up where it stood, however it was left: the trial folders say what ended, the journal what was begun."""

from __future__ import annotations

from optuna.trial import FrozenTrial

from histotune import files
from histotune.search.conductor import STOP, History, settle
from histotune.search.journal import CONFIG, DEATHS, DIGEST, RECORD, Journal, facts
from histotune.search.schedule import Scheduler
from histotune.store import StudyStore, TrialRecord, read_record


def take_up(store: StudyStore, journal: Journal, scheduler: Scheduler, *, metric: str, sign: int) -> History:
    """Bring journal and trial folders into agreement and say what is left to do.

    - A trial that the journal holds for running and whose folder is complete: told to the journal, never run again.
    - A running trial without: to be taken up again, from its checkpoint where it has one.
    - An ended folder that the journal does not know, because the journal was lost: kept, and counted.
    - What the scheduler heard of every trial it hears again, and decides where a crash came before its decision.
    """
    records = store.trials()
    _adopt(journal, records)
    history = History(longest=max((r.seconds / r.epochs for r in records if r.epochs), default=0.0))
    for trial in journal.trials():
        if DIGEST in trial.user_attrs:
            history.digests[trial.user_attrs[DIGEST]] = trial.number
        record = None if trial.state.is_finished() else read_record(store.trial_folder(trial.number), trial.number)
        if record is not None:
            settle(journal, record, metric)
        if trial.state.is_finished() or record is not None:
            history.ended += record is not None or RECORD in trial.user_attrs
        else:
            history.unfinished[trial.number] = trial.user_attrs[CONFIG]
            history.deaths[trial.number] = trial.user_attrs.get(DEATHS, 0)
        for epoch, value in sorted(trial.intermediate_values.items()):
            scheduler.report(trial.number, epoch, sign * value)
    for trial in journal.trials():
        if trial.number in history.unfinished:
            _catch_up(store, journal, scheduler, trial, metric=metric, sign=sign)
    return history


def _catch_up(
    store: StudyStore, journal: Journal, scheduler: Scheduler, trial: FrozenTrial, *, metric: str, sign: int
) -> None:
    """Decide on the last epoch of an interrupted trial as if there had been no interruption."""
    folder = store.trial_folder(trial.number)
    stop = False
    for row in files.read_json_lines(folder / "curve.jsonl"):
        value = row.get(metric)
        if value is None:
            continue
        if row["epoch"] not in trial.intermediate_values:
            journal.report(trial.number, row["epoch"], value)
        stop = scheduler.report(trial.number, row["epoch"], sign * value)
    if stop and trial.number > 0:
        files.write_text(folder / STOP, "decided after an interruption\n")


def _adopt(journal: Journal, records: list[TrialRecord]) -> None:
    """Give the journal what only the folders know, up to the last ended one; a number is never given twice."""
    known = len(journal.trials())
    lost: dict[int, TrialRecord] = {record.number: record for record in records if record.number >= known}
    for number in range(known, max(lost, default=-1) + 1):
        record = lost.get(number)
        journal.adopt({} if record is None else {DIGEST: record.digest, RECORD: facts(record)})
