"""Weight of a case of each class, from equal weights to inverse frequency."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from histotune.core import files
from histotune.core.format import counted
from histotune.data.imbalance import effective_number_weights
from histotune.data.splits import TRAIN
from histotune.errors import StudyError
from histotune.reporting import charts as _style
from histotune.reporting.figures._base import FIGURES, Figure, FigureSource, loss_of
from histotune.storage import layout

if TYPE_CHECKING:
    from plotly.graph_objects import Figure as PlotlyFigure

_PER_DECADE = 20


@dataclass(frozen=True)
class BetaEffect:
    """Class weights by beta.

    Attributes:
        classes: [C] names.
        counts: [C] cases of the training set.
        volumes: float64 [n], 1 / (1 - beta), ascending from 1, where beta is 0.
        weights: float64 [n, C]; a row sums to C.
        used: betas of the study's complete trials, ascending.
        patients: of the training set.
        study: which study it is.
    """

    classes: tuple[str, ...]
    counts: tuple[int, ...]
    volumes: np.ndarray
    weights: np.ndarray
    used: tuple[float, ...] = ()
    patients: int = 0
    study: str = ""


def weights_by_beta(counts: Sequence[int], used: Collection[float] = ()) -> tuple[np.ndarray, np.ndarray]:
    """Return volumes 1 / (1 - beta) [n] and the class weights [n, C] of `effective_number_weights` there.

    They go from beta 0 to where the weights have arrived at inverse frequency, ten times the largest count, and as far
    as the betas that are `used`.
    """
    furthest = max([10.0 * max(counts), *(1 / (1 - beta) for beta in used if beta < 1)])
    decades = int(np.ceil(np.log10(furthest).round(6)))  # 1 / (1 - .9999) is a little more than 10^4
    volumes = np.logspace(0, decades, decades * _PER_DECADE + 1)
    return volumes, np.stack([effective_number_weights(counts, 1 - 1 / volume) for volume in volumes])


class EffectOfBeta(Figure[BetaEffect]):
    """Weights by effective number of samples (Cui et al., 2019) for the counts of a study's training set."""

    def compute(self, source: FigureSource) -> BetaEffect:
        """Compute the weights for the counts that the study's trials were trained on."""
        lines = [line for result in source.trained().values() for line in result]
        if not lines:
            raise StudyError(
                f"study {source.settings.name!r} has no complete trial yet, and a trial counts its training cases: "
                "continue the search, or train one"
            )
        facts = files.read_json(lines[0].record.folder / layout.CLASSES)
        used = {float(loss["beta"]) for loss in map(loss_of, lines) if "beta" in loss}
        volumes, weights = weights_by_beta(facts["counts"], used)
        _, patients = source.part(TRAIN)
        return BetaEffect(
            tuple(facts["classes"]),
            tuple(facts["counts"]),
            volumes,
            weights,
            tuple(sorted(used)),
            patients,
            str(source),
        )

    def draw(self, numbers: BetaEffect) -> PlotlyFigure:
        """Draw a line per class over beta."""
        marks = 10.0 ** np.arange(round(np.log10(numbers.volumes[-1])) + 1)
        words = [f"{1 - 1 / mark:.10g}" for mark in marks]
        lines = [
            {
                "type": "scatter",
                "mode": "lines",
                "x": numbers.volumes,
                "y": numbers.weights[:, index],
                "name": f"{name} ({counted(count, 'case')})",
                "line": {
                    "color": _style.PALETTE[index % len(_style.PALETTE)],
                    "width": 2.5,
                    "dash": _style.DASHES[index % len(_style.DASHES)],
                },
            }
            for index, (name, count) in enumerate(zip(numbers.classes, numbers.counts, strict=True))
        ]
        layout = {
            "xaxis": _style.axis("beta", type="log", tickvals=marks, ticktext=words),
            "yaxis": _style.axis("weight of a case (mean over the classes: 1)", rangemode="tozero"),
            "shapes": [_used(beta) for beta in numbers.used if 0 < beta < 1],
        }
        caption = (
            f"Training set: {counted(sum(numbers.counts), 'case')} of "
            f"{counted(numbers.patients, 'patient')}; {numbers.study}. The axis is logarithmic in 1/(1 - beta); "
            f"beta 0 gives all cases the same weight; beta 1, at the right, weights by inverse class frequency."
        )
        if numbers.used:
            used = ", ".join(f"{beta:g}" for beta in numbers.used)
            caption += f" Betas of the study's trials: {used} (dotted lines)."
        title = "Effect of beta: weight of a training case of each class"
        return _style.figure(title, caption, lines, layout, height=420)


@FIGURES.register("effect_of_beta", source="Cui et al., 2019")
def effect_of_beta() -> EffectOfBeta:
    """Class weights by effective number against beta, for the class counts of the study's training set."""
    return EffectOfBeta()


def _used(beta: float) -> dict[str, Any]:
    at = 1 / (1 - beta)
    line = {"color": _style.INK, "width": 1.5, "dash": "dot"}
    return {"type": "line", "x0": at, "x1": at, "y0": 0, "y1": 1, "yref": "paper", "line": line}
