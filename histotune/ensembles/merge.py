"""Build an ensemble from the saved validation predictions of a study's best trials; no network runs.

An ensemble is always shown beside the best single member and the uniform mean of the same members: a strategy that
is not better than those has no benefit.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from histotune.core import files
from histotune.core.provenance import short_digest
from histotune.ensembles.crossfit import CALIBRATION, CalibratedPredictions, held_out, parts_by_patient, reached, tune
from histotune.ensembles.diversity import diversity
from histotune.ensembles.lineup import MemberPredictions, calibrations, fit_to, keep_weighted, line_up
from histotune.ensembles.operating import point_of, scored_cases
from histotune.ensembles.strategies import ENSEMBLES, Ensemble
from histotune.metrics import scores as metrics
from histotune.metrics.bootstrap import intervals, paired_bootstrap, patient_bootstrap
from histotune.metrics.calibration import OF_CALIBRATED
from histotune.metrics.intervals import ConfidenceInterval, Difference
from histotune.metrics.operating_points import OperatingPoint, ThresholdResult
from histotune.storage import layout
from histotune.storage.records import write_record
from histotune.storage.selection import SelectedTrial, Selection, best_trials
from histotune.storage.study_folder import COMPLETE, StudyFolder, StudySettings
from histotune.training.pooling import by_fold, scored

REPLICATES = 2000
LEAST = 1e-12  # probability whose logarithm is saved for a class that a strategy gives nothing


@dataclass(frozen=True)
class EnsembleResult:
    """An ensemble as fitted on the validation predictions.

    Attributes:
        folder: where it is saved; its name is the ensemble's.
        strategy, params: registered ensemble and its parameters.
        members: trial numbers, best first.
        temperatures: one per member, by which its logits are divided before they are combined.
        state: what the strategy learned.
        threshold: operating threshold of the positive class, for two classes; None for more.
        temperature: by which the logarithms of the combined probabilities are divided; 1 for a single member.
        operating_point: what the threshold reaches on patients that did not choose it; None for more classes.
        metrics: of the ensemble, at the class of highest probability.
        intervals: {"ensemble" | "best_member" | "uniform_mean": {metric: interval over patients}}.
        gains: {"best_member" | "uniform_mean": ensemble minus it in the study's metric, paired by patient}.
        studies: folder of each member's study where it is another one, else ""; relative where it lies in this one.
        selection: how the members were chosen, in words; "" where they are the best trials.
        modalities: the modality that each member was chosen for, "" where it was chosen by its metric alone.
        calibration: `temperature`, and of `ece`, `brier` and `nll` what it is `before` and `after` it, cross-fitted;
            the same of every one of the `members`, by its own temperature.
        diversity: how differently the members err; see `diversity.diversity`.
        weights: how much each member counts, where one number says it; else empty.
        candidates: trials that a strategy which selects chose the members from; else empty.
        fit_seconds: that the strategy took to fit.
    """

    folder: Path
    strategy: str
    params: Mapping[str, Any]
    members: tuple[int, ...]
    temperatures: tuple[float, ...]
    state: Mapping[str, Any]
    threshold: float | None
    metrics: Mapping[str, float]
    intervals: Mapping[str, Mapping[str, ConfidenceInterval]]
    gains: Mapping[str, Difference]
    digest: str
    studies: tuple[str, ...] = ()
    selection: str = ""
    modalities: tuple[str, ...] = ()
    temperature: float = 1.0
    operating_point: ThresholdResult | None = None
    calibration: Mapping[str, Any] = field(default_factory=dict)
    diversity: Mapping[str, Any] = field(default_factory=dict, compare=False)  # NaN where a member never errs
    weights: tuple[float, ...] = ()
    candidates: tuple[int, ...] = ()
    fit_seconds: float = field(default=0.0, compare=False)

    @property
    def name(self) -> str:
        """The ensemble's name."""
        return self.folder.name


def merge(
    store: StudyFolder,
    *,
    top: int = 5,
    strategy: str = "average",
    params: Mapping[str, Any] | None = None,
    name: str | None = None,
    chosen: Selection | None = None,
    operating_point: str | OperatingPoint | None = None,
    replicates: int = REPLICATES,
) -> EnsembleResult:
    """Combine complete trials and write `ensembles/<name>/`; no network is trained.

    Trials of one configuration count once. A temperature per member, the strategy, a temperature of the whole and the
    threshold are fitted on held-out predictions: those of the validation part, or out of folds. The ensemble is
    described on the same ones, but a strategy that learns, a temperature and a threshold are applied to patients that
    had no part in their fit, by five folds. The sealed test set gives the unbiased score.

    Args:
        top: how many of the best; fewer are taken where there are fewer.
        params: parameters of the strategy; a `metric` that it has is the study's if left out.
        name: folder name; None makes `<strategy>-top<members>`, or names the modalities.
        chosen: which trials instead of the best; see `storage.selection`.
        operating_point: how the threshold is chosen, such as "sensitivity=0.95"; None takes the study's metric.
        replicates: bootstrap draws of patients.

    Raises:
        StudyError: no trial is complete, trials were scored on different cases, or the operating point is out of reach.
        ConfigError: unknown strategy, parameter or operating point, `top` below 1, or a name that is none.
    """
    if name is not None:
        layout.checked_name(name, "an ensemble")
    settings = store.settings
    params, point = _params(strategy, params or {}, settings), point_of(operating_point, settings)
    chosen = chosen or Selection([SelectedTrial(record, store) for record in best_trials(store, top)])
    lineup = line_up(chosen.members)
    combined = combine(lineup, strategy, params, point, positive=settings.positive)
    described = {"selection": chosen.words, **_described(combined, lineup, point, settings, replicates)}
    name = name or (f"{strategy}-{chosen.name}" if chosen.name else _name(strategy, lineup.members))
    merged = _result(store.ensembles / name, combined, described)
    _write(merged, combined, lineup, store)
    return merged


@dataclass(frozen=True)
class Combination:
    """Members that were combined by a strategy.

    Attributes:
        strategy, params, ensemble: registered strategy, its parameters, and what was fitted.
        kept: the members that it gives weight.
        raw: [n, C], probabilities of the cases; of a strategy that learns, those of patients who had no part in it.
        tuned: the same at a temperature, and a threshold.
        seconds: that the strategy took to fit.
    """

    strategy: str
    params: Mapping[str, Any]
    ensemble: Ensemble
    kept: MemberPredictions
    raw: np.ndarray
    tuned: CalibratedPredictions
    seconds: float


def combine(
    lineup: MemberPredictions, strategy: str, params: Mapping[str, Any], point: OperatingPoint | None, *, positive: int
) -> Combination:
    """Fit a strategy to the members' calibrated logits, then a temperature and a threshold to what it gives.

    Raises:
        StudyError: patients cannot be kept apart, or the operating point is out of reach.
    """
    labels, began = lineup.cases.labels, time.perf_counter()
    parts = parts_by_patient(lineup.cases.patients, labels)
    ensemble = ENSEMBLES.build(strategy, **params)
    ensemble.fit(lineup.logits, labels, lineup.present)
    seconds = time.perf_counter() - began
    raw = ensemble.predict(lineup.logits, lineup.present)
    if ensemble.learns:
        raw = held_out(partial(fit_to, strategy, params, lineup), parts, raw.shape, strategy)
    bounds = OF_CALIBRATED if len(lineup.members) > 1 else None
    tuned = tune(raw, labels, lineup.cases.patients, parts, point, positive=positive, bounds=bounds)
    return Combination(strategy, params, ensemble, keep_weighted(ensemble, lineup), raw, tuned, seconds)


def _result(folder: Path, combined: Combination, described: Mapping[str, Any]) -> EnsembleResult:
    """Join what was fitted with what was measured of it."""
    ensemble, members = combined.ensemble, combined.kept.members
    own = StudyFolder(folder.parent.parent)
    return EnsembleResult(
        folder=folder,
        strategy=combined.strategy,
        params=combined.params,
        members=tuple(member.record.number for member in members),
        temperatures=combined.kept.temperatures,
        state=ensemble.state(),
        threshold=combined.tuned.threshold,
        digest=_digest(combined),
        studies=tuple(own.name_of(member.store) for member in members),
        modalities=tuple(member.modality for member in members),
        fit_seconds=combined.seconds,
        temperature=combined.tuned.temperature,
        weights=tuple(ensemble.shares(len(members))),
        **described,
    )


def _params(strategy: str, given: Mapping[str, Any], settings: StudySettings) -> dict[str, Any]:
    """Return the parameters of a strategy; its metric is the study's where it takes that one and none is given."""
    ENSEMBLES.check(strategy, given)
    result = {one.name: one.range for one in ENSEMBLES.entry(strategy).parameters}.get("metric")
    return {"metric": settings.metric, **given} if settings.metric in getattr(result, "options", ()) else dict(given)


def _described(
    combined: Combination,
    lineup: MemberPredictions,
    point: OperatingPoint | None,
    settings: StudySettings,
    replicates: int,
) -> dict[str, Any]:
    """Measure an ensemble beside its best member and the uniform mean of those that it was made of."""
    tuned, kept = combined.tuned, combined.kept
    labels, patients = lineup.cases.labels, lineup.cases.patients
    about: dict[str, Any] = {"positive": settings.positive, "replicates": replicates}
    rivals = {
        "best_member": metrics.softmax(lineup.logits[0]),
        "uniform_mean": ENSEMBLES.build("average").predict(lineup.logits, lineup.present),
    }
    own = tuned.of(settings.metric)
    result = {
        who: intervals(p, labels, patients, **about) for who, p in {"ensemble": tuned.probabilities, **rivals}.items()
    }
    for name in CALIBRATION:
        result["ensemble"][name] = patient_bootstrap(name, tuned.crossfitted, labels, patients, **about)
    return {
        "metrics": tuned.measure(labels, settings.positive),
        "intervals": result,
        "gains": {
            rival: paired_bootstrap(settings.metric, own, p, labels, patients, **about) for rival, p in rivals.items()
        },
        "operating_point": None
        if point is None
        else reached(tuned, point, labels, patients, scored_cases(settings), **about),
        "calibration": calibrations(combined.raw, tuned, lineup),
        "diversity": diversity(metrics.softmax(kept.logits), kept.cases.labels, kept.present),
        "candidates": tuple(member.record.number for member in lineup.members) if combined.ensemble.selects else (),
    }


def _name(strategy: str, members: Sequence[SelectedTrial]) -> str:
    modalities = [member.modality for member in members]
    return f"{strategy}-{'-'.join(sorted(modalities))}" if all(modalities) else f"{strategy}-top{len(members)}"


def _digest(combined: Combination) -> str:
    parts = {
        "members": [member.record.digest for member in combined.kept.members],
        "temperatures": list(combined.kept.temperatures),
        "strategy": combined.strategy,
        "params": dict(combined.params),
    }
    return short_digest(parts)


def _write(merged: EnsembleResult, combined: Combination, lineup: MemberPredictions, store: StudyFolder) -> None:
    """Write predictions, settings and, last, the record that makes the ensemble exist."""
    scores = np.log(np.maximum(combined.tuned.probabilities, LEAST))  # float64: a vote's tie-break is lost in float32
    saved = replace(lineup.cases, logits=scores)
    saved.save(merged.folder / layout.PREDICTIONS)
    settings, members = store.settings, [member.record for member in combined.kept.members]
    measured: dict[str, Any] = {"metrics": dict(merged.metrics)}
    if settings.folds:  # as its members are
        measured = scored(list(by_fold(saved, store.split)), saved, settings.positive)
    described = asdict(merged) | {"folder": merged.name, "name": merged.name}
    best = lineup.members[0]
    described |= {"best_member": best.record.number, "best_member_study": store.name_of(best.store)}
    described.pop("fit_seconds")  # the same ensemble is described in the same words
    files.write_json(merged.folder / layout.ENSEMBLE, described)
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
