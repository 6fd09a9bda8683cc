"""What a search begins with beyond the default configuration: configurations of the user, trials of another study.

The sampler may learn from a complete trial of another study that lies in this space, with its scores. It is never a
result of this study. Scores of other data or of another split are not comparable; of such a
study the best configurations are trained here, first, instead.

`warm_start.json` in the study's folder keeps all of it, so that a continued search needs the other study no more
(`study.json` never changes).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from histotune.core import files
from histotune.errors import ConfigError, StudyError
from histotune.metrics.scores import direction
from histotune.space import Space, read_configuration
from histotune.storage import layout
from histotune.storage.records import TrialRecord, read_parent
from histotune.storage.study_folder import COMPLETE, StudyFolder

_CURE = "restore it from a copy, or delete it and search on without --warm-start"
BEST = 3  # configurations of a study whose scores are not comparable


@dataclass(frozen=True)
class EarlierTrial:
    """A complete trial of another study.

    Args:
        params: {parameter name: value} in this study's space.
        values: one per metric of this study.
    """

    params: Mapping[str, Any]
    values: list[float]


@dataclass(frozen=True)
class WarmStart:
    """What a search begins with.

    Args:
        first: {parameter name: value} of configurations to be trained right after the default configuration.
        known: trials that the sampler may learn from.
        study: folder of the other study, "" where there is none.
        note: a sentence about it for the user.
    """

    first: list[Mapping[str, Any]] = field(default_factory=list)
    known: list[EarlierTrial] = field(default_factory=list)
    study: str = ""
    note: str = ""


def read_starts(paths: Sequence[Path | str], space: Space) -> list[Mapping[str, Any]]:
    """Read configuration files, `config.yaml` of a trial or parts of one over the default, as draws from `space`.

    Raises:
        ConfigError: a file that is not there, or that does not fit the space; with file, line and path.
    """
    return [space.locate(read_configuration(Path(path))) for path in paths]


def begin_with(
    store: StudyFolder, space: Space, first: Sequence[Mapping[str, Any]], other: StudyFolder | None
) -> WarmStart:
    """Join what is asked for now with what the study began with, and write it down.

    Args:
        store: the study, which exists.
        first: configurations to be trained first, as `read_starts` gives them.
        other: the study to learn from; None keeps to what was written down.

    Raises:
        StudyError: the other study does not fit, or is another one than the study was started with.
    """
    path = store.folder / layout.WARM_START
    kept = _read(path) if path.exists() else WarmStart()
    if other is not None and kept.study and kept.study != str(other.folder):
        raise StudyError(
            f"study {store.folder.name!r} began with a warm start from {kept.study}, not from {other.folder}: "
            "leave --warm-start out to continue it, or begin a new study with --study NAME"
        )
    result = kept if other is None or kept.study else _learn(store, space, other)
    asked = [*kept.first, *first, *result.first]
    unique = {json.dumps(params, sort_keys=True): params for params in asked}
    start = WarmStart(list(unique.values()), result.known, result.study, result.note)
    if start not in (kept, WarmStart()):
        files.write_json(path, asdict(start))
    return start


def _read(path: Path) -> WarmStart:
    saved = files.read_json(path, cure=_CURE)
    start = files.restored(WarmStart, saved, path, _CURE)
    return replace(start, known=[files.restored(EarlierTrial, known, path, _CURE) for known in saved["known"]])


def _learn(store: StudyFolder, space: Space, other: StudyFolder) -> WarmStart:
    _check_comparable(store, other)
    settings = store.settings
    complete = [record for record in other.trials() if record.state == COMPLETE]
    fitting, reasons = _fitting(space, complete, settings.metrics)
    if not fitting:
        why = f": {reasons.most_common(1)[0][0]}" if reasons else ""
        raise StudyError(f"--warm-start {other.folder.name}: none of its {len(complete)} complete trials fits{why}")
    skipped = sum(reasons.values())
    left = f"; left out, as they do not fit: {skipped} ({reasons.most_common(1)[0][0]})" if skipped else ""
    study, name = str(other.folder), repr(other.folder.name)
    if change := _other_cases(store, other):
        sign = direction(settings.metric)
        best = sorted(fitting, key=lambda one: -sign * one.values[0])[:BEST]
        note = (
            f"Study {name} has other {change}, so its scores are not comparable: its {len(best)} best "
            f"configurations are trained here instead of showing its scores to the sampler{left}."
        )
        return WarmStart([one.params for one in best], [], study, note)
    known = f"{len(fitting)} complete trial{'s' if len(fitting) > 1 else ''}"
    note = f"The sampler learns from {known} of study {name}{left}. They are not results of this study."
    return WarmStart([], fitting, study, note)


def _fitting(
    space: Space, records: Sequence[TrialRecord], metrics: Sequence[str]
) -> tuple[list[EarlierTrial], Counter[str]]:
    """Sort trials into those that lie in the space, and counts of what keeps the others outside."""
    result, reasons = list[EarlierTrial](), Counter[str]()
    for record in records:
        values = [record.metrics.get(name, float("nan")) for name in metrics]
        try:
            if read_parent(record.folder) is not None:
                raise ConfigError("it trained on from another trial's checkpoint")
            if any(value != value for value in values):
                raise ConfigError(f"no value of {' and '.join(metrics)}")
            result.append(EarlierTrial(space.locate(record.config(), whole=True), values))
        except ConfigError as error:
            reasons[str(error)] += 1
    return result, reasons


def _check_comparable(store: StudyFolder, other: StudyFolder) -> None:
    """Refuse a study from which nothing can be learnt."""
    here, there = store.settings, other.settings
    name = other.folder.name
    if store.folder == other.folder:
        raise StudyError(
            f"--warm-start {name}: the sampler learns from the trials of this study anyway; name another study"
        )
    pairs = {"dataset": (there.dataset, here.dataset), "metric": (", ".join(there.metrics), ", ".join(here.metrics))}
    if not set(there.digests) & set(here.digests):
        pairs["image size"] = (", ".join(there.digests), ", ".join(here.digests))
    for what, (one, two) in pairs.items():
        if one != two:
            raise StudyError(
                f"--warm-start {name}: another {what}, {one} there and {two} here. "
                "Nothing can be learnt from it: name a study of the same dataset, metric and image size"
            )


def _other_cases(store: StudyFolder, other: StudyFolder) -> str:
    """Return whether data or split differ, in words; "" when scores are comparable."""
    here, there = store.settings.digests, other.settings.digests
    if any(here[size] != there[size] for size in set(here) & set(there)):
        return "data"
    one, two = (study.split.drop(columns=["patient", "content"]) for study in (store, other))
    return "" if one.equals(two) else "validation cases"
