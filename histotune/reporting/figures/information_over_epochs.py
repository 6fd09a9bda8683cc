"""Information that the branches of a model share, and have on the label, by epoch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from histotune.core.format import counted
from histotune.reporting import charts as _style
from histotune.reporting.figures._base import FIGURES, Figure, FigureSource, call
from histotune.reporting.figures._select import BEST, by_name, kept, measured, over_epochs, panel_title

if TYPE_CHECKING:
    from plotly.graph_objects import Figure as PlotlyFigure

_GAP = 0.085  # between panels, for their titles


@dataclass(frozen=True)
class InformationCurve:
    """A quantity of one embedding, or of a pair, by epoch: float64 [E], NaN where it could not be known."""

    name: str
    values: np.ndarray


@dataclass(frozen=True)
class BranchInformation:
    """What was measured on the same validation cases after every epoch.

    Attributes:
        model: which trial, and its fusion.
        epochs: int64 [E].
        best_epoch: the one whose weights are kept.
        redundancy, hsic, shared: by pair of branches: mean squared correlation, normalised HSIC, mutual information
            (nats).
        known, rank: by branch and `joint`: information on the label (nats), effective rank.
        label_entropy: the most that can be known of the label, nats.
        cases, patients: that were measured on.
        components: principal components that stood for an embedding.
        study: which study it is.
    """

    model: str
    epochs: np.ndarray
    best_epoch: int
    redundancy: tuple[InformationCurve, ...]
    hsic: tuple[InformationCurve, ...]
    shared: tuple[InformationCurve, ...]
    known: tuple[InformationCurve, ...]
    rank: tuple[InformationCurve, ...]
    label_entropy: float
    cases: int
    patients: int
    components: int
    study: str = ""


class InformationOverEpochs(Figure[BranchInformation]):
    """Four panels over the epochs of one trial, as its training measured them."""

    def __init__(self, of: str) -> None:
        self._of = of

    def compute(self, source: FigureSource) -> BranchInformation:
        """Read the trial's curve."""
        line, rows = measured(source, self._of, "redundancy")

        def curves(key: str) -> tuple[InformationCurve, ...]:
            return tuple(InformationCurve(name, np.array(values)) for name, values in by_name(rows, key).items())

        last = rows[-1]
        return BranchInformation(
            model=f"{call(line)}, fusion {line.record.config()['model']['fusion']['name']}",
            epochs=np.array([row["epoch"] for row in rows]),
            best_epoch=line.record.best_epoch,
            redundancy=curves("redundancy"),
            hsic=curves("hsic"),
            shared=curves("mutual_information"),
            known=curves("label_information"),
            rank=curves("effective_rank"),
            label_entropy=last["label_entropy"],
            cases=last["cases"],
            patients=last["patients"],
            components=last["components"],
            study=str(source),
        )

    def draw(self, numbers: BranchInformation) -> PlotlyFigure:
        """Draw redundancy, shared information, information on the label and effective rank, one below the other."""
        ceiling = InformationCurve("H(label)", np.full(len(numbers.epochs), numbers.label_entropy))
        panels = [
            ("redundancy of two branches, 0 to 1", [("correlation² ", numbers.redundancy), ("HSIC ", numbers.hsic)]),
            ("mutual information of two branches, nats", [("shared ", numbers.shared)]),
            ("information on the label, nats", [("", numbers.known), ("", (ceiling,))]),
            ("effective rank of an embedding", [("", numbers.rank)]),
        ]
        height = (1 - _GAP * (len(panels) - 1)) / len(panels)
        layout: dict[str, Any] = {
            "xaxis": over_epochs(int(numbers.epochs[-1]), anchor=f"y{len(panels)}"),
            "shapes": [],
            "annotations": [],
            "showlegend": True,
        }
        traces: list[dict[str, Any]] = []
        for number, (title, groups) in enumerate(panels, 1):
            axis, low = f"y{number if number > 1 else ''}", (len(panels) - number) * (height + _GAP)
            layout[axis.replace("y", "yaxis")] = _style.axis(
                "", domain=[low, low + height], rangemode="tozero", nticks=5
            )
            layout["annotations"].append(panel_title(title, {"xref": "paper", "yref": f"{axis} domain"}))
            layout["shapes"].append(kept(numbers.best_epoch, {"xref": "x", "yref": f"{axis} domain"}))
            traces += _lines(numbers, groups, axis, traces)
        title = "Information in the branches by epoch"
        return _style.figure(title, _caption(numbers), traces, layout, height=720, above=22, below=96)


@FIGURES.register(
    "information_over_epochs",
    source="Roy & Vetterli, 2007 (effective rank); Ince et al., 2017; Alain & Bengio, 2016; Kornblith et al., 2019",
)
def information_over_epochs(*, of: str | int = BEST) -> InformationOverEpochs:
    """Redundancy, mutual information and effective rank of a trial's branches by epoch; `of` is best or its number."""
    return InformationOverEpochs(str(of))


def _lines(
    numbers: BranchInformation,
    groups: list[tuple[str, tuple[InformationCurve, ...]]],
    axis: str,
    before: list[dict[str, Any]],
) -> Iterator[dict[str, Any]]:
    """Draw a panel's curves; what stands in two panels has one colour and one entry in the legend."""
    names = list(dict.fromkeys(trace["name"] for trace in before))
    for prefix, curves in groups:
        for curve in curves:
            name = prefix + curve.name
            known = name in names
            names += [] if known else [name]
            look = _style.place(names.index(name))
            ceiling = name == "H(label)"
            yield {
                "type": "scatter",
                "mode": "lines" if ceiling else "lines+markers",
                "name": name,
                "x": numbers.epochs,
                "y": curve.values,
                "yaxis": axis,
                "legendgroup": name,
                "showlegend": not known,
                "line": {
                    "width": 2,
                    "color": _style.FAINT if ceiling else look["color"],
                    "dash": "dash" if ceiling else "solid",
                },
                "marker": {**look, "size": 6},
                "hovertemplate": "epoch %{x}: %{y:.3f}",
            }


def _caption(numbers: BranchInformation) -> str:
    return (
        f"{numbers.model}; {numbers.study}. After every epoch on the same {counted(numbers.cases, 'case')} of "
        f"{counted(numbers.patients, 'patient')} of the validation set; dotted line: the epoch whose "
        "weights are saved. Mutual information: Gaussian, from canonical correlations of "
        f"{counted(numbers.components, 'principal component')}, corrected for chance; use it to compare epochs, "
        "not as an absolute value. On the label: H(label) minus the cross-entropy of a linear probe on other patients, "
        "a lower bound; below 0 the probe is worse than the class frequencies."
    )
