"""Subtyping from images and genes: every modality alone, their fusions, linear baselines; missing modalities used."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from histotune.metrics import scores as metrics
from histotune.reproductions.out_of_fold_measure import (
    Comparison,
    ComparisonFigure,
    OutOfFoldPredictions,
    Pair,
    pairs_section,
)
from histotune.reproductions.papers._base import (
    REPRODUCTIONS,
    ComparisonTable,
    Reproduction,
    Setting,
    read_settings,
)
from histotune.reproductions.report import Arm, TableSection
from histotune.reproductions.rows import Probabilities

_METRICS = ("auroc", "balanced_accuracy", "macro_f1", "mcc", "average_precision")
_TESTED = "auroc"
_CHOSEN = (
    "The reference, {best}, is the best single modality on average over seeds, chosen on these very patients: the "
    "comparison is against the luckiest of {count} arms."
)


@REPRODUCTIONS.register("subtyping", source="after arXiv 2503.02849 (image and gene expression, cross-attention)")
def subtyping() -> Reproduction:
    """Image features, copy number, clinic and mutations alone and fused, out of folds; PAM50 and IHC subtype."""
    return Reproduction(
        title="Subtyping from images and genes, after arXiv 2503.02849, with the inputs that do not hold the label",
        settings=read_settings(Path(__file__).with_suffix(".yaml")),
        compare=compare,
    )


def compare(scored: OutOfFoldPredictions, setting: Setting) -> Comparison:
    """Compare all rows over the same patients with the best single modality and the linear baselines, then over all."""
    result: Probabilities = scored.probabilities() | {row: scored.mean(of) for row, of in setting.means.items()}
    same = scored.having(setting.patients)
    who = f"{len(same)} patients with {' and '.join(setting.patients)}"
    best = max(setting.singles, key=lambda row: _auroc(scored, result, row, same))
    honest = [row for row in setting.rows() if row not in setting.marked]
    text = _CHOSEN.format(best=best, count=len(setting.singles))
    notes = " ".join([text, *(f"{row}: {why}." for row, why in setting.marked.items())])
    compared = [scored.over(who, [_table("All rows", honest, notes)], result, same, best, setting.published)]
    for control in setting.controls:
        against = ComparisonTable(f"against {control}", honest, (_TESTED,), _TESTED)
        compared.append(scored.over(who, [against], result, same, control, setting.published))
    everybody = np.arange(len(scored.labels))
    late = "A row that has no input of a patient gives its output for an empty input."
    whole = _table("All rows", honest, late)
    compared.append(scored.over(f"All {len(everybody)} patients", [whole], result, everybody, best, setting.published))
    pairs = [Pair(what, (one, result[one]), (other, result[other])) for what, (one, other) in setting.pairs.items()]
    sections = [
        *_apart(scored, setting, result, same, best),
        pairs_section(f"{who}: pairs", pairs, scored, same),
    ]
    return Comparison(compared, sections, [_bars(compared[0], who, best)])


def _table(title: str, rows: Sequence[str], note: str) -> ComparisonTable:
    return ComparisonTable(title, rows, _METRICS, _TESTED, note)


def _auroc(scored: OutOfFoldPredictions, result: Probabilities, row: str, rows: np.ndarray) -> float:
    return float(np.mean([metrics.auroc(p[rows], scored.labels[rows], scored.positive) for p in result[row].values()]))


def _apart(
    scored: OutOfFoldPredictions, setting: Setting, result: Probabilities, same: np.ndarray, reference: str
) -> list[TableSection]:
    """Show the marked rows in a table of their own, without a test."""
    if not setting.marked:
        return []
    rows = list(setting.marked)
    arm = scored.over("", [ComparisonTable("", rows, _METRICS, _TESTED)], result, same, reference, {})
    cells = [
        [line.label, *(line.cell(metric) for metric in _METRICS), setting.marked[line.label]]
        for line in arm.tables[0][1]
    ]
    return [
        TableSection("Marked rows, the same patients", "", ["", *map(metrics.in_words, _METRICS), "why apart"], cells)
    ]


def _bars(arm: Arm, who: str, best: str) -> ComparisonFigure:
    lines = arm.tables[0][1]
    intervals = [arm.measured.rows[line.label].intervals[_TESTED] for line in lines]
    return ComparisonFigure(
        kind="bars",
        stem="auroc",
        title="Macro one-vs-rest AUROC out of folds",
        caption=f"{who}; means over seeds (another random split into folds and initialisation each), bars: 95 % "
        f"intervals over other patients and seeds. Reference: {best}. Rows share the patients, so that their "
        "differences are surer than the bars.",
        rows=[line.label for line in lines],
        values={"AUROC": [(one.value, one.low, one.high) for one in intervals]},
        marked=[best],
    )
