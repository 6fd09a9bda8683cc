"""Follow a search of another process: read what it writes, and notice when it releases the study."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from histotune.metrics.scores import direction, reported
from histotune.storage import layout
from histotune.storage.records import TrialRecord, inherited, read_config, read_curve, read_record
from histotune.storage.study_folder import COMPLETE, StudyFolder
from histotune.tuning.budget import Budget, Ledger
from histotune.tuning.events import Listener

EVERY = 1.0  # seconds between two looks
SETTLED = 15.0  # seconds for which a study is free before its search counts as gone: one that begins lets go in between


def follow(
    store: StudyFolder,
    budget: Budget,
    listeners: Sequence[Listener] = (),
    opened: Callable[[StudyFolder, Budget, Ledger], None] | None = None,
    *,
    sleep: Callable[[float], None] = time.sleep,
) -> float:
    """Wait while another process holds the study, and tell `listeners` what its trials do; writes nothing.

    `opened` is called first, with the ledger that is kept of what the study spends.

    It returns when the search has reached the budget, and otherwise when nobody has held the study for a while, so that
    the caller can take it over, whatever became of the one that held it.

    Returns:
        Seconds waited; 0 when nobody held the study.
    """
    if not store.holder():
        return 0.0
    began, free = time.monotonic(), 0.0
    watcher = _Watcher(store, listeners)
    if opened is not None:
        opened(store, budget, watcher.ledger)
    while free < SETTLED:
        sleep(EVERY)
        free = 0.0 if store.holder() else free + EVERY
        watcher.look()
        if free and budget.enough(watcher.ledger) is not None:
            break
    return time.monotonic() - began


class _Watcher:
    """Turns what stands in trial folders into the events of a search; what had ended before is not reported."""

    def __init__(self, store: StudyFolder, listeners: Sequence[Listener]) -> None:
        self._store, self._listeners = store, listeners
        self._metric = store.settings.metric
        self.ledger = Ledger()
        self._ended = set[int]()
        for record in store.trials():
            self._end(record)
        self._epochs: dict[int, int] = {}

    def look(self) -> None:
        """Tell what is new."""
        for folder in sorted((self._store.folder / layout.TRIALS).glob("[0-9]*")):
            number = int(folder.name)
            if number not in self._ended and (folder / layout.CONFIG).exists():
                self._tell(number)

    def _end(self, record: TrialRecord) -> None:
        self._ended.add(record.number)
        self._inherit(record.number)
        value = record.metrics.get(self._metric, float("nan")) if record.state == COMPLETE else float("nan")
        self.ledger.end(record.number, record.epochs, direction(self._metric) * value if value == value else None)

    def _inherit(self, number: int) -> int:
        """Return how many of a trial's epochs another one trained, which are not reported."""
        epochs = inherited(self._store.trial_folder(number))
        if epochs and number not in self._epochs:
            self.ledger.inherit(number, epochs)
        return epochs

    def _tell(self, number: int) -> None:
        folder = self._store.trial_folder(number)
        record = read_record(folder, number)
        rows = read_curve(folder)
        if number not in self._epochs:
            self._epochs[number] = self._inherit(number)
            for listener in self._listeners:
                listener.started(number, read_config(folder))
        for row in rows[self._epochs[number] :]:
            self.ledger.train(number, row["epoch"])
            metrics = reported(row)
            for listener in self._listeners:
                listener.reported(number, row["epoch"], metrics)
        self._epochs[number] = max(self._epochs[number], len(rows))
        if record is not None:
            self._end(record)
            for listener in self._listeners:
                listener.ended(record)
