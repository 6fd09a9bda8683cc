"""What a study began with, as its `study.json` says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from histotune.imbalance import NATURAL


@dataclass(frozen=True)
class StudySettings:
    """What a study began with; it never changes.

    Args:
        name: the study's name, which is its folder's.
        dataset: registered dataset name.
        data: folder or file that the data came from, as an absolute path; "" for made-up data.
        options: dataset options that change the cohort (never the image size).
        digests: {image size: cohort digest}.
        classes: class names in label order.
        positive: index of the positive class.
        protocol: split protocol.
        leaky: whether patients may stand on both sides of the split.
        seed: seed of split and search.
        metric: validation metric that ranks trials; more is better unless `metrics` says otherwise.
        others: further metrics of a search for a Pareto front.
        space: the resolved search space.
        facts: the cohort's facts.
        imbalance: of the training part; `training` says it in numbers, `training_cases` limits it.
        folds: into how many the development part is dealt, by patient; 0 is none, and one validation part.
        repeats: how often it is dealt anew.
        created: UTC time, ISO 8601.
        version: histotune's version.
    """

    name: str
    dataset: str
    data: str
    options: Mapping[str, Any]
    digests: Mapping[str, str]
    classes: list[str]
    positive: int
    protocol: str
    leaky: bool
    seed: int
    metric: str
    space: Mapping[str, Any]
    facts: Mapping[str, Any] = field(default_factory=dict)
    imbalance: str = NATURAL
    training: str = ""
    training_cases: int = 0
    folds: int = 0
    repeats: int = 1
    created: str = ""
    version: str = ""
    others: list[str] = field(default_factory=list)

    @property
    def metrics(self) -> list[str]:
        """All metrics of the search, the ranking one first."""
        return [self.metric, *self.others]
