"""Contenders that are searched on a validation part and scored on a sealed test set, or on an external dataset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from histotune.data.cohort import Cohort, read_labels
from histotune.ingest.datasets import locate
from histotune.metrics.scores import in_words
from histotune.reproductions.measure import Meter, check_elsewhere
from histotune.reproductions.out_of_fold_measure import Comparison
from histotune.reproductions.papers import ComparisonTable, seconds
from histotune.reproductions.pictures import draw, draw_imbalances
from histotune.reproductions.report import Arm, ReproductionReport, ResultLine, command, lines, without_a_row
from histotune.reproductions.rows import MeasuredContender, TrainingsByContender
from histotune.reproductions.scoring import Scoring, TrainedArms
from histotune.reproductions.train import LineUp, choose, describe, train
from histotune.storage.study_folder import COMPLETE, StudyFolder, StudySettings
from histotune.studies.create import StudyRequest, check_request, prepare_cohort, study_cohort

HOW = (
    "A cell is the mean ± standard deviation over training seeds, on one split and with one choice of parameters; the "
    "spread does not cover other splits or other choices.",
    "A difference is the mean over seeds of the row minus the reference on the same patients. Its 95 % interval and "
    "two-sided p come from resampled patients and the spread over seeds (few make it wide); p is corrected for "
    "the rows of its table (Holm).",
    "A published number stands beside ours only under the very same metric. It comes from other data or another split.",
)


class SealedTest(Scoring):
    """One study for each imbalance of the training set; the sealed test set is evaluated once, after all trainings."""

    external: tuple[Cohort, np.ndarray] | None = None

    def stores(self) -> dict[str, StudyFolder]:
        """Return the study of every imbalance of the training part."""
        setting = self.request.setting
        several = len(setting.imbalances) > 1
        return {arm: self.request.store(*[arm.replace(":", "-")] * several) for arm in setting.arms(self.request.scale)}

    def check(self) -> str:
        """Refuse what began otherwise, and external data that are not apart from the study's."""
        asked, stores = self.request, self.stores()
        for imbalance, store in stores.items():
            if store.exists():
                wanted = StudyRequest(
                    asked.space,
                    asked.data,
                    protocol=asked.protocol,
                    imbalance=imbalance,
                    training_cases=asked.scale.cases,
                )
                check_request(store, wanted, space=True)
        if name := asked.setting.external:
            root = locate(name, asked.external_data, "--external-data")
            how: dict[str, Any] = {"resize": asked.space.resize, "progress": asked.progress}
            cohort = prepare_cohort(name, {}, root, asked.image_size, asked.place, **how)
            self.external = cohort, read_labels(cohort)
            for store in stores.values():
                check_elsewhere(store if store.exists() else None, *self.external)
        return f"{asked.line_up.size() * len(stores)} trainings of {asked.scale.epochs} epochs"

    def train(self) -> TrainedArms:
        """Train every study."""
        trained = {}
        for imbalance, store in self.stores().items():
            self.request.say(f"study {store.folder}")
            trained[imbalance] = train(self.request, store, imbalance)
        return trained

    def compare(self, trained: TrainedArms) -> Comparison:
        """Measure every study, on its sealed test set or on the external cohort."""
        arms: list[Arm] = []
        asked, stores = self.request, self.stores()
        for imbalance, store in stores.items():
            meter = Meter(asked.reproduction, trained[imbalance], store, asked.say)
            if self.external is not None:
                result = meter.elsewhere(*self.external)
            else:
                result = {"": meter.sealed(self._cohort(store), command=asked.command)}
            several = imbalance if len(stores) > 1 else ""
            for name, measured in result.items():
                arms.append(self._arm(": ".join(filter(None, (several, name))), store, trained[imbalance], measured))
        return Comparison(arms)

    def _arm(self, name: str, store: StudyFolder, trained: TrainingsByContender, measured: MeasuredContender) -> Arm:
        """Fill every table that compares anything here."""
        own = self.request.reproduction
        printed = self.request.setting.printed(name)
        written = own.written(elsewhere=bool(self.request.setting.external))
        tables = [(table, lines(table, measured, printed)) for table in written]
        compared = [(table, rows) for table, rows in tables if sum(line.seeds > 0 for line in rows) > 1]
        text = [one for one in compared if not any(_within(one, other) for other in compared)]
        return Arm(name, store, trained, measured, text, own.reference)

    def _cohort(self, store: StudyFolder) -> Cohort:
        return study_cohort(store, self.request.place, self.request.image_size, self.request.data)

    def draw(self, comparison: Comparison, folder: Path) -> list[Path]:
        """Write the figures of one study, or the curve over several imbalances."""
        asked, arms = self.request, comparison.arms
        if asked.setting.external:
            return []
        if len(arms) > 1:
            return draw_imbalances(arms, self._cohort(arms[0].store), folder)
        return draw(asked.reproduction, arms[0], folder, places=asked.place, data=asked.data)

    def report(self, comparison: Comparison) -> ReproductionReport:
        """Return what was requested and done."""
        asked, facts, arms = self.request, self.request.facts(), comparison.arms
        studies = {arm.store.folder: arm for arm in arms}.values()  # one of each study
        named = {arm.name if len(studies) > 1 else "": arm for arm in studies}
        times = {
            name: {label: float(np.median([r.seconds / r.epochs for r in rows])) for label, rows in arm.trained.items()}
            for name, arm in named.items()
        }
        return ReproductionReport(
            request=facts,
            head=[f"{asked.reproduction.title}, measured again by `{command(facts)}`.", *self._head(arms)],
            scaled=self._scaled(arms),
            chosen={name: _chosen_values(asked.line_up, arm.store) for name, arm in named.items()},
            metric=asked.line_up.metric,
            reference=asked.reproduction.reference,
            times=times,
            notes=asked.setting.remarks(),
            facts={
                **facts,
                "scale": asdict(asked.scale),
                "studies": {name: _plain(arm.store.settings) for name, arm in named.items()},
            },
            sections=without_a_row(asked.setting),
            how=HOW,
            printed_times=seconds(asked.setting.printed_tables),
            first_trial=asked.setting.first_trial,
        )

    def _head(self, arms: Sequence[Arm]) -> list[str]:
        asked, head = self.request, list[str]()
        measured, settings = arms[0].measured, arms[0].store.settings
        parts = arms[0].store.split
        val = parts[parts["part"] == "val"]
        chosen = (
            f"Parameters and epochs were chosen by {in_words(settings.metric)} on the validation part, {len(val):,} "
            f"images of {val['patient'].nunique():,} patients."
        )
        if asked.setting.external:
            head.append(
                f"Measured on `{asked.setting.external}`, {_counted(arms[-1].measured)}, of which nothing was trained "
                f"on or fitted to: no label, threshold, statistic or stain. {chosen}"
            )
        else:
            head.append(f"Sealed test set: {_counted(measured)}, evaluated when all trainings had ended. {chosen}")
        for arm in arms if not asked.setting.external else ():
            if before := arm.measured.openings_before:
                times = f"{before} time{'s' if before > 1 else ''}"
                head.append(
                    f"The seal of study `{arm.store.folder.name}` had been opened {times} before: see "
                    "`sealed/openings.jsonl` in its folder."
                )
        if not settings.facts.get("patients_known", True):
            head.append(
                "**Patients are not known here**: each image counts as its own, so intervals and p are too small."
            )
        elif settings.leaky:
            head.append(
                "**Leaky reproduction**: patients stand on both sides of the split, so no number here is honest."
            )
        if settings.facts.get("synthetic"):
            head.append("**The images are made up.**")
        return head

    def _scaled(self, arms: Sequence[Arm]) -> list[tuple[str, str, str]]:
        asked = self.request
        setting, scale, table = asked.setting, asked.scale, arms[0].store.split

        def part(store: StudyFolder, name: str) -> str:
            rows = store.split
            rows = rows[rows["part"] == name]
            return f"{len(rows):,} images of {rows['patient'].nunique()} patients"

        counts = {name: f"{(table['part'] == name).sum():,}" for name in ("train", "val", "test")}
        stores = {arm.store.folder: arm.store for arm in arms}.values()
        trained = [part(store, "train") + _in_brackets(store.settings.training) for store in stores]
        searched = f"{scale.trials}, with seed 0" if asked.line_up.searches else "none: each at its first configuration"
        here = {
            "split": "{}: training {train}, validation {val}, test {test} images".format(asked.protocol, **counts),
            "training part": "; ".join(trained),
            "test part": _counted(arms[-1].measured) if setting.external else part(arms[0].store, "test"),
            "epochs": f"{scale.epochs}, in the search and after it",
            "trials per contender": searched,
            "seeds": f"{scale.seeds} (1 to {scale.seeds}), trained after the search",
            "end of training": "all epochs for everyone; the best epoch by validation counts",
            "time of an epoch": "see Time",
        }
        return [(what, here.get(what, ""), setting.paper.get(what, "")) for what in {**here, **setting.paper}]


