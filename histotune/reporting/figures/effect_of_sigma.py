"""Range of a Gaussian affinity, and scores of trials with several widths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from histotune.core.config import TrialConfig
from histotune.core.format import counted
from histotune.data.splits import VAL
from histotune.metrics import scores as metrics
from histotune.metrics.bootstrap import patient_bootstrap
from histotune.reporting import charts as _style
from histotune.reporting.figures._base import FIGURES, Figure, FigureSource, loss_of
from histotune.studies.leaderboard import LeaderboardLine

if TYPE_CHECKING:
    from plotly.graph_objects import Figure as PlotlyFigure

PUBLISHED = (80.0, 130.0, 230.0, 330.0, 430.0)  # out of Table III of CFAL, doi 10.1109/JBHI.2023.3336372
_MOST = 6  # curves that can be distinguished
_LEAST = 0.01  # affinity of the widest curve at the right end
_POINTS = 201
_MOST_BARS = 40
_REPLICATES = 500


@dataclass(frozen=True)
class SigmaScore:
    """A complete trial of a loss with a `sigma`, and its validation score with a 95 % interval by patient.

    `low` and `high` are NaN where they cannot be known, and where trials are too many for their intervals to be seen.
    """

    model: str
    loss: str
    sigma: float
    score: float
    low: float
    high: float


@dataclass(frozen=True)
class SigmaEffect:
    """Affinity by distance for several sigma, and scores by sigma.

    Attributes:
        sigmas: [S], ascending.
        distances: float64 [n], Euclidean distance of a feature from a class centre.
        affinities: float64 [S, n].
        metric: what `trials` are scored by.
        trials: complete trials whose loss has a sigma of its own; none where the study has none.
        alike: whether they differ in nothing but loss and sigma.
        cases, patients: that they were scored on.
        study: which study it is.
    """

    sigmas: tuple[float, ...]
    distances: np.ndarray
    affinities: np.ndarray
    metric: str = ""
    trials: tuple[SigmaScore, ...] = ()
    alike: bool = True
    cases: int = 0
    patients: int = 0
    study: str = ""


def affinities(sigmas: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Return distances [n] and the affinities exp(-d^2 / sigma) [S, n] there; sigma divides the squared distance.

    The distances end where the widest affinity has fallen to .01.

    >>> distances, values = affinities([100.0])
    >>> bool(np.isclose(values[0, -1], 0.01)), float(values[0, 0])
    (True, 1.0)
    """
    distances = np.linspace(0.0, np.sqrt(max(sigmas) * -np.log(_LEAST)), _POINTS)
    return distances, np.exp(-(distances**2) / np.asarray(sigmas, dtype=np.float64)[:, None])


class EffectOfSigma(Figure[SigmaEffect]):
    """Affinity exp(-d^2 / sigma) by distance d, and the validation score of the study's trials by sigma."""

    def compute(self, source: FigureSource) -> SigmaEffect:
        """Take the sigmas of the study's trials, or the published ones where it has none."""
        lines = [line for result in source.trained().values() for line in result]
        known = [(line, sigma) for line in lines if (sigma := _sigma(line)) is not None]
        sigmas = _spread(sorted({sigma for _, sigma in known})) or PUBLISHED
        distances, values = affinities(sigmas)
        bars = len(known) <= _MOST_BARS
        trials = [
            SigmaScore(line.name, loss_of(line)["name"], sigma, *_score(source, line, bars)) for line, sigma in known
        ]
        alike = len({_otherwise(line) for line, _ in known}) <= 1
        cases, patients = source.part(VAL)
        ordered = tuple(sorted(trials, key=lambda trial: (trial.loss, trial.sigma, trial.model)))
        return SigmaEffect(
            sigmas, distances, values, source.settings.metric, ordered, alike, cases, patients, str(source)
        )

    def draw(self, numbers: SigmaEffect) -> PlotlyFigure:
        """Draw the affinities and, below, the scores where there are any."""
        colors = _style.ramp(len(numbers.sigmas))
        curves = [
            {
                "type": "scatter",
                "mode": "lines",
                "x": numbers.distances,
                "y": values,
                "name": f"sigma {sigma:g}",
                "line": {"color": color, "width": 2.5, "dash": _style.DASHES[index % len(_style.DASHES)]},
            }
            for index, (sigma, values, color) in enumerate(zip(numbers.sigmas, numbers.affinities, colors, strict=True))
        ]
        layout: dict[str, Any] = {
            "xaxis": _style.axis("distance d of a feature from a class centre", rangemode="tozero"),
            "yaxis": _style.axis("affinity exp(-d²/sigma)", range=[0, 1.03]),
        }
        title = "Effect of sigma: affinity to a class centre by distance"
        if not numbers.trials:
            caption = f"Computed from the formula, without cases or patients: no trial of {numbers.study} has a sigma."
            return _style.figure(title, caption, curves, layout, height=380)
        metric = metrics.in_words(numbers.metric)
        layout["yaxis"]["domain"] = [0.6, 1.0]
        layout["xaxis2"] = _style.axis("sigma", anchor="y2", **_scale([trial.sigma for trial in numbers.trials]))
        layout["yaxis2"] = _style.axis(f"validation {metric}", anchor="x2", domain=[0.0, 0.4])
        caption = (
            f"Top: computed from the formula. Bottom: {counted(len(numbers.trials), 'complete trial')}, scored on "
            f"{counted(numbers.cases, 'validation case')} of {counted(numbers.patients, 'patient')}; "
            f"{numbers.study}. "
        )
        caption += (
            "The trials differ only in sigma." if numbers.alike else "The trials also differ in other parameters."
        )
        if any(np.isfinite(trial.low) for trial in numbers.trials):
            caption += " Bars: 95 % intervals over patients. Trials share the patients: differences are more precise."
        title += f", and {metric} of trials by sigma"
        return _style.figure(title, caption, [*curves, *_scores(numbers)], layout, height=640)


