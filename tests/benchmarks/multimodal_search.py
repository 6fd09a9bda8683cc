"""How many trials a minute a search over several modalities makes: tables, and embeddings that lie on disk.

Usage: python tests/benchmarks/multimodal_search.py [--trials 200] [--space demo_multimodal] [--data FOLDER] [--folds K]

Goal: at least 40 trials a minute on two cores, of the whole search from the first proposal to the last result, without
folds, at the space's epochs. Exits with 1 where it is missed. Run it on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import histotune

GOAL = 40.0  # trials a minute


def main() -> int:
    """Search, and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--space", default="demo_multimodal")
    parser.add_argument("--data")
    parser.add_argument("--folds", type=int, default=0)
    given = parser.parse_args()
    began: list[float] = []

    def opened(*_: Any) -> None:
        began.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        place: dict[str, Any] = {"runs": Path(folder) / "runs", "cache": Path(folder) / "cache"}
        study = histotune.search(
            given.space, data=given.data, trials=given.trials, folds=given.folds, opened=opened, **place
        )
        seconds = time.perf_counter() - began[-1]
        records = study.trials()
        epochs = sum(record.epochs for record in records)
        trained = sum(record.seconds for record in records)
    rate = 60 * len(records) / seconds
    states = {state: sum(record.state == state for record in records) for state in sorted({r.state for r in records})}
    print(f"{given.space}: {len(records)} trials ({states}), {epochs} epochs in {seconds:.0f} s: {rate:.1f} a minute")
    print(f"training and validation {trained:.0f} s of {2 * seconds:.0f} core seconds; goal {GOAL:g} a minute")
    return 0 if rate >= GOAL else 1


if __name__ == "__main__":
    sys.exit(main())
