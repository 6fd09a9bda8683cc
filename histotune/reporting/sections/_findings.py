"""The content of a study's files, read once for all sections."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from histotune.core import files
from histotune.reporting.figures import FigureSource
from histotune.storage import layout
from histotune.storage.records import read_ensemble
from histotune.storage.study_folder import StudyFolder, StudySettings
from histotune.studies.leaderboard import LeaderboardLine, Verdict, gain, leaderboard, verdict


@dataclass(frozen=True)
class Findings:
    """The content of a study's files.

    Attributes:
        source: its files and data.
        command: what the user typed; "" when it was called from Python.
        watts: power that a trial draws, as the user gave it; None for a table's guess.
        images: whether pictures of cases may stand on the page.
    """

    source: FigureSource
    command: str = ""
    watts: float | None = None
    images: bool = False

    @property
    def store(self) -> StudyFolder:
        """The study's files."""
        return self.source.store

    @property
    def settings(self) -> StudySettings:
        """The settings of the study."""
        return self.source.settings

    @cached_property
    def board(self) -> pd.DataFrame:
        """The leaderboard."""
        return leaderboard(self.store, self.source.entries)

    @cached_property
    def models(self) -> list[LeaderboardLine]:
        """Complete trials, single trainings and ensembles, best first."""
        return self.source.models()

    @cached_property
    def trials(self) -> list[LeaderboardLine]:
        """Every ended trial and single training, in no particular order."""
        return [line for line in self.source.entries if line.kind in ("trial", "single")]

    @cached_property
    def verdict(self) -> Verdict:
        """Whether the best model is significantly better than the best baseline on the validation set."""
        return verdict(self.store, self.source.entries)

    @cached_property
    def gain(self) -> Verdict:
        """Whether the best model is significantly better than the default configuration on the validation set."""
        return gain(self.store, self.source.entries)

    @cached_property
    def confirmed(self) -> Mapping[str, Any]:
        """The result of `histotune confirm`; {} where it was not run."""
        return _read(self.store.folder / layout.CONFIRM / layout.CONFIRMATION)

    @cached_property
    def nested(self) -> Mapping[str, Any]:
        """The result of a nested cross-validation; {} where it was not run."""
        return _read(self.store.folder / layout.NESTED)

    @cached_property
    def audit(self) -> Mapping[str, Any]:
        """The result of `histotune audit`; {} where it was not run."""
        return _read(self.store.folder / layout.AUDIT)

    @cached_property
    def evaluations(self) -> list[dict[str, Any]]:
        """Every evaluation, oldest first."""
        return self.store.evaluations()

    @cached_property
    def ensembles(self) -> dict[str, Mapping[str, Any]]:
        """The saved result of each ensemble, by name."""
        return {folder.name: read_ensemble(folder) for folder in self.store.built_ensembles()}

    @cached_property
    def openings(self) -> list[dict[str, Any]]:
        """Every opening of the sealed test set."""
        return self.store.openings()

    @cached_property
    def commands(self) -> list[dict[str, Any]]:
        """The commands that searched and trained, oldest first."""
        return self.store.commands()

    @cached_property
    def environments(self) -> list[Mapping[str, Any]]:
        """Software and machine of the first trials and trainings, at most 100."""
        result = (_read(line.record.folder / layout.ENVIRONMENT) for line in self.trials[:100])
        return [one for one in result if one]


def _read(path: Path) -> dict[str, Any]:
    return files.read_json(path, cure="restore it from a copy, or delete it and make it anew") if path.exists() else {}
