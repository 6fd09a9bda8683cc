"""What MLflow's interface shows of a study: a description in words, and columns and charts in which trials compare.

Written here is a saved view, as the menu "Views" of MLflow 3.15 and later saves one: complete trials, baselines and
ensembles, best first, with the columns and charts that tell them apart. The description links to it.

MLflow documents that views can be saved, listed and shared by their address, but no way to save one from a program.
Nothing that it does document comes near: its own table shows the study's run alone, without a metric, and filter and
order in the address choose no columns. Three things are therefore undocumented here, and as version 3.17 has them:

- the tag `mlflow.sharedViewState.KEY` and its value {name, createdAt, state}, of which MLflow writes the like into its
  own demo (`mlflow.demo.generators.saved_views`);
- the names inside the state, which are those of the interface;
- the parameters `viewStateShareKey`, `searchFilter`, `orderByKey`, `orderByAsc` and `workflowType` of an address.

Where MLflow drops a name inside the state, or a parameter, it takes its default: the plain table of all runs. Where it
finds no view under the key, or cannot read it, it says so for three seconds and opens the first page of the experiment.
Where it keeps a name and takes another type under it, the view may not open at all. Nothing else is lost by that: the
description has a second link, to the plain table with the same runs in the same order, and needs no view.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from histotune.metrics import scores as metrics
from histotune.storage.records import TrialRecord
from histotune.storage.seal import seal_sentence
from histotune.storage.study_folder import COMPLETE, StudyFolder
from histotune.tracking.client import flatten

KEY, NAME = "trials", "Compare the trials"
SEARCH = "tags.kind != 'study' and attributes.status = 'FINISHED'"  # a stopped trial's numbers are of fewer epochs
NOTE, VIEW = "mlflow.note.content", f"mlflow.sharedViewState.{KEY}"
_PRIMARY = "mlflow.experiment.primaryMetric"
_LONGEST = 5000  # characters of a tag
_SHOWN = ("auroc", "sensitivity", "specificity", "macro_f1", "ece")
_FIRST = ("loss.name", "model.fusion.name", "optimizer.learning_rate", "batch_size", "epochs")
_VARIED, _AXES, _METRICS = 12, 6, 4  # columns of parameters, axes of the parallel coordinates, columns of metrics


def address(experiment: str) -> str:
    """Return where the view is, below the server's own address."""
    return _runs(experiment, viewStateShareKey=KEY)


def plain_address(experiment: str, metric: str) -> str:
    """Return where MLflow's own table has the same runs, best first, without a view and so without its columns."""
    ascending = str(metrics.direction(metric) < 0).lower()
    return _runs(experiment, searchFilter=SEARCH, orderByKey=_key("metrics", metric), orderByAsc=ascending)


def experiment_tags(store: StudyFolder, trials: Sequence[TrialRecord], experiment: str) -> dict[str, str]:
    """Return the tags that describe a study's experiment and hold its view.

    Args:
        trials: that have ended.
        experiment: its id.
    """
    metric = store.settings.metric
    view = _saved(_view(store, _varied(trials)), store.settings.created)
    fits = len(view) <= _LONGEST
    tags = {NOTE: _note(store, trials, experiment, saved=fits)[:_LONGEST], f"{_PRIMARY}.name": metric}
    tags[f"{_PRIMARY}.greaterIsBetter"] = str(metrics.direction(metric) > 0).lower()
    return tags | ({VIEW: view} if fits else {})


def _runs(experiment: str, **parameters: str) -> str:
    return f"#/experiments/{experiment}/runs?{urlencode(parameters | {'workflowType': 'machine_learning'})}"


def _saved(state: Mapping[str, Any], created: str) -> str:
    """Return a state as the tag of a saved view holds it: a name and a time to list, and the state, compressed."""
    compressed = base64.b64encode(zlib.compress(_json(state).encode())).decode()
    moment = int(datetime.fromisoformat(created).timestamp() * 1000) if created else 0  # milliseconds
    return _json({"name": NAME, "createdAt": moment, "state": f"deflate;{compressed}"})


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def _note(store: StudyFolder, trials: Sequence[TrialRecord], experiment: str, *, saved: bool) -> str:
    """Describe a study in Markdown; the view is linked only if it was `saved`: MLflow reports an absent one."""
    settings, facts = store.settings, store.settings.facts
    ended = ", ".join(f"{sum(t.state == state for t in trials)} {state}" for state in sorted({t.state for t in trials}))
    folds = f", {settings.folds} folds" if settings.folds else ""
    warning = "The same patients are in training and test: every number is too optimistic. " if settings.leaky else ""
    made_up = "The data are made up. " if facts.get("synthetic") else ""
    plain = plain_address(experiment, settings.metric)
    compare = (
        f"**[{NAME}]({address(experiment)})**: what is complete, best first, with the parameters that differ; "
        f"or [the same in MLflow's own table]({plain})."
        if saved
        else f"**[{NAME}]({plain})**: what is complete, best first."
    )
    return (
        f"{compare}\n\n"
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
