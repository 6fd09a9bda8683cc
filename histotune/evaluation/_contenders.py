"""Who is confirmed: the best configurations of a study, each once, and the default of its space."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from histotune.core.config import TrialConfig
from histotune.errors import ConfigError, StudyError
from histotune.space import read_space
from histotune.storage.records import TrialRecord, ancestor
from histotune.storage.selection import ranked_trials
from histotune.storage.study_folder import StudyFolder

DEFAULT = "default"


@dataclass(frozen=True)
class Candidate:
    """A configuration that is trained again.

    Attributes:
        name: `trial 12`, or `default`.
        config: what is trained, with seed 0 for the fresh one that takes its place.
        record: its best trial; None for a default that never ended complete.
    """

    name: str
    config: TrialConfig
    record: TrialRecord | None


def contenders(store: StudyFolder, top: int) -> list[Candidate]:
    """Return the best `top` distinct configurations, best first, and the default where it is not among them.

    Configurations that differ in their seed alone are one. So are a trial and those that went on from its checkpoint
    (scheduler `pbt`): the best of a line stands for it, and is trained from epoch 1 as it was configured last.

    Raises:
        ConfigError: `top` is below 1.
        StudyError: no trial is complete.
    """
    if top < 1:
        raise ConfigError(f"top={top}: confirm at least the best configuration")
    settings = store.settings
    default = _unseeded(TrialConfig.from_dict(read_space(settings.space, settings.name).default()))
    distinct = list(_distinct(store))
    if not distinct:
        raise StudyError(
            f"study {settings.name!r} has no complete trial to confirm: continue it with `histotune search`"
        )
    result = [_named(record, default) for record in distinct[:top]]
    if any(one.name == DEFAULT for one in result):
        return result
    trained = (record for record in ranked_trials(store) if _unseeded_of(record) == default)
    return [*result, Candidate(DEFAULT, default, next(trained, None))]


def _distinct(store: StudyFolder) -> Iterator[TrialRecord]:
    configurations, lines = set[str](), set[str]()
    for record in ranked_trials(store):
        digest, line = _unseeded_of(record).digest(), ancestor(record.folder).name
        if digest not in configurations and line not in lines:
            yield record
        configurations.add(digest)
        lines.add(line)


def _named(record: TrialRecord, default: TrialConfig) -> Candidate:
    config = _unseeded_of(record)
    return Candidate(DEFAULT if config == default else f"trial {record.number}", config, record)


def _unseeded_of(record: TrialRecord) -> TrialConfig:
    return _unseeded(TrialConfig.from_dict(record.config()))


def _unseeded(config: TrialConfig) -> TrialConfig:
    return replace(config, seed=0)
