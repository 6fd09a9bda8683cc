"""Look on while another process searches: read what it writes, and hear when it lets go of the study."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import yaml

from histotune import files
from histotune.search._events import Budget, Listener
from histotune.store import StudyStore, read_record

EVERY = 1.0  # seconds between two looks
SETTLED = 15.0  # seconds for which a study is free before its search counts as gone: one that begins lets go in between


def follow(
    store: StudyStore,
    budget: Budget,
    listeners: Sequence[Listener] = (),
    *,
    sleep: Callable[[float], None] = time.sleep,
) -> float:
    """Wait while another process holds the study, and tell `listeners` what its trials do; writes nothing.

    It returns when the search has reached the budget, and otherwise when nobody has held the study for a while, so that
    the caller can take it over, whatever became of the one that held it.

    Returns:
        Seconds waited; 0 when nobody held the study.
    """
    if not store.holder():
        return 0.0
    began, free = time.monotonic(), 0.0
    watcher = _Watcher(store, listeners)
    while free < SETTLED:
        sleep(EVERY)
        free = 0.0 if store.holder() else free + EVERY
        ended = watcher.look()
        if free and budget.trials is not None and ended >= budget.trials:
            break
    return time.monotonic() - began


class _Watcher:
    """Turns what stands in trial folders into the events of a search; what had ended before is not told."""

    def __init__(self, store: StudyStore, listeners: Sequence[Listener]) -> None:
        self._store, self._listeners = store, listeners
        self._ended = {record.number for record in store.trials()}
        self._epochs: dict[int, int] = {}

    def look(self) -> int:
        """Tell what is new and return how many trials have ended."""
        for folder in sorted((self._store.folder / "trials").glob("[0-9]*")):
            number = int(folder.name)
            if number not in self._ended and (folder / "config.yaml").exists():
                self._tell(number)
        return len(self._ended)

    def _tell(self, number: int) -> None:
        folder = self._store.trial_folder(number)
        record = read_record(folder, number)
        rows = files.read_json_lines(folder / "curve.jsonl")
        if number not in self._epochs:
            self._epochs[number] = 0
            for listener in self._listeners:
                listener.started(number, yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8")))
        for row in rows[self._epochs[number] :]:
            metrics = {k: float("nan") if v is None else v for k, v in row.items() if k not in ("epoch", "seconds")}
            for listener in self._listeners:
                listener.reported(number, row["epoch"], metrics)
        self._epochs[number] = max(self._epochs[number], len(rows))
        if record is not None:
            self._ended.add(number)
            for listener in self._listeners:
                listener.ended(record)
