"""Single comparisons of two rows over the same patients, p-values corrected for all of them (Holm)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from histotune.metrics.bootstrap import Difference, holm, paired_bootstrap_of_seeds
from histotune.metrics.scores import in_words
from histotune.reproductions import _folded_measure
from histotune.reproductions._folded_measure import Scored
from histotune.reproductions._tables import shown_p
from histotune.reproductions.report import Section

TESTED = "auroc"
Seeds = Mapping[int, np.ndarray]
"""{seed: probabilities [n, C]}."""


class Pair(NamedTuple):
    """What is changed, and the (row, its probabilities) with and without it."""

    what: str
    one: tuple[str, Seeds]
    other: tuple[str, Seeds]


def difference(one: Seeds, other: Seeds, scored: Scored, rows: np.ndarray) -> Difference:
    """Return AUROC of one minus the other over some patients, with its interval over other patients and seeds."""
    both = sorted(one.keys() & other.keys())
    first, second = ([p[seed][rows] for seed in both] for p in (one, other))
    on = (scored.labels[rows], scored.patients[rows])
    return paired_bootstrap_of_seeds(
        TESTED, first, second, *on, positive=scored.positive, replicates=_folded_measure.REPLICATES
    )


def pairs_section(title: str, pairs: Sequence[Pair], scored: Scored, rows: np.ndarray) -> Section:
    """Compare the two rows of every pair."""
    found = [difference(pair.one[1], pair.other[1], scored, rows) for pair in pairs]
    corrected = holm([one.p for one in found])
    cells, numbers = [], []
    for pair, d, p in zip(pairs, found, corrected, strict=True):
        names = f"{pair.one[0]}, minus {pair.other[0]}"
        cells.append([pair.what, names, shown_difference(d), shown_p(d.p), shown_p(p)])
        about = {"difference": d.value, "low": d.low, "high": d.high, "p": d.p, "p_corrected": p}
        numbers.append({"row": names, "metric": TESTED, **about})
    head = ["", "rows", f"{in_words(TESTED)}, difference [95 %]", "p", "p corrected"]
    return Section(title, "", head, cells, numbers)


def shown_difference(d: Difference) -> str:
    """Write a difference with its interval."""
    return f"{d.value:+.3f} [{d.low:+.3f}, {d.high:+.3f}]"
