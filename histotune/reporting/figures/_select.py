"""Which models of a study a figure is about: the best one, one by its name, or those that are compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from histotune.data.splits import TrainingData
from histotune.errors import StudyError, suggest
from histotune.explanation.permutation import ScoredCohort, scored_parts
from histotune.metrics.scores import INFORMATION
from histotune.reporting import charts as _style
from histotune.reporting.figures._base import FigureSource, call
from histotune.storage import layout
from histotune.storage.records import networks
from histotune.studies.leaderboard import BASELINE, ENSEMBLE, SINGLE, TRIAL, LeaderboardLine, ranked

BEST = "best"


def find(source: FigureSource, name: str, also: Sequence[str] = ()) -> LeaderboardLine:
    """Find the best model, or one by its number or name on the leaderboard.

    Args:
        name: `best`, a trial's number, or a name.
        also: what else the figure takes, for the suggestion.

    Raises:
        StudyError: there is none.
    """
    if name == BEST:
        models = source.models()
        if not models:
            raise StudyError(
                f"study {source.settings.name!r} has no complete trial yet: continue the search, or train one"
            )
        return models[0]
    result = [line for line in source.entries if line.name == name and line.record.metrics]
    if not result:
        known = [BEST, *also, *(line.name for line in source.entries if line.record.metrics)]
        raise StudyError(f"study {source.settings.name!r} has no predictions of {name!r}. {suggest(name, known)}")
    return result[0]


def compared(source: FigureSource) -> list[LeaderboardLine]:
    """Return the best trial or single training, the latest ensemble and the best baseline, as far as there are any.

    Raises:
        StudyError: nothing was trained to its end.
    """
    models = source.models()
    trained = [line for line in models if line.kind in (TRIAL, SINGLE)]
    if not trained:
        raise StudyError(f"study {source.settings.name!r} has no complete trial yet: continue the search, or train one")
    controls = [line for line in ranked(source.store, source.entries) if line.kind == BASELINE]
    return [trained[0], *ensembles(source)[:1], *controls[:1]]


def ensembles(source: FigureSource) -> list[LeaderboardLine]:
    """Return the ensembles, the latest first."""
    result = [line for line in source.entries if line.kind == ENSEMBLE]
    return sorted(result, key=lambda line: (-(line.record.folder / layout.RECORD).stat().st_mtime_ns, line.name))


def measured(source: FigureSource, of: str, key: str) -> tuple[LeaderboardLine, list[dict[str, Any]]]:
    """Find a trial whose branches were measured: the best one, or one by its number or name.

    Args:
        of: `best`, a trial's number, or a single training's name.
        key: what must have been measured, as `probe.measure` names it.

    Returns:
        The trial, and for every epoch that was measured its number as `epoch` and what `probe.measure` returned.

    Raises:
        StudyError: there is no such trial, or nothing to show of it.
    """
    study = source.settings.name
    lines = source.models() if of == BEST else [line for line in source.entries if line.record.metrics]
    trained = [line for line in lines if line.kind in (TRIAL, SINGLE)]
    if of == BEST and not trained:
        raise StudyError(f"study {study!r} has no complete trial yet: continue the search, or train one")
    asked = [line for line in trained if of in (BEST, line.name)]
    if not asked:
        raise StudyError(
            f"study {study!r} has no trial {of!r} with a result. {suggest(of, [BEST, *(t.name for t in trained)])}"
        )
    for line in asked:
        if len(line.record.config()["model"]["branches"]) > 1:  # else its curve need not be read
            rows = [{"epoch": row["epoch"], **row[INFORMATION]} for row in line.record.curve() if INFORMATION in row]
            if rows and rows[-1].get(key):
                return line, rows
    none = f"study {study!r} has no complete trial" if of == BEST else f"trial {of} of study {study!r} is none"
    what = "looks from one branch at another (fusion cross_attention or cmaf)" if key == "heads" else "joins branches"
    raise StudyError(
        f"{none} whose model {what} and was measured in training: search the space idc_cmaf, or give yours a second "
        "branch under model.branches"
    )


def by_name(rows: list[dict[str, Any]], key: str) -> dict[str, list[float]]:
    """Return {name: a number for every epoch} of what was measured under `key`; null is NaN."""
    return {name: [_number(row[key][name]) for row in rows] for name in rows[-1][key]}


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def over_epochs(epochs: int, **further: Any) -> dict[str, Any]:
    """Describe an axis of whole epochs from 1."""
    return _style.axis("epoch", range=[0.5, epochs + 0.5], dtick=max(1, -(-epochs // 10)), tick0=0, **further)


def kept(epoch: int, axes: Mapping[str, str]) -> dict[str, Any]:
    """Mark in a panel the epoch whose weights are kept; `axes` are its `xref` and its `yref`, a domain."""
    line = {"color": _style.FAINT, "width": 1, "dash": "dot"}
    return {"type": "line", "x0": epoch, "x1": epoch, "y0": 0, "y1": 1, **axes, "line": line}


def panel_title(text: str, axes: Mapping[str, str]) -> dict[str, Any]:
    """Write over a panel what it shows; `axes` are its `xref` and `yref`, domains."""
    return {
        "text": text,
        **axes,
        "x": 0,
        "y": 1,
        "xanchor": "left",
        "yanchor": "bottom",
        "align": "left",
        "showarrow": False,
        "font": {"size": 11.5},
    }


@dataclass(frozen=True)
class TrainedModel:
    """A trial.

    Attributes:
        name: kind, name, loss and fusion, for a caption.
        parts: its networks, each with the cases that it is scored on.
        data: what it was trained on.
        metric: the study's.
    """

    name: str
    parts: list[ScoredCohort]
    data: TrainingData
    metric: str

    @property
    def rows(self) -> np.ndarray:
        """All cases that are scored, int64, ascending."""
        return np.unique(np.concatenate([part.rows for part in self.parts]))

    @property
    def patients(self) -> int:
        """Patients of these cases."""
        return len(np.unique(self.data.patients[self.rows]))


def trained(source: FigureSource, of: str) -> TrainedModel:
    """Load the best trial, or one by its number or a single training's name.

    Raises:
        StudyError: there is no such trial with a result, or its weights are gone.
    """
    study = source.settings.name
    lines = source.models() if of == BEST else [line for line in source.entries if line.record.metrics]
    lines = [line for line in lines if line.kind in (TRIAL, SINGLE)]
    if of == BEST and not lines:
        raise StudyError(f"study {study!r} has no complete trial yet: continue the search, or train one")
    asked = [line for line in lines if of in (BEST, line.name)]
    if not asked:
        raise StudyError(
            f"study {study!r} has no trial {of!r} with a result. {suggest(of, [BEST, *(one.name for one in lines)])}"
        )
    line = asked[0]
    if not all((place / layout.WEIGHTS).exists() for place in networks(line.record.folder)):
        raise StudyError(
            f"the weights of {call(line)} are gone (`--keep-models` of a search and `histotune gc` free them): "
            "name another trial with `--set of=NUMBER`, or train this one with `histotune train`"
        )
    data = source.store.training_data(source.cohort(line.record.config()["image_size"]))
    return TrainedModel(_described(line), scored_parts(line.record.folder, data), data, source.settings.metric)


def _described(line: LeaderboardLine) -> str:
    return f"{call(line)}, fusion {line.record.config()['model']['fusion']['name']}"
