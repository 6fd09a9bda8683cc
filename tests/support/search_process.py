"""A search as a process of its own, for tests that kill it: study, cohort, space file, trials, scheduler."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from histotune.space import load_space
from histotune.storage.records import TrialRecord
from histotune.storage.study_folder import StudyFolder
from histotune.tuning.budget import Budget
from histotune.tuning.options import Callbacks, Sampling
from histotune.tuning.run import run


class Lines:
    """Prints a line per event, with the time since the process began."""

    def __init__(self) -> None:
        self.began = time.monotonic()

    def started(self, number: int, config: Mapping[str, Any]) -> None:
        self.say(f"started {number}")

    def reported(self, number: int, epoch: int, metrics: Mapping[str, float]) -> None:
        self.say(f"reported {number} {epoch}")

    def ended(self, record: TrialRecord) -> None:
        self.say(f"ended {record.number} {record.state}")

    def say(self, line: str) -> None:
        print(f"{time.monotonic() - self.began:8.2f} {line}", flush=True)


if __name__ == "__main__":
    study, cohort, space, trials, scheduler = sys.argv[1:]
    lines = Lines()
    lines.say("begun")
    summary = run(
        StudyFolder(Path(study)),
        load_space(space),
        {32: Path(cohort)},
        Budget(int(trials)),
        sampling=Sampling(scheduler=scheduler),
        callbacks=Callbacks(listeners=[lines]),
    )
    for note in summary.notes:
        lines.say(f"note {note}")
    lines.say(f"summary {summary.reason} {summary.ended} {summary.unfinished}")
