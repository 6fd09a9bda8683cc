"""How long a greedy selection takes: 50 members over as many predictions as the whole IDC data set would have.

python tests/benchmarks/greedy_selection.py
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from histotune.ensembles.strategies import ENSEMBLES
from histotune.ensembles.strategies._selection import METRICS


def drawn(members: int, cases: int, classes: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Draw logits [members, cases, classes] of unequal skill that share some of their errors, and labels."""
    rng = np.random.default_rng(0)
    labels = (rng.random(cases) < 0.284).astype(np.int64) if classes == 2 else rng.integers(classes, size=cases)
    truth, shared = np.eye(classes)[labels], rng.normal(size=(cases, classes))
    skills = np.linspace(0.5, 1.5, members)[:, None, None]
    return skills * truth + 0.7 * shared + rng.normal(size=(members, cases, classes)), labels


def main() -> None:
    """Print seconds by metric."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--members", type=int, default=50)
    parser.add_argument("--cases", type=int, default=83_256)
    parser.add_argument("--metrics", nargs="*", default=["nll", "auroc", "balanced_accuracy", "mcc"], choices=METRICS)
    given = parser.parse_args()
    logits, labels = drawn(given.members, given.cases)
    for metric in given.metrics:
        ensemble = ENSEMBLES.build("greedy", metric=metric)
        began, spent = time.perf_counter(), time.process_time()
        ensemble.fit(logits, labels)
        seconds, cpu = time.perf_counter() - began, time.process_time() - spent
        chosen = np.count_nonzero(ensemble.state()["weights"])
        print(f"{metric:18s} {seconds:6.2f} s ({cpu:.2f} s CPU), {chosen} of {given.members} members chosen")


if __name__ == "__main__":
    main()
