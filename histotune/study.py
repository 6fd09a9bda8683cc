"""A study as a user sees it: its trials, its ranking, its ensembles and exports; all of it read from its folder."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from histotune.core.progress import Message, Progress, silent
from histotune.core.runtime import Places
from histotune.ensembles.merge import EnsembleResult, merge
from histotune.ensembles.seeds import over_seeds
from histotune.errors import ConfigError, suggest
from histotune.evaluation.confirm import confirm
from histotune.evaluation.confirmation import Confirmation
from histotune.exports.distill import TRUST, Distilled, distill
from histotune.exports.export import export_ensemble, export_trial
from histotune.exports.mlflow_registry import log_ensemble
from histotune.exports.onnx import check_packages
from histotune.metrics.operating_points import OperatingPoint
from histotune.reporting import figures
from histotune.reporting.page import write_report
from histotune.space import Share
from histotune.storage.records import TrialRecord
from histotune.storage.selection import (
    SelectedTrial,
    Selection,
    again,
    best_trials,
    by_modality,
    by_number,
    by_value,
    complete_trial,
    joined,
)
from histotune.storage.study_folder import StudyFolder
from histotune.studies.create import study_cohort
from histotune.studies.leaderboard import Verdict, gain, leaderboard, option_shares, verdict
from histotune.tracking.tracker import MlflowTracker
from histotune.tuning.events import Resources, SearchSummary


class Study:
    """One study on disk: its trials, their ranking, and what is made of them.

    Attributes:
        store: its files.
        settings: what it began with.
        summary: how the search that returned this object ended; None for a study that was only opened.
    """

    def __init__(self, store: StudyFolder, summary: SearchSummary | None = None) -> None:
        self.store = store
        self.summary = summary
        self.settings = store.settings

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
        """Rank trials, ensembles and baselines by the study's metric on the validation part, best first."""
        return leaderboard(self.store)

    def option_shares(self) -> list[Share]:
        """Return how many trials took each option of each switch of the space."""
        return option_shares(self.store)

    def pareto_front(self) -> pd.DataFrame:
        """Return the leaderboard's lines of the complete trials that no other beats in every metric of the study."""
        board = self.leaderboard()
        if "front" in board:
            return board[board["front"]]
        return board[board["kind"].eq("trial") & board["rank"].notna()][:1]

    def verdict(self) -> Verdict:
        """Return whether the best model is significantly better than the best baseline on the validation part."""
        return verdict(self.store)

    def gain(self) -> Verdict:
        """Return whether the best model is significantly better than the default configuration, on validation cases."""
        return gain(self.store)

    def ensemble(
        self,
        *,
        top: int | None = None,
        strategy: str = "average",
        params: Mapping[str, Any] | None = None,
        trials: Sequence[int] | None = None,
        best_of: str | None = None,
        seeds: int | None = None,
        modalities: Sequence[str] = (),
        add_modality: Mapping[str, str | os.PathLike[str]] | None = None,
        drop_modality: Sequence[str] = (),
        operating_point: str | OperatingPoint | None = None,
        export: str | os.PathLike[str] | None = None,
        onnx: bool = False,
        torch_export: bool = False,
        tracking_uri: str | None = None,
        data: str | os.PathLike[str] | None = None,
        cache: str | os.PathLike[str] | None = None,
        progress: Progress | None = None,
    ) -> EnsembleResult:
        """Combine complete trials on their held-out predictions; write it as a portable folder if asked.

        Modalities are coupled loosely: each is read by a trial of its own, which stays as it is, so that adding or
        dropping one fits the strategy again and trains no network (arXiv 2509.03408). MLflow's model registry gets the
        ensemble as `<study>-ensemble`.

        Args:
            top: how many of the best trials, 5 if left out; with `best_of` how many values at most.
            params: of the strategy.
            trials: these trials, by number, instead of the best.
            best_of: the best trial of each value of this parameter, such as "loss.name" or "model.fusion.branch".
            seeds: one trial, the best or that of `trials`, with so many seeds, which are trained where they are
                missing: the control of an ensemble over losses. `data`, `cache` and `progress` are as in `distill`.
            modalities: of each the best trial that reads nothing else.
            add_modality: {modality: name or folder of the study that it comes from}, of the same data and split; with
                the `modalities`, or with those of the latest ensemble of this strategy.
            drop_modality: out of the `modalities`, or of those of the latest ensemble of this strategy.
            operating_point: how the threshold of two classes is chosen: "sensitivity=0.95", "specificity=0.9",
                "youden", "cost=10:1" (FN:FP) or a metric; None takes the study's metric.
            onnx, torch_export: the folder holds the whole ensemble as one graph, too; see `export`.

        Raises:
            StudyError: there is no complete trial to combine, or a trial that was named is not complete.
            ConfigError: the strategy is unknown, members are chosen in two ways, a graph is asked for without a folder
                or without its packages.
        """
        if onnx:
            check_packages()
        if (onnx or torch_export) and export is None:
            what = "an ONNX graph" if onnx else "a torch.export program"
            raise ConfigError(f"{what} lies in an export folder: name one (export=FOLDER, --export FOLDER)")
        coupled = (modalities, add_modality or {}, drop_modality)
        _refuse_two_ways(modalities=any(coupled) or None, trials=trials, best_of=best_of, seeds=seeds, top=top)
        chosen: Selection | None = None
        if any(coupled):
            chosen = Selection(self._members(strategy, *coupled))
        elif seeds is not None:
            places = Places.of(self.store.folder.parent, cache)
            cohort = functools.partial(study_cohort, self.store, places, data=data)
            chosen = over_seeds(self.store, self._one(trials), seeds, cohort, progress=progress or silent)
        elif best_of is not None:
            chosen = by_value(self.store, best_of, top)
        elif trials is not None:
            chosen = by_number(self.store, trials)
        merged = merge(
            self.store,
            top=5 if top is None else top,
            strategy=strategy,
            params=params,
            chosen=chosen,
            operating_point=operating_point,
        )
        if export is not None:
            export_ensemble(self.store, merged, Path(export), onnx=onnx, torch_export=torch_export)
        log_ensemble(MlflowTracker(self.store, self.store.folder.parent, uri=tracking_uri), merged)
        return merged

    def distill(
        self,
        merged: EnsembleResult,
        *,
        student: int | None = None,
        trust: float = TRUST,
        operating_point: str | OperatingPoint | None = None,
        export: str | os.PathLike[str] | None = None,
        onnx: bool = False,
        torch_export: bool = False,
        data: str | os.PathLike[str] | None = None,
        cache: str | os.PathLike[str] | None = None,
        progress: Progress | None = None,
    ) -> Distilled:
        """Train one student on the out-of-fold probabilities of an ensemble (needs folds); see `distill.distill`.

        Args:
            student: the trial whose configuration it takes; None takes the cheapest member.
            trust: weight of the ensemble's probabilities against that of the labels, in (0, 1].
            data: where the study's data are now; None looks where they were when it began.
            progress: is called with how many epochs are trained.
        """
        places = Places.of(self.store.folder.parent, cache)
        return distill(
            self.store,
            merged,
            lambda size: study_cohort(self.store, places, size, data),
            student=student,
            trust=trust,
            operating_point=operating_point,
            export=None if export is None else Path(export),
            onnx=onnx,
            torch_export=torch_export,
            progress=progress,
        )

    def _one(self, trials: Sequence[int] | None) -> TrialRecord:
        """Return the one trial that is named, or the best."""
        if trials is None:
            return best_trials(self.store, 1)[0]
        if len(trials) != 1:
            named = f"trials {', '.join(map(str, trials))}" if trials else "no trial"
            raise ConfigError(f"seeds are of one trial, got {named}: name one, or leave --trials out for the best")
        return complete_trial(self.store, trials[0])

    def _members(
        self,
        strategy: str,
        modalities: Sequence[str],
        add: Mapping[str, str | os.PathLike[str]],
        drop: Sequence[str],
    ) -> list[SelectedTrial]:
        """Return the trials that were asked for by modality."""
        others = {name: StudyFolder.find(study, self.store.folder.parent) for name, study in add.items()}
        if not modalities:
            earlier = again(self.store, strategy, drop)
            return joined(self.store, [*earlier, *(by_modality(self.store, [], add=others) if others else [])])
        for name in drop:
            if name not in modalities:
                raise ConfigError(f"{name!r} cannot be dropped. {suggest(name, modalities)}")
        return by_modality(self.store, [name for name in modalities if name not in drop], add=others)

    def confirm(
        self,
        *,
        top: int = 5,
        seeds: int = 5,
        outer: int | None = None,
        data: str | os.PathLike[str] | None = None,
        cache: str | os.PathLike[str] | None = None,
        resources: Resources | None = None,
        ray_address: str | None = None,
        say: Message | None = None,
        command: str = "histotune.Study.confirm",
    ) -> Confirmation:
        """Train the best configurations and the default again, on fresh seeds and outer folds of the development part.

        The result, also in `confirm/confirm.json`, has the confirmed score of the winner of the search, by how much the
        search was too optimistic, and which configurations are tied; the sealed test set is not touched. The same call
        continues after an interruption. Errors are those of `confirm.confirm`.

        Args:
            top: how many of the best distinct configurations.
            seeds: fresh ones, at least 2; each deals the outer folds anew and draws other initial weights.
            outer: how many outer folds; None takes the study's folds, 5 at most, or 3 in a study without.
            data: where the study's data are now; None looks where they were when it began.
            resources: what one training takes and how many run at once, in workers of Ray; None: a CPU, as many as fit.
            ray_address: of a Ray cluster to join, "auto" or "HOST:PORT", whose nodes see study and cache.
            say: is called with a line before the first training and after each.
            command: the command to record.
        """
        places = Places.of(self.store.folder.parent, cache)
        return confirm(
            self.store,
            places,
            top=top,
            seeds=seeds,
            outer=outer,
            data=data,
            ray_address=ray_address,
            say=say,
            resources=resources or Resources(),
            command=command,
        )

    def figure(
        self,
        name: str,
        folder: str | os.PathLike[str] | None = None,
        *,
        png: bool = False,
        data: str | os.PathLike[str] | None = None,
        cache: str | os.PathLike[str] | None = None,
        **options: Any,
    ) -> Any:
        """Draw a figure of the study as a plotly figure.

        Where a folder is given, write it there as `<name>.html`, and if asked `<name>.png`, too.

        Args:
            data: where the study's data are now; None looks where they were when it began.
            options: parameters of the figure; see `histotune list figures -v`.

        Raises:
            ConfigError: no such figure or option.
            StudyError: the study does not hold what the figure shows.
        """
        places = Places.of(self.store.folder.parent, cache)
        numbers = figures.compute(name, self.store, places=places, data=data, **options)
        if folder is not None:
            figures.save(name, numbers, folder, png=png)
        return figures.draw(name, numbers)

    def report(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        images: bool = False,
        watts: float | None = None,
        data: str | os.PathLike[str] | None = None,
        cache: str | os.PathLike[str] | None = None,
    ) -> Path:
        """Write everything that is known of the study as one page that opens offline, and return its path.

        Args:
            path: of the page; None takes `reports/<study>.html`.
            images: show pictures of the cases that the best model is most wrong about.
            watts: power that a trial draws, for the estimate of energy; None takes a guess, which the page names.
            data: where the study's data are now; None looks where they were when it began.

        Raises:
            HistotuneError: the page cannot be written.
        """
        places = Places.of(self.store.folder.parent, cache)
        return write_report(self.store, path, places=places, data=data, images=images, watts=watts).path

    def export(
        self,
        number: int,
        folder: str | os.PathLike[str],
        *,
        onnx: bool = False,
        torch_export: bool = False,
        operating_point: str | OperatingPoint | None = None,
    ) -> Path:
        """Write trial `number` as a portable folder and return it; `operating_point` is as in `ensemble`.

        With `onnx` it holds `model.onnx`, too, and with `torch_export` `model.pt2`: uint8 images [n, S, S, 3] -> class
        probabilities [n, C], checked to be those of the export within 1e-4.
        """
        return export_trial(
            self.store, number, Path(folder), onnx=onnx, torch_export=torch_export, operating_point=operating_point
        )


def _refuse_two_ways(**ways: object) -> None:
    """Refuse members of an ensemble that are chosen in two ways.

    A trial goes with seeds, and `top` with `best_of`; beside modalities it says nothing, and never did.
    """
    given = {name for name, value in ways.items() if value is not None}
    if len(given) > 1 and given not in ({"trials", "seeds"}, {"best_of", "top"}, {"modalities", "top"}):
        raise ConfigError(
            f"{' and '.join(name for name in ways if name in given)} choose the members in different ways: give one. "
            "Only seeds with one of the trials, and top with best_of, go together"
        )


def open_study(name: str, *, runs: str | os.PathLike[str] | None = None) -> Study:
    """Open a study that exists.

    Raises:
        StudyError: there is none of that name; the nearest one is offered.
    """
    return Study(StudyFolder.named(name, Places.of(runs).runs))
