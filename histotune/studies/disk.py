"""Disk: which weights a study keeps, what a search will need, and what can be freed."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from histotune.core import files
from histotune.core.config import TrialConfig
from histotune.core.format import megabytes
from histotune.errors import StudyError
from histotune.metrics.scores import direction
from histotune.storage import layout
from histotune.storage.records import networks, read_ensemble
from histotune.storage.selection import modality_of
from histotune.storage.study_folder import COMPLETE, STOPPED, StudyFolder
from histotune.tuning.retention import members

if TYPE_CHECKING:
    from histotune.models.backbones import BackboneInput
from collections.abc import Iterator

from histotune.core.runtime import Places
from histotune.data.cohort import EMBEDDINGS
from histotune.errors import ConfigError
from histotune.tuning.ray_cluster import temporary_folder

TIGHT = 0.8  # share of the free disk from which on a search warns
_SMALL = 64 * 1024  # bytes of a trial's small files
_PER_CASE = 128  # bytes of a validation case in predictions.npz: id, patient, label, logits


@dataclass(frozen=True)
class Waste:
    """A file or folder that nobody needs any more.

    Args:
        path: what would go.
        size: bytes.
        why: what it is, in a few words.
    """

    path: Path
    size: int
    why: str


def waste(store: StudyFolder, keep: int = 10) -> list[Waste]:
    """List what can be freed of a study that is not being searched: never a result, never a baseline.

    - checkpoints and half-written files of trials that have ended; a search with `pbt` that goes on then has nothing
      to go on from,
    - weights of trials that the scheduler stopped: they are not exported,
    - weights of complete trials beyond the `keep` best that are in no saved ensemble, nor the best that reads one
      modality alone,
    - weights of trials with further seeds that are in no saved ensemble.
    """
    metric = store.settings.metric
    sign, records, kept = direction(metric), store.trials(), members(store)
    complete = [record for record in records if record.state == COMPLETE and metric in record.metrics]
    ranked = sorted(complete, key=lambda r: (-sign * r.metrics[metric], r.number))
    alone = {modality_of(record.config()): record.number for record in reversed(ranked)}  # the best of each stays
    beyond = {record.number for record in ranked[keep:]} - kept - {best for name, best in alone.items() if name}
    result = []
    for record in records:
        places = networks(record.folder)
        checkpoints = {record.folder / layout.CHECKPOINT, *(place / layout.CHECKPOINT for place in places)}
        result += [_waste(path, "checkpoint of an ended trial") for path in sorted(checkpoints) if path.exists()]
        result += [
            _waste(path, "checkpoint kept for other trials")
            for path in sorted(record.folder.glob(layout.KEPT_CHECKPOINTS))
        ]
        result += [_waste(path, "half-written file") for path in record.folder.rglob(".*.*") if path.is_file()]
        if record.state == STOPPED or record.number in beyond:
            why = "weights of a stopped trial" if record.state == STOPPED else f"weights beyond the {keep} best"
            weights = (place / layout.WEIGHTS for place in places)
            result += [_waste(path, why) for path in weights if path.exists()]
    return result + _over_seeds(store)


def _over_seeds(store: StudyFolder) -> list[Waste]:
    """List the weights of trials with further seeds that no saved ensemble consists of."""
    saved = map(read_ensemble, store.built_ensembles())  # those of earlier versions have no `studies`
    used = {
        (study, number)
        for text in saved
        for study, number in zip(text.get("studies", []), text["members"], strict=False)
    }
    result = []
    for folder in sorted((store.folder / layout.SEEDS).glob(f"*/{layout.TRIALS}/*")):
        study = f"{layout.SEEDS}/{folder.parent.parent.name}"
        if (study, int(folder.name)) not in used:
            weights = (place / layout.WEIGHTS for place in networks(folder))
            result += [_waste(path, "weights of a seed that is in no ensemble") for path in weights if path.exists()]
    return result


def unused_cohorts(runs: Path, cache: Path) -> list[Waste]:
    """List prepared cohorts that no study in `runs` names; they can be prepared again from the data."""
    named = set()
    for folder in layout.studies(runs):
        named |= set(files.read_json(folder / layout.STUDY)["digests"].values())
    result = []
    for path in sorted(cache.glob("*/cohort.json")):
        if files.read_json(path)["digest"] not in named:
            result.append(_waste(path.parent, f"prepared cohort that no study in {runs} names"))
    return result


def folder_waste(folder: Path, why: str) -> list[Waste]:
    """List a folder, if it is there, with all that it holds."""
    return [_waste(folder, why)] if folder.is_dir() and not folder.is_symlink() else []


def free(result: Iterable[Waste]) -> int:
    """Remove what was found and return the bytes that were freed.

    Raises:
        HistotuneError: something cannot be removed; what stands before it in the list is gone.
    """
    freed = 0
    for one in result:
        try:
            if one.path.is_dir():
                shutil.rmtree(one.path)
            else:
                one.path.unlink(missing_ok=True)
        except OSError as error:
            raise files.unwritable(one.path, error) from error
        freed += one.size
    return freed


def need(
    store: StudyFolder,
    config: TrialConfig,
    *,
    trials: int,
    checkpoints: int,
    keep: int,
    given: Mapping[str, BackboneInput] | None = None,
) -> int:
    """Estimate the bytes that `trials` more trials will take on disk at most, beside what is there.

    A trial's weights are those of `config`, or of the largest network among the study's trials where that is larger;
    a checkpoint holds up to five times as much (network, best epoch, two states of the optimiser, moving average).
    With folds every trial has as many networks and checkpoints.
    """
    from histotune.models.network import build_model

    settings, parts = store.settings, store.split["part"]
    parameters = build_model(config, [1] * len(settings.classes), given, trained=True).parameter_count()
    weights = 4 * max([parameters, *(record.parameters for record in store.trials())])
    trainings = max(1, settings.folds * settings.repeats)
    scored = int((parts != "test").sum()) * (settings.repeats + 1) if settings.folds else int((parts == "val").sum())
    small = (trainings + bool(settings.folds)) * _SMALL + _PER_CASE * scored
    return trainings * weights * ((min(trials, keep) if keep else trials) + checkpoints * 5) + trials * small


def preflight(
    store: StudyFolder,
    config: TrialConfig,
    *,
    trials: int | None,
    at_once: int,
    checkpoints: int,
    keep: int,
    cpus: float,
    gpus: float,
    memory: int | None,
    given: Mapping[str, BackboneInput] | None = None,
) -> str:
    """Compare what a search will need with what there is, and say it in one line.

    Args:
        trials: how many more trials; None where only time ends the search: the disk for 100 is asked for.
        checkpoints: that stand there at once.
        cpus, gpus: of all trials that run at once.
        memory: bytes of the machine that they run on; None where that is many machines.
        given: {modality: kind and shape}, where it is no image; see `build_model`.

    Raises:
        StudyError: the disk cannot hold it.
    """
    most = 100 if trials is None else trials
    needed = need(store, config, trials=most, checkpoints=checkpoints, keep=keep, given=given)
    there = shutil.disk_usage(store.folder).free
    disk = f"about {megabytes(needed)} of disk, {megabytes(there)} are free"
    if needed > there:
        raise StudyError(
            f"the search needs {disk} in {store.folder}: free some (`histotune gc {store.folder.name}` shows what can "
            "go), keep fewer models (--keep-models), or ask for fewer trials"
        )
    if needed > TIGHT * there:
        warnings.warn(f"the search needs {disk} in {store.folder}: that is tight", stacklevel=2)
    total = "" if memory is None else f" and {megabytes(memory)} of memory"
    return f"{at_once} at once on {cpus:g} CPUs, {gpus:g} GPUs{total}; {disk}"


def _waste(path: Path, why: str) -> Waste:
    files_in = [path] if path.is_file() else [one for one in path.rglob("*") if one.is_file()]
    return Waste(path, sum(one.stat().st_size for one in files_in), why)


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
    result: list[Waste] = []
    skipped: list[str] = []
    freed = 0
    for store in _stores(places, study):
        if study is None and store.holder():
            skipped.append(store.folder.name)
            continue
        with store.lock("histotune gc"):
            here = waste(store, keep) + folder_waste(temporary_folder(store.folder), "left by a search that was killed")
            freed += free(here) if remove else 0
        result += here
    if study is None:
        cohorts = unused_cohorts(places.runs, places.cache)
        cohorts += folder_waste(places.cache / EMBEDDINGS, "embeddings, which can be made again from the data")
        freed += free(cohorts) if remove else 0
        result += cohorts
    return Tidied(result, freed, skipped)


def _stores(places: Places, study: str | None) -> Iterator[StudyFolder]:
    if study is None:
        yield from map(StudyFolder, layout.studies(places.runs))
        return
    store = StudyFolder.named(study, places.runs)
    store.require()
    yield store
