"""Which trials an ensemble is made of: the best of a study, or the best that reads each modality alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from histotune.errors import ConfigError, StudyError, suggest
from histotune.metrics import scores as metrics
from histotune.storage import layout
from histotune.storage.records import TrialRecord, read_ensemble
from histotune.storage.study_folder import COMPLETE, StudyFolder


@dataclass(frozen=True)
class SelectedTrial:
    """A trial that takes part.

    Attributes:
        record: the trial.
        store: its study.
        modality: the one that it was chosen for; "" when it was chosen by its metric alone.
    """

    record: TrialRecord
    store: StudyFolder
    modality: str = ""


def best_trials(store: StudyFolder, top: int) -> list[TrialRecord]:
    """Return up to `top` complete trials of distinct configurations, best first by the study's metric.

    Raises:
        ConfigError: `top` is below 1.
        StudyError: no trial is complete.
    """
    if top < 1:
        raise ConfigError(f"an ensemble needs at least one member, got {top=}")
    ranked = ranked_trials(store)
    if not ranked:
        raise StudyError(
            f"study {store.folder.name!r} has no complete trial to combine: continue it with `histotune search`"
        )
    distinct = {trial.digest or str(trial.number): trial for trial in reversed(ranked)}  # the best of equals stays
    return [trial for trial in ranked if distinct[trial.digest or str(trial.number)] is trial][:top]


def modality_of(config: Mapping[str, Any]) -> str:
    """Return the only modality that the network of a trial reads, or "" where it reads several.

    >>> modality_of({"model": {"branches": {"a": {"modality": "cnv"}}, "fusion": {"name": "none"}}})
    'cnv'
    """
    if "model" not in config:
        return ""  # what is known of a trial whose configuration is lost
    branches, fusion = config["model"]["branches"], config["model"]["fusion"]
    if fusion["name"] == "none":
        observed = [branches[fusion["branch"]]] if fusion.get("branch") else list(branches.values())
    else:
        observed = list(branches.values())
    modalities = {branch["modality"] for branch in observed}
    return modalities.pop() if len(modalities) == 1 else ""


def by_modality(
    store: StudyFolder, modalities: Sequence[str], *, add: Mapping[str, StudyFolder] | None = None
) -> list[SelectedTrial]:
    """Return the best complete trial that reads one modality alone, for each; best first by the study's metric.

    Args:
        modalities: looked for in the study itself.
        add: {modality: the study to take it from}, which must have scored the very same cases.

    Raises:
        ConfigError: a modality stands twice, or there is none.
        StudyError: no such trial is complete, or the other study's split is another one.
    """
    sources = [(name, store) for name in modalities] + list((add or {}).items())
    _check_names([name for name, _ in sources])
    members = [SelectedTrial(_best_of(other, name), other, name) for name, other in sources]
    for member in members:
        _refuse_other_split(store, member)
    return joined(store, members)


def joined(store: StudyFolder, members: Sequence[SelectedTrial]) -> list[SelectedTrial]:
    """Return members best first.

    Raises:
        ConfigError: a modality stands twice, or there is none.
    """
    _check_names([member.modality for member in members])
    metric = store.settings.metric
    sign = metrics.direction(metric)
    return sorted(members, key=lambda member: -sign * member.record.metrics[metric])


def again(store: StudyFolder, strategy: str, drop: Sequence[str]) -> list[SelectedTrial]:
    """Return the members of the latest ensemble of this strategy that was made by modality, without those dropped.

    Raises:
        StudyError: there is none.
        ConfigError: what is dropped is not in it.
    """
    described = {path: read_ensemble(path) for path in store.built_ensembles()}
    made = [path for path, text in described.items() if text["strategy"] == strategy and any(text["modalities"])]
    if not made:
        raise StudyError(
            f"study {store.folder.name!r} has no {strategy} ensemble by modality to change: make one with "
            f"`histotune ensemble {store.folder.name} --strategy {strategy} --modalities A,B`"
        )
    text = described[max(made, key=lambda path: (path / layout.ENSEMBLE).stat().st_mtime_ns)]
    for modality in drop:
        if modality not in text["modalities"]:
            raise ConfigError(f"{text['name']} has no modality {modality!r}. {suggest(modality, text['modalities'])}")
    members = []
    for number, study, modality in zip(text["members"], text["studies"], text["modalities"], strict=True):
        other = StudyFolder(Path(study)) if study else store
        if modality not in drop:
            members.append(SelectedTrial(complete_trial(other, number), other, modality))
    return members


def complete_trial(store: StudyFolder, number: int) -> TrialRecord:
    """Return a complete trial by its number.

    Raises:
        StudyError: there is no such trial, or it is not complete.
    """
    trials = {trial.number: trial for trial in store.trials()}
    if number not in trials:
        known = [str(trial.number) for trial in trials.values() if trial.state == COMPLETE]
        raise StudyError(f"study {store.folder.name!r} has no ended trial {number}. {suggest(str(number), known)}")
    if trials[number].state != COMPLETE:
        raise StudyError(
            f"trial {number} is {trials[number].state}, and only complete trials are exported: "
            f"`histotune leaderboard {store.folder.name}` lists them"
        )
    return trials[number]


def _check_names(names: Sequence[str]) -> None:
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"modality {twice[0]!r} stands twice: drop it first, or name each modality once")
    if not names:
        raise ConfigError("no modality is left: name at least one, such as --modalities image,cnv")


def ranked_trials(store: StudyFolder) -> list[TrialRecord]:
    """Return the complete trials whose metric is known, best first."""
    metric = store.settings.metric
    sign = metrics.direction(metric)
    known = [
        trial
        for trial in store.trials()
        if trial.state == COMPLETE and not np.isnan(trial.metrics.get(metric, float("nan")))
    ]
    return sorted(known, key=lambda trial: (-sign * trial.metrics[metric], trial.number))


def _best_of(store: StudyFolder, modality: str) -> TrialRecord:
    observed = [(modality_of(trial.config()), trial) for trial in ranked_trials(store)]
    for name, trial in observed:
        if name == modality:
            return trial
    alone = sorted({name for name, _ in observed if name})
    raise StudyError(
        f"study {store.folder.name!r} has no complete trial that reads {modality!r} alone. "
        f"{suggest(modality, alone)} A trial does with the fusion `none` and `branch` naming the one that is kept"
    )


def _refuse_other_split(store: StudyFolder, member: SelectedTrial) -> None:
    """Refuse a member whose study parts other cases, or parts them otherwise: it may have trained on our test part."""
    if member.store.folder == store.folder:
        return
    ours, theirs = (one.split.drop(columns="content") for one in (store, member.store))
    if not ours.equals(theirs) or store.settings.classes != member.store.settings.classes:
        raise StudyError(
            f"study {member.store.folder.name!r} has other cases, classes, parts or folds than {store.folder.name!r}: "
            "its trials may have been trained on cases that are scored here. Search the other modality in a study of "
            "the same data, split and seed"
        )
