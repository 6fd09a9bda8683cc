"""Error rate of a model by patient and by site."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from histotune.core.format import counted
from histotune.errors import HistotuneError
from histotune.metrics.bootstrap import patient_bootstrap
from histotune.metrics.intervals import ConfidenceInterval
from histotune.metrics.shares import wilson
from histotune.reporting import charts as _style
from histotune.reporting.figures._base import FIGURES, Figure, FigureSource
from histotune.reporting.figures._errors import scored
from histotune.reporting.figures._select import BEST
from histotune.storage.records import Predictions

if TYPE_CHECKING:
    from plotly.graph_objects import Figure as PlotlyFigure
from typing import TYPE_CHECKING, Any

from histotune.reporting.figures._losses import short
from histotune.reporting.figures._select import panel_title

_ROW, _PATIENTS, _GAP, _SITES, _MOST = 22, 300, 90, 40, 400  # pixels of a row, panel and gap; sites and patients drawn


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
        result: np.ndarray = self.errors / self.cases
        return result


@dataclass(frozen=True)
class ErrorsByGroup:
    """Errors of one model.

    Attributes:
        model: what predicted.
        patients, sites: groups; no sites where they are unknown, with the reason in `note`.
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
        """Whether every patient has one case, so that rates by patient are not informative."""
        return int(self.patients.cases.max()) == 1


class ByGroup(Figure[ErrorsByGroup]):
    """Of a model's saved validation predictions; never of the sealed test set."""

    def __init__(self, of: str) -> None:
        self._of = of

    def compute(self, source: FigureSource) -> ErrorsByGroup:
        """Count the cases whose class of highest probability is wrong."""
        model, saved, probabilities = scored(source, self._of)
        wrong = probabilities.argmax(axis=1) != saved.labels
        names, member = np.unique(saved.patients, return_inverse=True)
        cases, errors = np.bincount(member), np.bincount(member, weights=wrong).astype(np.int64)
        patients = _ranked([str(name) for name in names], cases, errors, *wilson(errors / cases, cases))
        sites, note = _sites(source, saved, wrong)
        return ErrorsByGroup(model, patients, sites, float(wrong.mean()), note, source.scored_on())

    def draw(self, numbers: ErrorsByGroup) -> PlotlyFigure:
        """Draw dots with intervals: sites above, where there are any, and patients by rank."""
        traces, layout, height = dots(numbers)
        caption = (
            f"{numbers.model}: {numbers.rate:.1%} of all cases are wrong (dotted line). Intervals: 95 % (Wilson) for "
            "the number of cases"
        )
        caption += "; for sites, the wider of this and a bootstrap over patients. " if numbers.sites.names else ". "
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


def _sites(source: FigureSource, saved: Predictions, wrong: np.ndarray) -> tuple[Groups, str]:
    """Count by site."""
    nothing = Groups((), *(np.zeros(0, np.int64),) * 2, *(np.zeros(0),) * 2)
    try:
        table = source.cohort(min(map(int, source.settings.digests))).table.set_index("id")["site"]
    except HistotuneError as error:  # the data are gone, which a drawing of patients does not need
        return nothing, f"Sites are unknown ({str(error).partition(':')[0]}). "
    sites = table.loc[saved.ids].to_numpy(str)
    known = sorted({site for site in sites if site})
    if not known:
        return nothing, "The sites of this cohort are unknown. "
    rows = [np.flatnonzero(sites == site) for site in known]
    cases = np.array([len(own) for own in rows])
    errors = np.array([int(wrong[own].sum()) for own in rows])
    result = [_over_patients(wrong[own], saved.patients[own]) for own in rows]
    low, high = wilson(errors / cases, cases)
    low = np.fmin(low, [one.low for one in result])
    high = np.fmax(high, [one.high for one in result])
    return _ranked(known, cases, errors, low, high), ""


def _over_patients(wrong: np.ndarray, patients: np.ndarray) -> ConfidenceInterval:
    """Return the error rate with its interval over resampled patients: cases of one patient err alike."""
    right = np.stack([wrong, ~wrong], axis=1).astype(np.float64)
    result = patient_bootstrap("accuracy", right, np.ones(len(wrong), np.int64), patients, replicates=1000)
    return ConfidenceInterval(1 - result.value, 1 - result.high, 1 - result.low)


