"""How fast a study of ten thousand past trials is read, ranked and searched on.

Writes such a study, whole trial folders and a journal in Optuna's format around one real training, then measures the
whole command `histotune leaderboard` (the first time, which builds the cache, and after), and what a search does before
its first trial starts: journal, taking up, one proposal. Exits with 1 when the leaderboard takes longer than its goal.

    python tests/benchmarks/large_study.py --trials 10000
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import yaml
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend
from optuna.trial import TrialState, create_trial

from histotune.api import train
from histotune.core.config import TrialConfig
from histotune.space import Space, load_space
from histotune.storage.layout import TRIAL_INDEX
from histotune.storage.records import TrialRecord, read_record
from histotune.storage.study_folder import COMPLETE, STOPPED, StudyFolder
from histotune.tuning.journal import CONFIG, DIGEST, RECORD, Journal, facts
from histotune.tuning.proposer import Proposer
from histotune.tuning.resume import take_up
from histotune.tuning.schedulers import build_scheduler

GOAL = 2.0  # seconds of `histotune leaderboard`


class _Lines(BaseJournalBackend):
    """A journal in memory: what would be written to the file, without a sync for each line."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        self.lines += logs

    def read_logs(self, log_number_from: int) -> list[dict[str, Any]]:
        return self.lines[log_number_from:]


def build(home: Path, trials: int) -> tuple[StudyFolder, Space]:
    """Write the study: one real training, then its folder again and again with other values."""
    template = train("demo", ["epochs=2", "batch_size=64"], runs=home, cache=home)
    store, space, rng = StudyFolder(home / "demo"), load_space("demo"), np.random.default_rng(0)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    drawn = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    backend = _Lines()
    journal = optuna.create_study(storage=JournalStorage(backend), study_name="demo", direction="maximize")
    for number in range(trials):
        trial = drawn.ask()
        config = TrialConfig.from_dict(space.suggest(trial))
        record = write(store.trial_folder(number), template, config, rng, number)
        complete = record.state == COMPLETE
        value = record.metrics["balanced_accuracy"]
        done = create_trial(
            state=TrialState.COMPLETE if complete else TrialState.FAIL,
            value=value if complete else None,
            params=trial.params,
            distributions=trial.distributions,
            intermediate_values={1: value - 0.05, 2: value},
            user_attrs={CONFIG: config.to_dict(), DIGEST: config.digest(), RECORD: facts(record)},
        )
        journal.add_trial(done)
    store.journal.write_text("".join(json.dumps(line) + "\n" for line in backend.lines), encoding="utf-8")
    return store, space


def write(
    folder: Path, template: TrialRecord, config: TrialConfig, rng: np.random.Generator, number: int
) -> TrialRecord:
    """Write one ended trial; what does not differ is a hard link."""
    folder.mkdir(parents=True)
    for source in template.folder.iterdir():
        os.link(source, folder / source.name)
    saved = json.loads((template.folder / "metrics.json").read_text(encoding="utf-8"))
    metrics = {name: float(rng.uniform(0.5, 1)) for name in saved["metrics"]}
    state = COMPLETE if number % 4 == 0 else STOPPED
    for name in ("metrics.json", "config.yaml"):
        (folder / name).unlink()
    whole = saved | {"metrics": metrics, "state": state, "digest": config.digest()}
    (folder / "metrics.json").write_text(json.dumps(whole, indent=2), encoding="utf-8")
    (folder / "config.yaml").write_text(yaml.dump(config.to_dict(), Dumper=yaml.CSafeDumper), encoding="utf-8")
    record = read_record(folder, number)
    assert record is not None
    return record


def command(home: Path) -> float:
    """Return seconds of `histotune leaderboard`, as a user waits for it."""
    began = time.monotonic()
    line = [
        sys.executable,
        "-c",
        "from histotune.cli.app import main; main()",
        "leaderboard",
        "demo",
        "--runs",
        str(home),
    ]
    subprocess.run(line, check=True, capture_output=True)
    return time.monotonic() - began


def main() -> None:
    """Build, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--keep", type=Path, help="Folder for the study, kept; used again when it is there.")
    given = parser.parse_args()
    home = given.keep or Path(tempfile.mkdtemp())
    if not (home / "demo" / "journal.log").exists():
        build(home, given.trials)
    store, space = StudyFolder(home / "demo"), load_space("demo")
    (store.folder / TRIAL_INDEX).unlink(missing_ok=True)
    print(f"first leaderboard, which builds the cache: {command(home):.2f} s")
    seconds = min(command(home) for _ in range(3))
    print(f"leaderboard: {seconds:.2f} s (goal {GOAL}); load {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs")
    times = [time.monotonic()]
    journal = Journal(store.journal, store.folder.name, maximize=True)
    past = journal.trials()
    times.append(time.monotonic())
    history = take_up(store, journal, build_scheduler("asha", space.epochs()), metric="balanced_accuracy", sign=1)
    times.append(time.monotonic())
    proposer = Proposer(space, "tpe", seed=0, maximize=True, history=past)
    times.append(time.monotonic())
    proposer.propose(history.digests.__contains__)
    times.append(time.monotonic())
    parts = zip(("journal", "taking up", "sampler's view", "first proposal"), np.diff(times), strict=True)
    print(", ".join(f"{what} {part:.2f} s" for what, part in parts))
    if given.keep is None:
        shutil.rmtree(home)
    if seconds > GOAL:
        sys.exit(1)


if __name__ == "__main__":
    main()
