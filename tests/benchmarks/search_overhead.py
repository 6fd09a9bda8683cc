"""What a search costs beside its training: seconds per trial, and memory of the driver by trial.

Runs the public search, MLflow's mirror included, over short trainings. Overhead is wall time x workers / trials
minus training, from the first trial's end to the last one's, so that starting Ray is not part of it. The memory's slope
is fitted to the second half of the trials, when every library has been imported. Prints the curve, and exits with 1
when a goal is missed or when workers were not reused.

    python tests/benchmarks/search_overhead.py --trials 200 --at-once 2
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import yaml

from histotune.api import search
from histotune.storage.records import TrialRecord
from histotune.storage.study_folder import StudyFolder
from histotune.tuning.budget import Budget, Ledger
from histotune.tuning.ray_cluster import _mark, _marked

SPACE = {
    "dataset": "synthetic",
    "epochs": 2,
    "batch_size": 64,
    "loss": {"choice": {"cross_entropy": {}, "focal": {"gamma": {"low": 0.5, "high": 5.0}}}},
    "optimizer": {
        "learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
        "weight_decay": {"low": 1e-6, "high": 1e-1, "log": True},
    },
}
OVERHEAD, GROWTH = 0.35, 0.2  # goals: seconds and MB per trial
LINES = 10


class Meter:
    """Notes time, memory, processor time and training time at the end of every trial."""

    def __init__(self) -> None:
        self.rows: list[tuple[float, float, float, float]] = []
        self.workers: set[int] = set()
        self.mark = ""

    def opened(self, store: StudyFolder, budget: Budget, ledger: Ledger) -> None:
        """Note by which mark the search's processes are known."""
        self.mark = _mark(store.folder)

    def started(self, number: int, config: Mapping[str, object]) -> None:
        """Nothing: the ends are counted."""

    def reported(self, number: int, epoch: int, metrics: Mapping[str, float]) -> None:
        """Note which processes train."""
        if epoch == 1:
            self.workers |= workers(self.mark)

    def ended(self, record: TrialRecord) -> None:
        """Note where the driver stands."""
        self.rows.append((time.monotonic(), memory(), time.process_time(), record.seconds))

    def table(self) -> np.ndarray:
        """Return [trials, 4]: seconds since the first end, MB, processor seconds of the driver, training seconds."""
        rows = np.array(self.rows)
        return rows - [rows[0, 0], 0, rows[0, 2], 0]


def workers(mark: str) -> set[int]:
    """Return the ids of the search's processes that Ray named after the trainable."""
    result = set()
    for process in _marked(mark):
        with contextlib.suppress(OSError):  # it ended meanwhile
            if Path(f"/proc/{process}/cmdline").read_bytes().startswith(b"ray::TrialWorker"):
                result.add(process)
    return result


def memory() -> float:
    """Return this process's resident memory in MB."""
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def show(table: np.ndarray, at_once: int) -> tuple[float, float]:
    """Print the curve; returns the overhead per trial in seconds and the memory's slope in MB per trial."""
    wall, resident, driver, training = table.T
    print("trials  overhead/trial s  driver CPU/trial s  driver MB")
    edges = np.linspace(0, len(table) - 1, LINES + 1).astype(int)
    for first, last in itertools.pairwise(edges):
        count = last - first
        over = (wall[last] - wall[first]) * at_once / count - training[first + 1 : last + 1].mean()
        print(f"{last + 1:6d}  {over:16.3f}  {(driver[last] - driver[first]) / count:18.3f}  {resident[last]:9.1f}")
    half = len(table) // 2
    slope = np.polyfit(np.arange(half, len(table)), resident[half:], 1)[0]
    return float(wall[-1] * at_once / (len(table) - 1) - training[1:].mean()), float(slope)


def main() -> None:
    """Search, and print the curve."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--at-once", type=int, default=2)
    parser.add_argument("--cases", type=int, default=600)
    given = parser.parse_args()
    meter = Meter()
    with tempfile.TemporaryDirectory() as home:
        options = {"cases": given.cases, "patients": 24, "side": 32}
        space = Path(home) / "overhead.yaml"
        space.write_text(yaml.safe_dump(SPACE | {"options": options}), encoding="utf-8")
        search(
            space,
            trials=given.trials,
            scheduler="none",
            max_concurrent=given.at_once,
            runs=home,
            cache=home,
            opened=meter.opened,
            listeners=[meter],
        )
    processes = len(meter.workers)
    table = meter.table()
    overhead, slope = show(table, given.at_once)
    load = os.getloadavg()[0]
    print(
        f"{given.trials} trials, {given.at_once} at once: training {table[1:, 3].mean():.3f} s, overhead "
        f"{overhead:.3f} s per trial (goal {OVERHEAD}), memory {slope:+.3f} MB per trial (goal {GROWTH}); "
        f"{processes} worker processes, load {load:.1f} on {os.cpu_count()} CPUs"
    )
    if overhead > OVERHEAD or slope > GROWTH or processes > given.at_once:
        sys.exit(1)


if __name__ == "__main__":
    main()
