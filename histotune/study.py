"""The public face of histotune: search a space, open a study, rank it, combine its best, evaluate once.

The command line does nothing but parse, call what stands here, and print.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from histotune.begin import Progress, Wanted, begin, prepare_cohort, study_cohort
from histotune.cohort import read_labels
from histotune.config import TrialConfig
from histotune.evaluate import Evaluation, evaluate_external
from histotune.evaluate import evaluate as evaluate_sealed
from histotune.export import export_ensemble, export_trial, log_ensemble, log_models
from histotune.leaderboard import Verdict, leaderboard, verdict
from histotune.merge import Merged, merge
from histotune.places import Places
from histotune.predict import load
from histotune.registry import PLUGINS
from histotune.search import Budget, Listener, Resources, Summary
from histotune.search import run as run_search
from histotune.search.sampler import build_sampler
from histotune.search.schedule import build_scheduler
from histotune.space import check_config, load_space, set_values
from histotune.store import StudyStore, TrialRecord, read_record
from histotune.tracking import MlflowTracker
from histotune.train import run_trial


class Study:
    """One study on disk: its trials, their ranking, and what is made of them.

    Attributes:
        store: its files.
        settings: what it began with.
        summary: how the search that returned this object ended; None for a study that was only opened.
    """

    def __init__(self, store: StudyStore, summary: Summary | None = None) -> None:
        self.store = store
        self.summary = summary
        self.settings = store.settings()

    def __repr__(self) -> str:
        return f"Study({self.name!r}, {len(self.trials())} trials, {str(self.store.folder)!r})"

    @property
    def name(self) -> str:
        """The study's name."""
        return self.settings.name

    def trials(self) -> list[TrialRecord]:
        """Return every ended trial, by number."""
        return self.store.trials()

    def leaderboard(self) -> pd.DataFrame:
        """Rank trials, ensembles and controls by the study's metric on the validation part, best first."""
        return leaderboard(self.store)

    def verdict(self) -> Verdict:
        """Say whether the best model beats the best control beyond noise, on the validation part."""
        return verdict(self.store)

    def ensemble(
        self,
        *,
        top: int = 5,
        strategy: str = "average",
        export: str | os.PathLike[str] | None = None,
        tracking_uri: str | None = None,
    ) -> Merged:
        """Combine the `top` complete trials on their validation predictions; write it as a portable folder if asked.

        MLflow's model registry gets the ensemble as `<study>-ensemble`.

        Raises:
            StudyError: there is no complete trial to combine.
            ConfigError: the strategy is unknown.
        """
        merged = merge(self.store, top=top, strategy=strategy)
        if export is not None:
            export_ensemble(self.store, merged, Path(export))
        log_ensemble(MlflowTracker(self.store, self.store.folder.parent, uri=tracking_uri), merged)
        return merged

    def export(self, number: int, folder: str | os.PathLike[str]) -> Path:
        """Write trial `number` as a portable folder and return it."""
        return export_trial(self.store, number, Path(folder))


def open_study(name: str, *, runs: str | os.PathLike[str] | None = None) -> Study:
    """Open a study that exists.

    Raises:
        StudyError: there is none of that name; the nearest one is offered.
    """
    return Study(StudyStore(Places.of(runs).runs / name))


