"""Measure a paper's comparison again: search each contender alike, train the best with every seed, write its tables."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from histotune.begin import Progress, Wanted, check_asked, study_cohort
from histotune.config import TrialConfig
from histotune.datasets import DATASETS
from histotune.places import Places
from histotune.reproductions import REPRODUCTIONS, Scale, Setting
from histotune.reproductions._lineup import LineUp, choose, describe, train
from histotune.reproductions._measure import Measured, measure
from histotune.reproductions._pictures import draw
from histotune.reproductions._report import Report, write
from histotune.reproductions._tables import Tables, lines, words
from histotune.space import load_space
from histotune.store import COMPLETE, StudySettings, StudyStore, TrialRecord


@dataclass(frozen=True)
class Reproduced:
    """What a reproduction gave.

    Attributes:
        store: the study that everything was trained in.
        trained: the trainings of each contender's best configuration, one per seed.
        measured: what they and their ensembles reach on the test part.
        tables: with their rows; `reference` is the contender that each is compared with.
        files: the report as Markdown, CSV and JSON, then its figures.
    """

    store: StudyStore
    trained: Mapping[str, Sequence[TrialRecord]]
    measured: Measured
    tables: Tables
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
        out: folder of the report.
        command: what the record of the opening of the seal shall say was called.
        progress: hears how far preparations are; `said` a line per training.

    Raises:
        HistotuneError: an unknown name (the nearest is offered), data that are not there, or a split that they lack.
    """
    say = said or _unheard
    reproduction = REPRODUCTIONS.build(name)
    setting = reproduction.setting(on)
    scale = budget if isinstance(budget, Scale) else setting.scale(budget)
    scale = scale if seeds is None else replace(scale, seeds=seeds)
    line_up = LineUp.of(reproduction, setting, scale)
    space = load_space(setting.space, fix=line_up.fix)
    place = Places.of(runs, cache)
    protocol = protocol or space.protocol or DATASETS.build(space.dataset, **space.options).info.protocol
    spent = budget if isinstance(budget, str) else f"{scale.trials}x{scale.epochs}"
    store = StudyStore(place.runs / f"{name}-{on}-{protocol}-{spent}")
    wanted = Wanted(space, data, None, protocol, None, False, setting.imbalance, scale.cases)
    if store.exists():
        check_asked(store, wanted, space=True)
    say(f"{reproduction.title}, on {on}: {line_up.size()} trainings of {scale.epochs} epochs in {store.folder}")
    trained = train(
        line_up, store, say, data=data, protocol=protocol, imbalance=setting.imbalance, training_cases=scale.cases,
        runs=runs, cache=cache, tracking_uri=tracking_uri, progress=progress,
    )  # fmt: skip
    cohort = study_cohort(store, place, TrialConfig.from_dict(space.default()).image_size, data)
    measured = measure(reproduction, trained, store, cohort, command=command, said=say)
    facts = {"reproduction": name, "on": on, "protocol": protocol, "budget": spent, "seeds": scale.seeds}
    report = Report(
        name=f"{name}-{on}-{protocol}",
        title=f"{name} on {on}, split `{protocol}`, budget `{spent}`",
        head=_head(reproduction.title, facts, store.settings(), measured),
        scaled=_scaled(setting, scale, store.settings(), measured),
        chosen=_chosen(line_up, store),
        metric=line_up.metric,
        reference=reproduction.reference,
        times={label: float(np.median([r.seconds / r.epochs for r in rows])) for label, rows in trained.items()},
        notes=setting.notes,
        facts=facts | {"scale": asdict(scale), "study": _plain(store.settings())},
    )
    tables = [(table, lines(table, measured, setting.published)) for table in reproduction.tables]
    written = write(report, tables, measured, Path(out))
    say("drawing figures")
    written += draw(
        reproduction.figures, reproduction.confused, measured, store, Path(out) / report.name, places=place, data=data
    )
    return Reproduced(store, trained, measured, tables, reproduction.reference, written)


def _head(title: str, facts: Mapping[str, Any], settings: StudySettings, measured: Measured) -> list[str]:
    name, *options = facts.items()
    command = " ".join([f"histotune reproduce {name[1]}", *(f"--{option} {value}" for option, value in options)])
    head = [f"{title}, measured again by `{command}`."]
    head.append(
        f"Test part: {measured.cases['test']:,} images of {measured.patients['test']} patients, "
        f"opened when all trainings had ended. Parameters and epochs were chosen by {words(settings.metric)} on the "
        f"validation part, {measured.cases['val']:,} images of {measured.patients['val']} patients."
    )
    if measured.openings_before:
        times = f"{measured.openings_before} time{'s' if measured.openings_before > 1 else ''}"
        head.append(
            f"The seal of this study had been opened {times} before: see `sealed/openings.jsonl` in its folder."
        )
    if not settings.facts.get("patients_known", True):
        head.append("**Patients are not known here**: each image counts as its own, so intervals and p are too small.")
    elif settings.leaky:
        head.append("**Leaky reproduction**: patients stand on both sides of the split, so no number here is honest.")
    if settings.facts.get("synthetic"):
        head.append("**The images are made up.**")
    return head


def _scaled(setting: Setting, scale: Scale, settings: StudySettings, measured: Measured) -> list[tuple[str, str, str]]:
    def part(name: str) -> str:
        return f"{measured.cases[name]:,} images of {measured.patients[name]} patients"

    here = {
        "split": f"{settings.protocol}: training {measured.cases['train']:,}, validation {measured.cases['val']:,}, "
        f"test {measured.cases['test']:,} images",
        "training part": part("train") + (f" ({settings.training})" if settings.training else ""),
        "test part": part("test"),
        "epochs": f"{scale.epochs}, in the search and after it",
        "trials per contender": f"{scale.trials}, with seed 0",
        "seeds": f"{scale.seeds} (1 to {scale.seeds}), trained after the search",
        "end of training": "all epochs for everyone; the best epoch by validation counts",
        "time of an epoch": "see Time",
    }
    return [(what, here.get(what, ""), setting.paper.get(what, "")) for what in {**here, **setting.paper}]


def _chosen(line_up: LineUp, store: StudyStore) -> list[tuple[str, str, str, str, float]]:
    ended, rows = {record.digest: record for record in store.trials()}, []
    for label, best in choose(line_up, store).items():
        configs = line_up.searched[label]
        complete = sum(ended[config.digest()].state == COMPLETE for config in configs)
        value = ended[best.digest()].metrics[line_up.metric]
        rows.append((label, f"{complete} of {len(configs)}", describe(configs[0]), describe(best), value))
    return rows


def _plain(settings: StudySettings) -> dict[str, Any]:
    """Return what a reader of the JSON needs of the study; not where the data lie."""
    kept = ("name", "dataset", "digests", "classes", "protocol", "leaky", "seed", "metric", "imbalance", "version")
    return {key: getattr(settings, key) for key in kept}


def _unheard(line: str) -> None:
    pass
