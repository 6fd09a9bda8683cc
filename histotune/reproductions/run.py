"""Measure a paper's comparison again: search each contender alike, train the best with every seed, write its tables."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from histotune.core.places import Places
from histotune.data.cohort import Cohort, read_labels
from histotune.data.splits import KFOLD
from histotune.errors import ConfigError
from histotune.ingest.datasets import DATASETS, locate
from histotune.reproductions._asked import Asked
from histotune.reproductions._folded_run import run
from histotune.reproductions._folded_train import FoldedAsked
from histotune.reproductions._lineup import LineUp, train
from histotune.reproductions._preface import report_of
from histotune.reproductions._tables import Arm, Line, lines
from histotune.reproductions.measure import Meter, check_elsewhere
from histotune.reproductions.papers import REPRODUCTIONS, FoldedSetting, OutOfFold, Scale, Setting, Table
from histotune.reproductions.pictures import draw, draw_imbalances
from histotune.reproductions.report import write
from histotune.reproductions.rows import Measured
from histotune.space import load_space
from histotune.storage.study_folder import StudyStore
from histotune.studies.create import Progress, Wanted, check_asked, prepare_cohort, study_cohort


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
    said: Callable[[str], None] | None = None,
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
    reproduction, say = REPRODUCTIONS.build(name), said or _unheard
    setting = reproduction.setting(on)
    scale = budget if isinstance(budget, Scale) else setting.scale(budget)
    scale = scale if seeds is None else replace(scale, seeds=seeds)
    spent = budget if isinstance(budget, str) else f"{scale.trials}x{scale.epochs}"
    place = Places.of(runs, cache)
    if isinstance(reproduction, OutOfFold):
        assert isinstance(setting, FoldedSetting)
        _check_folded(name, protocol, external_data)
        space = load_space(setting.space)
        folded = FoldedAsked(
            name, on, reproduction, setting, scale, spent, space, place, data, say, progress, tracking_uri
        )
        compared, files = run(folded, Path(out))
        return Reproduced(compared.arms, compared.arms[0].reference, files)
    assert isinstance(setting, Setting)
    line_up = LineUp.of(reproduction, setting, scale)
    space = load_space(setting.space, fix=line_up.fix)
    asked = Asked(
        name, on, reproduction, setting, scale,
        spent=spent, line_up=line_up, space=space,
        protocol=protocol or space.protocol or DATASETS.build(space.dataset, **space.options).info.protocol,
        place=place, data=data, say=say,
    )  # fmt: skip
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


def _check(asked: Asked) -> None:
    """Refuse what began otherwise, before anything is trained."""
    for imbalance, store in asked.stores().items():
        if store.exists():
            wanted = Wanted(asked.space, asked.data, None, asked.protocol, None, False, imbalance, asked.scale.cases)
            check_asked(store, wanted, space=True)


def _elsewhere(
    asked: Asked, data: str | os.PathLike[str] | None, progress: Progress | None
) -> tuple[Cohort, np.ndarray]:
    """Prepare the external cohort and check it, before anything is trained."""
    name, found = asked.setting.external, locate(asked.setting.external, data, "--external-data")
    how: dict[str, Any] = {"resize": asked.space.resize, "progress": progress}
    cohort = prepare_cohort(name, {}, found, asked.image_size, asked.place, **how)
    labels = read_labels(cohort)
    for store in asked.stores().values():
        check_elsewhere(store if store.exists() else None, cohort, labels)
    return cohort, labels


def _arms(asked: Asked, elsewhere: tuple[Cohort, np.ndarray] | None, command: str, **how: Any) -> list[Arm]:
    """Train every study, then measure it."""
    stores, trained = asked.stores(), {}
    count = asked.line_up.size() * len(stores)
    asked.say(f"{asked.reproduction.title}, on {asked.on}: {count} trainings of {asked.scale.epochs} epochs")
    for imbalance, store in stores.items():
        asked.say(f"study {store.folder}")
        trained[imbalance] = train(
            asked.line_up, store, asked.say, data=asked.data, protocol=asked.protocol, imbalance=imbalance,
            training_cases=asked.scale.cases, runs=asked.place.runs, cache=asked.place.cache, **how,
        )  # fmt: skip
    arms: list[Arm] = []
    for imbalance, store in stores.items():
        meter = Meter(asked.reproduction, trained[imbalance], store, asked.say)
        if elsewhere is not None:
            found = meter.elsewhere(*elsewhere)
        else:
            cohort = study_cohort(store, asked.place, asked.image_size, asked.data)
            found = {"": meter.sealed(cohort, command=command)}
        several = imbalance if len(stores) > 1 else ""
        for name, measured in found.items():
            arms.append(_arm(asked, ": ".join(filter(None, (several, name))), store, meter, measured))
    return arms


def _arm(asked: Asked, name: str, store: StudyStore, meter: Meter, measured: Measured) -> Arm:
    """Write the rows of every table that compares anything here."""
    printed = asked.setting.printed(name)
    written = asked.reproduction.written(elsewhere=bool(asked.setting.external))
    tables = [(table, lines(table, measured, printed)) for table in written]
    compared = [(table, rows) for table, rows in tables if sum(line.seeds > 0 for line in rows) > 1]
    told = [one for one in compared if not any(_within(one, other) for other in compared)]
    return Arm(name, store, meter.trained, measured, told)


def _within(one: tuple[Table, Sequence[Line]], other: tuple[Table, Sequence[Line]]) -> bool:
    """Whether a table shows nothing that a larger one does not show; a setting may leave contenders out."""
    tables = [replace(table, title="", rows=(), note="") for table, _ in (one, other)]
    rows, others = ({line.label for line in lines} for _, lines in (one, other))
    return tables[0] == tables[1] and rows < others


def _unheard(line: str) -> None:
    pass
