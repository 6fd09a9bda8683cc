"""What confirming found: a row per contender, who is tied with the best, and what it means in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from histotune.core.provenance import utc_time
from histotune.evaluation._contenders import DEFAULT
from histotune.metrics.bootstrap import holm
from histotune.metrics.intervals import ConfidenceInterval, Difference, Seeded
from histotune.metrics.scores import direction, in_words

ALPHA = 0.05
SIMILAR = 1.25  # up to a quarter more counts as equal: latencies are measured, and nobody chooses by a few weights
_CHANCE = {"auroc": lambda classes: 0.5, "balanced_accuracy": lambda classes: 1 / classes, "mcc": lambda classes: 0.0}


@dataclass(frozen=True)
class ConfirmationRow:
    """What one contender reaches.

    Attributes:
        name: `trial 12` or `default`.
        number: of its best trial in the search; None for a default that never ended complete.
        digest: of its configuration with seed 0; names its folder under `confirm/`.
        search_score: what ranked it in the search; NaN where it has no complete trial.
        confirmed: mean over fresh seeds, with its interval over other patients and seeds.
        optimism_gap: by how much the search score looks better than the confirmed one; positive is too good, whatever
            the metric's direction. The search's own seed is taken as it is.
        per_seed: the confirmed score of every seed.
        against_best, against_default: this one minus that one, the p corrected for all contenders (Holm).
        tied: not significantly worse than the best.
        latency_ms: to score one case, the least of all its trainings: what else ran at the time can only add to it.
        parameters, seconds: weights, and of all its trainings together.
        failed: why it could not be trained again; every number but the search's is then NaN.
    """

    name: str
    number: int | None
    digest: str
    search_score: float
    confirmed: ConfidenceInterval
    optimism_gap: ConfidenceInterval
    per_seed: Sequence[float] = ()
    against_best: Mapping[str, float] = field(default_factory=dict)
    against_default: Mapping[str, float] = field(default_factory=dict)
    tied: bool = False
    latency_ms: float = float("nan")
    parameters: int = 0
    seconds: float = 0.0
    failed: str = ""


@dataclass(frozen=True)
class Confirmation:
    """What confirming a study found; see `confirm.confirm`.

    Attributes:
        contenders: by rank in the search, the default last where it is not among them.
        best: has the best confirmed score, which is a maximum of several and so still optimistic.
        tied: not significantly worse than the best, the best itself included.
        recommended: the cheapest of the tied, by `cost`; "" where even the best is not better than chance.
        beats_default: whether the winner of the search is significantly better than the default.
        sentence: the confirmed score of the winner of the search, in words.
        notes: further remarks.
    """

    study: str
    metric: str
    seeds: int
    outer: int
    patients: int
    contenders: Sequence[ConfirmationRow]
    best: str
    tied: Sequence[str]
    recommended: str
    cost: str
    beats_default: bool
    sentence: str
    notes: Sequence[str] = ()
    command: str = ""
    time: str = field(default_factory=utc_time)

    def to_dict(self) -> dict[str, Any]:
        """Return plain nested values."""
        return asdict(self)

    def __str__(self) -> str:
        return self.sentence


@dataclass(frozen=True)
class Judged:
    """Differences between the contenders.

    Attributes:
        best: name of the one with the best confirmed score.
        against_best, against_default: {name: difference and corrected p}; empty where there is no default.
        tied: names, in the order of the contenders.
    """

    best: str
    against_best: Mapping[str, Mapping[str, float]]
    against_default: Mapping[str, Mapping[str, float]]
    tied: Sequence[str]


def judge(result: Mapping[str, Seeded], metric: str) -> Judged:
    """Compare every contender with the best and with the default, on the same patients, folds and seeds.

    A contender that is significantly worse than the best is not tied. The best is chosen on the numbers that are
    compared, so what the set promises is this: the contender that truly is best is in it with 95 % probability at
    least. It does not promise to hold every one that is as good.

    Args:
        result: {name: its trainings}.
    """
    sign = direction(metric)
    best = max(result, key=lambda name: sign * result[name].values.mean())
    against_best = _against(result, best)
    tied = [name for name in result if name == best or not against_best[name]["p_corrected"] <= ALPHA]
    against_default = _against(result, DEFAULT) if DEFAULT in result else {}
    return Judged(best, against_best, against_default, tied)


def cheapest(rows: Sequence[ConfirmationRow], sign: float) -> tuple[str, str]:
    """Return the name of the cheapest row, and by which cost: latency, then parameters, then the confirmed score.

    Costs up to `SIMILAR` times the least count as equal.
    """
    least = min((row.latency_ms for row in rows if not np.isnan(row.latency_ms)), default=float("nan"))
    quick = [row for row in rows if row.latency_ms <= least * SIMILAR] or list(rows)
    few = [row for row in quick if row.parameters <= min(row.parameters for row in quick) * SIMILAR]
    chosen = max(few, key=lambda row: sign * row.confirmed.value)
    timed = [] if np.isnan(least) else [f"{chosen.latency_ms:.2f} ms a case"]
    counted = [f"{chosen.parameters:,} weights"] if len(quick) > 1 or not timed else []
    cost = " and ".join(timed + counted)
    return chosen.name, cost if len(few) == 1 else f"{cost}, about the same as others with a lower score"


def sentence(winner: ConfirmationRow, judged: Judged, metric: str, classes: int) -> tuple[str, bool]:
    """Return in words what the winner of the search reaches, and whether it is better than the default."""
    sign, name = direction(metric), in_words(metric)
    who = "the default configuration" if winner.name == DEFAULT else winner.name
    message = (
        f"Trained again with new seeds and folds, {who}, the best of the search, reaches {winner.confirmed} {name}; "
        f"its score in the search was {winner.search_score:.3f}"
    )
    if not np.isnan(winner.optimism_gap.value):
        message += f", an optimism gap of {winner.optimism_gap}"
    verdicts = [f"not significantly better than {chance}" for chance in chance_in(winner.confirmed, metric, classes)]
    result, beats = judged.against_default.get(winner.name), False
    if winner.name != DEFAULT and result is not None:
        difference = Difference(*(result[key] for key in ("value", "low", "high", "p")))
        beats = difference.p <= ALPHA and sign * difference.value > 0
        if beats and not verdicts:
            verdicts = [f"significantly better than the default configuration by {difference}"]
        elif not beats and difference.p <= ALPHA:
            verdicts.append(f"significantly worse than the default configuration by {difference}")
        elif not beats:
            default = winner.confirmed.value - difference.value
            verdicts.append(f"not significantly better than the default configuration ({default:.3f})")
    return f"{': '.join([message, *([' and '.join(verdicts)] if verdicts else [])])}.", beats


def chance_in(result: ConfidenceInterval, metric: str, classes: int) -> list[str]:
    """Name chance where an interval does not lie above it; nothing of a metric whose chance depends on the cases."""
    chance = _CHANCE.get(metric, lambda _: float("nan"))(classes)
    return [f"chance ({chance:.3f})"] if result.low <= chance <= result.high or result.value < chance else []


def _against(result: Mapping[str, Seeded], reference: str) -> dict[str, dict[str, float]]:
    """Return {name: value, low, high, p, p_corrected} of every contender minus the reference."""
    differences = {name: asdict(one.minus(result[reference]).difference()) for name, one in result.items()}
    others = [name for name in result if name != reference]
    corrected = dict(zip(others, holm([differences[name]["p"] for name in others]), strict=True))
    return {name: difference | {"p_corrected": corrected.get(name, 1.0)} for name, difference in differences.items()}