@FIGURES.register("effect_of_sigma", source="CFAL, IEEE JBHI, doi 10.1109/JBHI.2023.3336372")
def effect_of_sigma() -> EffectOfSigma:
    """Affinity exp(-d²/sigma) by distance from a class centre, and validation score of the trials by sigma."""
    return EffectOfSigma()


def _sigma(line: LeaderboardLine) -> float | None:
    """Return the sigma that a trial was given; None for a loss without one, or with one that follows the centres."""
    loss = loss_of(line)
    return float(loss["sigma"]) if "sigma" in loss and loss.get("sigma_mode") != "auto" else None


def _otherwise(line: LeaderboardLine) -> str:
    """Name what a trial's configuration is apart from its sigma."""
    config = line.record.config()
    loss = {name: value for name, value in config["loss"].items() if name != "sigma"}
    return TrialConfig.from_dict({**config, "loss": loss}).digest()


def _spread(sigmas: Sequence[float]) -> tuple[float, ...]:
    """Keep at most as many as can be distinguished, the least and the greatest among them."""
    if len(sigmas) <= _MOST:
        return tuple(sigmas)
    return tuple(float(sigmas[index]) for index in np.linspace(0, len(sigmas) - 1, _MOST).round().astype(int))


def _score(source: FigureSource, line: LeaderboardLine, bars: bool) -> tuple[float, float, float]:
    """Return a trial's score, and the bounds of its interval."""
    metric = source.settings.metric
    score = line.record.metrics[metric]
    if not bars or metric in metrics.COSTS:
        return score, float("nan"), float("nan")
    saved = line.record.predictions()
    result = patient_bootstrap(
        metric,
        metrics.softmax(saved.logits),
        saved.labels,
        saved.patients,
        positive=source.settings.positive,
        replicates=_REPLICATES,
    )
    return score, result.low, result.high


def _scale(sigmas: Sequence[float]) -> dict[str, Any]:
    """Choose a logarithmic axis for a wide range, and mark the values themselves where they are few."""
    different = sorted(set(sigmas))
    kind = {"type": "log" if different[-1] >= 8 * different[0] else "linear"}
    return {**kind, "tickvals": different} if len(different) <= _MOST else kind


def _scores(numbers: SigmaEffect) -> list[dict[str, Any]]:
    drawn = []
    for index, loss in enumerate(sorted({trial.loss for trial in numbers.trials})):
        trials = [trial for trial in numbers.trials if trial.loss == loss]
        drawn.append(
            {
                "type": "scatter",
                "mode": "lines+markers" if numbers.alike else "markers",
                "xaxis": "x2",
                "yaxis": "y2",
                "x": [trial.sigma for trial in trials],
                "y": [trial.score for trial in trials],
                "name": loss,
                "text": [trial.model for trial in trials],
                "hovertemplate": "%{text}: sigma %{x}, %{y:.4f}",
                "marker": {**_style.place(index + 1), "size": 9},
                "line": {"width": 1.5},
                "error_y": {
                    "type": "data",
                    "array": [trial.high - trial.score for trial in trials],
                    "thickness": 1,
                    "arrayminus": [trial.score - trial.low for trial in trials],
                    "width": 4,
                },
            }
        )
    return drawn
