"""What a user asks of a search, as one value: built from keywords or options, passed on whole."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from histotune.core.registry import PLUGINS
from histotune.core.runtime import Places
from histotune.tuning.budget import Budget
from histotune.tuning.events import Resources
from histotune.tuning.options import Cluster, Sampling

_T = TypeVar("_T")


@dataclass(frozen=True)
class StudyProtocol:
    """What a study measures, and how its patients are split; `StudyRequest` says what None means.

    Args:
        strict: whether a file that cannot be read, or a leak that the audit finds, is an error.
    """

    metric: str | Sequence[str] | None = None
    protocol: str | None = None
    seed: int | None = None
    strict: bool = False
    imbalance: str | None = None
    training_cases: int | None = None
    folds: int | None = None
    repeats: int | None = None


@dataclass(frozen=True)
class SpaceEdits:
    """Changes of a search space.

    Args:
        fix, ranges, choices: "PATH=VALUE", "PATH=low:high[:log|:step=S]" and "PATH=a,b".
        options: of the dataset, over those of the space.
    """

    fix: Sequence[str] = ()
    ranges: Sequence[str] = ()
    choices: Sequence[str] = ()
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SearchOptions:
    """What a user asks of a search, beside the space.

    Args:
        budget: when it is over.
        resources: of one trial.
        sampling: how it proposes and stops.
        protocol: what the study measures, on which split.
        edits: of the space.
        cluster: where trials run.
        places: where studies and prepared data lie.
        data: data folder; None looks where the study's were, then in `$HISTOTUNE_DATA/<dataset>`, `data/<dataset>`.
        study: its name; None takes the space's.
        start_with: files with configurations to train first.
        warm_start: another study, by name or folder, whose trials the sampler begins with.
        join: whether to look on where another process searches in the study, instead of an error.
        tracking_uri: of MLflow; None takes the database beside the studies.
    """

    budget: Budget
    resources: Resources = field(default_factory=Resources)
    sampling: Sampling = field(default_factory=Sampling)
    protocol: StudyProtocol = field(default_factory=StudyProtocol)
    edits: SpaceEdits = field(default_factory=SpaceEdits)
    cluster: Cluster = field(default_factory=Cluster)
    places: Places = field(default_factory=Places.of)
    data: str | os.PathLike[str] | None = None
    study: str | None = None
    start_with: Sequence[Path] = ()
    warm_start: str | os.PathLike[str] | None = None
    join: bool = False
    tracking_uri: str | None = None

    @classmethod
    def of(cls, keywords: Mapping[str, Any]) -> SearchOptions:
        """Sort the keywords of `histotune.search` into their values; names that are not among them are left.

        A `storage` without `://` is a folder that all nodes see, and takes the place of `runs`.

        Raises:
            ConfigError: a budget that never ends, or that cannot be read.
        """
        storage = keywords["storage"] or ""
        remote, runs = (storage, keywords["runs"]) if "://" in storage else (None, storage or keywords["runs"])
        budget = {name: keywords[name] for name in ("trials", "time", "epochs_total", "patience")}
        edits = {name: keywords[name] or () for name in ("fix", "ranges", "choices")}
        own = {name: keywords[name] for name in ("data", "study", "warm_start", "join", "tracking_uri")}
        return cls(
            budget=Budget.of(**budget),
            resources=_picked(Resources, keywords),
            sampling=_picked(Sampling, keywords),
            protocol=_picked(StudyProtocol, keywords),
            edits=SpaceEdits(**edits, options=keywords["options"] or {}),
            cluster=Cluster(keywords["ray_address"], remote, PLUGINS),
            places=Places.of(runs, keywords["cache"]),
            start_with=[Path(path) for path in keywords["start_with"] or ()],
            **own,
        )


def _picked(kind: type[_T], keywords: Mapping[str, Any]) -> _T:
    """Build a value of the keywords that bear the names of its fields."""
    return kind(**{one.name: keywords[one.name] for one in fields(kind)})  # type: ignore[arg-type]
