"""Which trials an ensemble is made of: the best, those named, or the best of each value of a parameter or modality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from histotune.core.provenance import short_digest
from histotune.errors import ConfigError, StudyError, suggest
from histotune.metrics import scores as metrics
from histotune.storage import layout
from histotune.storage.records import TrialRecord, read_ensemble
from histotune.storage.study_folder import COMPLETE, StudyFolder

_LISTED = 6  # trials whose numbers stand in an ensemble's name; of more it has a digest


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


class Selection(NamedTuple):
    """Members of an ensemble that are not just the best trials, and how they were chosen.

    Attributes:
        members: best first.
        name: what the ensemble's name says of it; "" leaves that to `merge`.
        words: for a person; "" where they were chosen by modality, which stands beside each member.
    """

    members: Sequence[SelectedTrial]
    name: str = ""
    words: str = ""


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


def by_number(store: StudyFolder, numbers: Sequence[int]) -> Selection:
    """Return complete trials by their numbers, best first by the study's metric.

    Raises:
        ConfigError: none is named, a number stands twice, or two trials have one configuration.
        StudyError: there is no such trial, it is not complete, or its metric is unknown.
    """
    if twice := sorted({number for number in numbers if list(numbers).count(number) > 1}):
        raise ConfigError(f"trial {twice[0]} stands twice: name each trial once")
    if not numbers:
        raise ConfigError("no trial is named: name at least one, such as --trials 3,7,12")
    named = {number: complete_trial(store, number) for number in numbers}
    ranked = [trial for trial in ranked_trials(store) if trial.number in named]
    if unknown := sorted(named.keys() - {trial.number for trial in ranked}):
        raise StudyError(
            f"trial {unknown[0]} has no {store.settings.metric}, by which members are ranked: leave it out"
        )
    same: dict[str, int] = {}
    for trial in ranked:
        if trial.digest and (other := same.setdefault(trial.digest, trial.number)) != trial.number:
            raise ConfigError(
                f"trials {other} and {trial.number} are one configuration with one seed, the same network twice: "
                "leave one of them out"
            )
    listed = "-".join(map(str, sorted(named)))
    name = listed if len(named) <= _LISTED else short_digest(listed)
    return Selection([SelectedTrial(trial, store) for trial in ranked], f"trials-{name}", "trials named one by one")


def by_value(store: StudyFolder, parameter: str, top: int | None = None) -> Selection:
    """Return the best complete trial of each value of a parameter, best first by the study's metric.

    Args:
        parameter: its path in a trial's config.yaml, such as `loss.name` or `model.fusion.branch`; of a part with a
            name, such as `loss`, the name. Trials without it count for no value.
        top: of so many values at most, the best.

    Raises:
        ConfigError: `top` is below 1, or no complete trial has this parameter; the nearest names are offered.
        StudyError: no trial is complete.
    """
    if top is not None and top < 1:
        raise ConfigError(f"an ensemble needs at least one member, got {top=}")
    ranked = [trial for trial in best_trials(store, len(store.trials()) or 1) if trial.config()]
    found: dict[str, SelectedTrial] = {}
    for trial in ranked:
        if (value := _value(trial.config(), parameter)) is not None:
            found.setdefault(value, SelectedTrial(trial, store))
    if not found:
        known = sorted({path for trial in ranked for path in _paths(trial.config())})
        raise ConfigError(
            f"no complete trial of study {store.folder.name!r} has a parameter {parameter!r}. "
            f"{suggest(parameter, known)}"
        )
    chosen = dict(list(found.items())[:top])
    each = ", ".join(f"{value} (trial {member.record.number})" for value, member in chosen.items())
    name = f"best-of-{parameter.replace('.', '-')}" + ("" if top is None else f"-top{top}")
    return Selection(list(chosen.values()), name, f"the best trial of each {parameter}: {each}")


def _value(config: Mapping[str, Any], path: str) -> str | None:
    """Return what a configuration has at a path, as a word; None where it has nothing there.

    >>> _value({"loss": {"name": "focal", "gamma": 2.0}}, "loss")
    'focal'
    """
    value: Any = config
    for part in path.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return None
        value = value[part]
    if isinstance(value, Mapping):
        value = value.get("name")
    return None if value is None or isinstance(value, Mapping) else str(value)


def _paths(config: Mapping[str, Any], before: str = "") -> list[str]:
    """Return the paths of all parameters, and of the parts that have a name."""
    result = list[str]()
    for name, value in config.items():
        part = isinstance(value, Mapping)
        result += [f"{before}{name}"] if not part or "name" in value else []
        result += _paths(value, f"{before}{name}.") if part else []
    return result


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
    return best_first(store, members)


def best_first(store: StudyFolder, members: Sequence[SelectedTrial]) -> list[SelectedTrial]:
    """Return members by the study's metric; of equals the first stays first."""
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
        other = store.of_member(study)
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
            f"trial {number} is {trials[number].state}, and only a complete trial can be exported or combined: "
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
