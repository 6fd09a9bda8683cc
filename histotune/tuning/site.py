"""Where a search runs: a private Ray on this machine or a cluster, and what stands between driver and workers."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from histotune.storage.study_folder import StudyStore
from histotune.tuning.events import Resources

if TYPE_CHECKING:
    from histotune.tuning.controller import Conductor
    from histotune.tuning.remote_storage import Depot


@dataclass(frozen=True)
class Site:
    """Where trials run.

    Args:
        resources: of a trial, as they are there.
        at_once: how many trials run together.
        joined: temporary folder of this machine, where Ray is up already; None where a private one is still to start.
        depot: the storage that results travel through, where one is needed.
    """

    resources: Resources
    at_once: int
    joined: Path | None = None
    depot: Depot | None = None


@contextlib.contextmanager
def found(
    address: str | None,
    storage: str | None,
    resources: Resources,
    *,
    store: StudyStore,
    cohorts: Mapping[int, Path],
) -> Iterator[Site]:
    """Join the cluster at `address`, if one is given, and bring study and cohorts to the storage, if one is given.

    Raises:
        ConfigError: more resources are asked than there are, or fsspec does not know the storage.
        StudyError: no cluster answers, or the storage cannot be used.
    """
    if address is None:
        yield Site(resources, resources.check(), depot=_supplied(storage, store, cohorts))
        return
    from histotune.tuning.ray_cluster import capacity, joined_ray

    with joined_ray(address, store.folder) as scratch:
        there = resources.on(capacity())
        yield Site(there, there.check(capacity()), scratch, _supplied(storage, store, cohorts))


def run_at(
    site: Site,
    conductor: Conductor,
    *,
    store: StudyStore,
    cohorts: Mapping[int, Path],
    plugins: Sequence[Path],
    keep: Sequence[int] = (),
) -> None:
    """Run what the conductor hands out until it says that the search is over, or a signal comes."""
    from histotune.tuning._signals import Signals
    from histotune.tuning.ray_cluster import private_ray

    signals, (resources, at_once) = Signals(), (site.resources, site.at_once)
    cpus, gpus = at_once * resources.cpus_per_trial, math.ceil(at_once * resources.gpus - 1e-9)
    private = private_ray(store.folder, cpus=cpus, gpus=gpus, at_once=at_once)
    with signals.caught(), private if site.joined is None else contextlib.nullcontext(site.joined) as scratch:
        from histotune.tuning.ray_tune import drive

        signals.install()  # Ray's own SIGTERM handler exits at once
        drive(
            conductor,
            signals,
            study=store.folder,
            cohorts=cohorts,
            metric=store.settings().metric,
            resources=resources,
            at_once=at_once,
            scratch=scratch,
            plugins=plugins,
            depot=site.depot,
            keep=keep,
        )


def _supplied(storage: str | None, store: StudyStore, cohorts: Mapping[int, Path]) -> Depot | None:
    if storage is None:
        return None
    from histotune.tuning.remote_storage import Depot

    depot = Depot.of(storage, store)
    depot.pull_all(store)
    for folder in cohorts.values():
        depot.offer_cohort(folder)
    return depot
