"""How sure a model is, by true class, and which mistakes it is surest of."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

from histotune.core.parameters import Interval
from histotune.core.places import Places
from histotune.reporting import charts as _style
from histotune.reporting.figures._base import FIGURES, Figure, Source
from histotune.reporting.figures._confidence_bars import histograms
from histotune.reporting.figures._errors import Mistake, scored, surest_mistakes
from histotune.reporting.figures._select import BEST, find
from histotune.storage.records import read_ensemble
from histotune.storage.study_folder import StudyStore
from histotune.studies.leaderboard import ENSEMBLE

if TYPE_CHECKING:
    import pandas as pd
    from plotly.graph_objects import Figure as PlotlyFigure

BINS = 20


@dataclass(frozen=True)
class Confidence:
    """Histograms of a probability.

    Attributes:
        model: what predicted.
        axis: whose probability it is.
        groups: what the histograms are of: true classes of two, else right and wrong ones.
        counts: int64 [groups, BINS], of equal bins from 0 to 1.
        threshold: from which on the positive class is said; NaN with more than two classes.
        operating: the ensemble's operating threshold; NaN where there is none.
        mistakes: the surest ones first.
        wrong: how many mistakes there are in all.
        about: which cases of which study.
    """

    model: str
    axis: str
    groups: tuple[str, ...]
    counts: np.ndarray
    threshold: float
    operating: float
    mistakes: tuple[Mistake, ...]
    wrong: int
    about: str


class ByConfidence(Figure[Confidence]):
    """Of a model's saved validation predictions."""

    def __init__(self, of: str, most: int) -> None:
        self._of, self._most = of, most

    def compute(self, source: Source) -> Confidence:
        """Count probabilities by bin."""
        classes, positive = source.settings.classes, source.settings.positive
        model, saved, probabilities = scored(source, self._of)
        two = len(classes) == 2
        wrong = probabilities.argmax(axis=1) != saved.labels
        shown = probabilities[:, positive] if two else probabilities.max(axis=1)
        member = saved.labels if two else wrong.astype(np.int64)
        places = np.clip((shown * BINS).astype(np.int64), 0, BINS - 1)
        counts = np.stack([np.bincount(places[member == one], minlength=BINS) for one in range(2)])
        return Confidence(
            model=model,
            axis=f"probability of {classes[positive]}" if two else "probability of the predicted class",
            groups=tuple(f"true class {name}" for name in classes) if two else ("predicted right", "predicted wrong"),
            counts=counts,
            threshold=0.5 if two else float("nan"),
            operating=_operating(source, self._of) if two else float("nan"),
            mistakes=surest_mistakes(saved, probabilities, classes, self._most),
            wrong=int(wrong.sum()),
            about=source.scored_on(),
        )

    def draw(self, numbers: Confidence) -> PlotlyFigure:
        """Draw one histogram below the other, over one axis."""
        traces, layout = histograms(numbers)
        sure = numbers.mistakes[0] if numbers.mistakes else None
        surest = f" The surest said {sure.said} with {sure.probability:.3f} to {sure.id}." if sure else ""
        caption = (
            f"{numbers.model}. {_style.counted(numbers.wrong, 'mistake')} of "
            f"{_style.counted(int(numbers.counts.sum()), 'case')}.{surest} Each panel has its own scale. "
            f"{numbers.about}."
        )
        title = f"How sure the model is: {numbers.axis}"
        return _style.figure(title, caption, traces, layout, height=420, above=24, below=44)


@FIGURES.register("confidence", ranges={"most": Interval(1, 1000, whole=True)})
def confidence(*, of: str | int = BEST, most: int = 24) -> ByConfidence:
    """Histogram of the model's probability by true class, and as numbers its `most` confident mistakes."""
    return ByConfidence(str(of), most)


def confident_mistakes(store: StudyStore, *, of: str | int = BEST, most: int = 24) -> pd.DataFrame:
    """Return the cases that a model got wrong and was surest of, the surest first.

    Only the validation part, or with folds the predictions out of folds, is looked at.

    Args:
        of: `best`, a trial's number, or a name of the leaderboard.
        most: rows at most.

    Returns:
        Columns `id`, `patient`, `truth`, `said`, `probability` (of the class that was said).

    Raises:
        StudyError: no such model, or none at all.
    """
    import pandas as pd

    source = Source(store, Places.of())
    _, saved, probabilities = scored(source, str(of))
    found = surest_mistakes(saved, probabilities, source.settings.classes, most)
    return pd.DataFrame([asdict(one) for one in found], columns=[field.name for field in fields(Mistake)])


def _operating(source: Source, of: str) -> float:
    """Return the threshold that an ensemble chose on held-out predictions."""
    line = find(source, of)
    told = read_ensemble(line.record.folder) if line.kind == ENSEMBLE else {}
    point = told.get("operating_point") or told
    threshold = point.get("threshold")
    return float("nan") if threshold is None else float(threshold)
