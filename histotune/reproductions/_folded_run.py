"""Run a comparison out of folds: train what is missing, compare, write the report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from histotune.data.splits import KFOLD
from histotune.reporting._folded import draw_bars, draw_heat
from histotune.reporting.figure_page import write_page
from histotune.reproductions._folded_measure import Compared, Picture, Scored
from histotune.reproductions._folded_train import FoldedAsked, train
from histotune.reproductions.report import Report, Section, write

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


def run(asked: FoldedAsked, out: Path) -> tuple[Compared, list[Path]]:
    """Train what is missing and write the report; the same call goes on where it stood."""
    count = len(asked.setting.contenders) * asked.scale.seeds
    asked.say(f"{asked.reproduction.title}, on {asked.on}: {count} trainings, each of every fold")
    scored = train(asked)
    asked.say("comparing")
    compared = asked.reproduction.compare(scored, asked.setting)
    report = _report(asked, scored, compared)
    written = write(report, compared.arms, out)
    asked.say("drawing figures")
    return compared, written + [_drawn(picture, out / report.name) for picture in compared.pictures]


def _drawn(picture: Picture, folder: Path) -> Path:
    figure = (draw_bars if picture.kind == "bars" else draw_heat)(
        picture.title, picture.caption, picture.rows, picture.values, picture.marked
    )
    return write_page(figure, folder / f"{picture.stem}.html")


def _report(asked: FoldedAsked, scored: Scored, compared: Compared) -> Report:
    facts: dict[str, Any] = {"reproduction": asked.name, "on": asked.on, "protocol": KFOLD, "budget": asked.spent}
    facts |= {"seeds": asked.scale.seeds}
    command = f"histotune reproduce {asked.name} --on {asked.on} --budget {asked.spent} --seeds {asked.scale.seeds}"
    first = scored.stores[scored.seeds[0]].settings()
    head = [f"{asked.reproduction.title}, measured again by `{command}`.", _patients(scored), *compared.head]
    head += ["**The data are made up.**"] if first.facts.get("synthetic") else []
    kept = ("dataset", "digests", "classes", "protocol", "folds", "metric", "version")
    return Report(
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


def _patients(scored: Scored) -> str:
    counts = np.bincount(scored.labels, minlength=len(scored.classes))
    classes = ", ".join(f"{name} {n}" for name, n in zip(scored.classes, counts, strict=True))
    lacking = ", ".join(f"{name} {(~there).sum()}" for name, there in sorted(scored.present.items()))
    return (
        f"{len(scored.labels):,} patients with a label ({classes}); without {lacking}. Nothing is sealed: every "
        "patient is scored once per seed, by networks that never saw the patient."
    )


def _scaled(asked: FoldedAsked, scored: Scored) -> list[tuple[str, str, str]]:
    first, paper = scored.stores[scored.seeds[0]].settings(), asked.setting.paper
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


def _printed(printed: Mapping[str, str]) -> list[Section]:
    rows = [[row, text] for row, text in printed.items()]
    note = "On another task and other patients, in other metrics: beside ours, not against ours."
    return [Section("What the paper prints", note, ["", "published"], rows)] if rows else []


def _times(scored: Scored) -> Section:
    rows = []
    for row in scored.records:
        records = list(scored.records[row].values())
        what = f"{records[0].parameters:,}" if records[0].parameters else ""
        rows.append([row, f"{np.median([record.seconds for record in records]):.1f}", what])
    head = ["", "seconds for all folds, median over seeds; as busy as the machine was", "weights"]
    return Section("Time", "", head, rows)
