"""Build an ensemble from the saved validation predictions of a study's best trials; no network runs.

An ensemble is always shown beside the best single member and the uniform mean of the same members: a strategy that
does not beat those has earned nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from histotune import files, metrics
from histotune.calibration import THRESHOLD_METRICS, apply_temperatures, choose_threshold, fit_temperature
from histotune.ensembles import ENSEMBLES
from histotune.errors import ConfigError, StudyError
from histotune.pooling import by_fold, scored
from histotune.statistics import Difference, Interval, intervals, paired_bootstrap
from histotune.store import COMPLETE, Predictions, StudySettings, StudyStore, TrialRecord, write_record

REPLICATES = 2000
LEAST = 1e-12  # probability whose logarithm is saved for a class that a strategy gives nothing


@dataclass(frozen=True)
class Merged:
    """An ensemble as fitted on the validation part.

    Attributes:
        folder: where it is saved; its name is the ensemble's.
        strategy, params: registered ensemble and its parameters.
        members: trial numbers, best first.
        temperatures: one per member, by which its logits are divided before they are combined.
        state: what the strategy learned.
        threshold: operating threshold of the positive class, for two classes; None for more.
        metrics: of the ensemble, at the class of highest probability.
        intervals: {"ensemble" | "best_member" | "uniform_mean": {metric: interval over patients}}.
        gains: {"best_member" | "uniform_mean": ensemble minus it in the study's metric, paired by patient}.
    """

    folder: Path
    strategy: str
    params: Mapping[str, Any]
    members: tuple[int, ...]
    temperatures: tuple[float, ...]
    state: Mapping[str, Any]
    threshold: float | None
    metrics: Mapping[str, float]
    intervals: Mapping[str, Mapping[str, Interval]]
    gains: Mapping[str, Difference]
    digest: str

    @property
    def name(self) -> str:
        """The ensemble's name."""
        return self.folder.name


def merge(
    store: StudyStore,
    *,
    top: int = 5,
    strategy: str = "average",
    params: Mapping[str, Any] | None = None,
    name: str | None = None,
    replicates: int = REPLICATES,
) -> Merged:
    """Combine the `top` best complete trials and write `ensembles/<name>/`; fewer are taken where there are fewer.

    Trials of one configuration count once. A temperature per member, the strategy and the threshold are fitted on
    the validation predictions that they are then described with: only the sealed test part can say more.

    Args:
        params: parameters of the strategy.
        name: folder name; None makes `<strategy>-top<members>`.
        replicates: bootstrap draws of patients.

    Raises:
        StudyError: no trial is complete, or trials were scored on different cases.
        ConfigError: unknown strategy or parameter, or `top` below 1.
    """
    settings, params = store.settings(), dict(params or {})
    ENSEMBLES.check(strategy, params)
    members = best_trials(store, top)
    saved = [member.predictions() for member in members]
    _check_same_cases(members, saved)
    labels, patients = saved[0].labels, saved[0].patients
    temperatures = tuple(fit_temperature(one.logits, labels) for one in saved)
    logits = apply_temperatures(np.stack([one.logits for one in saved]), temperatures)
    ensemble = ENSEMBLES.build(strategy, **params)
    ensemble.fit(logits, labels)
    contenders = {
        "ensemble": ensemble.predict(logits),
        "best_member": metrics.softmax(logits[0]),
        "uniform_mean": ENSEMBLES.build("average").predict(logits),
    }
    merged = Merged(
        folder=store.ensembles / (name or f"{strategy}-top{len(members)}"),
        strategy=strategy,
        params=params,
        members=tuple(member.number for member in members),
        temperatures=temperatures,
        state=ensemble.state(),
        threshold=_threshold(contenders["ensemble"], labels, settings),
        metrics=metrics.evaluate(contenders["ensemble"], labels, positive=settings.positive),
        intervals={
            who: intervals(p, labels, patients, positive=settings.positive, replicates=replicates)
            for who, p in contenders.items()
        },
        gains=_gains(contenders, labels, patients, settings, replicates),
        digest=_digest(members, temperatures, strategy, params),
    )
    _write(merged, members, saved[0], contenders["ensemble"], store)
    return merged


def best_trials(store: StudyStore, top: int) -> list[TrialRecord]:
    """Return up to `top` complete trials of distinct configurations, best first by the study's metric.

    Raises:
        ConfigError: `top` is below 1.
        StudyError: no trial is complete.
    """
    if top < 1:
        raise ConfigError(f"an ensemble needs at least one member, got {top=}")
    metric = store.settings().metric
    sign = metrics.direction(metric)
    complete = [
        trial
        for trial in store.trials()
        if trial.state == COMPLETE and not np.isnan(trial.metrics.get(metric, float("nan")))
    ]
    if not complete:
        raise StudyError(
            f"study {store.folder.name!r} has no complete trial to combine: search on, `histotune search` continues it"
        )
    ranked = sorted(complete, key=lambda trial: (-sign * trial.metrics[metric], trial.number))
    distinct = {trial.digest or str(trial.number): trial for trial in reversed(ranked)}  # the best of equals stays
    return [trial for trial in ranked if distinct[trial.digest or str(trial.number)] is trial][:top]


def _check_same_cases(members: Sequence[TrialRecord], saved: Sequence[Predictions]) -> None:
    for member, one in zip(members, saved, strict=True):
        if not np.array_equal(one.ids, saved[0].ids):
            raise StudyError(
                f"trials {members[0].number} and {member.number} were scored on different cases and cannot be "
                f"combined: {member.folder} does not belong to this study's split"
            )


def _threshold(probabilities: np.ndarray, labels: np.ndarray, settings: StudySettings) -> float | None:
    if probabilities.shape[1] != 2:
        return None
    metric = settings.metric if settings.metric in THRESHOLD_METRICS else "balanced_accuracy"
    return choose_threshold(probabilities, labels, metric=metric, positive=settings.positive)


def _gains(
    contenders: Mapping[str, np.ndarray],
    labels: np.ndarray,
    patients: np.ndarray,
    settings: StudySettings,
    replicates: int,
) -> dict[str, Difference]:
    return {
        rival: paired_bootstrap(
            settings.metric,
            contenders["ensemble"],
            contenders[rival],
            labels,
            patients,
            positive=settings.positive,
            replicates=replicates,
        )
        for rival in ("best_member", "uniform_mean")
    }


def _digest(
    members: Sequence[TrialRecord], temperatures: Sequence[float], strategy: str, params: Mapping[str, Any]
) -> str:
    parts = {
        "members": [member.digest for member in members],
        "temperatures": list(temperatures),
        "strategy": strategy,
        "params": dict(params),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


def _write(
    merged: Merged, members: Sequence[TrialRecord], cases: Predictions, probabilities: np.ndarray, store: StudyStore
) -> None:
    """Write predictions, settings and, last, the record that makes the ensemble exist."""
    scores = np.log(np.maximum(probabilities, LEAST))  # float64: a vote's tie-break is lost in float32
    saved = replace(cases, logits=scores)
    saved.save(merged.folder / "predictions.npz")
    settings = store.settings()
    measured: dict[str, Any] = {"metrics": dict(merged.metrics)}
    if settings.folds:  # as its members are
        measured = scored(list(by_fold(saved, store.split_table())), saved, settings.positive)
    described = asdict(merged) | {"folder": merged.name, "name": merged.name, "best_member": members[0].number}
    files.write_json(merged.folder / "ensemble.json", described)
    write_record(
        merged.folder,
        {
            "state": COMPLETE,
            "digest": merged.digest,
            **measured,
            "seconds": sum(member.seconds for member in members),
            "parameters": sum(member.parameters for member in members),
        },
    )
