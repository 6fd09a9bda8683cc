"""What a search is asked for: how it proposes and stops, where its trials run, and what is called on the way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from histotune.core.progress import Message, Progress, silent
from histotune.storage.study_folder import StudyFolder
from histotune.tuning.budget import Budget, Ledger
from histotune.tuning.events import Listener, Resources

if TYPE_CHECKING:
    from histotune.tuning.remote_storage import RemoteStorage


@dataclass(frozen=True)
class Sampling:
    """How a search proposes configurations, stops trials, and what it keeps of them.

    Args:
        sampler: `tpe`, `gp`, `cmaes`, `random` or `grid`.
        scheduler: `asha`, `hyperband`, `median`, `pbt` or `none`.
        trial_timeout: seconds without an epoch after which a trial's worker is killed; None goes by the longest epoch
            so far, 0 waits for ever.
        keep_models: complete trials whose weights are kept, the best ones; 0 keeps all, those of stopped trials, too.
    """

    sampler: str = "tpe"
    scheduler: str = "asha"
    trial_timeout: float | None = None
    keep_models: int = 0


@dataclass(frozen=True)
class Cluster:
    """Where the trials of a search run.

    Args:
        address: of a Ray cluster to join, `auto` or `HOST:PORT`; None starts a private Ray on this machine.
        storage: URI that all nodes reach (any that fsspec knows), where they do not see the study's folder.
        plugins: folders whose components the workers import, too.
    """

    address: str | None = None
    storage: str | None = None
    plugins: Sequence[Path] = ()


@dataclass(frozen=True)
class Callbacks:
    """What is called while a search runs.

    Args:
        progress: is called with how far preparations are.
        message: is called with a line for a person: what the trials will need, and what there is.
        started: is called when the trials begin, and again after a take-over, with the study, the budget, and what is
            spent of it, which the search keeps up to date.
        listeners: are called with every event of a trial.
    """

    progress: Progress = silent
    message: Message = silent
    started: Callable[[StudyFolder, Budget, Ledger], None] = silent
    listeners: Sequence[Listener] = ()


@dataclass(frozen=True)
class RunEnvironment:
    """Where trials run.

    Args:
        resources: of a trial, as they are there.
        at_once: how many trials run together.
        joined: temporary folder of this machine, where Ray is up already; None where a private one is still to start.
        remote: the storage that results travel through, where one is needed.
    """

    resources: Resources
    at_once: int
    joined: Path | None = None
    remote: RemoteStorage | None = None
