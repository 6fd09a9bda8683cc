"""MLflow as a mirror of the study: written by the driver alone, each run in one go from a trial folder that has ended.

The trial folders stay the truth. A run is created when its trial has ended, filled and closed at once, so that a killed
search leaves no run behind that pretends to be running; `mirror` adds whatever is missing and never adds twice.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from histotune.core import files
from histotune.metrics.scores import METRICS
from histotune.storage import layout
from histotune.storage.records import TrialRecord, inherited, read_parent, read_record
from histotune.storage.study_folder import COMPLETE, STOPPED, StudyFolder
from histotune.tracking import client as _mlflow
from histotune.tracking import saved_view as _mlflow_view

T = TypeVar("T")

PARENT = "mlflow.parentRunId"
MIRRORED = "mirrored"  # tag of the study's run: every trial below this number has its run, closed
RANKED = 20  # best trials that are tagged with their rank
FEW = 20  # so few runs are requested one by one, more with all runs of the study
_SERVED = ("http://", "https://", "databricks")
_KIND = {"mlflow.experimentKind": "custom_model_development"}  # the UI opens on training runs, not on chats
_STATUS = {COMPLETE: "FINISHED", STOPPED: "KILLED"}  # everything else: FAILED


@dataclass(frozen=True)
class RunEntry:
    """Something of a study that has a run of its own; `key` names it among them ("trial/7", "control/majority")."""

    key: str
    kind: str
    record: TrialRecord


class MlflowTracker:
    """Mirrors one study into MLflow: a run for the study, and under it one for every ended trial, training and control.

    It listens to a search. When MLflow cannot be written it warns, once, and stays quiet from then on, for a search is
    worth more than its mirror; the next start of the search adds what is missing.

    Args:
        runs: folder of all studies, which holds `mlflow.db` and `mlartifacts/`.
        uri: another MLflow server; None is the database in `runs`.

    Attributes:
        failure: why nothing is written any more; "" while all is well.
        experiment, parent: ids of the study's experiment and run, once connected.
    """

    def __init__(self, store: StudyFolder, runs: Path, *, uri: str | None = None) -> None:
        self.store = store
        self.runs = runs.absolute()
        self.uri = uri or _mlflow.database_uri(self.runs)
        self.failure = ""
        self.experiment = ""
        self.parent = ""
        self._client: Any = None
        self._there: set[int] = set()  # numbers of the trials whose runs are known to be closed

    def mirror(self) -> int:
        """Add everything ended that MLflow lacks; returns how many were added or completed."""
        others = [*_folders("control", self.store.controls), *_folders("single", self.store.singles)]
        trials = self.store.trials()
        return self.attempt(lambda client: self._catch_up(client, others, trials), 0)

    def started(self, number: int, config: Mapping[str, Any]) -> None:
        """Do nothing: a run is created when its trial has ended."""

    def reported(self, number: int, epoch: int, metrics: Mapping[str, float]) -> None:
        """Do nothing: the curve is written in one call when the trial has ended."""

    def ended(self, record: TrialRecord) -> None:
        """Add the run of a trial that has just ended."""
        entry = _trial(record)
        self.attempt(lambda client: self._add(client, [entry], self.runs_of(client, entry.key)), 0)

    def finish(self) -> None:
        """Bring the study's own run up to date: counts, the best trial, the best value so far by trial."""
        self.attempt(self._summarise, None)

    def attempt(self, action: Callable[[Any], T], otherwise: T) -> T:
        """Let `action` write through the connected client, alone; a failure of MLflow is warned of, once.

        Returns:
            What `action` returns, or `otherwise` when MLflow failed now or earlier.
        """
        if self.failure:
            return otherwise
        try:
            with files.lock(self.runs / "mlflow.lock", "writing to MLflow", wait=True):
                return action(self._connect())
        except _mlflow.failures() as error:
            self.failure = str(error).partition("\n")[0] or repr(error)
        warnings.warn(
            f"MLflow at {self.uri} cannot be written: {self.failure}. Nothing else is lost: all results are in "
            f"{self.store.folder}, and the next search of this study adds what MLflow lacks",
            stacklevel=3,
        )
        return otherwise

    def runs_of(self, client: Any, key: str = "") -> dict[str, Any]:
        """Find the runs under the study's run by their key, all in one search, or only that of `key`.

        Deleted runs count too: a run that was deleted is not added again.
        """
        query = f"tags.`{PARENT}` = '{self.parent}'" + (f" and tags.key = '{key}'" if key else "")
        everything = _mlflow.api().entities.ViewType.ALL
        result: dict[str, Any] = {}
        token = None
        while True:
            page = client.search_runs([self.experiment], query, everything, max_results=1000, page_token=token)
            result |= {run.data.tags["key"]: run for run in page}
            token = page.token
            if not token:
                return result

    def open_run(self, client: Any, name: str, tags: Mapping[str, str], began: float) -> str:
        """Create a run under the study's run, with its tags beside the study's; returns its id."""
        tags = study_tags(self.store) | dict(tags) | {PARENT: self.parent}
        run = client.create_run(self.experiment, start_time=_mlflow.milliseconds(began), run_name=name, tags=tags)
        return str(run.info.run_id)

    def _connect(self) -> Any:
        """Return the client; the first call finds or makes the database, the experiment and the study's run."""
        if self._client is None:
            if self.uri == _mlflow.database_uri(self.runs):
                _mlflow.create_database(self.runs)
            client = _mlflow.api().MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)
            self.experiment = self._find_experiment(client)
            self.parent = self._find_parent(client)
            self._client = client
        return self._client

    def _find_experiment(self, client: Any) -> str:
        name = self.store.folder.name
        result = client.get_experiment_by_name(name)
        if result is None:
            # A server chooses its own place; for a database MLflow would choose the caller's working directory.
            served = self.uri.startswith(_SERVED)
            place = None if served else (_mlflow.artifacts(self.runs) / name).as_uri()
            return str(client.create_experiment(name, place, tags=_KIND))
        if result.lifecycle_stage == "deleted":
            client.restore_experiment(result.experiment_id)
        return str(result.experiment_id)

    def _find_parent(self, client: Any) -> str:
        settings = self.store.settings
        # A study that was deleted and begun anew under its old name is another study: its time tells them apart.
        # (The tag is not called `created`: MLflow reads that name as the start of the run, whatever stands before it.)
        mine = f"tags.key = 'study' and tags.study_created = '{settings.created}'"
        result = client.search_runs([self.experiment], mine, _mlflow.api().entities.ViewType.ALL, max_results=1)
        if result:
            if result[0].info.lifecycle_stage == "deleted":
                client.restore_run(result[0].info.run_id)
            return str(result[0].info.run_id)
        tags = {"key": "study", "kind": "study", "study_created": settings.created} | study_tags(self.store)
        run = client.create_run(self.experiment, run_name=f"study {settings.name}", tags=tags).info.run_id
        chosen = {"dataset": settings.dataset, "protocol": settings.protocol, "seed": settings.seed}
        chosen |= {"folds": settings.folds, "repeats": settings.repeats}
        _mlflow.log(client, run, [], _mlflow.params({**chosen, "metric": settings.metric, "options": settings.options}))
        client.log_dict(run, dict(settings.space), "search_space.yaml")
        client.set_terminated(run, "FINISHED")
        return str(run)

    def _catch_up(self, client: Any, others: Sequence[RunEntry], trials: Sequence[TrialRecord]) -> int:
        """Add what is missing; the study's run remembers up to which number nothing is, so that nobody asks again."""
        done = int(client.get_run(self.parent).data.tags.get(MIRRORED, 0))
        self._there |= set(range(done))
        entries = [*others, *(_trial(record) for record in trials if record.number >= done)]
        if len(entries) <= FEW:
            there = {key: run for entry in entries for key, run in self.runs_of(client, entry.key).items()}
        else:
            there = self.runs_of(client)
        added = self._add(client, entries, there)
        client.set_tag(self.parent, MIRRORED, str(self._first_gap()))
        return added

    def _first_gap(self) -> int:
        return next(number for number in range(len(self._there) + 1) if number not in self._there)

    def _add(self, client: Any, entries: Sequence[RunEntry], there: Mapping[str, Any]) -> int:
        added = 0
        for entry in entries:
            run = there.get(entry.key)
            if run is None or run.info.status == "RUNNING":
                # A run that is still open was cut short by a kill: writing the same again completes it.
                self._write(client, entry, run.info.run_id if run else None)
                added += 1
            if entry.kind == "trial":
                self._there.add(entry.record.number)
        return added

    def _write(self, client: Any, entry: RunEntry, run: str | None) -> None:
        record = entry.record
        began = record.started or (record.folder / layout.RECORD).stat().st_mtime - record.seconds
        ended = began + record.seconds
        config = record.config() if (record.folder / layout.CONFIG).exists() else {}
        if run is None:
            tags = _trial_tags(entry, config)
            name = " ".join(filter(None, [entry.key.replace("/", " "), tags.get("backbone"), tags.get("loss")]))
            run = self.open_run(client, name, tags, began)
        rows = record.curve()[inherited(record.folder) :]
        values = [*_mlflow.final_metrics(record, ended), *_mlflow.curve(rows, began)]
        _mlflow.log(client, run, values, _mlflow.params(config))
        client.set_terminated(run, _STATUS.get(record.state, "FAILED"), _mlflow.milliseconds(ended))

    def _summarise(self, client: Any) -> None:
        metric = self.store.settings.metric
        sign = 1 if METRICS[metric].higher_is_better else -1
        trials = self.store.trials()
        complete = sorted((t for t in trials if t.state == COMPLETE), key=lambda t: t.started + t.seconds)
        values: list[Any] = []
        best: TrialRecord | None = None
        for order, trial in enumerate(complete, start=1):
            if best is None or sign * trial.metrics[metric] > sign * best.metrics[metric]:
                best = trial
            values.append(_mlflow.metric(f"best/{metric}", best.metrics[metric], trial.started + trial.seconds, order))
        now = time.time()
        values += [_mlflow.metric("trials", len(trials), now, len(trials))]
        values += [_mlflow.metric(name, value, now) for name, value in (best.metrics.items() if best else ())]
        _mlflow.log(client, self.parent, values)
        states = {f"trials_{state}": sum(t.state == state for t in trials) for state in {t.state for t in trials}}
        for key, value in _mlflow.tags(states | ({"best_trial": best.number} if best else {})).items():
            client.set_tag(self.parent, key, value)
        client.set_tag(self.parent, MIRRORED, str(self._first_gap()))
        client.set_terminated(self.parent, "FINISHED")
        self._rank(client, sorted(complete, key=lambda t: -sign * t.metrics[metric])[:RANKED])
        for key, value in _mlflow_view.experiment_tags(self.store, trials, self.experiment).items():
            client.set_experiment_tag(self.experiment, key, value)

    def _rank(self, client: Any, best: Sequence[TrialRecord]) -> None:
        """Tag the best trials with their rank, and take it from those that had one."""
        ranks = {f"trial/{trial.number}": str(rank) for rank, trial in enumerate(best, start=1)}
        query = f"tags.`{PARENT}` = '{self.parent}' and tags.rank != ''"
        active = _mlflow.api().entities.ViewType.ACTIVE_ONLY
        old = {run.data.tags["key"]: run for run in client.search_runs([self.experiment], query, active)}
        for key in old.keys() - ranks.keys():
            client.delete_tag(old[key].info.run_id, "rank")
        for key, rank in ranks.items():
            if key not in old or old[key].data.tags["rank"] != rank:
                run = old[key] if key in old else self.runs_of(client, key).get(key)
                if run is not None and run.info.lifecycle_stage != "deleted":
                    client.set_tag(run.info.run_id, "rank", rank)