def search(
    space: str | Path,
    *,
    data: str | os.PathLike[str] | None = None,
    trials: int | None = None,
    time: str | float | None = None,
    study: str | None = None,
    metric: str | None = None,
    sampler: str = "tpe",
    scheduler: str = "asha",
    protocol: str | None = None,
    seed: int | None = None,
    cpus_per_trial: float = 1.0,
    gpus_per_trial: float | None = None,
    max_concurrent: int | None = None,
    fix: Sequence[str] = (),
    ranges: Sequence[str] = (),
    choices: Sequence[str] = (),
    strict: bool = False,
    runs: str | os.PathLike[str] | None = None,
    cache: str | os.PathLike[str] | None = None,
    tracking_uri: str | None = None,
    ray_address: str | None = None,
    storage: str | None = None,
    progress: Progress | None = None,
    opened: Callable[[StudyStore, int | None], None] | None = None,
    listeners: Sequence[Listener] = (),
) -> Study:
    """Search a space for its best configuration; the same call again continues the study where it stood.

    Args:
        space: a shipped search space's name or a YAML file.
        data: data folder; None looks in `$HISTOTUNE_DATA/<dataset>`, then `data/<dataset>`.
        trials: how many trials the study shall have in all; 20 when neither `trials` nor `time` is given.
        time: seconds, or text such as "90s", "30m", "2h".
        study: the study's name; None takes the space's.
        metric: validation metric that ranks trials; None takes the space's.
        protocol: split protocol; None takes the space's, then the dataset's.
        seed: seed of the split and of the search; None takes the study's, 0 for a new one.
        ray_address: of a Ray cluster to join, "auto" or "HOST:PORT"; None starts a private Ray on this machine.
        storage: where all nodes of the cluster see the study: a path takes the place of `runs`, through a URI that
            fsspec knows (`s3://...`) results travel to the study's folder here.
        progress: hears how far preparations are; `opened` hears when the trials begin (store, trials in all).
        fix, ranges, choices: "PATH=VALUE", "PATH=low:high[:log|:step=S]" and "PATH=a,b" over the space.

    Raises:
        HistotuneError: anything a person can mend, found before the first trial starts where it can be.
    """
    budget = Budget.of(trials=trials, time=time)
    resources = Resources(cpus_per_trial, gpus_per_trial, max_concurrent)
    if ray_address is None:
        resources.check()
    runs, storage = (runs, storage) if "://" in (storage or "://") else (storage, None)
    build_sampler(sampler, 0)  # refuses an unknown name before anything is prepared
    place = Places.of(runs, cache)
    loaded = load_space(space, fix=fix, ranges=ranges, choices=choices)
    build_scheduler(scheduler, loaded.epochs())
    wanted = Wanted(loaded, data, metric, protocol, seed, strict)
    store, prepared = begin(wanted, study, place, progress)
    if opened is not None:
        opened(store, budget.trials)
    tracker = MlflowTracker(store, place.runs, uri=tracking_uri)
    tracker.mirror()
    summary = run_search(
        store,
        loaded,
        {size: cohort.folder for size, cohort in prepared.items()},
        budget,
        resources,
        sampler=sampler,
        scheduler=scheduler,
        seed=store.settings().seed,
        plugins=PLUGINS,
        listeners=[tracker, *listeners],
        address=ray_address,
        storage=storage,
    )
    tracker.finish()
    if summary.reason != "interrupted":  # who presses Ctrl-C does not wait for models to be copied
        log_models(tracker)
    return Study(store, summary)


def train(
    space: str | Path,
    assignments: Sequence[str] = (),
    *,
    data: str | os.PathLike[str] | None = None,
    study: str | None = None,
    protocol: str | None = None,
    seed: int | None = None,
    strict: bool = False,
    runs: str | os.PathLike[str] | None = None,
    cache: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    report: Callable[[int, Mapping[str, float]], None] | None = None,
) -> TrialRecord:
    """Train one configuration on the study's own split, without a search and without Ray.

    Args:
        assignments: "PATH=VALUE" over the space's default configuration.
        report: hears (epoch, metrics).

    Returns:
        The record of the training; the same configuration is not trained twice.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     record = train("demo", ["epochs=1", "loss.name=focal"], runs=folder, cache=folder)
    >>> record.state, record.epochs
    ('complete', 1)
    """
    loaded = load_space(space)
    config = TrialConfig.from_dict(set_values(loaded.default(), assignments))
    check_config(config)
    place = Places.of(runs, cache)
    store = StudyStore(place.runs / (study or loaded.name))
    if not store.exists():
        begin(Wanted(loaded, data, None, protocol, seed, strict), study, place, progress)
    cohort = study_cohort(store, place, config.image_size, data)
    folder = store.singles / config.digest()
    found = read_record(folder)
    if found is not None and found.state == "complete":
        return found
    return run_trial(config, store.training_data(cohort), folder, report, metric=store.settings().metric)


def evaluate(
    exported: str | os.PathLike[str],
    *,
    on: str | None = None,
    data: str | os.PathLike[str] | None = None,
    runs: str | os.PathLike[str] | None = None,
    cache: str | os.PathLike[str] | None = None,
    command: str = "histotune.evaluate",
) -> Evaluation:
    """Measure an export on its study's sealed test part, on the record; or on an external dataset `on`.

    Args:
        command: what the record of the opening shall say was called.
    """
    model = load(exported)
    place = Places.of(runs, cache)
    if on is not None:
        how = str(model.info["resize"])
        external = {size: prepare_cohort(on, {}, data, size, place, resize=how) for size in model.image_sizes}
        return evaluate_external(model, external, read_labels(external[min(external)]))
    store = StudyStore(place.runs / model.study) if runs is not None else StudyStore(Path(model.study_folder))
    cohorts = {size: study_cohort(store, place, size, data) for size in model.image_sizes}
    return evaluate_sealed(model, cohorts, store, command=command)
