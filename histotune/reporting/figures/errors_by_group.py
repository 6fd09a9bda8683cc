"""Where a model errs: its error rate by patient and by site."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from histotune.errors import HistotuneError
from histotune.metrics.bootstrap import Interval, patient_bootstrap
from histotune.reporting import charts as _style
from histotune.reporting.figures._base import FIGURES, Figure, Source
from histotune.reporting.figures._errors import scored, wilson
from histotune.reporting.figures._group_dots import dots
from histotune.reporting.figures._select import BEST
from histotune.storage.records import Predictions

if TYPE_CHECKING:
    from plotly.graph_objects import Figure as PlotlyFigure


@dataclass(frozen=True)
class Groups:
    """Error rates of groups of cases, the highest first.

    Attributes:
        names: of the groups.
        cases, errors: int64, of each.
        low, high: float64, bounds of the 95 % interval of the rate; NaN where it cannot be known.
    """

    names: tuple[str, ...]
    cases: np.ndarray
    errors: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @property
    def rates(self) -> np.ndarray:
        """Errors as shares of the cases, float64."""
        found: np.ndarray = self.errors / self.cases
        return found


@dataclass(frozen=True)
class ErrorsByGroup:
    """Errors of one model.

    Attributes:
        model: what predicted.
        patients, sites: groups; no sites where they are unknown, and then `note` says why.
        rate: errors as a share of all cases.
        about: which cases of which study.
    """

    model: str
    patients: Groups
    sites: Groups
    rate: float
    note: str
    about: str

    @property
    def one_each(self) -> bool:
        """Whether every patient has one case, so that rates by patient say nothing."""
        return int(self.patients.cases.max()) == 1


class ByGroup(Figure[ErrorsByGroup]):
    """Of a model's saved validation predictions; never of the sealed part."""

    def __init__(self, of: str) -> None:
        self._of = of

    def compute(self, source: Source) -> ErrorsByGroup:
        """Count the cases whose class of highest probability is wrong."""
        model, saved, probabilities = scored(source, self._of)
        wrong = probabilities.argmax(axis=1) != saved.labels
        names, member = np.unique(saved.patients, return_inverse=True)
        cases, errors = np.bincount(member), np.bincount(member, weights=wrong).astype(np.int64)
        patients = _ranked([str(name) for name in names], cases, errors, *wilson(errors, cases))
        sites, note = _sites(source, saved, wrong)
        return ErrorsByGroup(model, patients, sites, float(wrong.mean()), note, source.scored_on())

    def draw(self, numbers: ErrorsByGroup) -> PlotlyFigure:
        """Draw dots with intervals: sites above, where there are any, and patients by rank."""
        traces, layout, height = dots(numbers)
        caption = (
            f"{numbers.model}: {numbers.rate:.1%} of the cases wrong (dotted). Intervals are Wilson's (95 %) for the "
            "number of cases"
        )
        caption += (
            ", of a site the wider one of that and of one over resampled patients. " if numbers.sites.names else ". "
        )
        caption += numbers.note
        if numbers.one_each:
            caption += "Every patient has one case. "
        title = "Error rate by site" if numbers.sites.names else "Error rate by patient"
        title += " and patient" if numbers.sites.names and not numbers.one_each else ""
        return _style.figure(title, f"{caption}{numbers.about}.", traces, layout, height=height, above=24)


@FIGURES.register("errors_by_group")
def errors_by_group(*, of: str | int = BEST) -> ByGroup:
    """Error rate by patient and by site with intervals, validation cases; `of` is best, a trial's number or a name."""
    return ByGroup(str(of))


def _ranked(names: list[str], cases: np.ndarray, errors: np.ndarray, low: np.ndarray, high: np.ndarray) -> Groups:
    order = np.lexsort((np.array(names), -cases, -(errors / cases)))
    return Groups(tuple(names[at] for at in order), cases[order], errors[order], low[order], high[order])


def _sites(source: Source, saved: Predictions, wrong: np.ndarray) -> tuple[Groups, str]:
    """Count by site."""
    nothing = Groups((), *(np.zeros(0, np.int64),) * 2, *(np.zeros(0),) * 2)
    try:
        table = source.cohort(min(map(int, source.settings.digests))).table.set_index("id")["site"]
    except HistotuneError as error:  # the data are gone, which a drawing of patients does not need
        return nothing, f"Sites are unknown ({str(error).partition(':')[0]}). "
    sites = table.loc[saved.ids].to_numpy(str)
    known = sorted({site for site in sites if site})
    if not known:
        return nothing, "The data name no sites. "
    rows = [np.flatnonzero(sites == site) for site in known]
    cases = np.array([len(own) for own in rows])
    errors = np.array([int(wrong[own].sum()) for own in rows])
    found = [_over_patients(wrong[own], saved.patients[own]) for own in rows]
    low, high = wilson(errors, cases)
    low = np.fmin(low, [one.low for one in found])
    high = np.fmax(high, [one.high for one in found])
    return _ranked(known, cases, errors, low, high), ""


def _over_patients(wrong: np.ndarray, patients: np.ndarray) -> Interval:
    """Return the error rate with its interval over resampled patients: cases of one patient err alike."""
    right = np.stack([wrong, ~wrong], axis=1).astype(np.float64)
    found = patient_bootstrap("accuracy", right, np.ones(len(wrong), np.int64), patients, replicates=1000)
    return Interval(1 - found.value, 1 - found.high, 1 - found.low)
