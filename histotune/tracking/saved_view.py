"""What MLflow's interface shows of a study: a description in words, and columns and charts in which trials compare.

The interface keeps the state of a view that somebody shares in a tag of the experiment and opens it from an address
that names the tag's key. Written here is such a state: complete trials, controls and ensembles, best first, with the
columns and charts that tell them apart.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from histotune.metrics import scores as metrics
from histotune.storage.records import TrialRecord
from histotune.storage.seal import seal_sentence
from histotune.storage.study_folder import COMPLETE, StudyFolder
from histotune.tracking.client import flatten

KEY = "trials"
SEARCH = "tags.kind != 'study' and attributes.status = 'FINISHED'"  # a stopped trial's numbers are of fewer epochs
NOTE, VIEW = "mlflow.note.content", f"mlflow.sharedViewState.{KEY}"
_PRIMARY = "mlflow.experiment.primaryMetric"
_LONGEST = 5000  # characters of a tag
_SHOWN = ("auroc", "sensitivity", "specificity", "macro_f1", "ece")
_FIRST = ("loss.name", "model.fusion.name", "optimizer.learning_rate", "batch_size", "epochs")
_VARIED, _AXES, _METRICS = 12, 6, 4  # columns of parameters, axes of the parallel coordinates, columns of metrics


def address(experiment: str) -> str:
    """Return where the view is, below the server's own address."""
    return f"#/experiments/{experiment}/runs?viewStateShareKey={KEY}&workflowType=machine_learning"


def experiment_tags(store: StudyFolder, trials: Sequence[TrialRecord], experiment: str) -> dict[str, str]:
    """Return the tags that describe a study's experiment and hold its view.

    Args:
        trials: that have ended.
        experiment: its id.
    """
    metric = store.settings.metric
    view = json.dumps(_view(store, _varied(trials)), separators=(",", ":"))
    tags = {NOTE: _note(store, trials, experiment)[:_LONGEST], f"{_PRIMARY}.name": metric}
    tags[f"{_PRIMARY}.greaterIsBetter"] = str(metrics.direction(metric) > 0).lower()
    return tags | ({VIEW: view} if len(view) <= _LONGEST else {})


def _note(store: StudyFolder, trials: Sequence[TrialRecord], experiment: str) -> str:
    """Describe a study in Markdown."""
    settings, facts = store.settings, store.settings.facts
    ended = ", ".join(f"{sum(t.state == state for t in trials)} {state}" for state in sorted({t.state for t in trials}))
    folds = f", {settings.folds} folds" if settings.folds else ""
    warning = "The same patients are in training and test: every number is too optimistic. " if settings.leaky else ""
    made_up = "The data are made up. " if facts.get("synthetic") else ""
    return (
        f"**[Compare the trials]({address(experiment)})**: what is complete, best first, with "
        "the parameters that differ.\n\n"
        f"Study `{settings.name}` on `{settings.dataset}`: {facts.get('cases', '?')} cases of "
        f"{facts.get('patients', '?')} patients, classes {', '.join(settings.classes)}, split {settings.protocol}"
        f"{folds}, ranked by {settings.metric} on validation. {len(trials)} trials ended ({ended or 'none'}). "
        f"{made_up}{warning}{seal_sentence(store)}\n\n"
        f"```\nhistotune leaderboard {settings.name}\nhistotune report {settings.name}\n```\n\n"
        f"A copy of the folder {store.folder}, which decides where they differ."
    )


def _varied(trials: Sequence[TrialRecord]) -> list[str]:
    """Return the parameters in which the complete trials differ: the most common ones first, then by name."""
    seen: dict[str, set[str]] = {}
    for trial in trials:
        if trial.state == COMPLETE:
            for name, value in flatten(trial.config()).items():
                seen.setdefault(name, set()).add(str(value))
    result = [name for name, values in seen.items() if len(values) > 1 and name != "seed"]
    order = {name: place for place, name in enumerate(_FIRST)}
    return sorted(result, key=lambda name: (order.get(name, len(order)), name))


def _view(store: StudyFolder, varied: Sequence[str]) -> dict[str, Any]:
    """Return the state of the interface: what it searches for and in which order, columns, charts."""
    settings = store.settings
    metric, two = settings.metric, len(settings.classes) == 2
    shown = [m for m in dict.fromkeys([*settings.metrics, *_SHOWN]) if two or m not in ("sensitivity", "specificity")]
    columns = [_key("metrics", name) for name in shown[: max(_METRICS, len(settings.metrics))]]
    columns += [_key("tags", name) for name in ("rank", "state", "backbone", "fusion", "loss")]
    columns += [_key("params", name) for name in varied[:_VARIED]] + [_key("attributes", "Duration")]
    return {
        "searchFilter": SEARCH,
        "orderByKey": _key("metrics", metric),
        "orderByAsc": metrics.direction(metric) < 0,
        "selectedColumns": columns,
        "runsHiddenMode": "FIRST_20_RUNS",
        "compareRunSections": [_section("Comparison"), _section("epoch"), _section("Model metrics")],
        "compareRunCharts": [_parallel(metric, varied[:_AXES]), _bars(metric), _curves(metric)],
    }


def _key(kind: str, name: str) -> str:
    return f"{kind}.`{name}`"


def _section(name: str) -> Mapping[str, Any]:
    return {"uuid": f"histotune-{name}", "name": name, "display": True, "isReordered": False, "deleted": False}


def _chart(kind: str, name: str, **more: Any) -> Mapping[str, Any]:
    place = {"uuid": f"histotune-{kind}", "type": kind, "metricSectionId": "histotune-Comparison"}
    return {**place, "runsCountToCompare": 20, "deleted": False, "isGenerated": False, "displayName": name, **more}


def _parallel(metric: str, varied: Sequence[str]) -> Mapping[str, Any]:
    axes = {"selectedParams": list(varied), "selectedMetrics": [metric], "showAllRuns": False}
    return _chart("PARALLEL", f"What the trials differ in, and {metric}", **axes)


def _bars(metric: str) -> Mapping[str, Any]:
    return _chart("BAR", f"{metric} of the best epoch", metricKey=metric)


def _curves(metric: str) -> Mapping[str, Any]:
    name = f"epoch/{metric}"
    axis = {"xAxisKey": "step", "useGlobalXaxisKey": False, "xAxisScaleType": "linear", "scaleType": "linear"}
    return _chart("LINE", f"{metric} by epoch", metricKey=name, selectedMetricKeys=[name], lineSmoothness=0, **axis)