def _counted(measured: MeasuredContender) -> str:
    return f"{measured.cases['test']:,} images of {measured.patients['test']} patients"


def _in_brackets(text: str) -> str:
    return f" ({text})" if text else ""


def _chosen_values(line_up: LineUp, store: StudyFolder) -> list[tuple[str, str, str, str, float]]:
    if not line_up.searches:
        return []
    ended, rows = {record.digest: record for record in store.trials()}, []
    for label, best in choose(line_up, store).items():
        configs = line_up.searched[label]
        complete = sum(ended[config.digest()].state == COMPLETE for config in configs)
        value = ended[best.digest()].metrics[line_up.metric]
        rows.append((label, f"{complete} of {len(configs)}", describe(configs[0]), describe(best), value))
    return rows


def _plain(settings: StudySettings) -> dict[str, Any]:
    """Return what a reader of the JSON needs of a study; not where the data lie."""
    kept = ("name", "dataset", "digests", "classes", "protocol", "leaky", "seed", "metric", "imbalance", "version")
    return {key: getattr(settings, key) for key in kept}


def _within(
    one: tuple[ComparisonTable, Sequence[ResultLine]], other: tuple[ComparisonTable, Sequence[ResultLine]]
) -> bool:
    """Whether a table shows nothing that a larger one does not show; a setting may leave contenders out."""
    tables = [replace(table, title="", rows=(), note="") for table, _ in (one, other)]
    rows, others = ({line.label for line in lines} for _, lines in (one, other))
    return tables[0] == tables[1] and rows < others
