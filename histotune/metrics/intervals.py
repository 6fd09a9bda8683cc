"""How sure the mean of several trainings is, over other patients and other seeds.

Two things could have come out otherwise. Other patients: percentiles of the mean over replicates, widened for few
patients as a t-interval widens a normal one (Hesterberg, 2015, "expanded percentile"), and on average of both sides
never narrower than a t-interval by the jackknife, which few clusters of cases need (MacKinnon, Nielsen & Webb, 2023).
Other seeds: a t-interval of the mean over the trainings; drawing two to five of them with replacement would make it too
narrow. On either side of the value the squared widths are added (MOVER, Zou & Donner, 2008), which counts twice what
patients and seeds do together, so that two or three seeds give an interval that is rather too wide. A p-value is one
minus the level at which the interval reaches zero: p < .05 is the same as a 95 % interval without zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from histotune.core.format import bracketed
from histotune.errors import ConfigError
from histotune.metrics.measured import Measured
from histotune.metrics.shares import LEVEL

LEAST_PATIENTS = 1.5  # effective ones, below which a t quantile says nothing any more


@dataclass(frozen=True)
class ConfidenceInterval:
    """A value on all cases and its confidence interval; the bounds are NaN where they cannot be known."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return bracketed(vars(self))


@dataclass(frozen=True)
class Difference:
    """First minus second on the same cases, its confidence interval, and a two-sided p-value.

    Attributes:
        p: one minus the level at which the interval reaches zero, at least 2 / (replicates + 1).
    """

    value: float
    low: float
    high: float
    p: float

    def __str__(self) -> str:
        return f"{bracketed(vars(self), signed=True)}, p = {self.p:.3f}"


