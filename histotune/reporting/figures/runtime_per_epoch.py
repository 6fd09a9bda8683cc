"""Seconds per epoch by loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from histotune.core.format import counted
from histotune.data.splits import TRAIN, VAL
from histotune.errors import StudyError
from histotune.reporting import charts as _style
from histotune.reporting.figures._base import FIGURES, Figure, FigureSource
from histotune.studies.leaderboard import SINGLE, TRIAL, LeaderboardLine, components

if TYPE_CHECKING:
    from plotly.graph_objects import Figure as PlotlyFigure

_MOST = 5  # settings that are drawn


@dataclass(frozen=True)
class Timing:
    """Epochs of one loss in one setting.

    Attributes:
        loss: registered name.
        setting: what the time of an epoch depends on beside the loss: backbone, image size, batch size.
        seconds: float64 [epochs], of training and validation, from all trials of that loss and setting.
        trials: how many those are.
    """

    loss: str
    setting: str
    seconds: np.ndarray
    trials: int

    @property
    def median(self) -> float:
        """Median seconds of an epoch."""
        return float(np.median(self.seconds))


@dataclass(frozen=True)
class Runtime:
    """Seconds per epoch by loss and setting.

    Attributes:
        timings: by setting, the one with most losses first, and by median, fastest first.
        left_out: how many settings with fewer epochs are not among them.
        train: cases and patients of the training set; `val`: of the validation set.
        study: which study it is.
    """

    timings: tuple[Timing, ...]
    left_out: int = 0
    train: tuple[int, int] = (0, 0)
    val: tuple[int, int] = (0, 0)
    study: str = ""


def timings(epochs: Sequence[tuple[str, str, Sequence[float]]]) -> tuple[Timing, ...]:
    """Join trials (loss, setting, seconds of each epoch) to one `Timing` per loss and setting.

    >>> found = timings([("cfal", "a", [1, 3]), ("focal", "a", [1]), ("cfal", "a", [4])])
    >>> [(one.loss, one.median, one.trials) for one in found]
    [('focal', 1.0, 1), ('cfal', 3.0, 2)]
    """
    groups: dict[tuple[str, str], list[Sequence[float]]] = {}
    for loss, setting, seconds in epochs:
        groups.setdefault((setting, loss), []).append(seconds)
    result = [
        Timing(loss, setting, np.concatenate([np.asarray(one, dtype=np.float64) for one in each]), len(each))
        for (setting, loss), each in groups.items()
    ]
    losses = {setting: sum(one.setting == setting for one in result) for setting in {one.setting for one in result}}
    return tuple(sorted(result, key=lambda one: (-losses[one.setting], one.setting, one.median, one.loss)))


class RuntimePerEpoch(Figure[Runtime]):
    """Seconds per epoch as the trials measured them, which may have run at the same time."""

    def compute(self, source: FigureSource) -> Runtime:
        """Read the curves of all trials and single trainings that trained at least one epoch."""
        lines = [line for line in source.entries if line.kind in (TRIAL, SINGLE)]
        curves = [(line, [row["seconds"] for row in line.record.curve()]) for line in lines]
        result = timings([(components(line)[0], _setting(line), seconds) for line, seconds in curves if seconds])
        if not result:
            raise StudyError(
                f"study {source.settings.name!r} has no trial with an epoch yet: continue the search, or train one"
            )
        settings = list(dict.fromkeys(one.setting for one in result))
        shown = tuple(one for one in result if one.setting in settings[:_MOST])
        left_out = len(settings[_MOST:])
        return Runtime(shown, left_out, source.part(TRAIN), source.part(VAL), str(source))

    def draw(self, numbers: Runtime) -> PlotlyFigure:
        """Draw a line from the shortest to the longest epoch, with a mark at the median."""
        settings = list(dict.fromkeys(one.setting for one in numbers.timings))
        losses = list(dict.fromkeys(one.loss for one in numbers.timings))
        traces = [
            _trace(setting, [one for one in numbers.timings if one.setting == setting], index)
            for index, setting in enumerate(settings)
        ]
        longest = max(float(one.seconds.max()) for one in numbers.timings)
        layout = {
            "xaxis": _style.axis("seconds per epoch", range=[0, 1.12 * longest]),
            "yaxis": _style.axis("", type="category", categoryorder="array", categoryarray=losses[::-1], ticks=""),
            "scattermode": "group",
            "showlegend": True,
        }
        epochs, trials = (sum(len(t.seconds) for t in numbers.timings), sum(t.trials for t in numbers.timings))
        train, val = (
            f"{counted(cases, 'case')} of {counted(patients, 'patient')}"
            for cases, patients in (numbers.train, numbers.val)
        )
        caption = (
            f"Median and range of {counted(epochs, 'epoch')} of {counted(trials, 'trial')}. An epoch"
            f" trains on {train} and validates on {val}; {numbers.study}. Trials that ran at the same "
            "time slow each other down."
        )
        if numbers.left_out:
            caption += f" {counted(numbers.left_out, 'setting')} with fewer losses are not shown."
        title = "Runtime: seconds per epoch by loss"
        return _style.figure(title, caption, traces, layout, height=110 + (24 + 20 * len(settings)) * len(losses))


@FIGURES.register("runtime_per_epoch")
def runtime_per_epoch() -> RuntimePerEpoch:
    """Seconds per epoch by loss, median and range, for each backbone, image size and batch size."""
    return RuntimePerEpoch()


def _setting(line: LeaderboardLine) -> str:
    config: Mapping[str, Any] = line.record.config()
    return f"{components(line)[1]}, {config['image_size']} px, batch {config['batch_size']}"


def _trace(setting: str, result: Sequence[Timing], index: int) -> dict[str, Any]:
    medians = np.array([one.median for one in result])
    place = _style.place(index)
    return {
        "type": "scatter",
        "mode": "markers+text",
        "orientation": "h",
        "name": setting,
        "offsetgroup": setting,
        "x": medians,
        "y": [one.loss for one in result],
        "text": [f"{median:.3g}" for median in medians],
        "textposition": "top center",
        "textfont": {"size": 11},
        "marker": {**place, "size": 9},
        "error_x": {
            "type": "data",
            "array": [one.seconds.max() - one.median for one in result],
            "arrayminus": [one.median - one.seconds.min() for one in result],
            "color": place["color"],
            "thickness": 1.5,
            "width": 4,
        },
        "customdata": [[one.seconds.min(), one.seconds.max(), len(one.seconds), one.trials] for one in result],
        "hovertemplate": "%{y}: median %{x:.3g} s, %{customdata[0]:.3g} to %{customdata[1]:.3g} s, "
        "%{customdata[2]} epochs of %{customdata[3]} trials",
    }
