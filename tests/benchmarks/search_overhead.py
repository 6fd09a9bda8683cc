"""Seconds between the end of one trial and the first training step of the next, in a running search.

The end is when a trial's last file, metrics.json, is in place; the beginning is when the next trial of the same worker
has its data, network and optimiser and turns to its first batch. Trials are tiny, so that all the rest is overhead.
Exits with 1 when the median is above the goal.

    python tests/benchmarks/search_overhead.py --trials 40 --at-once 1
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from histotune.cohort import read_labels
from histotune.datasets import DATASETS
from histotune.prepare import prepare
from histotune.search import Budget, Resources, run
from histotune.space import read_space
from histotune.splits import split
from histotune.store import StudySettings, StudyStore

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
GOAL = 0.5


def gaps(store: StudyStore, at_once: int) -> np.ndarray:
    """Return seconds between trials, each paired with the earliest end that no other trial follows."""
    records = store.trials()
    ends = sorted((record.folder / "metrics.json").stat().st_mtime for record in records)
    starts = sorted(record.started for record in records)[at_once:]
    return np.array(starts) - np.array(ends[: len(starts)])


def main() -> None:
    """Search, and print the gaps."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--at-once", type=int, default=1)
    parser.add_argument("--cases", type=int, default=240)
    given = parser.parse_args()
    space = read_space(SPACE, "overhead")
    with tempfile.TemporaryDirectory() as home:
        dataset = DATASETS.build("synthetic", cases=given.cases, patients=24, side=32)
        cohort = prepare(dataset, None, image_size=32, cache=Path(home))
        labels = read_labels(cohort)
        parts = split(cohort, labels, "patient", seed=0)
        settings = StudySettings(
            "overhead", "synthetic", "", {}, {"32": cohort.digest}, list(cohort.classes), cohort.positive,
            "patient", False, 0, "balanced_accuracy", space.to_dict(),
        )  # fmt: skip
        store = StudyStore(Path(home) / "overhead")
        store.create(settings, cohort, parts, labels)
        began = time.monotonic()
        resources = Resources(max_concurrent=given.at_once)
        run(store, space, {32: cohort.folder}, Budget(given.trials), resources, scheduler="none")
        found, total = gaps(store, given.at_once), time.monotonic() - began
        training = sum(record.seconds for record in store.trials()) / given.at_once
    print(f"{given.trials} trials, {given.at_once} at once: {total:.1f} s, of which training {training:.1f} s")
    print(f"between two trials: median {np.median(found):.3f} s, 90 % {np.percentile(found, 90):.3f} s, "
          f"largest {found.max():.3f} s, goal {GOAL} s")  # fmt: skip
    if np.median(found) > GOAL:
        sys.exit(1)


if __name__ == "__main__":
    main()
