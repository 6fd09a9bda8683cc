"""Measure a paper's comparison again: search each contender alike, train the best with every seed, write its tables."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from histotune.core.progress import Message, Progress, silent
from histotune.core.runtime import Places
from histotune.ingest.datasets import DATASETS
from histotune.reproductions.out_of_fold import OutOfFold
from histotune.reproductions.papers import REPRODUCTIONS, Scale
from histotune.reproductions.report import Arm, write
from histotune.reproductions.scoring import Scoring
from histotune.reproductions.sealed import SealedTest
from histotune.reproductions.train import LineUp, ReproductionRequest
from histotune.space import load_space


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
        progress: is called with how far preparations are; `said` with a line per training.

    Raises:
        HistotuneError: an unknown name (the nearest is offered), data that are not there, or a split that they lack.
    """
    reproduction = REPRODUCTIONS.build(name)
    setting = reproduction.setting(on)
    scale = budget if isinstance(budget, Scale) else setting.scale(budget)
    scale = scale if seeds is None else replace(scale, seeds=seeds)
    line_up = LineUp.of(reproduction, setting, scale)
    space = load_space(setting.space, fix=line_up.fix)
    request = ReproductionRequest(
        name,
        on,
        reproduction,
        setting,
        scale,
        spent=budget if isinstance(budget, str) else f"{scale.trials}x{scale.epochs}",
        line_up=line_up,
        space=space,
        protocol=protocol or space.protocol or DATASETS.build(space.dataset, **space.options).info.protocol,
        place=Places.of(runs, cache),
        data=data,
        external_data=external_data,
        say=said or silent,
        progress=progress,
        command=command,
        tracking_uri=tracking_uri,
    )
    scoring: Scoring = SealedTest(request) if reproduction.compare is None else OutOfFold(request)
    work = scoring.check()
    request.say(f"{reproduction.title}, on {on}: {work}")
    comparison = scoring.compare(scoring.train())
    report = scoring.report(comparison)
    written = write(report, comparison.arms, Path(out))
    request.say("drawing figures")
    written += scoring.draw(comparison, Path(out) / report.name)
    return Reproduced(comparison.arms, report.reference, written)
