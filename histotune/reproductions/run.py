"""Measure a paper's comparison again: search each contender alike, train the best with every seed, write its tables."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from histotune.core.progress import Message, Progress, silent
from histotune.core.runtime import Places
from histotune.data.cohort import Cohort, read_labels
from histotune.data.splits import KFOLD
from histotune.errors import ConfigError
from histotune.ingest.datasets import DATASETS, locate
from histotune.reporting.figure_page import write_page
from histotune.reporting.reproduction_charts import draw_bars, draw_heat
from histotune.reproductions.measure import Meter, check_elsewhere
from histotune.reproductions.out_of_fold import OutOfFoldRequest, train_out_of_fold
from histotune.reproductions.out_of_fold_measure import Compared, ComparisonFigure, OutOfFoldPredictions
from histotune.reproductions.papers import REPRODUCTIONS, ComparisonTable, FoldedSetting, OutOfFold, Scale, Setting
from histotune.reproductions.pictures import draw, draw_imbalances
from histotune.reproductions.report import Arm, ReproductionReport, ResultLine, TableSection, lines, report_of, write
from histotune.reproductions.rows import MeasuredContender
from histotune.reproductions.train import LineUp, ReproductionRequest, train
from histotune.space import load_space
from histotune.storage.study_folder import StudyFolder
from histotune.studies.create import StudyRequest, check_asked, prepare_cohort, study_cohort

HOW = (
    "A cell is the mean ± standard deviation over seeds; a seed is another deal of the folds and another "
    "initialisation, and its value is that of all out-of-fold predictions together. Every contender has one "
    "configuration, its first: this run chose no epoch, threshold or parameter on what it scores.",
    "The class of a patient is the one of highest probability.",
    "A difference is the mean over seeds of the row minus the reference on the same patients. Its 95 % interval and "
    "two-sided p come from resampled patients and the spread over seeds (few make it wide); p is corrected for "
    "the rows of its table (Holm). The networks of a seed share most of their patients, which no interval sees.",
    "A published number stands beside ours only under the very same metric. It comes from other data or another split.",
)


@dataclass(frozen=True)
class Reproduced:
    """What a reproduction gave.

    Attributes:
        arms: what was measured: one study's test part, several studies', or parts of an external cohort.
        reference: the contender that each is compared with.
        files: the report as Markdown, CSV and JSON, then its figures.
    """

    arms: Sequence[Arm]
    reference: str
    files: Sequence[Path]


def reproduce(
    name: str,
    *,
    on: str,
    protocol: str | None = None,
    budget: str | Scale = "small",
    seeds: int | None = None,
    data: str | os.PathLike[str] | None = None,
    external_data: str | os.PathLike[str] | None = None,
    runs: str | os.PathLike[str] | None = None,
    cache: str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] = "reports",
    tracking_uri: str | None = None,
    command: str = "histotune.reproduce",
    progress: Progress | None = None,
    said: Message | None = None,
) -> Reproduced:
    """Measure a paper's comparison again; the same call goes on where it stood, and only writes when all is done.

    Args:
        name: registered reproduction, such as "cfal".
        on: its setting, such as "idc".
        protocol: split protocol; None takes the dataset's own.
        budget: `small`, `full`, or what to spend.
        seeds: trainings of each contender's best configuration; None takes the budget's.
        data: data folder; None looks in `$HISTOTUNE_DATA/<dataset>`, then `data/<dataset>`.
        external_data: the same of the external dataset on which a setting measures.
        tracking_uri: of an MLflow server; None is the database beside the studies, in which searches are mirrored, and
            comparisons out of folds only where they are asked for it.
        out: folder of the report.
        command: what the record of the opening of the seal shall say was called.
        progress: hears how far preparations are; `said` a line per training.

    Raises:
        HistotuneError: an unknown name (the nearest is offered), data that are not there, or a split that they lack.
    """
    reproduction, say = REPRODUCTIONS.build(name), said or silent
    setting = reproduction.setting(on)
    scale = budget if isinstance(budget, Scale) else setting.scale(budget)
    scale = scale if seeds is None else replace(scale, seeds=seeds)
    spent = budget if isinstance(budget, str) else f"{scale.trials}x{scale.epochs}"
    place = Places.of(runs, cache)
    if isinstance(reproduction, OutOfFold):
        assert isinstance(setting, FoldedSetting)
        _check_folded(name, protocol, external_data)
        space = load_space(setting.space)
        folded = OutOfFoldRequest(
            name, on, reproduction, setting, scale, spent, space, place, data, say, progress, tracking_uri
        )
        compared, files = run_out_of_fold(folded, Path(out))
        return Reproduced(compared.arms, compared.arms[0].reference, files)
    assert isinstance(setting, Setting)
    line_up = LineUp.of(reproduction, setting, scale)
    space = load_space(setting.space, fix=line_up.fix)
    asked = ReproductionRequest(
        name,
        on,
        reproduction,
        setting,
        scale,
        spent=spent,
        line_up=line_up,
        space=space,
        protocol=protocol or space.protocol or DATASETS.build(space.dataset, **space.options).info.protocol,
        place=place,
        data=data,
        say=say,
    )
    _check(asked)
    elsewhere = _elsewhere(asked, external_data, progress) if setting.external else None
    arms = _arms(asked, elsewhere, command, tracking_uri=tracking_uri, progress=progress)
    report = report_of(asked, arms)
    written = write(report, arms, Path(out))
    asked.say("drawing figures")
    if not setting.external and len(arms) == 1:
        written += draw(reproduction, arms[0], Path(out) / report.name, places=asked.place, data=data)
    elif not setting.external:
        cohort = study_cohort(arms[0].store, asked.place, asked.image_size, data)
        written += draw_imbalances(arms, cohort, Path(out) / report.name)
    return Reproduced(arms, reproduction.reference, written)


def _check_folded(name: str, protocol: str | None, external_data: object) -> None:
    """Refuse what a comparison out of folds does not take."""
    if protocol not in (None, KFOLD):
        raise ConfigError(f"{name!r} scores every patient out of folds: its split is {KFOLD!r}, not {protocol!r}")
    if external_data is not None:
        raise ConfigError(f"{name!r} measures on no external dataset: leave --external-data out")


def _check(asked: ReproductionRequest) -> None:
    """Refuse what began otherwise, before anything is trained."""
    for imbalance, store in asked.stores().items():
        if store.exists():
            wanted = StudyRequest(
                asked.space, asked.data, None, asked.protocol, None, False, imbalance, asked.scale.cases
            )
            check_asked(store, wanted, space=True)


def _elsewhere(
    asked: ReproductionRequest, data: str | os.PathLike[str] | None, progress: Progress | None
) -> tuple[Cohort, np.ndarray]:
    """Prepare the external cohort and check it, before anything is trained."""
    name, result = asked.setting.external, locate(asked.setting.external, data, "--external-data")
    how: dict[str, Any] = {"resize": asked.space.resize, "progress": progress}
    cohort = prepare_cohort(name, {}, result, asked.image_size, asked.place, **how)
    labels = read_labels(cohort)
    for store in asked.stores().values():
        check_elsewhere(store if store.exists() else None, cohort, labels)
    return cohort, labels


def _arms(
    asked: ReproductionRequest, elsewhere: tuple[Cohort, np.ndarray] | None, command: str, **how: Any
) -> list[Arm]:
    """Train every study, then measure it."""
    stores, trained = asked.stores(), {}
    count = asked.line_up.size() * len(stores)
    asked.say(f"{asked.reproduction.title}, on {asked.on}: {count} trainings of {asked.scale.epochs} epochs")
    for imbalance, store in stores.items():
        asked.say(f"study {store.folder}")
        trained[imbalance] = train(
            asked.line_up,
            store,
            asked.say,
            data=asked.data,
            protocol=asked.protocol,
            imbalance=imbalance,
            training_cases=asked.scale.cases,
            runs=asked.place.runs,
            cache=asked.place.cache,
            **how,
        )
    arms: list[Arm] = []
    for imbalance, store in stores.items():
        meter = Meter(asked.reproduction, trained[imbalance], store, asked.say)
        if elsewhere is not None:
            result = meter.elsewhere(*elsewhere)
        else:
            cohort = study_cohort(store, asked.place, asked.image_size, asked.data)
            result = {"": meter.sealed(cohort, command=command)}
        several = imbalance if len(stores) > 1 else ""
        for name, measured in result.items():
            arms.append(_arm(asked, ": ".join(filter(None, (several, name))), store, meter, measured))
    return arms


def _arm(asked: ReproductionRequest, name: str, store: StudyFolder, meter: Meter, measured: MeasuredContender) -> Arm:
    """Write the rows of every table that compares anything here."""
    printed = asked.setting.printed(name)
    written = asked.reproduction.written(elsewhere=bool(asked.setting.external))
    tables = [(table, lines(table, measured, printed)) for table in written]
    compared = [(table, rows) for table, rows in tables if sum(line.seeds > 0 for line in rows) > 1]
    text = [one for one in compared if not any(_within(one, other) for other in compared)]
    return Arm(name, store, meter.trained, measured, text)


def _within(
    one: tuple[ComparisonTable, Sequence[ResultLine]], other: tuple[ComparisonTable, Sequence[ResultLine]]
) -> bool:
    """Whether a table shows nothing that a larger one does not show; a setting may leave contenders out."""
    tables = [replace(table, title="", rows=(), note="") for table, _ in (one, other)]
    rows, others = ({line.label for line in lines} for _, lines in (one, other))
    return tables[0] == tables[1] and rows < others


def _unheard(line: str) -> None:
    pass


def run_out_of_fold(asked: OutOfFoldRequest, out: Path) -> tuple[Compared, list[Path]]:
    """Train what is missing and write the report; the same call goes on where it stood."""
    count = len(asked.setting.contenders) * asked.scale.seeds
    asked.say(f"{asked.reproduction.title}, on {asked.on}: {count} trainings, each of every fold")
    scored = train_out_of_fold(asked)
    asked.say("comparing")
    compared = asked.reproduction.compare(scored, asked.setting)
    report = _report(asked, scored, compared)
    written = write(report, compared.arms, out)
    asked.say("drawing figures")
    return compared, written + [_drawn(picture, out / report.name) for picture in compared.pictures]


def _drawn(picture: ComparisonFigure, folder: Path) -> Path:
    figure = (draw_bars if picture.kind == "bars" else draw_heat)(
        picture.title, picture.caption, picture.rows, picture.values, picture.marked
    )
    return write_page(figure, folder / f"{picture.stem}.html")


def _report(asked: OutOfFoldRequest, scored: OutOfFoldPredictions, compared: Compared) -> ReproductionReport:
    facts: dict[str, Any] = {"reproduction": asked.name, "on": asked.on, "protocol": KFOLD, "budget": asked.spent}
    facts |= {"seeds": asked.scale.seeds}
    command = f"histotune reproduce {asked.name} --on {asked.on} --budget {asked.spent} --seeds {asked.scale.seeds}"
    first = scored.stores[scored.seeds[0]].settings
    head = [f"{asked.reproduction.title}, measured again by `{command}`.", _patients(scored), *compared.head]
    head += ["**The data are made up.**"] if first.facts.get("synthetic") else []
    kept = ("dataset", "digests", "classes", "protocol", "folds", "metric", "version")
    return ReproductionReport(
        name=f"{asked.name}-{asked.on}-{KFOLD}",
        title=f"{asked.name} on {asked.on}, split `{KFOLD}`, budget `{asked.spent}`",
        head=head,
        scaled=_scaled(asked, scored),
        chosen={},
        metric=first.metric,
        reference=compared.arms[0].reference,
        times={},
        notes=asked.setting.notes,
        facts={
            **facts,
            "scale": asdict(asked.scale),
            "studies": [store.folder.name for store in scored.stores.values()],
            "study": {key: getattr(first, key) for key in kept},
        },
        sections=[*compared.sections, *_printed(asked.setting.printed), _times(scored)],
        how=HOW,
    )


def _patients(scored: OutOfFoldPredictions) -> str:
    counts = np.bincount(scored.labels, minlength=len(scored.classes))
    classes = ", ".join(f"{name} {n}" for name, n in zip(scored.classes, counts, strict=True))
    lacking = ", ".join(f"{name} {(~there).sum()}" for name, there in sorted(scored.present.items()))
    return (
        f"{len(scored.labels):,} patients with a label ({classes}); without {lacking}. Nothing is sealed: every "
        "patient is scored once per seed, by networks that never saw the patient."
    )


def _scaled(asked: OutOfFoldRequest, scored: OutOfFoldPredictions) -> list[tuple[str, str, str]]:
    first, paper = scored.stores[scored.seeds[0]].settings, asked.setting.paper
    here = {
        "task": f"{len(scored.classes)} classes: {', '.join(scored.classes)}",
        "patients": f"{len(scored.labels)} with a label, {len(scored.having(asked.setting.patients))} of them with "
        f"{', '.join(asked.setting.patients)}",
        "folds": f"{first.folds} by patient, as even in classes as they allow; nothing is chosen on the scored fold",
        "seeds": f"{asked.scale.seeds}: as many deals of the folds, and initialisations",
        "configurations": "one per contender, its first",
        "epochs": f"{asked.scale.epochs}, the last one counts",
    }
    return [(what, here.get(what, ""), paper.get(what, "")) for what in {**here, **paper}]


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
