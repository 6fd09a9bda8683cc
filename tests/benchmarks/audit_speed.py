"""How long an audit of a whole cohort takes: 277,524 made-up patches of 32 px, 279 patients, places, sites and files.

Patches are filtered noise on a grid, so that nothing is blank and nothing alike; some copies are planted, changed by
one grey level and mirrored, and all of them must be found. Exits with 1 where the audit takes longer than its goal.

    python tests/benchmarks/audit_speed.py --cases 277524
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.ndimage import uniform_filter

from histotune.data.audits import AUDITS, Subject
from histotune.data.cohort import PROPERTIES, Cohort
from histotune.data.splits import split

GOAL = 120.0  # seconds
PATIENTS, SITES, SIDE, COPIES, CHUNK = 279, 9, 32, 200, 8192


def make_up(folder: Path, cases: int) -> tuple[Cohort, np.ndarray]:
    """Write the images to disk and map them, as a prepared cohort is mapped."""
    rng = np.random.default_rng(0)
    images = np.lib.format.open_memmap(folder / "images.npy", "w+", np.uint8, (cases, SIDE, SIDE, 3))
    for start in range(0, cases, CHUNK):
        noise = rng.normal(size=(min(CHUNK, cases - start), SIDE, SIDE, 3)).astype(np.float32)
        images[start : start + CHUNK] = (170 + 100 * uniform_filter(noise, (0, 3, 3, 0))).clip(0, 255)
    images[-COPIES:] = (images[:COPIES].clip(1) - 1)[:, :, ::-1]
    owner = np.sort(rng.integers(0, PATIENTS, cases))
    place = np.arange(cases) - np.searchsorted(owner, owner)
    table = pd.DataFrame(
        {
            "id": [f"i{row:06d}" for row in range(cases)],
            "patient": [f"p{number:03d}" for number in owner],
            "site": [f"s{number % SITES}" for number in owner],
            "content": [f"{row:016x}" for row in range(cases)],
            "x": 50 * (place % 40),
            "y": 50 * (place // 40),
            "part": "",
        }
    )
    saved = {"bytes": rng.integers(5000, 8000, cases), "format": "PNG", "quantisation": np.nan, "height": 50}
    pd.DataFrame({**saved, "width": rng.choice([50, 40], cases, p=[0.9, 0.1])}).to_csv(folder / PROPERTIES, index=False)
    labels = (rng.random(cases) < rng.beta(2, 5, PATIENTS)[owner]).astype(np.int64)
    mapped = np.load(folder / "images.npy", mmap_mode="r")
    present = {"image": np.ones(cases, bool)}
    return Cohort("made-up", table, ("negative", "positive"), {"image": mapped}, present, "", folder), labels


def main() -> int:
    """Measure each check by patient and, where neighbours are parted, at random."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=277_524)
    cases = parser.parse_args().cases
    worst = 0.0
    with tempfile.TemporaryDirectory() as folder:
        cohort, labels = make_up(Path(folder), cases)
        for protocol in ("patient", "patch_random_70_30"):
            subject, seconds = Subject.of(cohort, split(cohort, labels, protocol), labels), {}
            for name in AUDITS.names():
                started = time.perf_counter()
                result = AUDITS.build(name, subject)
                seconds[name] = round(time.perf_counter() - started, 2)
                if name == "near_identical":
                    across = subject.across(np.arange(COPIES), np.arange(cases - COPIES, cases)).sum()
                    assert result.count == 2 * across, result
            total = round(sum(seconds.values()), 1)
            print(json.dumps({"cases": cases, "split": protocol, "seconds": total, "checks": seconds}))
            worst = max(worst, total)
    return int(worst > GOAL)


if __name__ == "__main__":
    sys.exit(main())