def study_tags(store: StudyFolder) -> dict[str, str]:
    """Return what every run of a study is tagged with."""
    settings = store.settings
    return _mlflow.tags(
        {
            "study": settings.name,
            "dataset": settings.dataset,
            "protocol": settings.protocol,
            "leaky": settings.leaky,
            "imbalance": settings.imbalance,
            "synthetic": bool(settings.facts.get("synthetic", False)),
            "metric": settings.metric,
            "data_digest": " ".join(settings.digests.values()),
            "histotune": settings.version,
            "mlflow.source.name": "histotune",
        }
    )


def _trial(record: TrialRecord) -> RunEntry:
    return RunEntry(f"trial/{record.number}", "trial", record)


def _folders(kind: str, root: Path) -> Iterator[RunEntry]:
    for folder in sorted(root.glob("*/")):
        record = read_record(folder)
        if record is not None:
            yield RunEntry(f"{kind}/{folder.name}", kind, record)


def _trial_tags(entry: RunEntry, config: Mapping[str, Any]) -> dict[str, str]:
    record, model = entry.record, config.get("model", {})
    return _mlflow.tags(
        {
            "key": entry.key,
            "kind": entry.kind,
            "state": record.state,
            "trial": record.number if entry.kind == "trial" else "",
            "digest": record.digest,
            "loss": config.get("loss", {}).get("name", ""),
            "backbone": "+".join(branch["backbone"]["name"] for branch in model.get("branches", {}).values()),
            "fusion": model.get("fusion", {}).get("name", ""),
            "failure": record.kind,
            "reason": record.reason,
            "parent_trial": parent.number if (parent := read_parent(record.folder)) else "",
        }
    )
