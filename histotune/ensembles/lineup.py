"""The members of an ensemble side by side: calibrated logits of the same held-out cases, and which have input."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from histotune.ensembles.crossfit import CalibratedPredictions, calibration, temperature_of
from histotune.ensembles.strategies import ENSEMBLES, Ensemble
from histotune.errors import StudyError
from histotune.metrics import scores as metrics
from histotune.metrics.calibration import apply_temperatures, tempered
from histotune.storage.records import Predictions
from histotune.storage.selection import SelectedTrial


class MemberPredictions(NamedTuple):
    """Members with their calibrated logits [M, n, C] of the same held-out cases, and which have input, bool [M, n]."""

    members: Sequence[SelectedTrial]
    temperatures: tuple[float, ...]
    logits: np.ndarray
    present: np.ndarray
    cases: Predictions


def line_up(members: Sequence[SelectedTrial]) -> MemberPredictions:
    """Read the predictions of members on the cases that all of them were scored on, and calibrate each.

    Raises:
        StudyError: they were scored on different cases; says which.
    """
    saved = [member.record.predictions() for member in members]
    _check_same_cases(members, saved)
    cases = replace(saved[0], present=np.any([one.has_input for one in saved], axis=0))
    temperatures = tuple(_calibrated(one) for one in saved)
    logits = apply_temperatures(np.stack([one.logits for one in saved]), temperatures)
    for member, one in zip(members, saved, strict=True):
        _warn_of_chance(member, one)
    return MemberPredictions(members, temperatures, logits, np.stack([one.has_input for one in saved]), cases)


def fit_to(
    strategy: str, params: Mapping[str, Any], lineup: MemberPredictions, rows: np.ndarray
) -> Callable[[np.ndarray], np.ndarray]:
    """Fit a strategy to some cases; returns what scores others."""
    ensemble = ENSEMBLES.build(strategy, **params)
    ensemble.fit(lineup.logits[:, rows], lineup.cases.labels[rows], lineup.present[:, rows])
    return lambda own: ensemble.predict(lineup.logits[:, own], lineup.present[:, own])


def keep_weighted(ensemble: Ensemble, lineup: MemberPredictions) -> MemberPredictions:
    """Leave members without weight out of a strategy that selects, where every member has input of every case."""
    weights = np.array(ensemble.shares(len(lineup.members)))
    if not ensemble.selects or not lineup.present.all() or weights.all():
        return lineup
    some = np.flatnonzero(weights).tolist()
    ensemble.load_state({"weights": weights[some].tolist()})
    members, temperatures = zip(*((lineup.members[k], lineup.temperatures[k]) for k in some), strict=True)
    return MemberPredictions(members, temperatures, lineup.logits[some], lineup.present[some], lineup.cases)


def calibrations(raw: np.ndarray, tuned: CalibratedPredictions, lineup: MemberPredictions) -> dict[str, Any]:
    """Say what temperatures did: that of the whole, cross-fitted, and those of the members, on the cases they fit."""
    labels = lineup.cases.labels
    members = []
    for member, temperature, logits, there in zip(*lineup[:4], strict=True):
        after, truth = metrics.softmax(logits[there]), labels[there]
        before = tempered(after, 1 / temperature)
        members.append({"trial": member.record.number} | calibration(temperature, before, after, truth))
    return calibration(tuned.temperature, raw, tuned.crossfitted, labels) | {"members": members}


def _calibrated(one: Predictions) -> float:
    there = one.has_input
    return temperature_of(one.logits[there], one.labels[there], one.patients[there])


def _warn_of_chance(member: SelectedTrial, one: Predictions) -> None:
    """Warn of a member whose ranking of the cases is no better than chance, if it is one of several."""
    area = metrics.score("auroc", metrics.softmax(one.logits[one.has_input]), one.labels[one.has_input])
    if area <= 0.5:
        warnings.warn(
            f"trial {member.record.number} is no better than chance on held-out cases (AUROC {area:.3f}): "
            "as a member of an ensemble it adds noise; leave it out",
            stacklevel=4,
        )


def _check_same_cases(members: Sequence[SelectedTrial], saved: Sequence[Predictions]) -> None:
    for member, one in zip(members, saved, strict=True):
        if not np.array_equal(one.ids, saved[0].ids):
            raise StudyError(
                f"trials {members[0].record.number} and {member.record.number} were scored on different cases and "
                f"cannot be combined: {member.record.folder} does not belong to this study's split"
            )
