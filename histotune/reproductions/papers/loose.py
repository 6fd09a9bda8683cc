"""Loosely coupled modalities: each trained alone and frozen; every combination and way to join, one absent."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from histotune.metrics import scores as metrics
from histotune.metrics.bootstrap import holm
from histotune.reproductions.out_of_fold_measure import (
    TESTED,
    Comparison,
    ComparisonFigure,
    OutOfFoldPredictions,
    Strategy,
    crossfit,
    difference,
    fit,
    shown_difference,
)
from histotune.reproductions.papers._base import (
    REPRODUCTIONS,
    ComparisonTable,
    Reproduction,
    Setting,
    read_settings,
)
from histotune.reproductions.report import TableSection, shown_p

STRATEGIES: Mapping[str, Strategy] = {
    "WLB": Strategy("weighted_logits", {"bias": True}),
    "WL": Strategy("weighted_logits", {"bias": False}),
    "mean": Strategy("average", {}),
    "max": Strategy("max", {}),
    "weighted": Strategy("weighted", {}),
    "stacking": Strategy("stacking", {}),
}
MEAN, OURS = "mean", "WLB"
_METRICS = ("auroc", "balanced_accuracy", "macro_f1", "accuracy")
_COMBINED = (
    "Macro one-vs-rest AUROC, mean ± standard deviation over seeds. The last columns compare WLB with the untrained "
    "mean of the very same members, by patients and seeds; p is corrected over the combinations (Holm)."
)
_DROPPED = (
    "Every way to join was fitted with all modalities on the other folds; at test one is absent for everybody. A "
    "difference is to the same way with nothing dropped, with its 95 % interval over patients and seeds."
)
_REFITTED = (
    "A modality joins or leaves without training a network: WLB learns (M + 1) C numbers from out-of-fold logits. "
    "Median over seeds, all cases with a label, as busy as the machine was."
)


@REPRODUCTIONS.register("loose", source="after arXiv 2509.03408 (loosely coupled modalities, WL and WLB)")
def loose() -> Reproduction:
    """Frozen networks of single modalities joined by WL, WLB, mean, max, weights or stacking; modalities absent."""
    return Reproduction(
        title="Loosely coupled modalities, after arXiv 2509.03408, with the inputs that do not hold the label",
        settings=read_settings(Path(__file__).with_suffix(".yaml")),
        compare=compare,
    )


@dataclass(frozen=True)
class Joined:
    """All ways to join all combinations of members, cross-fitted."""

    scored: OutOfFoldPredictions
    members: Sequence[str]

    @property
    def combinations(self) -> list[tuple[str, ...]]:
        """Every combination of members, the smaller ones first."""
        sizes = range(1, len(self.members) + 1)
        return [one for size in sizes for one in itertools.combinations(self.members, size)]

    @cached_property
    def found(self) -> dict[str, dict[int, np.ndarray]]:
        """Probabilities {row: {seed: [n, C]}}; a member alone is calibrated like those that are joined."""
        rows: dict[str, dict[int, np.ndarray]] = {}
        for names in self.combinations:
            for way, strategy in STRATEGIES.items() if len(names) > 1 else [("", STRATEGIES[MEAN])]:
                rows[row(names, way)] = {seed: self._cross(strategy, names, seed)[0] for seed in self.scored.seeds}
        return rows

    @cached_property
    def dropped(self) -> dict[str, dict[str, dict[int, np.ndarray]]]:
        """Probabilities {way: {absent member: {seed: [n, C]}}}, fitted with all members."""
        result: dict[str, dict[str, dict[int, np.ndarray]]] = {way: {m: {} for m in self.members} for way in STRATEGIES}
        for (way, strategy), seed in itertools.product(STRATEGIES.items(), self.scored.seeds):
            present = self.scored.stacked(self.members, seed)[1]
            masks = []
            for at in range(len(self.members)):
                masks.append(present.copy())
                masks[-1][at] = False
            for name, p in zip(self.members, self._cross(strategy, self.members, seed, masks), strict=True):
                result[way][name][seed] = p
        return result

    def refit_seconds(self, names: Sequence[str]) -> float:
        """Return the median seconds in which WLB learns to join members, on all that is scored out of folds."""
        seconds = []
        for seed in self.scored.seeds:
            logits, present = self.scored.stacked(names, seed)
            rows = np.flatnonzero(present.any(axis=0))
            known = (logits[:, rows], present[:, rows], self.scored.labels[rows], self.scored.patients[rows])
            seconds.append(fit(STRATEGIES[OURS], *known)[2])
        return float(np.median(seconds))

    def _cross(
        self, strategy: Strategy, names: Sequence[str], seed: int, asked: Sequence[np.ndarray] = ()
    ) -> list[np.ndarray]:
        logits, present = self.scored.stacked(names, seed)
        scored = self.scored
        return crossfit(strategy, logits, present, scored.labels, scored.patients, scored.folds[seed], asked)


def row(names: Sequence[str], way: str) -> str:
    """Name a combination of members and what joins them.

    >>> row(("image", "cnv"), "WLB")
    'image + cnv: WLB'
    """
    return " + ".join(names) + (f": {way}" if way else "")


def compare(scored: OutOfFoldPredictions, setting: Setting) -> Comparison:
    """Compare all ways over the patients who have everything and over all, every combination, and with one absent."""
    joined = Joined(scored, list(setting.singles))
    complete, everybody = scored.having(setting.patients), np.arange(len(scored.labels))
    groups = {
        f"{len(complete)} patients with {', '.join(setting.patients)}": complete,
        f"All {len(everybody)} patients": everybody,
    }
    whole = row(joined.members, MEAN)
    rows = [*joined.members, *(row(joined.members, way) for way in STRATEGIES)]
    also = [name for name in setting.published if name not in rows]  # what the paper joined, of other combinations
    table = ComparisonTable("All modalities, loosely coupled", [*rows, *also], _METRICS, TESTED)
    arms = [scored.over(who, [table], joined.found, of, whole, setting.published) for who, of in groups.items()]
    sections = [_combinations(who, joined, of) for who, of in groups.items()]
    sections += [_drops(who, joined, of) for who, of in groups.items()]
    return Comparison(arms, [*sections, _refits(joined)], [_heat(who, joined, of) for who, of in groups.items()][:1])


def _combinations(who: str, joined: Joined, rows: np.ndarray) -> TableSection:
    """Write every combination beside every way."""
    several = [names for names in joined.combinations if len(names) > 1]
    sides = [(joined.found[row(names, OURS)], joined.found[row(names, MEAN)]) for names in several]
    gains = [difference(*pair, joined.scored, rows) for pair in sides]
    corrected = holm([one.p for one in gains])
    cells, numbers = [], []
    for names in joined.combinations:
        ways = list(STRATEGIES) if len(names) > 1 else [""]
        values = {way: _aurocs(joined.scored, joined.found[row(names, way)], rows) for way in ways}
        shown = [_spread(values[way]) for way in ways] if len(names) > 1 else [_spread(values[""])] * len(STRATEGIES)
        gain = ["", "", ""]
        if names in several:
            at = several.index(names)
            gain = [shown_difference(gains[at]), shown_p(gains[at].p), shown_p(corrected[at])]
        cells.append([" + ".join(names), *shown, *gain])
        numbers += [_number(f"{who}: {row(names, way)}", values[way]) for way in ways]
    head = ["", *STRATEGIES, f"{OURS} minus {MEAN} [95 %]", "p", "p corrected"]
    return TableSection(f"{who}: every combination", _COMBINED, head, cells, numbers)


def _drops(who: str, joined: Joined, rows: np.ndarray) -> TableSection:
    """Write what is left where a modality is absent at test for everybody."""
    cells, numbers = [], []
    for way in STRATEGIES:
        nothing = joined.found[row(joined.members, way)]
        line = [way, _spread(_aurocs(joined.scored, nothing, rows))]
        for name in joined.members:
            absent = joined.dropped[way][name]
            values = _aurocs(joined.scored, absent, rows)
            change = difference(absent, nothing, joined.scored, rows)
            line.append(f"{np.mean(values):.3f} ({shown_difference(change)})")
            about = {"difference": change.value, "low": change.low, "high": change.high, "p": change.p}
            numbers.append(_number(f"{who}: {way} without {name}", values) | about)
        cells.append(line)
    head = ["fitted with all", "nothing dropped", *(f"without {name}" for name in joined.members)]
    return TableSection(f"{who}: a modality absent at test", _DROPPED, head, cells, numbers)


def _refits(joined: Joined) -> TableSection:
    classes, trained = len(joined.scored.classes), joined.scored.records
    cells = []
    for name in joined.members:
        others = [one for one in joined.members if one != name]
        took = float(np.median([record.seconds for record in trained[name].values()]))
        numbers = (len(joined.members) + 1) * classes, (len(others) + 1) * classes
        seconds = joined.refit_seconds(joined.members), joined.refit_seconds(others)
        cells.append(
            [name, *(f"{n} numbers, {s:.2f} s" for n, s in zip(numbers, seconds, strict=True)), f"{took:.0f} s"]
        )
    head = ["", "added to the others", "dropped", "its networks, trained once"]
    return TableSection("Adding and dropping a modality", _REFITTED, head, cells)


def _heat(who: str, joined: Joined, rows: np.ndarray) -> ComparisonFigure:
    columns: dict[str, list[tuple[float, ...]]] = {}
    for way in STRATEGIES:
        under = {"nothing dropped": joined.found[row(joined.members, way)]}
        under |= {f"without {name}": joined.dropped[way][name] for name in joined.members}
        for name, result in under.items():
            columns.setdefault(name, []).append((float(np.mean(_aurocs(joined.scored, result, rows))),))
    return ComparisonFigure(
        kind="heat",
        stem="modality_drop",
        title="Macro AUROC where a modality is absent at test for everybody",
        caption=f"{who}, out of folds; means over seeds. Every way to join was fitted with all modalities.",
        rows=list(STRATEGIES),
        values=columns,
    )


def _aurocs(scored: OutOfFoldPredictions, result: Mapping[int, np.ndarray], rows: np.ndarray) -> list[float]:
    return [metrics.auroc(p[rows], scored.labels[rows], scored.positive) for _, p in sorted(result.items())]


def _spread(values: Sequence[float]) -> str:
    return f"{np.mean(values):.3f}" + (f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else "")


def _number(name: str, values: Sequence[float]) -> dict[str, object]:
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else ""
    about = {"row": name, "metric": TESTED, "seeds": len(values), "mean": float(np.mean(values)), "sd": sd}
    return about | {"values": " ".join(map(repr, map(float, values)))}
