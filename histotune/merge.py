"""Build an ensemble from the saved validation predictions of a study's best trials; no network runs.

An ensemble is always shown beside the best single member and the uniform mean of the same members: a strategy that
does not beat those has earned nothing.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from histotune import files, metrics
from histotune._deal import by_group
from histotune.calibration import THRESHOLD_METRICS, apply_temperatures, choose_threshold, fit_temperature
from histotune.ensembles import ENSEMBLES
from histotune.errors import StudyError
from histotune.members import Member, best_trials
from histotune.pooling import by_fold, scored
from histotune.statistics import Difference, Interval, intervals, paired_bootstrap
from histotune.store import COMPLETE, Predictions, StudySettings, StudyStore, TrialRecord, write_record

REPLICATES = 2000
PARTS = 5  # of the patients, when a strategy that learns is described
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
        studies: folder of each member's study where it is another one, else "".
        modalities: the modality that each member was chosen for, "" where it was chosen by its metric alone.
        fit_seconds: that the strategy took to learn what it knows.
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
    studies: tuple[str, ...] = ()
    modalities: tuple[str, ...] = ()
    fit_seconds: float = field(default=0.0, compare=False)

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
    members: Sequence[Member] | None = None,
    replicates: int = REPLICATES,
) -> Merged:
    """Combine complete trials and write `ensembles/<name>/`; no network is trained.

    Trials of one configuration count once. A temperature per member, the strategy and the threshold are fitted on
    held-out predictions: those of the validation part, or out of folds. The ensemble is described with the same ones;
    a strategy that learns is described with what it says of patients that had no part in its fit, by five folds. Only
    the sealed test part can say more.

    Args:
        top: how many of the best; fewer are taken where there are fewer.
        params: parameters of the strategy.
        name: folder name; None makes `<strategy>-top<members>`, or names the modalities.
        members: which trials instead of the best, best first; see `members.by_modality`.
        replicates: bootstrap draws of patients.

    Raises:
        StudyError: no trial is complete, or trials were scored on different cases.
        ConfigError: unknown strategy or parameter, or `top` below 1.
    """
    settings, params = store.settings(), dict(params or {})
    ENSEMBLES.check(strategy, params)
    chosen = members or [Member(record, store) for record in best_trials(store, top)]
    saved = [member.record.predictions() for member in chosen]
    _check_same_cases(chosen, saved)
    cases = replace(saved[0], present=np.any([one.heard for one in saved], axis=0))
    present = np.stack([one.heard for one in saved])
    temperatures = tuple(fit_temperature(one.logits[one.heard], one.labels[one.heard]) for one in saved)
    logits = apply_temperatures(np.stack([one.logits for one in saved]), temperatures)
    began = time.perf_counter()
    ensemble = ENSEMBLES.build(strategy, **params)
    ensemble.fit(logits, cases.labels, present)
    seconds = time.perf_counter() - began
    contenders = {
        "ensemble": _held_out(strategy, params, logits, cases, present)
        if ensemble.learns
        else ensemble.predict(logits, present),
        "best_member": metrics.softmax(logits[0]),
        "uniform_mean": ENSEMBLES.build("average").predict(logits, present),
    }
    about: dict[str, Any] = {"positive": settings.positive, "replicates": replicates}
    merged = Merged(
        folder=store.ensembles / (name or _name(strategy, chosen)),
        strategy=strategy,
        params=params,
        members=tuple(member.record.number for member in chosen),
        temperatures=temperatures,
        state=ensemble.state(),
        threshold=_threshold(contenders["ensemble"], cases.labels, settings),
        metrics=metrics.evaluate(contenders["ensemble"], cases.labels, positive=settings.positive),
        intervals={who: intervals(p, cases.labels, cases.patients, **about) for who, p in contenders.items()},
        gains={
            rival: paired_bootstrap(
                settings.metric, contenders["ensemble"], contenders[rival], cases.labels, cases.patients, **about
            )
            for rival in ("best_member", "uniform_mean")
        },
        digest=_digest([member.record for member in chosen], temperatures, strategy, params),
        studies=tuple("" if member.store.folder == store.folder else str(member.store.folder) for member in chosen),
        modalities=tuple(member.modality for member in chosen),
        fit_seconds=seconds,
    )
    _write(merged, [member.record for member in chosen], cases, contenders["ensemble"], store)
    return merged


def _held_out(
    strategy: str, params: Mapping[str, Any], logits: np.ndarray, cases: Predictions, present: np.ndarray
) -> np.ndarray:
    """Return what a strategy says of every case [n, C] when patients of the case had no part in its fit."""
    parts = min(PARTS, len(np.unique(cases.patients)))
    if parts < 2:
        raise StudyError(
            f"{strategy} learns from held-out predictions, and these are of a single patient: take another"
        )
    dealt = by_group(cases.patients, cases.labels, [1 / parts] * parts, [0], "patient")
    found = np.zeros((len(cases.labels), logits.shape[2]))
    for part in range(parts):
        own = dealt == part
        ensemble = ENSEMBLES.build(strategy, **params)
        ensemble.fit(logits[:, ~own], cases.labels[~own], present[:, ~own])
        found[own] = ensemble.predict(logits[:, own], present[:, own])
    return found


def _name(strategy: str, members: Sequence[Member]) -> str:
    modalities = [member.modality for member in members]
    return f"{strategy}-{'-'.join(sorted(modalities))}" if all(modalities) else f"{strategy}-top{len(members)}"


def _check_same_cases(members: Sequence[Member], saved: Sequence[Predictions]) -> None:
    for member, one in zip(members, saved, strict=True):
        if not np.array_equal(one.ids, saved[0].ids):
            raise StudyError(
                f"trials {members[0].record.number} and {member.record.number} were scored on different cases and "
                f"cannot be combined: {member.record.folder} does not belong to this study's split"
            )


def _threshold(probabilities: np.ndarray, labels: np.ndarray, settings: StudySettings) -> float | None:
    if probabilities.shape[1] != 2:
        return None
    metric = settings.metric if settings.metric in THRESHOLD_METRICS else "balanced_accuracy"
    return choose_threshold(probabilities, labels, metric=metric, positive=settings.positive)


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
    described.pop("fit_seconds")  # the same ensemble is described in the same words
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
