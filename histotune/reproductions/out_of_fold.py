"""Networks that are scored out of folds: nothing is sealed or chosen, and a seed is also another split into folds."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from histotune.core.config import TrialConfig
from histotune.data.splits import KFOLD, TrainingData
from histotune.errors import ConfigError, StudyError
from histotune.reporting.figure_page import write_page
from histotune.reporting.reproduction_charts import draw_bars, draw_heat
from histotune.reproductions.out_of_fold_measure import Comparison, OutOfFoldPredictions
from histotune.reproductions.papers import Setting
from histotune.reproductions.report import ReproductionReport, TableSection, command, without_a_row
from histotune.reproductions.scoring import Scoring, TrainedArms
from histotune.reproductions.train import Lines
from histotune.storage.records import TrialRecord, read_record
from histotune.storage.study_folder import COMPLETE, StudyFolder
from histotune.studies.controls import STRENGTHS, fit_linear
from histotune.studies.create import StudyRequest, begin
from histotune.tracking.tracker import MlflowTracker
from histotune.training.loop import run_trial

HOW = (
    "A cell is the mean ± standard deviation over seeds; a seed is another random split into folds and "
    "another initialisation, and its value is that of all out-of-fold predictions together. Every contender has one "
    "configuration, its first: this run chose no epoch, threshold or parameter on what it scores.",
    "The class of a patient is the one of highest probability.",
    "A difference is the mean over seeds of the row minus the reference on the same patients. Its 95 % interval and "
    "two-sided p come from resampled patients and the spread over seeds (few make it wide); p is corrected for "
    "the rows of its table (Holm). The networks of a seed share most of their patients, which no interval covers.",
    "A published number stands beside ours only under the very same metric. It comes from other data or another split.",
)


class OutOfFold(Scoring):
    """One study for each seed; all trainings and linear baselines of its folds."""

    scored: OutOfFoldPredictions

    def stores(self) -> dict[int, StudyFolder]:
        """Return the study of every seed."""
        return {seed: self.request.store(f"seed{seed}") for seed in self.request.line_up.seeds}

    def check(self) -> str:
        """Refuse what a comparison out of folds does not take."""
        asked = self.request
        if asked.protocol != KFOLD:
            raise ConfigError(
                f"{asked.name!r} scores every patient out of folds: its split is {KFOLD!r}, not {asked.protocol!r}"
            )
        if asked.external_data is not None:
            raise ConfigError(f"{asked.name!r} measures on no external dataset: leave --external-data out")
        return f"{len(asked.line_up.searched) * asked.scale.seeds} trainings, each of every fold"

    def train(self) -> TrainedArms:
        """Train and fit what is missing, and gather the predictions of all rows.

        Raises:
            StudyError: a training failed, or a study began otherwise.
        """
        asked, setting, stores = self.request, self.request.setting, self.stores()
        lines = Lines(len(asked.line_up.searched) * len(stores), asked.say)
        result: dict[str, dict[int, TrialRecord]] = {}
        for seed, store in stores.items():
            wanted = StudyRequest(asked.space, asked.data, protocol=KFOLD, seed=seed)
            _, cohorts = begin(wanted, store.folder.name, asked.place, asked.progress)
            data = store.training_data(next(iter(cohorts.values())))
            with store.lock("histotune reproduce"):
                for row, (config,) in asked.line_up.searched.items():
                    result.setdefault(row, {})[seed] = self._trained(
                        row, store, replace(config, seed=seed), data, lines
                    )
                for row, record in _controls(setting, store, data):
                    result.setdefault(row, {})[seed] = record
            if asked.tracking_uri is not None:
                MlflowTracker(store, asked.place.runs, uri=asked.tracking_uri).mirror()
        self.scored = OutOfFoldPredictions.of(result, stores, data, sorted(setting.networks))
        return {str(seed): {row: [seeds[seed]] for row, seeds in result.items()} for seed in stores}

    def _trained(
        self, row: str, store: StudyFolder, config: TrialConfig, data: TrainingData, lines: Lines
    ) -> TrialRecord:
        """Return the record of a training; one that has ended is not repeated."""
        complete = self.request.setting.networks[row].complete
        folder = (store.folder / "complete" if complete else store.singles) / config.digest()
        record = read_record(folder)
        if record is not None and record.state == COMPLETE:
            lines.done += 1
            return record
        lines.begin()
        own = kept(data, config) if complete else data
        record = run_trial(config, own, folder, metric=store.settings.metric, probed=False)
        if record.state != COMPLETE:
            raise StudyError(f"the training of {row!r} with seed {config.seed} failed: {record.reason} (see {folder})")
        reached = f"out of folds AUROC {record.out_of_fold['auroc']:.3f}"
        lines.write(f"seed {config.seed}, {row}: {reached}, {record.seconds:.0f} s")
        return record

    def compare(self, trained: TrainedArms) -> Comparison:
        """Compare as the paper's file does."""
        self.request.say("comparing")
        assert self.request.reproduction.compare is not None
        comparison: Comparison = self.request.reproduction.compare(self.scored, self.request.setting)
        return comparison

    def draw(self, comparison: Comparison, folder: Path) -> list[Path]:
        """Write the figures of the comparison."""
        drawn = []
        for one in comparison.pictures:
            figure = (draw_bars if one.kind == "bars" else draw_heat)(
                one.title, one.caption, one.rows, one.values, one.marked
            )
            drawn.append(write_page(figure, folder / f"{one.stem}.html"))
        return drawn

    def report(self, comparison: Comparison) -> ReproductionReport:
        """Return what was requested and done."""
        asked, scored, facts = self.request, self.scored, self.request.facts()
        call = command({name: value for name, value in facts.items() if name != "protocol"})
        first = scored.stores[scored.seeds[0]].settings
        head = [f"{asked.reproduction.title}, measured again by `{call}`.", _patients(scored), *comparison.head]
        head += ["**The data are made up.**"] if first.facts.get("synthetic") else []
        recorded = ("dataset", "digests", "classes", "protocol", "folds", "metric", "version")
        return ReproductionReport(
            request=facts,
            head=head,
            scaled=self._scaled(),
            chosen={},
            metric=first.metric,
            reference=comparison.arms[0].reference,
            times={},
            notes=asked.setting.remarks(),
            facts={
                **facts,
                "scale": asdict(asked.scale),
                "studies": [store.folder.name for store in scored.stores.values()],
                "study": {key: getattr(first, key) for key in recorded},
            },
            sections=[
                *comparison.sections,
                *without_a_row(asked.setting),
                *_printed(asked.setting.other_metrics),
                _times(scored),
            ],
            how=HOW,
        )

    def _scaled(self) -> list[tuple[str, str, str]]:
        asked, scored = self.request, self.scored
        first, paper = scored.stores[scored.seeds[0]].settings, asked.setting.paper
        here = {
            "task": f"{len(scored.classes)} classes: {', '.join(scored.classes)}",
            "patients": f"{len(scored.labels)} with a label, {len(scored.having(asked.setting.patients))} of them with "
            f"{', '.join(asked.setting.patients)}",
            "folds": f"{first.folds} by patient, as even in classes as they allow; nothing is chosen on the scored "
            "fold",
            "seeds": f"{asked.scale.seeds}: as many random splits into folds, and initialisations",
            "configurations": "one per contender, its first",
            "epochs": f"{asked.scale.epochs}, the last one counts",
        }
        return [(what, here.get(what, ""), paper.get(what, "")) for what in {**here, **paper}]


