"""Entropy of the attention between branches, by temperature and by epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from histotune.core.format import counted
from histotune.core.parameters import Interval
from histotune.data.batches import Feed, in_order
from histotune.errors import StudyError
from histotune.models.fusions import COLDEST, HOTTEST
from histotune.models.predictor import load_model
from histotune.reporting import charts as _style
from histotune.reporting.figures._base import FIGURES, Figure, FigureSource, call
from histotune.reporting.figures._select import BEST, kept, measured, over_epochs, panel_title
from histotune.storage import layout
from histotune.studies.leaderboard import LeaderboardLine
from histotune.training import probe

if TYPE_CHECKING:
    from plotly.graph_objects import Figure as PlotlyFigure

_STEPS = 25  # temperatures from the coldest to the hottest that a head may have
_AT_ONCE = 64
_GAP = 0.11  # between panels, for their titles


@dataclass(frozen=True)
class HeadEntropy:
    """Mean entropy of the attention rows of one head, as a share of the greatest possible: 1 is even attention.

    Attributes:
        layer, head: from 1; `asking`: the branch whose tokens look at those of the others.
        entropies: float64 [T], were that its temperature.
        temperature, entropy: as the kept weights have them.
        by_epoch, temperature_by_epoch: float64 [E], as measured in training.
    """

    layer: int
    asking: str
    head: int
    entropies: np.ndarray
    temperature: float
    entropy: float
    by_epoch: np.ndarray
    temperature_by_epoch: np.ndarray


@dataclass(frozen=True)
class AttentionTemperature:
    """Entropy of attention by temperature and by epoch.

    Attributes:
        model: which trial, its fusion, and what kind of temperature it has.
        temperatures: float64 [T].
        heads: by layer, asking branch and number.
        epochs: int64 [E].
        best_epoch: the one whose weights are kept.
        cases, patients: of the validation set, for what depends on temperature; `by_epoch_cases` is for the epochs.
        study: which study it is.
    """

    model: str
    temperatures: np.ndarray
    heads: tuple[HeadEntropy, ...]
    epochs: np.ndarray
    best_epoch: int
    cases: int
    patients: int
    by_epoch_cases: int
    study: str = ""


class AttentionOverTemperature(Figure[AttentionTemperature]):
    """The rows of a trained model recomputed at other temperatures, each layer's alone; and what training measured."""

    def __init__(self, of: str, cases: int) -> None:
        self._of, self._cases = of, cases

    def compute(self, source: FigureSource) -> AttentionTemperature:
        """Run the trial's model over validation cases; its epochs are read from its curve."""
        source.one_network("attention at other temperatures is")
        line, rows = measured(source, self._of, "heads")
        if not (line.record.folder / layout.WEIGHTS).exists():
            raise StudyError(
                f"the weights of {call(line)} are gone (`--keep-models` of a search and `histotune gc` free them): "
                "name another trial with `--set of=NUMBER`, or train this one with `histotune train`"
            )
        predictor = load_model(line.record.folder)
        data = source.store.training_data(source.cohort(predictor.config.image_size))
        chosen = data.val[probe.chosen(len(data.val), self._cases)]
        feed = Feed(data.columns, predictor.modalities, predictor.device)
        batches = map(feed.take, in_order(chosen, _AT_ONCE))
        grid = np.geomspace(COLDEST, HOTTEST, _STEPS)
        own, *others = probe.head_entropies(
            predictor.model, batches, predictor.preparations, [None, *(float(tau) for tau in grid)]
        )
        taus = probe.own_temperatures(predictor.model)
        heads = [
            HeadEntropy(
                layer,
                asking,
                head + 1,
                np.array([one[layer, asking][head] for one in others]),
                float(taus[layer, asking][head]),
                float(own[layer, asking][head]),
                *(_by_epoch(rows, layer, asking, head, what) for what in ("entropy", "temperature")),
            )
            for layer, asking in sorted(own)
            for head in range(len(own[layer, asking]))
        ]
        patients, by_epoch = len(np.unique(data.patients[chosen])), min(probe.LOOKED_AT, rows[-1]["cases"])
        return AttentionTemperature(
            _kind(line),
            grid,
            tuple(heads),
            np.array([row["epoch"] for row in rows]),
            line.record.best_epoch,
            len(chosen),
            patients,
            by_epoch,
            str(source),
        )

    def draw(self, numbers: AttentionTemperature) -> PlotlyFigure:
        """Draw entropy by temperature with every head's own marked; below, entropy and temperature by epoch."""
        ticks = {"tickvals": [0.05, 0.1, 0.2, 0.5, 1, 2, 5], "tickformat": "~g"}
        low = (0.42 - _GAP) / 2
        layout: dict[str, Any] = {
            "xaxis": _style.axis("temperature", type="log", anchor="y", **ticks),
            "yaxis": _style.axis("", domain=[0.42 + 1.7 * _GAP, 1.0], range=[0, 1.04]),
            "xaxis2": over_epochs(int(numbers.epochs[-1]), anchor="y3"),
            "yaxis2": _style.axis("", domain=[low + _GAP, 0.42], nticks=5),
            "yaxis3": _style.axis("", domain=[0, low], nticks=5),
            "shapes": [kept(numbers.best_epoch, {"xref": "x2", "yref": f"{axis} domain"}) for axis in ("y2", "y3")],
            "annotations": [
                panel_title(
                    "entropy of attention (1: even attention); a mark is a head's own temperature",
                    {"xref": "paper", "yref": "y domain"},
                ),
                panel_title("entropy by epoch", {"xref": "paper", "yref": "y2 domain"}),
                panel_title("temperature by epoch", {"xref": "paper", "yref": "y3 domain"}),
            ],
            "showlegend": True,
        }
        groups = list(dict.fromkeys((head.layer, head.asking) for head in numbers.heads))
        traces = [trace for head in numbers.heads for trace in _traces(numbers, head, groups)]
        caption = (
            f"{numbers.model}; {numbers.study}. Each line is an attention head: mean over the query tokens of "
            f"{counted(numbers.cases, 'case')} of {counted(numbers.patients, 'patient')} of the "
            f"validation set (by epoch: {counted(numbers.by_epoch_cases, 'case')}). 1: attention is even over "
            "all tokens of the other branch; 0: on one token. Top: the saved weights at other temperatures, one layer "
            "at a time. Dotted line: the epoch whose weights are saved."
        )
        title = "Entropy of attention between branches, by temperature"
        below = 20 + 24 * len(groups)
        return _style.figure(title, caption, traces, layout, height=640 + below, above=22, below=below)