@dataclass(frozen=True)
class Seeded:
    """A metric of several trainings of one configuration, or its difference between two of them.

    Attributes:
        values: [S], on all cases, training by training.
        drawn: [S, R], on the same draws of patients for all.
        without: [S, P], on all patients but one; [S, 0] where there are many.
        patients: their number.
        range: of the metric, beyond which no bound lies; without bounds for a difference.
        effective: how many equal patients those are worth that limit the metric; no more than `patients`.
        biased: draws lie off the truth, so that they give no interval; a difference may have one.
        floors: of every training, (level, variance over patients) -> bounds than which none is narrower.
    """

    values: np.ndarray
    drawn: np.ndarray
    without: np.ndarray
    patients: int
    range: tuple[float, float] = (-math.inf, math.inf)
    effective: float = math.inf
    biased: bool = False
    floors: Sequence[Callable[[float, float], tuple[float, float] | None]] = ()

    @classmethod
    def of(cls, measured: Sequence[Measured], replicates: int, seed: int) -> Seeded:
        """Measure every training on the same draws."""
        drawn = np.stack([one.replicate(replicates, seed) for one in measured])
        without = np.stack([one.without_each() for one in measured])
        first, values = measured[0], np.array([one.value() for one in measured])
        effective, floors = min(one.effective for one in measured), tuple(one.floor for one in measured)
        return cls(values, drawn, without, first.patients, first.range, effective, first.biased, floors)

    def averaged(self) -> Seeded:
        """Return the mean over trainings as if it were one: what other seeds would change is then left out."""
        drawn, without = (values.mean(axis=0, keepdims=True) for values in (self.drawn, self.without))
        return replace(self, values=np.array([self.values.mean()]), drawn=drawn, without=without, floors=())

    def minus(self, other: Seeded) -> Seeded:
        """Subtract another configuration, training by training; one of a single training is subtracted from all."""
        drawn, without = self.drawn - other.drawn, self.without - other.without
        effective = min(self.effective, other.effective)
        return Seeded(self.values - other.values, drawn, without, self.patients, effective=effective)

    def interval(self, level: float = LEVEL) -> ConfidenceInterval:
        """Return the mean over trainings and its interval; the bounds are NaN where they cannot be known."""
        low, high, _ = self._bounds(level)
        if math.isnan(low):
            return ConfidenceInterval(float(self.values.mean()), low, high)
        value, means = float(self.values.mean()), self.drawn.mean(axis=0)
        variance = float(np.nanvar(means))
        floors = [(one, floor(level, variance)) for one, floor in zip(self.values, self.floors, strict=False)]
        off = [np.abs(np.array(floor) - one) for one, floor in floors if floor is not None]
        if off:
            down, up = np.mean(off, axis=0)
            low, high = np.fmin(low, value - down), np.fmax(high, value + up)
        elif self.biased or math.isclose(low, high, rel_tol=1e-9, abs_tol=1e-12):
            low = high = float("nan")  # no draw differs, and nothing else tells how well the value is known
        return ConfidenceInterval(value, *(float(np.clip(bound, *self.range)) for bound in (low, high)))

    def difference(self, level: float = LEVEL) -> Difference:
        """Return the mean over trainings, its interval and its p-value."""
        return Difference(float(self.values.mean()), *self._bounds(level))

    def _bounds(self, level: float) -> tuple[float, float, float]:
        """Return both bounds and the p-value."""
        from scipy.special import stdtrit

        if not 0 < level < 1:
            raise ConfigError(f"a confidence level must lie between 0 and 1, got {level=}")
        means, value = self.drawn.mean(axis=0), float(self.values.mean())
        known = means[~np.isnan(means)]
        if self.patients < 2 or len(known) < len(means) / 2:
            return float("nan"), float("nan"), float("nan")
        patients = max(min(float(self.patients), self.effective), LEAST_PATIENTS)
        free, share = patients - 1, (1 + level) / 2
        low, high = np.quantile(known, tails(patients, level))
        of_seeds = float(self.values.std(ddof=1) / np.sqrt(len(self.values))) if len(self.values) > 1 else 0.0
        errors = [max(width, 0.0) / float(stdtrit(free, share)) for width in (value - low, high - value)]
        wider = max(1.0, self._jackknife() / mean) if (mean := sum(errors) / 2) else 1.0
        sides = [_Side(wider * one, free, of_seeds, max(len(self.values) - 1, 1)) for one in errors]
        p = sides[value < 0].p(abs(value), least=min(1.0, 2 / (len(known) + 1)))
        return value - sides[0].width(share), value + sides[1].width(share), p

    def _jackknife(self) -> float:
        """Return the standard error over patients by leaving out each in turn; 0 where there are many."""
        means = self.without.mean(axis=0)
        known = means[~np.isnan(means)]
        return float(np.sqrt((len(known) - 1) * known.var())) if len(known) > 1 else 0.0


def tails(patients: float, level: float = LEVEL) -> tuple[float, float]:
    """Return the shares of replicates below an interval's lower and upper bound, which lie farther out of few patients.

    Args:
        patients: effective ones, see `shares.effective`; 1.5 is the least that tells anything.
        level: confidence, in (0, 1).
    """
    from scipy.special import ndtr, stdtrit

    patients = max(patients, LEAST_PATIENTS)
    tail = float(ndtr(-np.sqrt(patients / (patients - 1)) * stdtrit(patients - 1, (1 + level) / 2)))
    return tail, 1 - tail


class _Side(NamedTuple):
    """Two standard errors on one side of a value, each with its degrees of freedom."""

    of_patients: float
    patients_free: float
    of_seeds: float
    seeds_free: int

    def width(self, share: float) -> float:
        """Return how far the bound lies from the value; `share` of a distribution lies below its quantile."""
        from scipy.special import stdtrit

        return float(
            np.hypot(
                stdtrit(self.patients_free, share) * self.of_patients, stdtrit(self.seeds_free, share) * self.of_seeds
            )
        )

    def p(self, distance: float, least: float) -> float:
        """Return the p at which the bound lies `distance` away, at least `least`."""
        from scipy.optimize import brentq

        if not distance:
            return 1.0
        if self.width(1 - least / 2) <= distance:
            return least
        return float(brentq(lambda p: self.width(1 - p / 2) - distance, least, 1.0))