def _controls(setting: Setting, store: StudyFolder, data: TrainingData) -> Iterator[tuple[str, TrialRecord]]:
    for row, modalities in setting.linear.items():
        yield row, fit_linear(data, store.controls / _slug(row), modalities)
    for row, modalities in setting.tuned.items():
        yield row, fit_linear(data, store.controls / _slug(row), modalities, STRENGTHS)


def _slug(row: str) -> str:
    return re.sub(r"[^a-zA-Z0-9]+", "_", row).strip("_")


def kept(data: TrainingData, config: TrialConfig) -> TrainingData:
    """Return the data without patients who lack a modality of the configuration: they neither train nor are scored."""
    assert data.folds is not None
    read = {branch.modality for branch in config.model.branches.values()}
    complete = np.all([data.present[name] for name in sorted(read)], axis=0)
    return replace(data, folds=np.where(complete, data.folds, 0))


def _patients(scored: OutOfFoldPredictions) -> str:
    counts = np.bincount(scored.labels, minlength=len(scored.classes))
    classes = ", ".join(f"{name} {n}" for name, n in zip(scored.classes, counts, strict=True))
    lacking = ", ".join(f"{name} {(~there).sum()}" for name, there in sorted(scored.present.items()))
    return (
        f"{len(scored.labels):,} patients with a label ({classes}); without {lacking}. Nothing is sealed: every "
        "patient is scored once per seed, by networks that never saw the patient."
    )


def _printed(printed: Mapping[str, str]) -> list[TableSection]:
    rows = [[row, text] for row, text in printed.items()]
    note = "On another task and other patients, in other metrics: beside ours, not against ours."
    return [TableSection("What the paper prints", note, ["", "published"], rows)] if rows else []


def _times(scored: OutOfFoldPredictions) -> TableSection:
    rows = []
    for row in scored.records:
        records = list(scored.records[row].values())
        what = f"{records[0].parameters:,}" if records[0].parameters else ""
        rows.append([row, f"{np.median([record.seconds for record in records]):.1f}", what])
    head = ["", "seconds for all folds, median over seeds; as busy as the machine was", "weights"]
    return TableSection("Time", "", head, rows)
