"""Neighbouring patches of one slide across a split: they share cells, stain and focus."""

from __future__ import annotations

import numpy as np

from histotune.core.parameters import Interval
from histotune.data.audits._base import AUDITS, LEAK, OK, Finding, Subject

NEAREST = 0.1  # quantile of the distances to the nearest patch that counts as the step of the grid


@AUDITS.register("neighbours", ranges={"steps": Interval(0, open_low=True)})
def neighbours(subject: Subject, *, steps: float = 1.0) -> Finding:
    """Neighbouring patches of one patient's slide that stand on both sides of the split.

    Neighbours are at most `steps` steps of the slide's grid apart, in x and in y; the step is measured.
    """
    table = subject.cohort.table
    places = table[["x", "y"]].to_numpy(np.float64)
    rows = subject.placed[(places[subject.placed] >= 0).all(axis=1)]
    if not len(rows):
        return subject.skipped("neighbours", "the places of the cases in their slides are not known")
    torn = np.isin(subject.patients, subject.torn(subject.patients))
    split_up = rows[torn[rows]]
    pairs, step = _near(places[split_up], subject.patients[split_up], steps)
    first, second = split_up[pairs[:, 0]], split_up[pairs[:, 1]]
    parted = subject.across(first, second)
    first, second = first[parted], second[parted]
    touched = len(np.union1d(first, second))
    if not touched:
        return Finding("neighbours", OK, 0, len(rows), f"no neighbours among {len(rows):,} patches are parted")
    return Finding(
        "neighbours",
        LEAK,
        touched,
        len(rows),
        f"{touched:,} of {len(rows):,} patches have a neighbour, at most {step:.0f} px away, on the other side",
        [subject.pair(one, other) for one, other in zip(first[:3], second[:3], strict=True)],
        "split by patient (--split patient), so that a slide stays whole",
    )


def _near(places: np.ndarray, patients: np.ndarray, steps: float) -> tuple[np.ndarray, float]:
    """Return pairs [n, 2] of patches of one patient that are near each other, and how near that is, in pixels."""
    from scipy.spatial import cKDTree  # here: not every audit has places

    if len(places) < 2:
        return np.empty((0, 2), np.int64), 0.0
    owner = np.unique(patients, return_inverse=True)[1]
    apart = 4 * (places.max() + 1)  # so that patients lie in layers that never meet
    tree = cKDTree(np.column_stack([places, owner * apart]))
    nearest = tree.query(tree.data, k=2, p=np.inf)[0][:, 1]
    nearest = nearest[(nearest > 0) & (nearest < apart)]
    if not len(nearest):
        return np.empty((0, 2), np.int64), 0.0
    within = steps * float(np.quantile(nearest, NEAREST))
    return tree.query_pairs(within * (1 + 1e-9), p=np.inf, output_type="ndarray"), within