def dots(numbers: ErrorsByGroup) -> tuple[list[dict[str, Any]], dict[str, Any], int]:
    """Return traces, layout and height in pixels."""
    rows = min(len(numbers.sites.names), _SITES)
    patients = 0 if rows and numbers.one_each else _PATIENTS
    above = _ROW * rows + _GAP if rows else 0
    whole = above + patients
    low = patients / whole
    every = np.arange(len(numbers.patients.names))
    drawn = every if len(every) <= _MOST else every[np.linspace(0, len(every) - 1, _MOST).round().astype(int)]
    traces = [_trace(numbers.patients, drawn, upright=True)] if patients else []
    place = {"xref": "x domain", "yref": "y domain"}
    layout: dict[str, Any] = {
        "xaxis": _style.axis("patients, the highest error rate first", showgrid=False, ticks="", showticklabels=False),
        "yaxis": _style.axis("error rate", range=[-0.02, 1.02], tickformat=".0%", domain=[0, low]),
        "annotations": [panel_title(f"<b>{counted(len(every), 'patient')}</b>", place)],
        "shapes": [_mean(numbers.rate, {"xref": "x domain", "yref": "y"}, upright=True)],
        "showlegend": False,
    }
    if not patients:
        layout = {"annotations": [], "shapes": [], "showlegend": False}
    if rows:
        traces.append(_trace(numbers.sites, np.arange(rows), upright=False) | {"xaxis": "x2", "yaxis": "y2"})
        names = [_style.text(short(name)) for name in numbers.sites.names[:rows]]
        ticks = {"tickvals": [*range(rows)], "ticktext": names, "range": [rows - 0.4, -0.6], "showgrid": False}
        domain = [low + _GAP / whole if patients else 0.0, 1.0]
        layout["yaxis2"] = _style.axis("", anchor="x2", domain=domain, ticks="", **ticks)
        layout["xaxis2"] = _style.axis("error rate", anchor="y2", tickformat=".0%", range=[-0.02, 1.02])
        shown = f", of {len(numbers.sites.names)}" if len(numbers.sites.names) > rows else ""
        title = f"<b>{counted(rows, 'site')}{shown}</b>"
        layout["annotations"].append(panel_title(title, {"xref": "x2 domain", "yref": "y2 domain"}))
        layout["shapes"].append(_mean(numbers.rate, {"xref": "x2", "yref": "y2 domain"}, upright=False))
    return traces, layout, whole + 20


def _trace(groups: Groups, rows: np.ndarray, *, upright: bool) -> dict[str, Any]:
    rates = groups.rates[rows]
    error = {
        "type": "data",
        "array": _style.small(np.nan_to_num(groups.high[rows] - rates), 4),
        "thickness": 1,
        "arrayminus": _style.small(np.nan_to_num(rates - groups.low[rows]), 4),
        "width": 0,
        "color": _style.MUTED,
    }
    text = [f"{_style.text(groups.names[at])}: {groups.errors[at]:,} of {groups.cases[at]:,} wrong" for at in rows]
    value, number = _style.small(rates, 4), np.arange(len(rows))
    places = {"x": number, "y": value, "error_y": error} if upright else {"x": value, "y": number, "error_x": error}
    return {
        "type": "scatter",
        "mode": "markers",
        **places,
        "text": text,
        "marker": {"color": _style.VIVID[0 if upright else 1], "size": 7 if len(rows) <= 80 else 4},
        "hovertemplate": f"%{{text}}, %{{{'y' if upright else 'x'}:.1%}}<extra></extra>",
    }


def _mean(rate: float, axes: dict[str, str], *, upright: bool) -> dict[str, Any]:
    """Draw the rate over all cases."""
    ends = {"x0": 0, "x1": 1, "y0": rate, "y1": rate} if upright else {"x0": rate, "x1": rate, "y0": 0, "y1": 1}
    return {"type": "line", **ends, **axes, "line": {"color": _style.MUTED, "width": 1.5, "dash": "dot"}}
