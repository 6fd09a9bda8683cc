"""Operating point of a two-class model: the threshold from which on a case is called positive, and by which rule."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from histotune.errors import ConfigError, StudyError, suggest
from histotune.metrics.calibration import THRESHOLD_METRICS, choose_threshold
from histotune.metrics.intervals import ConfidenceInterval
from histotune.metrics.scores import in_words

SENSITIVITY, SPECIFICITY, YOUDEN, COST = "sensitivity", "specificity", "youden", "cost"
RULES = (SENSITIVITY, SPECIFICITY, YOUDEN, COST, *THRESHOLD_METRICS)
_WITH_NUMBER = {SENSITIVITY: "0.95", SPECIFICITY: "0.9", COST: "10:1"}
_DOUBT = 0.05


@dataclass(frozen=True)
class OperatingPoint:
    """By which rule a threshold is chosen.

    `sensitivity` and `specificity` are reached with as little loss of the other as possible; `youden` makes their sum
    greatest; `cost` makes (missed positives) x asked + (false alarms) least, with as many positives as these cases
    have; a metric of `calibration.THRESHOLD_METRICS` is made best.

    Args:
        rule: one of `RULES`.
        asked: the sensitivity or specificity to reach, in (0, 1), or what a missed positive costs in false alarms.
    """

    rule: str
    asked: float | None = None

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        if self.rule not in RULES:
            raise ConfigError(f"unknown operating point {self.rule!r}. {suggest(self.rule, RULES)}")
        if (self.asked is not None) != (self.rule in _WITH_NUMBER):
            example = f"{self.rule}={_WITH_NUMBER[self.rule]}" if self.rule in _WITH_NUMBER else self.rule
            raise ConfigError(f"operating point {self}: write it as {example!r}")
        if self.asked is not None and self.rule != COST and not 0 < self.asked < 1:
            raise ConfigError(f"operating point {self}: a {self.rule} to reach lies between 0 and 1, such as 0.95")
        if self.rule == COST and not (self.asked and 0 < self.asked < math.inf):
            raise ConfigError(f"operating point {self}: costs are two positive numbers FN:FP, such as cost=10:1")

    def __str__(self) -> str:
        return self.rule if self.asked is None else f"{self.rule}={self.asked:g}{':1' if self.rule == COST else ''}"

    @classmethod
    def parse(cls, text: str) -> OperatingPoint:
        """Read "sensitivity=0.95", "specificity=0.9", "youden", "cost=10:1" or a metric.

        Raises:
            ConfigError: it is none of them.

        >>> OperatingPoint.parse("cost=5:2")
        OperatingPoint(rule='cost', asked=2.5)
        """
        rule, given, number = text.partition("=")
        if not given:
            return cls(rule)
        missed, _, alarm = number.partition(":") if rule == COST else (number, "", "")
        try:
            return cls(rule, float(missed) / max(float(alarm or 1), 0.0))
        except (ValueError, ZeroDivisionError) as error:
            raise ConfigError(
                f"operating point {text!r}: {number!r} is no number, nor FN:FP as in cost=10:1"
            ) from error

    def choose(self, probabilities: np.ndarray, labels: np.ndarray, *, positive: int = 1, strict: bool = True) -> float:
        """Return the threshold on the positive class's probability [n, 2]; see `metrics.decide`.

        Args:
            strict: refuse what calls all cases alike, or of a metric warn of it, and warn where the cases are too few
                to confirm the point; else such a threshold is returned.

        Raises:
            StudyError: the point cannot be reached other than by calling all cases alike; the message names what can.
            ConfigError, DataError: as `choose_threshold`.
        """
        if self.rule in THRESHOLD_METRICS:
            chosen = choose_threshold(probabilities, labels, metric=self.rule, positive=positive)
            if strict and not 0 < chosen <= 1:
                warnings.warn(
                    f"on these cases nothing has a better {in_words(self.rule)} than calling all of them "
                    f"{'positive' if chosen <= 0 else 'negative'}: the threshold does that",
                    stacklevel=3,
                )
            return chosen
        if probabilities.shape[1] != 2:
            raise ConfigError(f"operating point {self} is of two classes, and these are {probabilities.shape[1]}")
        curve = curve_of(probabilities[:, positive], labels == positive)
        if strict and self.asked is not None and self.rule != COST:
            _warn_of_few(self.rule, self.asked, curve.positives if self.rule == SENSITIVITY else curve.negatives)
        at = self._place(curve)
        if strict and not (curve.sensitivity[at] > 0 and curve.specificity[at] > 0):
            raise StudyError(self._unreachable(curve))
        return float(curve.thresholds[at])

    def _place(self, curve: ThresholdCurve) -> int:
        if self.rule == SENSITIVITY:
            return int(np.flatnonzero(curve.sensitivity >= (self.asked or 0) - 1e-12)[-1])
        if self.rule == SPECIFICITY:
            return int(np.flatnonzero(curve.specificity >= (self.asked or 0) - 1e-12)[0])
        if self.rule == YOUDEN:
            gain = curve.sensitivity + curve.specificity
        else:
            missed, alarms = (1 - curve.sensitivity) * curve.positives, (1 - curve.specificity) * curve.negatives
            gain = -(missed * (self.asked or 1) + alarms)
        best = np.flatnonzero(gain >= gain.max() - 1e-9 * max(1.0, abs(gain.max())))
        return int(best[np.abs(curve.thresholds[best] - 0.5).argmin()])

    def _unreachable(self, curve: ThresholdCurve) -> str:
        if self.rule in (YOUDEN, COST):
            return (
                f"operating point {self}: on these cases nothing is better than calling all of them alike, so no "
                "threshold of this model serves it" + (": choose less unequal costs" if self.rule == COST else "")
            )
        own, other = (getattr(curve, name) for name in self._names())
        useful = np.flatnonzero((other > 0) & (own > 0))
        if not len(useful):
            return f"operating point {self}: this model gives all cases the same probability"
        best = useful[np.lexsort((other[useful], own[useful]))[-1]]
        alike, (name, rival) = "positive" if self.rule == SENSITIVITY else "negative", self._names()
        return (
            f"operating point {self}: a {name} of {self.asked:g} is reached only by calling every case {alike}; "
            f"{own[best]:.3f} (with {rival} {other[best]:.3f}) is the highest that it reaches: request that or less"
        )

    def _names(self) -> tuple[str, str]:
        return (SENSITIVITY, SPECIFICITY) if self.rule == SENSITIVITY else (SPECIFICITY, SENSITIVITY)


@dataclass(frozen=True)
class ThresholdResult:
    """What an operating point reaches on patients that had no part in choosing it.

    Attributes:
        rule, asked: of the `OperatingPoint`.
        threshold: least probability of the positive class that is called positive, chosen on all the cases.
        sensitivity, specificity: intervals over patients.
        fitted_on: which cases those are, and how patients were kept apart.
    """

    rule: str
    asked: float | None
    threshold: float
    sensitivity: ConfidenceInterval
    specificity: ConfidenceInterval
    fitted_on: str


def knowable(count: int) -> float:
    """Return the least true share, with 95 % confidence, when all of `count` independent cases are called right.

    >>> round(knowable(10), 3), round(knowable(59), 3)
    (0.741, 0.95)
    """
    return float(_DOUBT ** (1 / count))


def _warn_of_few(rule: str, asked: float, count: int) -> None:
    if count and knowable(count) < asked:
        kind = "positive" if rule == SENSITIVITY else "negative"
        needed = math.ceil(math.log(_DOUBT) / math.log(asked))
        warnings.warn(
            f"{count} {kind} cases are too few to confirm a {rule} of {asked:g}: even if all of them are classified "
            f"correctly it may be {knowable(count):.2f} (95 % confidence); at least {needed} are needed, and more "
            "where they are of few patients",
            stacklevel=4,
        )


class ThresholdCurve(NamedTuple):
    """Every threshold that makes a difference, ascending: the first calls all cases positive, the last none."""

    thresholds: np.ndarray
    sensitivity: np.ndarray
    specificity: np.ndarray
    positives: int
    negatives: int


def curve_of(scores: np.ndarray, hits: np.ndarray) -> ThresholdCurve:
    """Return what every threshold reaches on scores [n] of cases that are hits or not, bool [n].

    Raises:
        StudyError: one of the two is missing.
    """
    distinct, owner = np.unique(scores.astype(np.float64), return_inverse=True)
    true, false = (np.bincount(owner[rows], minlength=len(distinct)) for rows in (hits, ~hits))
    positives, negatives = int(true.sum()), int(false.sum())
    if not positives or not negatives:
        raise StudyError(
            f"an operating point needs cases of both classes, and there are {positives} positive and {negatives} "
            "negative ones"
        )
    middles = (distinct[1:] + distinct[:-1]) / 2
    middles = np.where(middles > distinct[:-1], middles, distinct[1:])  # neighbouring doubles have no middle
    missed, spared = (np.concatenate([[0], np.cumsum(counts)]) for counts in (true, false))
    thresholds = np.concatenate([[0.0], middles, [np.nextafter(1.0, 2.0)]])
    return ThresholdCurve(thresholds, 1 - missed / positives, spared / negatives, positives, negatives)
