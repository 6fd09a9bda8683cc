"""What `histotune gc` does: show what studies, caches and killed searches left that nobody needs, and free it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from histotune.core.places import Places
from histotune.data.cohort import EMBEDDINGS
from histotune.errors import ConfigError
from histotune.storage.study_folder import StudyStore
from histotune.studies.disk import Waste, folder_waste, free, unused_cohorts, waste
from histotune.tuning.ray_cluster import temporary_folder


@dataclass(frozen=True)
class Tidied:
    """What was found.

    Attributes:
        found: what can go, or went.
        freed: bytes that went; 0 when it was only shown.
        skipped: studies that are in use, which were not looked into.
    """

    found: list[Waste]
    freed: int
    skipped: list[str]


def tidy(places: Places, study: str | None = None, *, keep: int = 10, remove: bool = False) -> Tidied:
    """Find what can be freed in one study, or in all of them and in the cache of prepared cohorts.

    Args:
        study: its name; None looks into every study, leaves out those in use, and finds unused cohorts, too.
        keep: complete trials of each study whose weights stay, the best ones.
        remove: free it, too.

    Raises:
        StudyError: there is no such study, or another process uses it.
        ConfigError: `keep` is negative.
    """
    if keep < 0:
        raise ConfigError(f"keep must be at least 0, got {keep}")
    found: list[Waste] = []
    skipped: list[str] = []
    freed = 0
    for store in _stores(places, study):
        if study is None and store.holder():
            skipped.append(store.folder.name)
            continue
        with store.lock("histotune gc"):
            here = waste(store, keep) + folder_waste(temporary_folder(store.folder), "left by a search that was killed")
            freed += free(here) if remove else 0
        found += here
    if study is None:
        cohorts = unused_cohorts(places.runs, places.cache)
        cohorts += folder_waste(places.cache / EMBEDDINGS, "embeddings, which can be made again from the data")
        freed += free(cohorts) if remove else 0
        found += cohorts
    return Tidied(found, freed, skipped)


def _stores(places: Places, study: str | None) -> Iterator[StudyStore]:
    if study is None:
        yield from (StudyStore(path.parent) for path in sorted(places.runs.glob("*/study.json")))
        return
    store = StudyStore(places.runs / study)
    store.settings()  # refuses a study that is not there
    yield store