@FIGURES.register("attention_over_temperature", ranges={"cases": Interval(1, 20_000, whole=True)})
def attention_over_temperature(*, of: str | int = BEST, cases: int = 200) -> AttentionOverTemperature:
    """Entropy of the attention between branches, by temperature and epoch; `of` is best or a trial's number."""
    return AttentionOverTemperature(str(of), cases)


def _kind(line: LeaderboardLine) -> str:
    fusion: Mapping[str, Any] = line.record.config()["model"]["fusion"]
    mode = fusion.get("temperature_mode", "learnable" if fusion["name"] == "cmaf" else "fixed")
    return f"{call(line)}, fusion {fusion['name']}, temperature {mode}"


def _by_epoch(rows: Sequence[Mapping[str, Any]], layer: int, asking: str, head: int, what: str) -> np.ndarray:
    result = [
        one[what][head] for row in rows for one in row["heads"] if (one["layer"], one["asking"]) == (layer, asking)
    ]
    return np.array(result, dtype=np.float64)


def _traces(
    numbers: AttentionTemperature, head: HeadEntropy, groups: Sequence[tuple[int, str]]
) -> Sequence[dict[str, Any]]:
    """Draw one head in all panels; heads of one branch and layer share colour, symbol and legend."""
    group = (head.layer, head.asking)
    look = _style.place(groups.index(group))
    layers = max(layer for layer, _ in groups)
    name = f"attention of {head.asking}" + (f", layer {head.layer}" if layers > 1 else "")
    thin = {"color": look["color"], "width": 1.3, "dash": _style.DASHES[(head.layer - 1) % len(_style.DASHES)]}
    common = {"type": "scatter", "legendgroup": name, "name": name, "showlegend": False}
    message = f"{name}, head {head.head}: temperature %{{x:.3g}}, entropy %{{y:.3f}}<extra></extra>"
    epoch = f"{name}, head {head.head}, epoch %{{x}}: %{{y:.3f}}<extra></extra>"
    by_epoch = {
        **common,
        "mode": "lines+markers",
        "xaxis": "x2",
        "x": numbers.epochs,
        "line": thin,
        "marker": {**look, "size": 4},
        "hovertemplate": epoch,
    }
    return [
        {
            **common,
            "mode": "lines",
            "x": numbers.temperatures,
            "y": head.entropies,
            "line": thin,
            "hovertemplate": message,
        },
        {
            **common,
            "mode": "markers",
            "x": [head.temperature],
            "y": [head.entropy],
            "hovertemplate": message,
            "marker": {**look, "size": 9, "line": {"width": 1, "color": "#ffffff"}},
            "showlegend": head.head == 1,
        },
        {**by_epoch, "y": head.by_epoch, "yaxis": "y2"},
        {**by_epoch, "y": head.temperature_by_epoch, "yaxis": "y3"},
    ]
